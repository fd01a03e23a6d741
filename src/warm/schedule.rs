//! Owns what a schedule file may say, and reads it.
//!
//! Promises that a file is checked whole before it counts, and that an error names the file, the line, the field and what
//! was expected there.

use super::{cron::Cron, source::SourceSpec};
use crate::{
    job,
    name::{EXPECTED_NAME, is_name},
};
use chrono_tz::Tz;
use serde::Deserialize;
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

/// What happens to runs that were due while nobody was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The latest one is made up for.
    #[default]
    Once,
    /// Each is made up for, the oldest first.
    All,
}

/// What happens to a run that is due while an earlier one of the same schedule is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out, and its row says so.
    #[default]
    Skip,
    /// It starts when the earlier one has ended.
    Wait,
    /// Both run.
    Allow,
}

/// What a run leaves in Redis beside the score entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Scores,
    /// A named entry for each input with a key.
    Named,
    /// A ranking of each group, or of all rows under `key`.
    Rank {
        key: Option<String>,
        top: Option<usize>,
    },
}

/// What one run may cost.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Inputs posted.
    pub inputs: usize,
    /// Seconds of model time, by what the model's inputs cost so far.
    pub model_seconds: Option<f64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            inputs: 100_000,
            model_seconds: None,
        }
    }
}

/// One schedule, checked.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub name: String,
    pub file: PathBuf,
    pub enabled: bool,
    pub cron: Cron,
    pub zone: Tz,
    /// Whether a worker that starts makes up for the last due time, however long ago.
    pub at_start: bool,
    pub jitter: Duration,
    pub limit: Duration,
    pub missed: Missed,
    pub missed_max_age: Duration,
    pub overlap: Overlap,
    /// `name` or `name@version`.
    pub model: String,
    pub namespace: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub keep: Keep,
    pub budget: Budget,
    pub source: SourceSpec,
}

impl Schedule {
    /// The namespace of its entries: its own, or its model's name.
    pub fn namespace(&self) -> &str {
        self.namespace
            .as_deref()
            .unwrap_or_else(|| self.model.split('@').next().unwrap_or_default())
    }

    /// The model's name without a version.
    pub fn model_name(&self) -> &str {
        self.model.split('@').next().unwrap_or_default()
    }
}

/// What is wrong with a schedule file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSchedule {
    pub file: PathBuf,
    /// Counted from 1; absent where the file as a whole is meant.
    pub line: Option<usize>,
    /// Empty where the file as a whole is meant.
    pub field: String,
    pub message: String,
}

impl fmt::Display for BadSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": `{}`", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

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
    cron: Spanned<String>,
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

/// What a value that knows its place adds to its path.
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
    let name = read.name.get_ref();
    if !is_name(name) {
        return Err(reader.field(&read.name, "name", EXPECTED_NAME));
    }
    let cron =
        Cron::parse(read.cron.get_ref()).map_err(|e| reader.field(&read.cron, "cron", &e))?;
    let zone = match &read.time_zone {
        None => Tz::UTC,
        Some(zone) => zone.get_ref().parse().map_err(|_| {
            let message = format!(
                "`{}` is no time zone; expected an IANA name such as Europe/Berlin",
                zone.get_ref()
            );
            reader.field(zone, "time_zone", &message)
        })?,
    };
    let limit = match &read.limit_seconds {
        Some(limit) if !(1..=86_400).contains(limit.get_ref()) => {
            return Err(reader.field(limit, "limit_seconds", "expected 1 to 86400"));
        }
        limit => limit.as_ref().map_or(600, |l| *l.get_ref()),
    };
    let model = read.model.get_ref();
    if model.is_empty() || model.len() > 256 {
        return Err(reader.field(&read.model, "model", "expected a name or name@version"));
    }
    if let Some(namespace) = &read.namespace
        && !is_name(namespace.get_ref())
    {
        return Err(reader.field(namespace, "namespace", EXPECTED_NAME));
    }
    if let Some(ttl) = &read.ttl_seconds
        && !(1..=job::MAX_TTL_SECONDS).contains(ttl.get_ref())
    {
        let message = format!("expected 1 to {}", job::MAX_TTL_SECONDS);
        return Err(reader.field(ttl, "ttl_seconds", &message));
    }
    let keep = match (read.keep, &read.rank) {
        (KeepKind::Rank, rank) => {
            let rank_key = rank.as_ref().and_then(|r| r.get_ref().key.as_ref());
            if let Some(key) = rank_key
                && let Some(problem) = job::key_problem(key.get_ref())
            {
                return Err(reader.field(key, "rank.key", &problem));
            }
            let top = rank.as_ref().and_then(|r| r.get_ref().top.as_ref());
            if let Some(top) = top
                && !(1..=job::MAX_INPUTS).contains(top.get_ref())
            {
                let message = format!("expected 1 to {}", job::MAX_INPUTS);
                return Err(reader.field(top, "rank.top", &message));
            }
            Keep::Rank {
                key: rank_key.map(|k| k.get_ref().clone()),
                top: top.map(|t| *t.get_ref()),
            }
        }
        (_, Some(rank)) => {
            return Err(reader.field(rank, "rank", "is only for `keep = \"rank\"`"));
        }
        (KeepKind::Named, None) => Keep::Named,
        (KeepKind::Scores, None) => Keep::Scores,
    };
    if let Some(budget) = &read.budget {
        let Budget {
            inputs,
            model_seconds,
        } = budget.get_ref();
        if *inputs == 0 || model_seconds.is_some_and(|s| !(s.is_finite() && s > 0.0)) {
            return Err(reader.field(budget, "budget", "expected numbers above 0"));
        }
    }
    let mut source = read.source.get_ref().clone();
    let folder = reader.file.parent().unwrap_or(Path::new("."));
    source.check(folder).map_err(|(field, message)| {
        reader.field(&read.source, &format!("source.{field}"), &message)
    })?;
    if matches!(source, SourceSpec::Heat(_)) && matches!(keep, Keep::Rank { .. }) {
        return Err(reader.field(
            &read.source,
            "keep",
            "a ranking can't be made of what is hot: its rows have no group",
        ));
    }
    Ok(Schedule {
        name: name.clone(),
        file: reader.file.to_owned(),
        enabled: read.enabled,
        cron,
        zone,
        at_start: read.at_start,
        jitter: Duration::from_secs(read.jitter_seconds),
        limit: Duration::from_secs(limit),
        missed: read.missed,
        missed_max_age: Duration::from_secs(read.missed_max_age_seconds.unwrap_or(3_600)),
        overlap: read.overlap,
        model: model.clone(),
        namespace: read.namespace.map(Spanned::into_inner),
        ttl_seconds: read.ttl_seconds.map(Spanned::into_inner),
        keep,
        budget: read
            .budget
            .map_or_else(Budget::default, Spanned::into_inner),
        source,
    })
}

