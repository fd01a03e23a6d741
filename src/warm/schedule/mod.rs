//! Owns what a schedule is, and what can be wrong with its file. [`parse`] reads one.

mod file;
mod fit;
mod repair;

pub use file::{Fields, locate, parse, parse_some};
pub use fit::{Known, KnownModel, misfits};

use super::{cron::Cron, source::SourceSpec};
use crate::{redact::Position, store::SpentAhead};
use chrono_tz::Tz;
use serde::Deserialize;
use std::{fmt, path::PathBuf, time::Duration};

/// What happens to runs that came due while no worker was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are skipped.
    Skip,
    /// The latest one runs late.
    #[default]
    Once,
    /// Each runs late, the oldest first.
    All,
}

/// What happens to a run that comes due while an earlier one of the same schedule is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is skipped, and its row says so.
    #[default]
    Skip,
    /// It starts when the earlier one has ended.
    Wait,
    /// Both run.
    Allow,
}

/// What a run writes to Redis besides the score entries.
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
    /// Inputs that the model computes.
    pub inputs: usize,
    /// Seconds of model time.
    pub model_seconds: Option<f64>,
    /// Inputs whose known scores are renewed without the model.
    pub renewals: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            inputs: 100_000,
            model_seconds: None,
            renewals: 100_000,
        }
    }
}

impl Budget {
    /// What is left of it where so much is spent.
    pub fn less(&self, spent: &SpentAhead) -> Self {
        let less =
            |all: usize, spent: i64| all.saturating_sub(usize::try_from(spent).unwrap_or_default());
        Self {
            inputs: less(self.inputs, spent.inputs),
            model_seconds: self
                .model_seconds
                .map(|all| (all - spent.model_seconds).max(0.0)),
            renewals: less(self.renewals, spent.renewals),
        }
    }

    /// What of it may be spent between two runs on what probably comes next: a half, so that the rest is the next run's in any case.
    pub fn ahead(&self) -> Self {
        Self {
            inputs: self.inputs.div_ceil(2),
            model_seconds: self.model_seconds.map(|all| all / 2.0),
            renewals: self.renewals.div_ceil(2),
        }
    }

    /// All of it, as what may be spent until the next run.
    pub fn whole(&self) -> SpentAhead {
        let count = |all: usize| i64::try_from(all).unwrap_or(i64::MAX);
        SpentAhead {
            inputs: count(self.inputs),
            model_seconds: self.model_seconds.unwrap_or(f64::INFINITY),
            renewals: count(self.renewals),
        }
    }
}

/// A valid schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub name: String,
    pub file: PathBuf,
    pub enabled: bool,
    pub cron: Cron,
    pub zone: Tz,
    /// Whether a worker that starts runs the last due time late, however long ago that was.
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

    /// Whether it follows a table all the time, and is never due.
    pub fn follows(&self) -> bool {
        matches!(self.source, SourceSpec::Changes(_))
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
    /// None for the file as a whole.
    pub at: Option<Position>,
    /// Empty for the file as a whole.
    pub field: String,
    pub message: String,
}

impl fmt::Display for BadSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(Position { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": `{}`", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
