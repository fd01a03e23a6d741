//! Owns the settings of the audit beside jobs.

use serde::{Deserialize, Serialize};

/// How what is in Redis is audited beside jobs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// Whether this worker audits beside its jobs; `kiln audit` does either way.
    pub enabled: bool,
    /// Share of the time that it may have, above 0 and at most 0.02. It asks no model while jobs wait.
    pub share: f64,
    /// Named entries and rankings, and as many score entries, that it looks at each time.
    pub sample: usize,
    /// Time between two audits, in seconds.
    pub interval_seconds: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            enabled: true,
            share: 0.01,
            sample: 64,
            interval_seconds: 60,
        }
    }
}
