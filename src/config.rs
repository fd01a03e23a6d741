//! Owns every setting: one typed tree, read from a TOML file and the environment, checked whole before a
//! socket opens.
//!
//! Promises that an unknown setting is an error that names the nearest known one, that a value of the wrong
//! type names the setting and where it came from, and that a URL's credentials are never shown. The
//! environment wins over the file, the file over the defaults.

use crate::{model::ModelSettings, secret::Secret};
use figment::{
    Figment,
    providers::{Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The file that is read where neither `--config` nor `KILN_CONFIG` names one, if it is there.
pub const DEFAULT_FILE: &str = "kiln.toml";

/// Short names of the environment, their fallbacks, and the setting that they stand for.
const SHORT_NAMES: [(&str, &[&str], &str); 6] = [
    ("KILN_AMQP_URL", &["AMQP_URL"], "amqp.url"),
    ("KILN_REDIS_URL", &["REDIS_URL"], "redis.url"),
    ("KILN_DATABASE_URL", &["DATABASE_URL"], "database.url"),
    ("KILN_HTTP_ADDR", &[], "http.addr"),
    ("KILN_MODELS_DIR", &[], "models.dir"),
    ("KILN_LOG", &[], "log.filter"),
];

/// Settings whose keys a user chooses.
const FREE_TABLES: [&str; 2] = ["namespaces", "models.active"];

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
    /// The file can't be read or isn't TOML.
    #[error("settings file {}: {problem}", .path.display())]
    File { path: PathBuf, problem: String },
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Every setting of Kiln.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub amqp: Amqp,
    pub redis: Redis,
    pub database: Database,
    pub http: Http,
    pub queues: Queues,
    pub intake: Intake,
    pub retry: Retry,
    pub cache: Cache,
    pub namespaces: BTreeMap<String, Namespace>,
    pub models: ModelSettings,
    pub store: Store,
    pub embedded: Embedded,
    pub drain: Drain,
    pub log: Log,
}

/// The broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Amqp {
    /// `amqp://user:password@host:port/vhost`.
    pub url: Option<Secret>,
    /// Seconds between heartbeats; two missed ones end the connection.
    pub heartbeat_seconds: u16,
    /// Longest wait for a connection, a declaration or a publisher confirm, in milliseconds.
    pub timeout_ms: u64,
    /// Longest wait between two attempts to connect, in milliseconds.
    pub backoff_most_ms: u64,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            url: None,
            heartbeat_seconds: 5,
            timeout_ms: 10_000,
            backoff_most_ms: 5_000,
        }
    }
}

/// The cache server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://user:password@host:port/database`.
    pub url: Option<Secret>,
    /// Longest wait for one answer, in milliseconds; later than that, the model is asked instead.
    pub timeout_ms: u64,
    /// Time for which Redis is left alone after a failure, in milliseconds.
    pub cooldown_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            timeout_ms: 500,
            cooldown_ms: 1_000,
        }
    }
}

/// The database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/database`.
    pub url: Option<Secret>,
    /// Connections that one worker may open.
    pub connections: u32,
    /// Longest wait for one statement, in milliseconds.
    pub timeout_ms: u64,
    /// Longest wait between two attempts to store a batch, in milliseconds.
    pub backoff_most_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            connections: 6,
            timeout_ms: 15_000,
            backoff_most_ms: 2_000,
        }
    }
}

/// The HTTP port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub addr: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

/// The queues' names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queues {
    /// What every queue's name starts with.
    pub prefix: String,
    /// Name of the queue of jobs; empty: `{prefix}.jobs`.
    pub jobs: String,
    /// Name of the queue of warming jobs; empty: `{prefix}.warm`.
    pub warm: String,
    /// Name of the queue of dead letters; empty: `{prefix}.dead`.
    pub dead: String,
    /// Deliveries after which the broker itself gives a message up; a backstop far beyond `retry.max_tries`.
    pub delivery_limit: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            prefix: "kiln".into(),
            jobs: String::new(),
            warm: String::new(),
            dead: String::new(),
            delivery_limit: 100,
        }
    }
}

