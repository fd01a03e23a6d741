//! Owns every setting: one typed tree, read from a TOML file and the environment, checked whole before a
//! socket opens.
//!
//! Promises that an unknown setting is an error that names the nearest known one, that a value of the wrong
//! type names the setting and where it came from, and that a URL's credentials are never shown. The
//! environment wins over the file, the file over the defaults.

mod check;
mod files;
#[cfg(test)]
mod tests;
mod tree;

pub use tree::*;

use check::check;
use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// The file that is read where neither `--config` nor `KILN_CONFIG` names one, if it is there.
pub const DEFAULT_FILE: &str = "kiln.toml";

/// Short names of the environment, their fallbacks, and the setting that they stand for.
const SHORT_NAMES: [(&str, &[&str], &str); 7] = [
    ("KILN_AMQP_URL", &["AMQP_URL"], "amqp.url"),
    ("KILN_REDIS_URL", &["REDIS_URL"], "redis.url"),
    ("KILN_DATABASE_URL", &["DATABASE_URL"], "database.url"),
    ("KILN_HTTP_ADDR", &[], "http.addr"),
    ("KILN_MODELS_DIR", &[], "models.dir"),
    ("KILN_LOG", &[], "log.filter"),
    (
        "KILN_TRACE_ENDPOINT",
        &["OTEL_EXPORTER_OTLP_ENDPOINT"],
        "trace.endpoint",
    ),
];

/// Settings whose keys a user chooses.
const FREE_TABLES: [&str; 5] = [
    "databases",
    "http.keys",
    "namespaces",
    "models.active",
    "models.backends",
];

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting that Kiln doesn't know.
    #[error("unknown setting `{name}` in {source_name}{}", hint(.nearest))]
    Unknown {
        name: String,
        source_name: String,
        nearest: Option<String>,
    },
    /// A value of the wrong type.
    #[error("setting {0}")]
    Invalid(String),
    /// A value that is of the right type and still makes no sense.
    #[error("setting `{name}`: {problem}")]
    OutOfRange { name: &'static str, problem: String },
    /// A file that should hold a secret.
    #[error("{variable}: {problem}")]
    SecretFile { variable: String, problem: String },
    /// A certificate or key.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The file can't be read or isn't TOML.
    #[error("settings file {}: {problem}", .path.display())]
    File { path: PathBuf, problem: String },
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
/// The settings and where each came from.
pub struct Loaded {
    pub settings: Settings,
    /// The file that was read.
    pub file: Option<PathBuf>,
    figment: Figment,
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
    pub value: serde_json::Value,
    pub source: String,
}

impl Loaded {
    /// Every setting with its value and its source, in the order of the tree; credentials are left out.
    pub fn effective(&self) -> Vec<Effective> {
        let mut leaves = Vec::new();
        if let Ok(tree) = serde_json::to_value(&self.settings) {
            flatten("", &tree, &mut leaves);
        }
        leaves
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

fn flatten(prefix: &str, tree: &serde_json::Value, leaves: &mut Vec<(String, serde_json::Value)>) {
    match tree {
        serde_json::Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&name, value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}

/// Every setting's name, with its default.
pub fn known_settings() -> Vec<(String, serde_json::Value)> {
    let mut leaves = Vec::new();
    if let Ok(tree) = serde_json::to_value(Settings::default()) {
        flatten("", &tree, &mut leaves);
    }
    leaves
}

/// Reads the settings from `file` (or, where that is `None`, from `kiln.toml` if it is there) and from
/// `environment`, and checks them.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let known: Vec<String> = known_settings().into_iter().map(|(name, _)| name).collect();
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| default.exists().then_some(default));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::File {
            path: path.into(),
            problem: e.to_string(),
        })?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| ConfigError::File {
                path: path.into(),
                problem: e.to_string(),
            })?;
        check_table("", &table, &known, &path.display().to_string())?;
        figment = figment.merge(Toml::file_exact(path));
    }
    let mut variables: BTreeMap<String, String> = environment.into_iter().collect();
    files::read(&mut variables)?;
    for (name, fallbacks, setting) in SHORT_NAMES {
        let found = std::iter::once(&name)
            .chain(fallbacks)
            .find(|n| variables.get(**n).is_some_and(|v| !v.is_empty()));
        if let Some(found) = found.copied() {
            let value = variables.get(found).cloned().unwrap_or_default();
            let provider = figment::providers::Serialized::global(setting, value);
            figment = figment.merge(Named(format!("environment variable {found}"), provider));
        }
        variables.remove(name);
    }
    for (variable, value) in &variables {
        let Some(rest) = variable.strip_prefix("KILN_") else {
            continue;
        };
        // Kubernetes sets these for a Service named `kiln`.
        if rest == "CONFIG"
            || rest.starts_with("SERVICE_")
            || rest == "PORT"
            || rest.starts_with("PORT_")
        {
            continue;
        }
        let setting = rest.to_lowercase().replace("__", ".");
        if !known.contains(&setting)
            && !FREE_TABLES
                .iter()
                .any(|t| setting.starts_with(&format!("{t}.")))
        {
            let nearest = nearest(&setting, &known)
                .map(|n| format!("KILN_{}", n.to_uppercase().replace('.', "__")));
            return Err(ConfigError::Unknown {
                name: variable.clone(),
                source_name: "the environment".into(),
                nearest,
            });
        }
        // Text stays text: only where the setting isn't a string is the value parsed.
        let text = known_settings()
            .iter()
            .any(|(n, v)| *n == setting && (v.is_string() || v.is_null()));
        let value: figment::value::Value = if text {
            value.as_str().into()
        } else {
            value.parse().unwrap_or_else(|_| value.as_str().into())
        };
        let provider = figment::providers::Serialized::global(&setting, value);
        figment = figment.merge(Named(format!("environment variable {variable}"), provider));
    }
    let settings: Settings = figment
        .extract()
        .map_err(|e| ConfigError::Invalid(describe(&e)))?;
    check(&settings)?;
    Ok(Loaded {
        settings,
        file: file.map(Path::to_owned),
        figment,
    })
}

