//! Owns what a schedule file may say, and reads it.
//!
//! Promises that a file is checked completely before it is used, that all of its mistakes are found at once, and that each names the
//! file, line and column, the field and what was expected there, and no value.

use super::{BadSchedule, Budget, Keep, Missed, Overlap, Schedule, fit::unkept, repair::Mistakes};
use crate::{
    redact::Position,
    warm::{cron::Cron, source::SourceSpec},
};
use chrono_tz::Tz;
use kiln_contract::job;
use kiln_contract::name::{EXPECTED_NAME, is_name, is_version};
use kiln_contract::redact;
use serde::Deserialize;
use std::{cell::OnceCell, fmt::Display, ops::RangeInclusive, path::Path, time::Duration};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Longest jitter, in seconds: a day.
const MAX_JITTER_SECONDS: u64 = 86_400;
/// The age up to which runs may be made up for, in seconds: a leap year.
const MAX_AGE_SECONDS: u64 = 366 * 86_400;

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum KeepKind {
    Scores,
    #[default]
    Named,
    Rank,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RankFile {
    key: Option<Spanned<String>>,
    top: Option<Spanned<usize>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    #[serde(default = "yes")]
    enabled: bool,
    cron: Option<Spanned<String>>,
    time_zone: Option<Spanned<String>>,
    #[serde(default)]
    at_start: bool,
    jitter_seconds: Option<Spanned<u64>>,
    limit_seconds: Option<Spanned<u64>>,
    #[serde(default)]
    missed: Missed,
    missed_max_age_seconds: Option<Spanned<u64>>,
    #[serde(default)]
    overlap: Overlap,
    model: Spanned<String>,
    namespace: Option<Spanned<String>>,
    ttl_seconds: Option<Spanned<u64>>,
    #[serde(default)]
    keep: KeepKind,
    rank: Option<Spanned<RankFile>>,
    budget: Option<Spanned<Budget>>,
    source: Spanned<SourceSpec>,
}

fn yes() -> bool {
    true
}

/// Reads the text of a schedule file; `file` is its name in errors, and where its relative paths start. An error is everything that is
/// wrong with it, in the order of the file.
pub fn parse(file: &Path, text: &str) -> Result<Schedule, Vec<BadSchedule>> {
    let (schedule, found) = parse_some(file, text);
    match schedule {
        Some(schedule) if found.is_empty() => Ok(schedule),
        _ => Err(found),
    }
}

/// The same, with what can be read of a schedule whose model and source are sound: what these need may be missing as well.
pub fn parse_some(file: &Path, text: &str) -> (Option<Schedule>, Vec<BadSchedule>) {
    let mut mistakes = Mistakes::new(file, text);
    let read: Option<File> = mistakes.read();
    let schedule = read.map(|read| check(&mut mistakes, read));
    let is_sound = mistakes.is_sound("model") && mistakes.is_sound("source");
    mistakes.found.sort_by_key(|bad| bad.at);
    (schedule.filter(|_| is_sound), mistakes.found)
}

/// Where fields stand in the text of a schedule file that could be read. It is parsed once, and only when a field is asked for.
pub struct Fields<'a> {
    text: &'a str,
    tree: OnceCell<Option<Spanned<DeTable<'a>>>>,
}

