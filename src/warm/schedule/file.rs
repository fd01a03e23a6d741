//! Owns what a schedule file may say, and reads it.
//!
//! Promises that a file is checked completely before it is used, and that an error names the file, the line, the field and what
//! was expected there.

use super::{BadSchedule, Budget, Keep, Missed, Overlap, Schedule};
use crate::warm::{cron::Cron, source::SourceSpec};
use chrono_tz::Tz;
use kiln_contract::job;
use kiln_contract::name::{EXPECTED_NAME, is_name};
use serde::Deserialize;
use std::{fmt::Display, ops::RangeInclusive, path::Path, time::Duration};
use toml::Spanned;

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
    #[serde(default)]
    jitter_seconds: u64,
    limit_seconds: Option<Spanned<u64>>,
    #[serde(default)]
    missed: Missed,
    missed_max_age_seconds: Option<u64>,
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

/// What a spanned value adds to its path.
const SPAN: &str = ".$__serde_spanned_private_value";

/// Reads the text of a schedule file; `file` is its name in errors, and where its relative paths start.
pub fn parse(file: &Path, text: &str) -> Result<Schedule, BadSchedule> {
    let reader = Reader { file, text };
    let deserializer = toml::Deserializer::parse(text)
        .map_err(|e| reader.wrong(e.span().map(|s| s.start), "", e.message()))?;
    let read: File = serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string().replace(SPAN, "");
        let inner = error.into_inner();
        let field = if path == "." { "" } else { &path };
        reader.wrong(inner.span().map(|s| s.start), field, inner.message())
    })?;
    check(&reader, read)
}

fn check(reader: &Reader<'_>, read: File) -> Result<Schedule, BadSchedule> {
    reader.namespace(Some(&read.name), "name")?;
    let follows = matches!(read.source.get_ref(), SourceSpec::Changes(_));
    let cron = reader.cron(read.cron.as_ref(), follows)?;
    let zone = reader.zone(read.time_zone.as_ref())?;
    reader.range(read.limit_seconds.as_ref(), "limit_seconds", 1..=86_400)?;
    let model = read.model.get_ref();
    if model.is_empty() || model.len() > 256 {
        return Err(reader.field(&read.model, "model", "expected a name or name@version"));
    }
    reader.namespace(read.namespace.as_ref(), "namespace")?;
    let ttl = read.ttl_seconds.as_ref();
    reader.range(ttl, "ttl_seconds", 1..=job::MAX_TTL_SECONDS)?;
    let keep = reader.keep(read.keep, read.rank.as_ref())?;
    reader.budget(read.budget.as_ref())?;
    let source = reader.source(&read.source, &keep)?;
    Ok(Schedule {
        name: read.name.into_inner(),
        file: reader.file.to_owned(),
        enabled: read.enabled,
        cron,
        zone,
        at_start: read.at_start,
        jitter: Duration::from_secs(read.jitter_seconds),
        limit: Duration::from_secs(read.limit_seconds.map_or(600, Spanned::into_inner)),
        missed: read.missed,
        missed_max_age: Duration::from_secs(read.missed_max_age_seconds.unwrap_or(3_600)),
        overlap: read.overlap,
        model: read.model.into_inner(),
        namespace: read.namespace.map(Spanned::into_inner),
        ttl_seconds: read.ttl_seconds.map(Spanned::into_inner),
        keep,
        budget: match read.budget {
            Some(budget) => budget.into_inner(),
            // What changed is wrong until it is scored anew, however much it is.
            None if follows => Budget {
                inputs: usize::MAX,
                model_seconds: None,
            },
            None => Budget::default(),
        },
        source,
    })
}