/// [`load`] with the process's own environment.
pub fn load_from_process(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let named = std::env::var_os("KILN_CONFIG").map(PathBuf::from);
    load(
        file.or(named.as_deref()),
        std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
    )
}

/// A provider under another name, so that an error and `kiln config` say where a value came from.
struct Named<P>(String, P);

impl<P: figment::Provider> figment::Provider for Named<P> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.0.clone())
    }
    fn data(
        &self,
    ) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        self.1.data()
    }
}

fn describe(error: &figment::Error) -> String {
    let name = error.path.join(".");
    let from = error
        .metadata
        .as_ref()
        .map_or_else(String::new, |m| format!(" (from {})", m.name));
    // The value itself may be a secret: say what was expected, not what was found.
    let problem = match &error.kind {
        figment::error::Kind::InvalidType(_, expected) => format!("expected {expected}"),
        figment::error::Kind::InvalidValue(_, expected) => format!("expected {expected}"),
        other => other.to_string(),
    };
    format!("`{name}`: {problem}{from}")
}

fn check_table(
    prefix: &str,
    table: &toml::Table,
    known: &[String],
    source: &str,
) -> Result<(), ConfigError> {
    for (key, value) in table {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        if FREE_TABLES.contains(&name.as_str()) || known.contains(&name) {
            continue;
        }
        let inner = format!("{name}.");
        match value {
            toml::Value::Table(table) if known.iter().any(|k| k.starts_with(&inner)) => {
                check_table(&name, table, known, source)?;
            }
            _ => {
                let nearest = nearest(&name, known);
                return Err(ConfigError::Unknown {
                    name,
                    source_name: source.to_owned(),
                    nearest,
                });
            }
        }
    }
    Ok(())
}

fn nearest(name: &str, known: &[String]) -> Option<String> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(name, k), k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.clone())
}
/// Milliseconds as a [`Duration`].
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
