//! Where a run's inputs come from: a list in the schedule, a file, a SQL statement, a sorted set or stream in Redis, a web
//! server, or what is hot.
//!
//! Promises of every source: rows come in order and one at a time, so that a large source takes no memory; an invalid row is
//! reported with its position and the others follow; a source that fails says so in its last item. Each kind passes the
//! same tests (`conformance` below). Refuses to decide which rows are worth warming.

mod changes;
mod file;
mod heat;
mod http;
mod list;
mod redis_counts;
mod sql;

use crate::config::Settings;
use futures_util::stream::BoxStream;
use kiln_contract::job;
use serde::Deserialize;
use std::path::Path;

pub use changes::ChangesSpec;
pub(super) use changes::{
    Beginning, ChangedRow, Changes, ChangesSource, Found, Page, Point, PositionKind,
};
pub use file::FileSource;
pub use heat::{HeatSpec, HotInputs, Reported};
pub use http::{HttpSource, HttpSpec};
pub use list::{ListSource, ListSpec};
pub use redis_counts::{Member, RedisSource, RedisSpec};
pub use sql::SqlSource;

/// Longest line of a file and largest row, in bytes.
const MAX_ROW_BYTES: usize = 1 << 20;

/// What an input holds.
#[derive(Debug, Clone, PartialEq)]
pub enum RowContent {
    Text { text: String, pair: Option<String> },
    Features(Vec<f32>),
}

impl RowContent {
    /// A text, with or without a pair, or features; `absent` is the error if there is neither.
    fn new(
        text: Option<String>,
        pair: Option<String>,
        features: Option<Vec<f32>>,
        absent: &str,
    ) -> Result<Self, String> {
        match (text, pair, features) {
            (Some(text), pair, None) => Ok(Self::Text { text, pair }),
            (None, None, Some(features)) => match features.iter().position(|f| !f.is_finite()) {
                Some(index) => Err(format!("`features[{index}]`: expected a finite number")),
                None => Ok(Self::Features(features)),
            },
            (None, Some(_), _) => Err("`text_pair` without `text`".into()),
            (None, None, None) => Err(absent.into()),
            (Some(_), _, Some(_)) => Err("expected `text` or `features`, not both".into()),
        }
    }
}

impl RowContent {
    /// Bytes of what it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text { text, pair } => text.len() + pair.as_ref().map_or(0, String::len),
            Self::Features(values) => size_of_val(values.as_slice()),
        }
    }

    /// Its texts; nothing of features.
    pub(super) fn text(&self) -> Option<(&str, Option<&str>)> {
        match self {
            Self::Text { text, pair } => Some((text.as_str(), pair.as_deref())),
            Self::Features(_) => None,
        }
    }
}

/// One input of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: Option<String>,
    /// Rows of one group become one ranking, under the group's name.
    pub group: Option<String>,
    pub content: RowContent,
    /// Requests per second for it, if the source knows.
    pub rate: Option<f64>,
}

/// An item of a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Row(Row),
    /// One that its source remembers: nobody was asked for it now. With when somebody who knows has said so last, in milliseconds since 1970, as
    /// far as that is known.
    Remembered(Row, Option<i64>),
    /// An invalid row: where it is, and what is wrong.
    Bad(String),
}

/// Why a source ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// What is wrong with a source's table in a schedule file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {message}")]
pub struct BadSource {
    pub field: String,
    pub message: String,
}

impl BadSource {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Rows to warm.
pub trait RowSource: Send + Sync {
    /// All rows, in order. After an error nothing follows.
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>>;
}

/// A source as a schedule file has it: its `kind` is the name of the variant, which [`schedule`](super::schedule) puts there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceSpec {
    Static(ListSpec),
    File(file::FileSpec),
    Sql(sql::SqlSpec),
    Redis(RedisSpec),
    Http(HttpSpec),
    Changes(ChangesSpec),
    Heat(HeatSpec),
}

impl SourceSpec {
    /// Checks what needs no server; relative paths start at `folder`.
    pub(super) fn check(&mut self, folder: &Path) -> Result<(), Vec<BadSource>> {
        let one = |bad: BadSource| vec![bad];
        match self {
            Self::Static(spec) => spec.check(),
            Self::File(spec) => spec.check(folder).map_err(one),
            Self::Sql(spec) => spec.check(),
            Self::Redis(spec) => spec.check().map_err(one),
            Self::Http(spec) => spec.check(folder).map_err(one),
            Self::Changes(spec) => spec.check().map_err(one),
            Self::Heat(spec) => spec.check().map_err(one),
        }
    }

