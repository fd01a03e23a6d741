//! Owns how the environment's variables become settings: `KILN_SECTION__NAME`, and short names for the common ones.

use super::{
    ConfigError,
    names::{self, Names},
};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::Serialized,
    value::{Dict, Map, Value},
};
use std::collections::BTreeMap;

/// Short names of the environment, their fallbacks, and the setting that they stand for.
pub(super) const SHORT_NAMES: [(&str, &[&str], &str); 7] = [
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

/// The variable that sets a setting.
pub(super) fn variable(setting: &str) -> String {
    format!("KILN_{}", setting.to_uppercase().replace('.', "__"))
}

/// Puts what the variables say over what is known so far.
pub(super) fn merge(
    figment: Figment,
    mut variables: BTreeMap<String, String>,
    names: &Names,
) -> Result<Figment, ConfigError> {
    let mut figment = merge_short_names(figment, &mut variables);
    for (variable, value) in &variables {
        let Some(mut setting) = setting_of(variable) else {
            continue;
        };
        if let Some(present) = names::renamed(&setting) {
            let new = self::variable(present);
            if variables.contains_key(&new) {
                return Err(ConfigError::Twice {
                    old: variable.clone(),
                    new,
                    source_name: "the environment".into(),
                });
            }
            setting = present.to_owned();
        }
        if !names.has(&setting) {
            return Err(ConfigError::Unknown {
                name: variable.clone(),
                source_name: "the environment".into(),
                nearest: names.nearest(&setting).map(self::variable),
            });
        }
        // Text stays text: only where the setting isn't a string is the value parsed.
        let value: Value = if names.is_text(&setting) {
            value.as_str().into()
        } else {
            value.parse().unwrap_or_else(|_| value.as_str().into())
        };
        figment = figment.merge(Variable::new(variable, &setting, value));
    }
    Ok(figment)
}

fn merge_short_names(figment: Figment, variables: &mut BTreeMap<String, String>) -> Figment {
    let mut figment = figment;
    for (name, fallbacks, setting) in SHORT_NAMES {
        let mut all = std::iter::once(&name).chain(fallbacks);
        let given = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        if let Some((name, value)) = all.find_map(|name| Some((name, given(name)?))) {
            figment = figment.merge(Variable::new(name, setting, value.as_str().into()));
        }
        variables.remove(name);
    }
    figment
}

/// The dotted name that a variable of Kiln's spells; nothing where it is no setting.
fn setting_of(variable: &str) -> Option<String> {
    let rest = variable.strip_prefix("KILN_")?;
    // Kubernetes sets the latter for a Service named `kiln`.
    let other = rest == "CONFIG"
        || rest.starts_with("SERVICE_")
        || rest == "PORT"
        || rest.starts_with("PORT_");
    (!other).then(|| rest.to_lowercase().replace("__", "."))
}

/// One variable's value, which an error and `kiln config` call by the variable's name.
struct Variable {
    name: String,
    value: Serialized<Value>,
}

impl Variable {
    fn new(name: &str, setting: &str, value: Value) -> Self {
        Self {
            name: format!("environment variable {name}"),
            value: Serialized::global(setting, value),
        }
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        self.value.data()
    }
}
