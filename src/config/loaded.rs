//! Owns the settings as they were read: each with its value and where it came from.

use super::Settings;
use figment::Figment;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// The settings and where each came from.
pub struct Loaded {
    pub settings: Settings,
    /// The file that was read.
    pub file: Option<PathBuf>,
    pub(super) figment: Figment,
}

impl std::fmt::Debug for Loaded {
    // What was read, before it became settings, holds the URLs as they were written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("settings", &self.settings)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// One line of `kiln config`.
#[derive(Debug, Serialize)]
pub struct Effective {
    pub name: String,
    pub value: Value,
    pub source: String,
}

impl Loaded {
    /// Every setting with its value and its source, in the order of the tree; credentials are left out.
    pub fn effective(&self) -> Vec<Effective> {
        leaves(&self.settings)
            .into_iter()
            .map(|(name, value)| Effective {
                source: self.source_of(&name),
                name,
                value,
            })
            .collect()
    }

    fn source_of(&self, name: &str) -> String {
        match self.figment.find_metadata(name) {
            Some(meta) if meta.name == "default" || meta.name.contains("Settings") => {
                "default".into()
            }
            Some(meta) => match &meta.source {
                Some(figment::Source::File(path)) => path.display().to_string(),
                _ => meta.name.to_string(),
            },
            None => "default".into(),
        }
    }
}

/// Every setting's name, with its default.
pub fn known_settings() -> Vec<(String, Value)> {
    leaves(&Settings::default())
}

fn leaves(settings: &Settings) -> Vec<(String, Value)> {
    let mut leaves = Vec::new();
    if let Ok(tree) = serde_json::to_value(settings) {
        flatten("", &tree, &mut leaves);
    }
    leaves
}

/// Collects what a tree of values holds, each by its dotted name.
pub(super) fn flatten(prefix: &str, tree: &Value, leaves: &mut Vec<(String, Value)>) {
    match tree {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                flatten(&joined(prefix, key), value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}

/// A dotted name.
pub(super) fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}