    /// Notes where in the schedule's file stands what a server may find wrong.
    pub(super) fn locate(&mut self, file: &Path, text: &str) {
        if let Self::Sql(spec) = self {
            spec.locate(file, text);
        }
    }

    /// The database that it asks, by its name in the settings.
    pub(super) fn database(&self) -> Option<&str> {
        match self {
            Self::Sql(spec) => Some(spec.database()),
            Self::Changes(spec) => Some(spec.database()),
            _ => None,
        }
    }

    /// The Redis that it asks for counts, by its name in the settings.
    pub(super) fn redis_server(&self) -> Option<&str> {
        match self {
            Self::Redis(spec) => Some(spec.server()),
            _ => None,
        }
    }

    /// The inputs that stand in the schedule itself.
    pub(super) fn listed(&self) -> Option<&ListSpec> {
        match self {
            Self::Static(spec) => Some(spec),
            _ => None,
        }
    }

    /// Opens the source. [`HotInputs`] is opened elsewhere, since it needs what the workers share in Redis, and so is what changes, which
    /// needs its position.
    pub fn open(&self, settings: &Settings) -> Result<Box<dyn RowSource>, SourceError> {
        Ok(match self {
            Self::Static(spec) => Box::new(ListSource::new(spec)),
            Self::File(spec) => Box::new(FileSource::new(spec)),
            Self::Sql(spec) => Box::new(SqlSource::new(
                spec,
                &settings.databases,
                &settings.database,
            )?),
            Self::Redis(spec) => Box::new(RedisSource::new(spec, settings)?),
            Self::Http(spec) => Box::new(HttpSource::new(spec, settings)?),
            Self::Changes(_) => {
                return Err(SourceError(
                    "a table that is followed has a position".into(),
                ));
            }
            Self::Heat(_) => return Err(SourceError("heat has no settings of its own".into())),
        })
    }
}

/// An input as a file or a schedule has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    key: Option<String>,
    group: Option<String>,
    text: Option<String>,
    text_pair: Option<String>,
    features: Option<Vec<f32>>,
}

impl InputSpec {
    fn into_row(self) -> Result<Row, String> {
        for (name, value) in [("key", &self.key), ("group", &self.group)] {
            if let Some(problem) = value.as_deref().and_then(job::key_problem) {
                return Err(format!("`{name}` {problem}"));
            }
        }
        let absent = "expected `text` or `features`";
        let content = RowContent::new(self.text, self.text_pair, self.features, absent)?;
        Ok(Row {
            key: self.key,
            group: self.group,
            content,
            rate: None,
        })
    }
}

#[cfg(test)]
pub(crate) mod conformance {
    use super::*;
    use futures_util::StreamExt;

    /// What each source must give for the same five rows, of which the third is bad.
    pub async fn check(source: &dyn RowSource) {
        let items: Vec<_> = source.rows().collect().await;
        let rows: Vec<&Item> = items
            .iter()
            .map(|i| i.as_ref().expect("no failure"))
            .collect();
        let [one, two, bad, three, four] = rows.as_slice() else {
            panic!("five items, not {items:?}");
        };
        let row = |key: Option<&str>, group: Option<&str>, content| {
            Item::Row(Row {
                key: key.map(str::to_owned),
                group: group.map(str::to_owned),
                content,
                rate: None,
            })
        };
        let text = |text: &str, pair: Option<&str>| RowContent::Text {
            text: text.to_owned(),
            pair: pair.map(str::to_owned),
        };
        assert_eq!(
            **one,
            row(Some("a"), Some("g"), text("one ☃ \"'; --", None))
        );
        assert_eq!(**two, row(None, None, text("two", Some("pair"))));
        assert!(
            matches!(bad, Item::Bad(problem) if problem.contains('3')),
            "{bad:?}"
        );
        assert_eq!(
            **three,
            row(Some("c"), None, RowContent::Features(vec![0.5, -2.0]))
        );
        assert_eq!(**four, row(Some("d"), Some("g"), text("", None)));
        // A second reading gives the same.
        let again: Vec<_> = source.rows().collect().await;
        assert_eq!(items, again);
    }
}
