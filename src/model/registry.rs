//! Which models serve, by name.

use std::borrow::Cow;
use std::sync::Arc;

use super::{ModelError, ModelInfo, ModelSettings, OpenError, Problem, Rows, Scored, UnknownModel};

/// One loaded, checked version of a model.
pub struct Model {
    info: ModelInfo,
}

impl Model {
    /// What this version is and takes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The text as the model sees it, by the manifest's rules. Pure and idempotent; borrowed when nothing changes.
    pub fn normalise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(text)
    }

    /// Scores rows on the model threads; waits for room when too many rows are queued. Dropping the future abandons the work.
    pub async fn score(&self, _rows: Rows) -> Result<Scored, ModelError> {
        Err(ModelError::Stopped)
    }
}

/// One line of [`Registry::list`].
#[derive(Debug, Clone, PartialEq)]
pub struct ListedModel {
    /// What the version is and takes.
    pub info: ModelInfo,
    /// Whether the bare name means this version.
    pub active: bool,
}

/// What [`Registry::rescan`] found. Each entry is `name@version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RescanReport {
    /// Versions that serve now and did not before.
    pub added: Vec<String>,
    /// Versions whose files changed and that were loaded anew.
    pub replaced: Vec<String>,
    /// Versions that no longer serve because their folder is gone.
    pub removed: Vec<String>,
    /// Problems that were not there at the scan before: worth a log line each.
    pub new_problems: Vec<Problem>,
}

/// Every model that serves. Dropping it stops and joins the model threads.
pub struct Registry {}

impl Registry {
    /// Loads and checks everything under the settings' folder. Blocking. A broken version is a [`Problem`], not an error.
    pub fn open(_settings: &ModelSettings) -> Result<Arc<Registry>, OpenError> {
        Ok(Arc::new(Registry {}))
    }

    /// The model that `name` (its active version) or `name@version` means. Lock-free.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Model>, UnknownModel> {
        Err(UnknownModel {
            reference: reference.to_owned(),
            message: format!("model \"{reference}\" is not known"),
        })
    }

    /// Every version that serves, by name and version.
    pub fn list(&self) -> Vec<ListedModel> {
        Vec::new()
    }

    /// What under the models folder does not serve, and why.
    pub fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Looks at the models folder again and loads what is new or changed. Blocking.
    pub fn rescan(&self) -> RescanReport {
        RescanReport::default()
    }
}
