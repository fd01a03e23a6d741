//! Owns the settings of warming.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Warming.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Whether this worker plans and posts warming runs; it takes warming jobs either way.
    pub enabled: bool,
    /// The folder of schedule files.
    pub dir: PathBuf,
    /// Inputs of one posted job; a ranking is one job whatever its size.
    pub piece_inputs: usize,
    /// Runs that this worker plans and posts at once.
    pub runs_at_once: usize,
    /// Seconds without a sign of life after which another worker takes a run over.
    pub claim_seconds: u64,
    /// Producers' jobs waiting at which posting pauses.
    pub max_backlog: u32,
    /// Warming jobs waiting at which posting pauses.
    pub max_queued: u32,
}

impl Default for Warm {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: PathBuf::from("schedules"),
            piece_inputs: 64,
            runs_at_once: 4,
            claim_seconds: 15,
            max_backlog: 1_000,
            max_queued: 1_000,
        }
    }
}