impl<'a> Fields<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            tree: OnceCell::new(),
        }
    }

    /// Where a field stands; an element of a list is named by its number.
    pub fn locate(&self, path: &[&str]) -> Option<Position> {
        let tree = self.tree.get_or_init(|| DeTable::parse(self.text).ok());
        let (first, rest) = path.split_first()?;
        let mut value = tree.as_ref()?.get_ref().get(*first)?;
        for step in rest {
            value = match value.get_ref() {
                DeValue::Table(table) => table.get(*step)?,
                DeValue::Array(list) => list.get(step.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(Position::of(self.text, value.span().start))
    }
}

/// [`Fields::locate`] of one field.
pub fn locate(text: &str, path: &[&str]) -> Option<Position> {
    Fields::new(text).locate(path)
}

/// Whether a text can name a model, or a version of one.
fn is_model(text: &str) -> bool {
    match text.split_once('@') {
        Some((name, version)) => is_name(name) && is_version(version),
        None => is_name(text),
    }
}

/// A schedule; what is wrong with it is noted, and is as nothing in it.
fn check(mistakes: &mut Mistakes<'_>, read: File) -> Schedule {
    mistakes.namespace(Some(&read.name), "name");
    let follows = matches!(read.source.get_ref(), SourceSpec::Changes(_));
    let cron = mistakes.cron(read.cron.as_ref(), follows);
    let zone = mistakes.zone(read.time_zone.as_ref());
    mistakes.range(read.limit_seconds.as_ref(), "limit_seconds", 1..=86_400);
    let (jitter, age) = (&read.jitter_seconds, &read.missed_max_age_seconds);
    mistakes.range(jitter.as_ref(), "jitter_seconds", 0..=MAX_JITTER_SECONDS);
    let ages = 0..=MAX_AGE_SECONDS;
    mistakes.range(age.as_ref(), "missed_max_age_seconds", ages);
    if !is_model(read.model.get_ref()) {
        let expected = format!("{EXPECTED_NAME}, or name@version");
        mistakes.field(&read.model, "model", &expected);
    }
    mistakes.namespace(read.namespace.as_ref(), "namespace");
    let ttl = read.ttl_seconds.as_ref();
    mistakes.range(ttl, "ttl_seconds", 1..=job::MAX_TTL_SECONDS);
    let keep = mistakes.keep(read.keep, read.rank.as_ref());
    mistakes.budget(read.budget.as_ref());
    let source = mistakes.source(&read.source, keep.as_ref());
    Schedule {
        name: read.name.into_inner(),
        file: mistakes.file.to_owned(),
        enabled: read.enabled,
        cron: cron.unwrap_or_else(Cron::never),
        zone: zone.unwrap_or(Tz::UTC),
        at_start: read.at_start,
        jitter: Duration::from_secs(read.jitter_seconds.map_or(0, Spanned::into_inner)),
        limit: Duration::from_secs(read.limit_seconds.map_or(600, Spanned::into_inner)),
        missed: read.missed,
        missed_max_age: Duration::from_secs(
            read.missed_max_age_seconds
                .map_or(3_600, Spanned::into_inner),
        ),
        overlap: read.overlap,
        model: read.model.into_inner(),
        namespace: read.namespace.map(Spanned::into_inner),
        ttl_seconds: read.ttl_seconds.map(Spanned::into_inner),
        keep: keep.unwrap_or(Keep::Scores),
        budget: match read.budget {
            Some(budget) => budget.into_inner(),
            // What changed is wrong until it is scored anew, however much it is.
            None if follows => Budget {
                inputs: usize::MAX,
                model_seconds: None,
                renewals: usize::MAX,
            },
            None => Budget::default(),
        },
        source,
    }
}

impl Mistakes<'_> {
    fn field<T>(&mut self, value: &Spanned<T>, field: &str, message: &str) {
        self.note(Some(value.span().start), field, message);
    }

    fn namespace(&mut self, value: Option<&Spanned<String>>, field: &str) {
        match value {
            Some(value) if !is_name(value.get_ref()) => self.field(value, field, EXPECTED_NAME),
            _ => {}
        }
    }

    fn range<T: PartialOrd + Display>(
        &mut self,
        value: Option<&Spanned<T>>,
        field: &str,
        range: RangeInclusive<T>,
    ) {
        match value {
            Some(value) if !range.contains(value.get_ref()) => {
                let message = format!("expected {} to {}", range.start(), range.end());
                self.field(value, field, &message);
            }
            _ => {}
        }
    }

    fn cron(&mut self, read: Option<&Spanned<String>>, follows: bool) -> Option<Cron> {
        match (read, follows) {
            (Some(read), true) => {
                let message = "has no meaning for what follows a table: it runs all the time";
                self.field(read, "cron", message);
                None
            }
            (None, true) => Some(Cron::never()),
            (Some(read), false) => match Cron::parse(read.get_ref()) {
                Ok(cron) => Some(cron),
                Err(problem) => {
                    self.field(read, "cron", &problem);
                    None
                }
            },
            (None, false) => {
                // What a source that can't be read would need isn't known.
                if self.is_sound("cron") && self.is_sound("source") {
                    self.note(None, "cron", "missing");
                }
                None
            }
        }
    }

    fn zone(&mut self, zone: Option<&Spanned<String>>) -> Option<Tz> {
        let Some(zone) = zone else {
            return Some(Tz::UTC);
        };
        let name = zone.get_ref().as_str();
        let found = name.parse().ok();
        if found.is_none() {
            let shown = if redact::is_name(name) {
                name
            } else {
                redact::HIDDEN
            };
            let message =
                format!("`{shown}` is no time zone; expected an IANA name such as Europe/Berlin");
            self.field(zone, "time_zone", &message);
        }
        found
    }

    fn keep(&mut self, kind: KeepKind, rank: Option<&Spanned<RankFile>>) -> Option<Keep> {
        if !self.is_sound("keep") || !self.is_sound("rank") {
            return None;
        }
        match (kind, rank) {
            (KeepKind::Rank, rank) => {
                let rank = rank.map(Spanned::get_ref);
                let key = rank.and_then(|rank| rank.key.as_ref());
                if let Some(key) = key
                    && let Some(problem) = job::key_problem(key.get_ref())
                {
                    self.field(key, "rank.key", &problem);
                }
                let top = rank.and_then(|rank| rank.top.as_ref());
                self.range(top, "rank.top", 1..=job::MAX_INPUTS);
                Some(Keep::Rank {
                    key: key.map(|key| key.get_ref().clone()),
                    top: top.map(|top| *top.get_ref()),
                })
            }
            (_, Some(rank)) => {
                self.field(rank, "rank", "is only for `keep = \"rank\"`");
                None
            }
            (KeepKind::Named, None) => Some(Keep::Named),
            (KeepKind::Scores, None) => Some(Keep::Scores),
        }
    }

    fn budget(&mut self, budget: Option<&Spanned<Budget>>) {
        let Some(budget) = budget else {
            return;
        };
        let Budget {
            inputs,
            model_seconds,
            renewals,
        } = *budget.get_ref();
        if inputs == 0
            || renewals == 0
            || model_seconds.is_some_and(|s| !(s.is_finite() && s > 0.0))
        {
            self.field(budget, "budget", "expected numbers above 0");
        }
    }

    fn source(&mut self, read: &Spanned<SourceSpec>, keep: Option<&Keep>) -> SourceSpec {
        let mut source = read.get_ref().clone();
        if !self.is_sound("source") {
            return source;
        }
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let fields = Fields::new(self.text);
        for bad in source.check(folder).err().into_iter().flatten() {
            let field = format!("source.{}", bad.field);
            let steps = field.replace('[', ".").replace(']', "");
            let steps: Vec<&str> = steps.split('.').collect();
            let at = fields.locate(&steps);
            self.note_at(at, read.span().start, &field, &bad.message);
        }
        source.locate(self.file, self.text);
        if self.is_sound("source")
            && let Some(problem) = keep.and_then(|keep| unkept(&source, keep))
        {
            let at = fields.locate(&["keep"]);
            self.note_at(at, read.span().start, "keep", problem);
        }
        source
    }
}
