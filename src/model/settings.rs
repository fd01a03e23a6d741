//! The `[models]` table of the settings: where models are found and how much of the machine they may use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `[models]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// The folder that holds `<name>/<version>/manifest.toml`.
    pub dir: PathBuf,
    /// How many threads run models, shared by all of them; 0 takes as many as there are processors.
    pub threads: usize,
    /// The most rows of one forward pass; a larger request is split and its results are put back in order.
    pub max_batch_rows: usize,
    /// The most tokens of one forward pass, for the models that read tokens; a longer text is a pass by itself.
    pub max_batch_tokens: usize,
    /// The most rows that may wait for a model thread; beyond it, callers wait for room. At least `max_batch_rows`.
    pub max_queued_rows: usize,
    /// After how many seconds without a job a version that isn't active gives its memory back. A job that pins it has it
    /// loaded again.
    pub unload_after_seconds: u64,
    /// What does the arithmetic.
    pub backend: Backend,
    /// The version that a bare model name means, by model name; a model not named here means its highest version.
    pub active: BTreeMap<String, String>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("models"),
            threads: 0,
            max_batch_rows: 1024,
            max_batch_tokens: 2048,
            max_queued_rows: 65_536,
            unload_after_seconds: 600,
            backend: Backend::default(),
            active: BTreeMap::new(),
        }
    }
}

/// What does the arithmetic. Results of all backends agree to 1e-5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Burn's own processor backend, always compiled in.
    #[default]
    Flex,
    /// The older ndarray backend, only in builds with the cargo feature `ndarray`.
    Ndarray,
}
