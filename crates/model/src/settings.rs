//! The `[models]` table of the settings: where models are found and how much of the machine they may use.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `[models]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// The folder that holds `<name>/<version>/manifest.toml`.
    pub dir: PathBuf,
    /// How many threads run models, shared by all of them; 0 takes as many as the process is granted, and more than that are
    /// never started.
    pub threads: usize,
    /// Maximum of rows in one forward pass; a larger request is split and its results are put back in order.
    pub max_batch_rows: usize,
    /// Maximum of tokens in one forward pass, for the models that read tokens; a longer text is a pass by itself.
    pub max_batch_tokens: usize,
    /// Maximum of rows that wait for a model thread; beyond it, callers wait. At least `max_batch_rows`.
    pub max_queued_rows: usize,
    /// Seconds without a job after which an inactive version releases its memory. A job that pins it loads it again.
    pub unload_after_seconds: u64,
    /// What does the arithmetic: `cpu`, `flex`, or `ndarray`, `wgpu` or `cuda` in builds that have them.
    pub backend: Backend,
    /// What does the arithmetic of single models, by model name.
    pub backends: BTreeMap<String, Backend>,
    /// Whether a model whose backend has no device that works runs on `cpu` instead of being refused.
    pub fall_back: bool,
    /// The version that a bare model name means, by model name; a model not named here means its highest version.
    pub active: BTreeMap<String, String>,
    /// Versions that score beside the active ones, by model name.
    pub shadow: BTreeMap<String, Shadow>,
}

/// A version that scores beside the active one, where nobody waits for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// A version that scores a share of live jobs' inputs in the background, by model name: how its scores differ from the active version's is counted, and nothing else comes of them.
    pub version: String,
    /// The share of inputs that it scores, above 0 and at most 1.
    pub share: f64,
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
            backends: BTreeMap::new(),
            fall_back: false,
            active: BTreeMap::new(),
            shadow: BTreeMap::new(),
        }
    }
}

impl ModelSettings {
    /// What does a model's arithmetic, and the name of the setting that says so.
    pub fn backend_of(&self, model: &str) -> (String, Backend) {
        match self.backends.get(model) {
            Some(backend) => (format!("models.backends.{model}"), *backend),
            None => ("models.backend".to_owned(), self.backend),
        }
    }
}

/// What does the arithmetic. Results of all backends on the processor agree to 1e-5, those of graphics processors to 1e-4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The processor: Kiln's own kernels for the architectures that have them, burn's graph for the others. Always compiled in.
    #[default]
    Cpu,
    /// Burn's graph on the processor for every architecture, always compiled in: the reference for the kernels, and what a new
    /// architecture starts as. (In 0.1.0 this was the name of what is `cpu` now.)
    Flex,
    /// The same on burn's older ndarray backend, only in builds with the cargo feature `ndarray`.
    Ndarray,
    /// The graph on a graphics processor by Vulkan, Metal or DirectX, only in builds with the cargo feature `wgpu`.
    Wgpu,
    /// An NVIDIA graphics processor: Kiln's own kernels for `encoder` and `mlp`, the processor's for the others. Only in builds with the cargo
    /// feature `cuda`.
    Cuda,
}

impl Backend {
    /// Its name in the settings; for the last three it is also the cargo feature's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Whether architectures run on Kiln's own kernels there, if they have them.
    pub fn has_kernels(self) -> bool {
        self == Self::Cpu
    }

    /// Whether it runs on a graphics processor.
    pub fn is_gpu(self) -> bool {
        matches!(self, Self::Wgpu | Self::Cuda)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_go_by_the_names_that_settings_files_hold() {
        assert_eq!(ModelSettings::default().backend.as_str(), "cpu");
        for backend in [
            Backend::Cpu,
            Backend::Flex,
            Backend::Ndarray,
            Backend::Wgpu,
            Backend::Cuda,
        ] {
            let name = backend.as_str();
            let source = format!("backend = {name:?}\nbackends = {{ a = {name:?} }}");
            let settings: ModelSettings = toml::from_str(&source).unwrap();
            assert_eq!(settings.backend, backend);
            assert_eq!(settings.backends["a"], backend);
        }
    }
}