/// How jobs are taken in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Intake {
    /// Unacknowledged jobs that the broker may hand to this worker, 1 to 2000.
    pub prefetch: u16,
    /// The same for warming jobs.
    pub warm_prefetch: u16,
    /// Jobs of one batch.
    pub batch_jobs: usize,
    /// Tokens of one batch, estimated as a quarter of the bodies' bytes.
    pub batch_tokens: usize,
    /// Longest time that a batch is kept open while others are in flight, in milliseconds.
    pub batch_wait_ms: u64,
    /// Batches that are worked on at once.
    pub batches_in_flight: usize,
    /// Largest body of a job, in bytes; a larger one is rejected unparsed.
    pub max_body_bytes: usize,
    /// Redeliveries after which a job is suspected of killing workers and runs alone.
    pub suspect_after: u32,
    /// Runs alone that a suspect may leave unfinished before it is given up.
    pub suspect_runs: u32,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            prefetch: 1_000,
            warm_prefetch: 32,
            batch_jobs: 128,
            batch_tokens: 1 << 20,
            batch_wait_ms: 3,
            batches_in_flight: 4,
            max_body_bytes: 8 << 20,
            suspect_after: 2,
            suspect_runs: 3,
        }
    }
}

/// What happens to a job that failed for a reason that may pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Wait before each further try, in milliseconds; the last one repeats. One queue per distinct wait.
    pub delays_ms: Vec<u64>,
    /// Tries of a job before it is given up as `exhausted`.
    pub max_tries: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            delays_ms: vec![1_000, 10_000, 60_000],
            max_tries: 5,
        }
    }
}

/// Entries in Redis and in the worker's own memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Whether entries are looked up and kept at all; off only to measure what the cache is worth.
    pub enabled: bool,
    /// Life of an entry where neither job, namespace nor model says otherwise, in seconds.
    pub ttl_seconds: u64,
    /// Bound of the cache in the worker's memory, which serves while Redis doesn't, in MiB.
    pub memory_mib: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            enabled: true,
            ttl_seconds: 3_600,
            memory_mib: 64,
        }
    }
}

/// One namespace.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Life of an entry of this namespace, in seconds.
    pub ttl_seconds: Option<u64>,
}

/// What is kept in the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Whether the inputs of misses are stored beside their scores.
    pub inputs: bool,
    /// Whether the scores of misses are stored at all.
    pub scores: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            inputs: true,
            scores: true,
        }
    }
}

/// Kiln without servers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// The SQLite file that holds results and scores.
    pub path: PathBuf,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            path: PathBuf::from("kiln.db"),
        }
    }
}

/// How the worker stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Time to finish the jobs in hand after SIGTERM, in seconds; what is left then goes back to its queue.
    pub limit_seconds: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { limit_seconds: 25 }
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// Logging.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `auto`, `json` or `text`.
    pub format: LogFormat,
    /// Levels in the syntax of tracing's `EnvFilter`, such as `info,kiln=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info,lapin=off".into(),
        }
    }
}

/// The settings and where each came from.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// The file that was read.
    pub file: Option<PathBuf>,
    figment: Figment,
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

