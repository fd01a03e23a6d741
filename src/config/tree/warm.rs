//! Owns the settings of warming.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How warming runs are planned and posted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Whether this worker plans and posts warming runs; it takes warming jobs either way.
    pub enabled: bool,
    /// The folder of schedule files.
    pub dir: PathBuf,
    /// Inputs of one posted job; a ranking is one job whatever its size.
    pub piece_inputs: usize,
    /// Runs that this worker plans and posts at the same time.
    pub runs_at_once: usize,
    /// Time without a renewed claim after which another worker takes a run over, in seconds.
    pub claim_seconds: u64,
    /// Waiting producers' jobs at which posting pauses.
    pub max_backlog: u32,
    /// Waiting warming jobs at which posting pauses.
    pub max_queued: u32,
    /// Private addresses and networks, such as `10.20.0.0/16`, from which schedules may fetch over HTTP; all other private ones are refused.
    pub private_networks: Vec<String>,
    /// Share of Redis's memory (its `maxmemory`, or where none is set all that its machine has) that the entries which warming keeps may fill, all schedules together, 0 to 1; half of that while Redis evicts.
    pub max_redis_share: f64,
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
            private_networks: Vec::new(),
            max_redis_share: 0.5,
        }
    }
}
