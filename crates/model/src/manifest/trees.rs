//! What a manifest says of a file of trees.

use serde::{Deserialize, Serialize};

/// `[trees]`: what the file beside the manifest is.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TreesShape {
    pub format: TreesFormat,
    /// As the file says it; empty where it says nothing.
    #[serde(default)]
    pub objective: String,
}

/// The notations of model files that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TreesFormat {
    /// What LightGBM's `save_model` writes.
    LightgbmText,
    /// What LightGBM's `dump_model` gives.
    LightgbmJson,
    /// What XGBoost's `save_model` writes to a file that ends with `.json`.
    XgboostJson,
    /// What it writes to any other.
    XgboostUbj,
}