fn check(settings: &Settings) -> Result<(), ConfigError> {
    let within = |name: &'static str, value: u64, least: u64, most: u64| {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            Err(ConfigError::OutOfRange {
                name,
                problem: format!("{value} is not within {least} to {most}"),
            })
        }
    };
    for (name, text) in [
        ("queues.prefix", &settings.queues.prefix),
        ("queues.jobs", &settings.queues.jobs),
        ("queues.warm", &settings.queues.warm),
        ("queues.dead", &settings.queues.dead),
    ] {
        // AMQP's names end at 255 bytes, and a prefix is continued.
        within(
            name,
            text.len() as u64,
            u64::from(name == "queues.prefix"),
            200,
        )?;
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            let problem = "expected no spaces and no control characters".into();
            return Err(ConfigError::OutOfRange { name, problem });
        }
    }
    within("intake.prefetch", settings.intake.prefetch.into(), 1, 2_000)?;
    within(
        "intake.warm_prefetch",
        settings.intake.warm_prefetch.into(),
        1,
        2_000,
    )?;
    within(
        "intake.batch_jobs",
        settings.intake.batch_jobs as u64,
        1,
        10_000,
    )?;
    within(
        "intake.batch_tokens",
        settings.intake.batch_tokens as u64,
        1,
        1 << 32,
    )?;
    within(
        "intake.batch_wait_ms",
        settings.intake.batch_wait_ms,
        0,
        10_000,
    )?;
    within(
        "intake.batches_in_flight",
        settings.intake.batches_in_flight as u64,
        1,
        64,
    )?;
    within(
        "intake.max_body_bytes",
        settings.intake.max_body_bytes as u64,
        1,
        128 << 20,
    )?;
    within(
        "intake.suspect_after",
        settings.intake.suspect_after.into(),
        1,
        1_000,
    )?;
    within(
        "intake.suspect_runs",
        settings.intake.suspect_runs.into(),
        1,
        1_000,
    )?;
    within(
        "queues.delivery_limit",
        settings.queues.delivery_limit.into(),
        10,
        1_000_000,
    )?;
    within("retry.max_tries", settings.retry.max_tries.into(), 1, 1_000)?;
    within(
        "retry.delays_ms (how many)",
        settings.retry.delays_ms.len() as u64,
        1,
        8,
    )?;
    for delay in &settings.retry.delays_ms {
        within("retry.delays_ms", *delay, 1, 86_400_000)?;
    }
    within(
        "cache.ttl_seconds",
        settings.cache.ttl_seconds,
        1,
        crate::job::MAX_TTL_SECONDS,
    )?;
    within("cache.memory_mib", settings.cache.memory_mib, 1, 1 << 20)?;
    within(
        "database.connections",
        settings.database.connections.into(),
        1,
        1_000,
    )?;
    within(
        "drain.limit_seconds",
        settings.drain.limit_seconds,
        1,
        86_400,
    )?;
    for (name, ms) in [
        ("amqp.timeout_ms", settings.amqp.timeout_ms),
        ("amqp.backoff_most_ms", settings.amqp.backoff_most_ms),
        ("redis.timeout_ms", settings.redis.timeout_ms),
        ("redis.cooldown_ms", settings.redis.cooldown_ms),
        ("database.timeout_ms", settings.database.timeout_ms),
        (
            "database.backoff_most_ms",
            settings.database.backoff_most_ms,
        ),
    ] {
        within(name, ms, 1, 3_600_000)?;
    }
    for (name, namespace) in &settings.namespaces {
        if !crate::job::is_namespace(name) {
            return Err(ConfigError::OutOfRange {
                name: "namespaces",
                problem: format!("`{name}` is no namespace: 1 to 64 of a-z, 0-9, _ and -"),
            });
        }
        if let Some(ttl) = namespace.ttl_seconds {
            within(
                "namespaces.*.ttl_seconds",
                ttl,
                1,
                crate::job::MAX_TTL_SECONDS,
            )?;
        }
    }
    for (name, url, scheme, secure) in [
        ("amqp.url", &settings.amqp.url, "amqp://", "amqps://"),
        ("redis.url", &settings.redis.url, "redis://", "rediss://"),
    ] {
        let Some(url) = url else { continue };
        if url.expose().starts_with(secure) {
            return Err(ConfigError::OutOfRange {
                name,
                problem: "this build of Kiln has no TLS".into(),
            });
        }
        if !url.expose().starts_with(scheme) {
            return Err(ConfigError::OutOfRange {
                name,
                problem: format!("expected a URL that starts with {scheme}"),
            });
        }
    }
    if let Some(url) = &settings.database.url
        && !(url.expose().starts_with("postgres://") || url.expose().starts_with("postgresql://"))
    {
        let problem = "expected a URL that starts with postgres://".into();
        return Err(ConfigError::OutOfRange {
            name: "database.url",
            problem,
        });
    }
    Ok(())
}

