//! Owns what is said of the whole worker at one moment, and the words for it: the same in `/readyz`, in `/health`, on the page and in
//! `kiln doctor`.

use super::state::{PartState, Readiness};
use crate::telemetry::metrics::HealthPart as Part;
use chrono::{DateTime, Utc};
use std::fmt::{self, Display, Formatter};

/// One part at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReport {
    pub part: Part,
    pub state: PartState,
    /// Why it doesn't work; empty where it does.
    pub reason: String,
    /// When it came into this state.
    pub since: DateTime<Utc>,
}

/// All parts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub parts: Vec<PartReport>,
}

impl Report {
    /// The parts without which jobs that are taken don't end.
    pub fn missing(&self) -> impl Iterator<Item = &PartReport> {
        let parts = self.parts.iter();
        parts.filter(|part| matches!(part.state, PartState::Unknown | PartState::Down))
    }

    /// The parts that the worker goes on without.
    pub fn degraded(&self) -> impl Iterator<Item = &PartReport> {
        let parts = self.parts.iter();
        parts.filter(|part| part.state == PartState::Degraded)
    }

    /// How the worker is.
    pub fn readiness(&self) -> Readiness {
        if self.missing().next().is_some() {
            Readiness::NotReady
        } else if self.degraded().next().is_some() {
            Readiness::Degraded
        } else {
            Readiness::Ready
        }
    }
}

/// `ready`; or `not ready` and a line for each reason; or, with or without that, a line for each part that is degraded.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.readiness() {
            Readiness::Ready => writeln!(f, "{}", Readiness::Ready.as_str())?,
            Readiness::NotReady => writeln!(f, "{}", Readiness::NotReady.as_str())?,
            Readiness::Degraded => {}
        }
        for part in self.missing() {
            writeln!(f, "{}: {}", part.part.as_str(), part.reason)?;
        }
        for part in self.degraded() {
            let word = Readiness::Degraded.as_str();
            writeln!(f, "{word}: {}: {}", part.part.as_str(), part.reason)?;
        }
        Ok(())
    }
}