/// Locates errors in the file's text.
struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, at: Option<usize>, field: &str, message: &str) -> BadSchedule {
        let line = at.map(|at| {
            let before = self.text.get(..at).unwrap_or(self.text);
            before.bytes().filter(|b| *b == b'\n').count() + 1
        });
        BadSchedule {
            file: self.file.to_owned(),
            line,
            field: field.to_owned(),
            message: message.to_owned(),
        }
    }

    fn field<T>(&self, value: &Spanned<T>, field: &str, message: &str) -> BadSchedule {
        self.wrong(Some(value.span().start), field, message)
    }

    fn namespace(&self, value: Option<&Spanned<String>>, field: &str) -> Result<(), BadSchedule> {
        match value {
            Some(value) if !is_name(value.get_ref()) => {
                Err(self.field(value, field, EXPECTED_NAME))
            }
            _ => Ok(()),
        }
    }

    fn range<T: PartialOrd + Display>(
        &self,
        value: Option<&Spanned<T>>,
        field: &str,
        range: RangeInclusive<T>,
    ) -> Result<(), BadSchedule> {
        match value {
            Some(value) if !range.contains(value.get_ref()) => {
                let message = format!("expected {} to {}", range.start(), range.end());
                Err(self.field(value, field, &message))
            }
            _ => Ok(()),
        }
    }

    fn cron(&self, cron: Option<&Spanned<String>>, follows: bool) -> Result<Cron, BadSchedule> {
        match (cron, follows) {
            (Some(cron), true) => {
                let message = "has no meaning for what follows a table: it runs all the time";
                Err(self.field(cron, "cron", message))
            }
            (None, true) => Ok(Cron::never()),
            (Some(cron), false) => {
                let read = Cron::parse(cron.get_ref());
                read.map_err(|e| self.field(cron, "cron", &e))
            }
            (None, false) => Err(self.wrong(None, "cron", "missing field `cron`")),
        }
    }

    fn zone(&self, zone: Option<&Spanned<String>>) -> Result<Tz, BadSchedule> {
        let Some(zone) = zone else {
            return Ok(Tz::UTC);
        };
        zone.get_ref().parse().map_err(|_| {
            let message = format!(
                "`{}` is no time zone; expected an IANA name such as Europe/Berlin",
                zone.get_ref()
            );
            self.field(zone, "time_zone", &message)
        })
    }

    fn keep(&self, kind: KeepKind, rank: Option<&Spanned<RankFile>>) -> Result<Keep, BadSchedule> {
        match (kind, rank) {
            (KeepKind::Rank, rank) => {
                let rank = rank.map(Spanned::get_ref);
                let key = rank.and_then(|rank| rank.key.as_ref());
                if let Some(key) = key
                    && let Some(problem) = job::key_problem(key.get_ref())
                {
                    return Err(self.field(key, "rank.key", &problem));
                }
                let top = rank.and_then(|rank| rank.top.as_ref());
                self.range(top, "rank.top", 1..=job::MAX_INPUTS)?;
                Ok(Keep::Rank {
                    key: key.map(|key| key.get_ref().clone()),
                    top: top.map(|top| *top.get_ref()),
                })
            }
            (_, Some(rank)) => Err(self.field(rank, "rank", "is only for `keep = \"rank\"`")),
            (KeepKind::Named, None) => Ok(Keep::Named),
            (KeepKind::Scores, None) => Ok(Keep::Scores),
        }
    }

    fn budget(&self, budget: Option<&Spanned<Budget>>) -> Result<(), BadSchedule> {
        let Some(budget) = budget else {
            return Ok(());
        };
        let Budget {
            inputs,
            model_seconds,
        } = *budget.get_ref();
        if inputs == 0 || model_seconds.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
            return Err(self.field(budget, "budget", "expected numbers above 0"));
        }
        Ok(())
    }

    fn source(&self, read: &Spanned<SourceSpec>, keep: &Keep) -> Result<SourceSpec, BadSchedule> {
        let mut source = read.get_ref().clone();
        let folder = self.file.parent().unwrap_or(Path::new("."));
        source.check(folder).map_err(|bad| {
            let field = format!("source.{}", bad.field);
            self.field(read, &field, &bad.message)
        })?;
        if matches!(source, SourceSpec::Changes(_)) && matches!(keep, Keep::Rank { .. }) {
            let message = "a ranking can't be made of what changed: the other rows are missing";
            return Err(self.field(read, "keep", message));
        }
        if matches!(source, SourceSpec::Heat(_)) && matches!(keep, Keep::Rank { .. }) {
            let message = "a ranking can't be made of what is hot: its rows have no group";
            return Err(self.field(read, "keep", message));
        }
        Ok(source)
    }
}
