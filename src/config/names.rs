//! Owns which names are settings, and what is said of one that isn't.

use super::{
    ConfigError,
    loaded::{joined, known_settings},
};

/// Settings that had another name: the former, which goes on working, and the present one.
pub(super) const RENAMED: [(&str, &str); 4] = [
    ("amqp.backoff_most_ms", "amqp.max_backoff_ms"),
    ("database.backoff_most_ms", "database.max_backoff_ms"),
    ("warm.backlog_most", "warm.max_backlog"),
    ("warm.queued_most", "warm.max_queued"),
];

/// The present name of a setting that had another one.
pub(super) fn renamed(name: &str) -> Option<&'static str> {
    let mut renamed = RENAMED.into_iter();
    renamed.find_map(|(old, new)| (old == name).then_some(new))
}

/// Settings whose keys a user chooses.
pub(super) const FREE_TABLES: [&str; 10] = [
    "cache.models",
    "callbacks.receivers",
    "databases",
    "http.keys",
    "lanes",
    "namespaces",
    "models.active",
    "models.backends",
    "models.shadow",
    "redis_sources",
];

/// Every setting's name.
pub(super) struct Names {
    known: Vec<Known>,
}

struct Known {
    name: String,
    /// Whether its value is text, as far as its default shows.
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

    /// Whether a setting's value is text, as far as its default shows; a receiver's secret is, though it be all digits.
    pub(super) fn is_text(&self, name: &str) -> bool {
        let receiver = name.strip_prefix("callbacks.receivers.");
        let receiver = receiver.and_then(|rest| rest.strip_suffix(".secret"));
        let is_secret = receiver.is_some_and(|receiver| !receiver.contains('.'));
        is_secret || self.find(name).is_some_and(|known| known.is_text)
    }

    /// The present name of the setting whose name, present or former, is closest to `name`, if one is close.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        let present = self
            .known
            .iter()
            .map(|known| (known.name.as_str(), known.name.as_str()));
        present
            .chain(RENAMED)
            .map(|(spelling, present)| (strsim::jaro_winkler(name, spelling), present))
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, present)| present)
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
            let known = self.find(&name).is_some() || renamed(&name).is_some();
            if known || FREE_TABLES.contains(&name.as_str()) {
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
