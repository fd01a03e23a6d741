//! Owns whether a schedule fits what it needs: the models, databases and Redis servers that there are, and what is to be kept of its rows.
//!
//! Promises that nothing is loaded and nobody asked: it is handed what is known. What doesn't fit now may later, so that a schedule
//! is used all the same, and who runs it is told.

use super::{BadSchedule, Fields, Keep, Schedule};
use crate::{
    config::Settings,
    warm::source::{RowContent, SourceSpec},
};
use chrono::{DateTime, Utc};
use kiln_contract::{
    model::{InputKind, PairRule},
    redact::{HIDDEN, is_name},
};
use std::collections::BTreeSet;

/// Inputs of one schedule that are named; the next ones misfit in the same way.
const MAX_MISFITS: usize = 32;

/// A version of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModel {
    pub name: String,
    pub version: String,
    pub input: InputKind,
}

/// What schedules may name.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    pub models: &'a [KnownModel],
    /// Names of `[databases]`, without Kiln's own.
    pub databases: BTreeSet<&'a str>,
    /// Names of `[redis_sources]`, without Kiln's own.
    pub redis: BTreeSet<&'a str>,
    pub now: DateTime<Utc>,
}

impl<'a> Known<'a> {
    /// What the settings name, beside these models.
    pub fn of(models: &'a [KnownModel], settings: &'a Settings, now: DateTime<Utc>) -> Self {
        Self {
            models,
            databases: settings.databases.keys().map(String::as_str).collect(),
            redis: settings.redis_sources.keys().map(String::as_str).collect(),
            now,
        }
    }
}

/// Why nothing of a source's rows could be kept as a schedule wants.
pub(super) fn unkept(source: &SourceSpec, keep: &Keep) -> Option<&'static str> {
    if matches!((source, keep), (SourceSpec::Heat(_), Keep::Rank { .. })) {
        return Some("a ranking can't be made of what is hot: its rows have no group");
    }
    if matches!((source, keep), (SourceSpec::Changes(_), Keep::Rank { .. })) {
        return Some("a ranking can't be made of what changed: the other rows are missing");
    }
    let list = source.listed()?;
    let no_key = || list.rows().all(|row| row.key.is_none());
    let no_group = || list.rows().all(|row| row.group.is_none());
    match keep {
        Keep::Scores => None,
        Keep::Named => no_key().then_some(
            "`named`, which is the default, needs a `key` in each input, and none has one; `scores` needs none",
        ),
        Keep::Rank { .. } if no_key() => {
            Some("a ranking needs a `key` in each input, and none has one")
        }
        Keep::Rank { key: None, .. } => no_group().then_some(
            "a ranking needs a `group` in each input, or `rank.key` for all of them; there is neither",
        ),
        Keep::Rank { key: Some(_), .. } => None,
    }
}

/// What of a schedule doesn't fit; `text` is its file's.
pub fn misfits(schedule: &Schedule, text: &str, known: &Known<'_>) -> Vec<BadSchedule> {
    let mut found = Vec::new();
    let fields = Fields::new(text);
    let mut note = |path: &[&str], field: &str, message: String| {
        found.push(BadSchedule {
            file: schedule.file.clone(),
            at: fields.locate(path),
            field: field.to_owned(),
            message,
        });
    };
    let is_due = schedule.cron.is_due_after(known.now, schedule.zone);
    if !is_due && !schedule.follows() {
        note(&["cron"], "cron", "is never due again".to_owned());
    }
    if let Some(database) = schedule.source.database()
        && database != "kiln"
        && !known.databases.contains(database)
    {
        let names = known.databases.iter().copied().chain(["kiln"]);
        let message = format!("unknown database; known: {}", listed(names));
        note(&["source", "database"], "source.database", message);
    }
    if let Some(server) = schedule.source.redis_server()
        && server != "kiln"
        && !known.redis.contains(server)
    {
        let names = known.redis.iter().copied().chain(["kiln"]);
        let message = format!("unknown server; known: {}", listed(names));
        note(&["source", "server"], "source.server", message);
    }
    let (name, version) = match schedule.model.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (schedule.model.as_str(), None),
    };
    let named = known.models.iter().filter(|model| model.name == name);
    let fitting: Vec<&KnownModel> = named
        .clone()
        .filter(|model| version.is_none_or(|version| model.version == version))
        .collect();
    if fitting.is_empty() {
        let versions: Vec<&str> = named.map(|model| model.version.as_str()).collect();
        let message = match versions.is_empty() {
            true => {
                let names: BTreeSet<&str> = known.models.iter().map(|m| m.name.as_str()).collect();
                format!("unknown model; known: {}", listed(names))
            }
            false => format!("unknown version; known: {}", listed(versions)),
        };
        note(&["model"], "model", message);
    } else if let Some(list) = schedule.source.listed() {
        let misfits = list.rows().enumerate().filter_map(|(index, row)| {
            let problems = fitting
                .iter()
                .map(|model| unlike(&row.content, model.input));
            // Which version is active is for others to say: an input that fits one of them is no mistake.
            let all: Option<Vec<(&str, String)>> = problems.collect();
            Some((index, all?.into_iter().next()?))
        });
        for (index, (field, message)) in misfits.take(MAX_MISFITS) {
            let number = index.to_string();
            let path = ["source", "inputs", number.as_str(), field];
            note(&path, &format!("source.inputs[{index}].{field}"), message);
        }
    }
    found
}

/// What of an input isn't as a model takes it: the field, and what was expected.
fn unlike(content: &RowContent, input: InputKind) -> Option<(&'static str, String)> {
    match (content, input) {
        (RowContent::Features(found), InputKind::Features { count }) => {
            let wrong = found.len() != count;
            wrong.then(|| {
                let message = format!("expected {count} numbers, found {}", found.len());
                ("features", message)
            })
        }
        (RowContent::Text { .. }, InputKind::Features { count }) => Some((
            "text",
            format!("the model takes `features` ({count} numbers)"),
        )),
        (RowContent::Features(_), InputKind::Text { .. }) => {
            Some(("features", "the model takes `text`".to_owned()))
        }
        (
            RowContent::Text { pair: Some(_), .. },
            InputKind::Text {
                pair: PairRule::None,
            },
        ) => Some(("text_pair", "the model takes no `text_pair`".to_owned())),
        (
            RowContent::Text { pair: None, .. },
            InputKind::Text {
                pair: PairRule::Required,
            },
        ) => Some(("text", "the model takes `text` with `text_pair`".to_owned())),
        (RowContent::Text { .. }, InputKind::Text { .. }) => None,
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names = names.into_iter();
    let names: Vec<&str> = names
        .map(|name| if is_name(name) { name } else { HIDDEN })
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
