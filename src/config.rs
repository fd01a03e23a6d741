//! Owns every setting: one typed tree, read from a TOML file and the environment, checked whole before a
//! socket opens.
//!
//! Promises that an unknown setting is an error that names the nearest known one, that a value of the wrong
//! type names the setting and where it came from, and that a URL's credentials are never shown. The
//! environment wins over the file, the file over the defaults.

mod check;
mod environment;
mod file;
mod files;
#[cfg(test)]
mod fuzz;
mod loaded;
mod names;
mod network;
mod reachable;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod tree;

pub use loaded::{Effective, Loaded, known_settings};
pub use network::Network;
pub use reachable::is_reachable;
pub use tree::*;

use figment::{Figment, providers::Serialized};
use file::SettingsFile;
use names::Names;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// The file that is read where neither `--config` nor `KILN_CONFIG` names one, if it is there.
pub const DEFAULT_FILE: &str = "kiln.toml";

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
    /// A setting that is given by its present and by its former name.
    #[error(
        "`{old}` is the former name of `{new}`, and {source_name} sets both: leave `{old}` out"
    )]
    Twice {
        old: String,
        new: String,
        source_name: String,
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

/// Reads the settings from `file` (or, where that is `None`, from `kiln.toml` if it is there) and from
/// `environment`, and checks them.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let names = Names::new();
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| default.exists().then_some(default));
    if let Some(path) = file {
        figment = figment.merge(SettingsFile::read(path, &names)?);
    }
    let mut variables: BTreeMap<String, String> = environment.into_iter().collect();
    files::read(&mut variables)?;
    figment = environment::merge(figment, variables, &names)?;
    let settings: Settings = figment
        .extract()
        .map_err(|e| ConfigError::Invalid(describe(&e)))?;
    check::check(&settings)?;
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
        figment::error::Kind::UnknownVariant(_, expected) => {
            format!("expected one of {}", expected.join(", "))
        }
        figment::error::Kind::Message(text) => kiln_contract::redact::serde(text),
        other => other.to_string(),
    };
    format!("`{name}`: {problem}{from}")
}

/// Milliseconds as a [`Duration`].
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