/// Where in which text an error lies.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "trending"
cron = "*/5 * * * *"
time_zone = "Europe/Berlin"
model = "sentiment"
keep = "rank"
[rank]
top = 5
[source]
kind = "static"
inputs = [{ key = "a", text = "one", group = "g" }]
"#;

    fn read(text: &str) -> Result<Schedule, BadSchedule> {
        parse(Path::new("schedules/x.toml"), text)
    }

    #[test]
    fn a_file_says_all_of_a_schedule() {
        let schedule = read(GOOD).expect("a schedule");
        assert_eq!(
            (schedule.name.as_str(), schedule.namespace()),
            ("trending", "sentiment")
        );
        assert_eq!(
            schedule.keep,
            Keep::Rank {
                key: None,
                top: Some(5)
            }
        );
        assert_eq!(
            (schedule.missed, schedule.overlap),
            (Missed::Once, Overlap::Skip)
        );
        assert_eq!(schedule.limit, Duration::from_secs(600));
    }

    #[test]
    fn an_error_names_line_field_and_what_was_expected() {
        for (from, to, line, field, message) in [
            ("\"trending\"", "\"Trending!\"", 2, "name", "a-z"),
            ("*/5 * * * *", "*/5 * * *", 3, "cron", "found 4"),
            ("Europe/Berlin", "Europe/Berlib", 4, "time_zone", "IANA"),
            ("model = \"sentiment\"", "model = 7", 5, "model", "string"),
            (
                "keep = \"rank\"",
                "keep = \"ranks\"",
                6,
                "keep",
                "unknown variant",
            ),
            ("keep = \"rank\"", "keep = \"named\"", 7, "rank", "only for"),
            ("top = 5", "top = 0", 8, "rank.top", "1 to 4096"),
            ("top = 5", "topp = 5", 8, "rank.topp", "unknown field"),
            (
                "kind = \"static\"",
                "kind = \"statik\"",
                10,
                "source.kind",
                "statik",
            ),
            (
                "text = \"one\"",
                "text = \"one\", features = [1.0]",
                9,
                "source.inputs[0]",
                "not both",
            ),
            (
                "\nkeep",
                "\nttl_seconds = 0\nkeep",
                6,
                "ttl_seconds",
                "1 to",
            ),
            ("\nkeep", "\nkeeps = 0\nkeep", 6, "keeps", "unknown field"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            let bad = read(&text).expect_err(to);
            assert_eq!(bad.field, field, "{bad}");
            assert_eq!(bad.line, Some(line), "{bad}");
            assert!(bad.message.contains(message), "{bad}");
            assert!(
                bad.to_string()
                    .starts_with(&format!("schedules/x.toml:{line}: `{field}`: ")),
                "{bad}"
            );
        }
        let bad = read("name = \"x\"\ncron = ").expect_err("half a file");
        assert_eq!(bad.line, Some(2), "{bad}");
        let bad = read(&GOOD.replace("cron = ", "# ")).expect_err("no cron");
        assert!(bad.message.contains("cron"), "{bad}");
    }
}
