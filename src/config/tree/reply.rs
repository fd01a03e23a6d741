//! Owns the settings of replies.

use serde::{Deserialize, Serialize};

/// How results are sent to those who asked for a reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// Largest body of a reply, in bytes; a larger one says `"results_omitted": true` in place of its results, which are in the job's row.
    pub max_bytes: usize,
    /// Longest wait for a reply's confirm while the broker confirms others, in milliseconds; then it is counted and given up.
    pub timeout_ms: u64,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 20,
            timeout_ms: 5_000,
        }
    }
}
