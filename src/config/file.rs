//! Owns the settings file.

use super::{ConfigError, names};
use crate::redact::{self, Redact};
use figment::{
    Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Map},
};
use std::path::{Path, PathBuf};

/// What a TOML file says, with the names that settings have now.
pub(super) struct SettingsFile {
    path: PathBuf,
    table: toml::Table,
}

impl SettingsFile {
    /// Reads a file; an unknown setting is an error, and so is one that is given by both its present and its former name.
    pub(super) fn read(path: &Path, names: &names::Names) -> Result<Self, ConfigError> {
        let wrong = |problem: String| ConfigError::File {
            path: path.into(),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.redacted()))?;
        let mut table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| wrong(redact::toml(&e, &text)))?;
        let shown = path.display().to_string();
        names.check_file(&table, &shown)?;
        for (old, new) in names::RENAMED {
            rename(&mut table, old, new).map_err(|_both| ConfigError::Twice {
                old: old.to_owned(),
                new: new.to_owned(),
                source_name: shown.clone(),
            })?;
        }
        Ok(Self {
            path: path.into(),
            table,
        })
    }
}

/// Both names are there.
struct Both;

/// Moves a value, where it is there, to its present name, which is in the same section.
fn rename(table: &mut toml::Table, old: &str, new: &str) -> Result<(), Both> {
    let (Some((section, old)), Some((same, new))) = (old.rsplit_once('.'), new.rsplit_once('.'))
    else {
        return Ok(());
    };
    debug_assert_eq!(section, same, "{new} has moved");
    let mut table = table;
    for key in section.split('.') {
        let Some(inner) = table.get_mut(key).and_then(toml::Value::as_table_mut) else {
            return Ok(());
        };
        table = inner;
    }
    let Some(value) = table.remove(old) else {
        return Ok(());
    };
    match table.insert(new.to_owned(), value) {
        Some(_) => Err(Both),
        None => Ok(()),
    }
}

impl Provider for SettingsFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Serialized::defaults(&self.table).data()
    }
}
