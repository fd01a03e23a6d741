//! Owns which names are settings, and what is said of one that isn't.

use super::{ConfigError, loaded::known_settings};

/// Settings whose keys a user chooses.
pub(super) const FREE_TABLES: [&str; 5] = [
    "databases",
    "http.keys",
    "namespaces",
    "models.active",
    "models.backends",
];

/// A dotted name.
pub(super) fn joined(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// Every setting's name.
pub(super) struct Names {
    known: Vec<Known>,
}

struct Known {
    name: String,
    /// Whether its value is text, as far as its default tells.
    is_text: bool,
}

impl Names {
    pub(super) fn new() -> Self {
        let known = known_settings().into_iter().map(|(name, default)| Known {
            is_text: default.is_string() || default.is_null(),
            name,
        });
        Self {
            known: known.collect(),
        }
    }

    fn find(&self, name: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.name == name)
    }

    /// Whether it is a setting, or may be one of a table whose keys a user chooses.
    pub(super) fn has(&self, name: &str) -> bool {
        let free = |table: &str| {
            let rest = name.strip_prefix(table);
            rest.is_some_and(|rest| rest.starts_with('.'))
        };
        self.find(name).is_some() || FREE_TABLES.into_iter().any(free)
    }

    /// Whether a setting's value is text, as far as its default tells.
    pub(super) fn is_text(&self, name: &str) -> bool {
        self.find(name).is_some_and(|known| known.is_text)
    }

    /// The setting that is spelt most like `name`, if one is near.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        self.known
            .iter()
            .map(|known| (strsim::jaro_winkler(name, &known.name), known))
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, known)| known.name.as_str())
    }

    /// Looks for settings of a file that aren't known.
    pub(super) fn check_file(&self, table: &toml::Table, file: &str) -> Result<(), ConfigError> {
        self.check_table("", table, file)
    }

    fn check_table(
        &self,
        prefix: &str,
        table: &toml::Table,
        file: &str,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = joined(prefix, key);
            if FREE_TABLES.contains(&name.as_str()) || self.find(&name).is_some() {
                continue;
            }
            let inner = format!("{name}.");
            match value {
                toml::Value::Table(table)
                    if self.known.iter().any(|one| one.name.starts_with(&inner)) =>
                {
                    self.check_table(&name, table, file)?;
                }
                _ => {
                    let nearest = self.nearest(&name).map(str::to_owned);
                    return Err(ConfigError::Unknown {
                        name,
                        source_name: file.to_owned(),
                        nearest,
                    });
                }
            }
        }
        Ok(())
    }
}