/// Milliseconds as a [`Duration`].
pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_env(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load(
            None,
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        )
    }

    #[test]
    fn environment_reaches_every_kind_of_setting() {
        let loaded = from_env(&[
            ("KILN_AMQP_URL", "amqp://u:hunter2@broker/%2f"),
            ("REDIS_URL", "redis://cache/1"),
            ("KILN_INTAKE__PREFETCH", "7"),
            ("KILN_RETRY__DELAYS_MS", "[10, 20]"),
            ("KILN_QUEUES__PREFIX", "42"),
            ("KILN_SERVICE_HOST", "10.0.0.1"),
        ])
        .expect("loads");
        assert_eq!(loaded.settings.intake.prefetch, 7);
        assert_eq!(loaded.settings.retry.delays_ms, [10, 20]);
        assert_eq!(loaded.settings.queues.prefix, "42");
        assert_eq!(
            loaded.settings.redis.url.as_ref().map(Secret::expose),
            Some("redis://cache/1")
        );
        let shown = serde_json::to_string(&loaded.effective()).expect("json");
        assert!(!shown.contains("hunter2"), "{shown}");
        let prefetch = loaded
            .effective()
            .into_iter()
            .find(|e| e.name == "intake.prefetch")
            .expect("listed");
        assert_eq!(
            prefetch.source,
            "environment variable KILN_INTAKE__PREFETCH"
        );
        let drain = loaded
            .effective()
            .into_iter()
            .find(|e| e.name == "drain.limit_seconds")
            .expect("listed");
        assert_eq!(drain.source, "default");
    }

    #[test]
    fn unknown_and_ill_typed_settings_are_named() {
        let unknown = from_env(&[("KILN_INTAKE__PREFECH", "7")])
            .expect_err("unknown")
            .to_string();
        assert!(
            unknown.contains("KILN_INTAKE__PREFECH") && unknown.contains("KILN_INTAKE__PREFETCH"),
            "{unknown}"
        );
        let typed = from_env(&[("KILN_INTAKE__PREFETCH", "many")])
            .expect_err("typed")
            .to_string();
        assert!(
            typed.contains("intake.prefetch") && !typed.contains("many"),
            "{typed}"
        );
        let range = from_env(&[("KILN_INTAKE__PREFETCH", "3000")])
            .expect_err("range")
            .to_string();
        assert!(
            range.contains("intake.prefetch") && range.contains("2000"),
            "{range}"
        );
        let scheme = from_env(&[("KILN_REDIS_URL", "http://:hunter2@x")])
            .expect_err("scheme")
            .to_string();
        assert!(
            scheme.contains("redis://") && !scheme.contains("hunter2"),
            "{scheme}"
        );
    }

    #[test]
    fn a_file_is_checked_against_the_tree() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("kiln.toml");
        std::fs::write(
            &path,
            "[intake]\nprefetch = 5\n[namespaces.feed]\nttl_seconds = 60\n",
        )
        .expect("write");
        let loaded = load(Some(&path), []).expect("loads");
        assert_eq!(loaded.settings.intake.prefetch, 5);
        assert_eq!(loaded.settings.namespaces["feed"].ttl_seconds, Some(60));
        std::fs::write(&path, "[intake]\nbatch_job = 5\n").expect("write");
        let error = load(Some(&path), []).expect_err("unknown").to_string();
        assert!(
            error.contains("intake.batch_job")
                && error.contains("did you mean `intake.batch_jobs`"),
            "{error}"
        );
        std::fs::write(&path, "intake = [").expect("write");
        assert!(matches!(
            load(Some(&path), []),
            Err(ConfigError::File { .. })
        ));
    }

    /// The example file names every setting, commented out, with its default.
    #[test]
    fn the_example_file_is_complete() {
        let example = include_str!("../kiln.example.toml");
        let mut active = String::new();
        for line in example.lines() {
            let setting = line.strip_prefix("# ").filter(|l| {
                l.starts_with('[')
                    || l.split_once(" = ")
                        .is_some_and(|(k, _)| k.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            });
            active.push_str(setting.unwrap_or(if line.starts_with('[') { line } else { "" }));
            active.push('\n');
        }
        let table: toml::Table = active.parse().unwrap_or_else(|e| panic!("{e}\n{active}"));
        let example = serde_json::to_value(&table).expect("json");
        let mut named = Vec::new();
        flatten("", &example, &mut named);
        let named: BTreeMap<_, _> = named.into_iter().collect();
        for (name, default) in known_settings() {
            if default.is_null() || FREE_TABLES.contains(&name.as_str()) {
                assert!(
                    named.keys().any(|n| n.starts_with(&name)),
                    "{name} is missing in kiln.example.toml"
                );
            } else {
                assert_eq!(
                    named.get(&name),
                    Some(&default),
                    "{name} in kiln.example.toml"
                );
            }
        }
    }
}
