//! Owns the checks of settings that aren't just the bounds of a whole number.

use crate::{
    config::{
        Cache, ConfigError, Http, Intake, Namespace, Network, Queues, Settings, Trace, Warm,
        check::Range,
    },
    secret::Secret,
};
use hyper::Uri;
use kiln_contract::name::{NAME_RULE, is_name};
use std::collections::BTreeMap;

/// Origins that may be listed.
const MAX_ORIGINS: usize = 64;
/// Longest name of a queue, in bytes: AMQP's names end at 255, and a prefix is continued.
const MAX_QUEUE_NAME_BYTES: u64 = 200;

fn refuse(name: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    let problem = problem.into();
    Err(ConfigError::OutOfRange { name, problem })
}

pub(super) fn queues(queues: &Queues) -> Result<(), ConfigError> {
    for (name, text, min) in [
        ("queues.prefix", &queues.prefix, 1),
        ("queues.jobs", &queues.jobs, 0),
        ("queues.warm", &queues.warm, 0),
        ("queues.dead", &queues.dead, 0),
        ("queues.exchange", &queues.exchange, 0),
    ] {
        let length = Range {
            name,
            value: text.len() as u64,
            min,
            max: MAX_QUEUE_NAME_BYTES,
        };
        length.check()?;
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return refuse(name, "expected no spaces and no control characters");
        }
    }
    Ok(())
}

pub(super) fn intake(intake: &Intake) -> Result<(), ConfigError> {
    let share = intake.warm_share;
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    refuse("intake.warm_share", "expected above 0 and at most 1")
}

pub(super) fn warm(warm: &Warm) -> Result<(), ConfigError> {
    let mut listed = warm.private_networks.iter();
    if let Some(problem) = listed.find_map(|one| one.parse::<Network>().err()) {
        return refuse("warm.private_networks", problem);
    }
    let share = warm.max_redis_share;
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    refuse("warm.max_redis_share", "expected above 0 and at most 1")
}

pub(super) fn cache(cache: &Cache) -> Result<(), ConfigError> {
    // No comparison holds for NaN.
    if cache.lease_from_ms >= 0.0 {
        return Ok(());
    }
    refuse("cache.lease_from_ms", "expected 0 or more")
}

/// The audit's share of the time, and the shares of objectives.
pub(super) fn audit(settings: &Settings) -> Result<(), ConfigError> {
    let share = settings.audit.share;
    if !(share > 0.0 && share <= 0.02) {
        return refuse("audit.share", "expected above 0 and at most 0.02");
    }
    let mut shares = settings
        .namespaces
        .values()
        .filter_map(|own| own.max_age_share);
    if shares.all(|share| share > 0.0 && share <= 1.0) {
        return Ok(());
    }
    refuse(
        "namespaces.*.max_age_share",
        "expected above 0 and at most 1",
    )
}

pub(super) fn namespaces(namespaces: &BTreeMap<String, Namespace>) -> Result<(), ConfigError> {
    match namespaces.keys().find(|name| !is_name(name)) {
        Some(name) => {
            let problem = format!("`{name}` is no namespace: {NAME_RULE}");
            refuse("namespaces", problem)
        }
        None => Ok(()),
    }
}

/// The numbers of lanes that aren't whole, their names, and that no model is in two of them.
pub(super) fn lanes(settings: &Settings) -> Result<(), ConfigError> {
    let positive = |name, number: Option<f64>, min: f64| match number {
        // No comparison holds for NaN.
        Some(number) if !(number >= min && number.is_finite()) => {
            refuse(name, format!("expected a number of {min} or more"))
        }
        _ => Ok(()),
    };
    let all = &settings.lane;
    positive("lane.expensive_from_ms", Some(all.expensive_from_ms), 0.0)?;
    positive(
        "lane.max_seconds_in_hand",
        Some(all.max_seconds_in_hand),
        0.001,
    )?;
    let mut models = BTreeMap::new();
    for (name, lane) in &settings.lanes {
        if !is_name(name) {
            return refuse("lanes", format!("`{name}` is no lane: {NAME_RULE}"));
        }
        positive("lanes.*.expensive_from_ms", lane.expensive_from_ms, 0.0)?;
        positive(
            "lanes.*.max_seconds_in_hand",
            lane.max_seconds_in_hand,
            0.001,
        )?;
        for model in &lane.models {
            if let Some(other) = models.insert(model, name) {
                let problem = format!("model `{model}` is in `{other}` and in `{name}`");
                return refuse("lanes.*.models", problem);
            }
        }
    }
    for own in settings.namespaces.values() {
        positive("namespaces.*.weight", own.weight, 0.01)?;
        positive(
            "namespaces.*.max_jobs_per_second",
            own.max_jobs_per_second,
            0.001,
        )?;
        let seconds = own.max_model_seconds_per_second;
        positive("namespaces.*.max_model_seconds_per_second", seconds, 0.001)?;
    }
    Ok(())
}

/// Versions that score beside the active ones, and their shares.
pub(super) fn shadows(settings: &Settings) -> Result<(), ConfigError> {
    for (model, shadow) in &settings.models.shadow {
        if shadow.version.is_empty() || shadow.version.contains('@') {
            let problem = format!("`{model}`: expected a version, such as 2");
            return refuse("models.shadow.*.version", problem);
        }
        // No comparison holds for NaN.
        if !(shadow.share > 0.0 && shadow.share <= 1.0) {
            let problem = format!("`{model}`: expected above 0 and at most 1");
            return refuse("models.shadow.*.share", problem);
        }
    }
    Ok(())
}

/// Nobody listens to the network without knowing who asks.
pub(super) fn http(http: &Http) -> Result<(), ConfigError> {
    for (name, key) in &http.keys {
        let wrong = |problem: &str| refuse("http.keys", format!("`{name}`: {problem}"));
        if !is_name(name) {
            return wrong(&format!("expected a name of {NAME_RULE}"));
        }
        if key.sha256.len() != 64 || hex::decode(&key.sha256).is_err() {
            return wrong("`sha256`: expected 64 hexadecimal digits");
        }
        if key.scopes.is_empty() {
            return wrong("`scopes`: expected some of read, read:all, score, admin");
        }
        if key.requests_per_second == Some(0) {
            return wrong("`requests_per_second`: expected 1 or more");
        }
    }
    origins(http)?;
    if http.api && http.keys.is_empty() && !http.addr.ip().is_loopback() {
        let problem = format!(
            "{} can be reached from other machines, and the API has no key: give one under [http.keys] (`kiln key` \
             makes one), or set http.api = false to serve only /metrics, /livez and /readyz",
            http.addr
        );
        return refuse("http.addr", problem);
    }
    Ok(())
}

/// Pages of other sites are named one by one, and have a key.
fn origins(http: &Http) -> Result<(), ConfigError> {
    let name = "http.cors_origins";
    if http.cors_origins.len() > MAX_ORIGINS {
        return refuse(name, format!("expected at most {MAX_ORIGINS}"));
    }
    for origin in &http.cors_origins {
        let url = url::Url::parse(origin).ok();
        let url =
            url.filter(|url| matches!(url.scheme(), "http" | "https") && !origin.contains('*'));
        // As a browser writes it: nothing else is ever equal to what it sends.
        if url.is_none_or(|url| url.origin().ascii_serialization() != *origin) {
            let expected = format!(
                "`{origin}`: expected an origin as browsers write it, such as https://shop.example or http://localhost:3000: lower case, no path, no `/` at its end, no usual port, no `*`"
            );
            return refuse(name, expected);
        }
    }
    if !http.cors_origins.is_empty() && http.keys.is_empty() {
        let problem = "without keys, such a page could do everything: give the API one under [http.keys] (`kiln key` makes one)";
        return refuse(name, problem);
    }
    Ok(())
}

pub(super) fn urls(settings: &Settings) -> Result<(), ConfigError> {
    let (amqp, redis) = (&settings.amqp.url, &settings.redis.url);
    url("amqp.url", amqp.as_ref(), &["amqp://", "amqps://"])?;
    let plain = ["redis://", "rediss://"];
    let sentinel = ["redis+sentinel://", "rediss+sentinel://"];
    let schemes = [plain, sentinel].concat();
    url("redis.url", redis.as_ref(), &schemes)?;
    for named in settings.redis_sources.values() {
        url("redis_sources.*.url", Some(&named.url), &schemes)?;
    }
    let database = settings.database.url.as_ref();
    url("database.url", database, &["postgres://", "postgresql://"])
}

/// That each address of a server is one. Postgres alone may have none: its library then takes the system's.
fn url(setting: &'static str, url: Option<&Secret>, schemes: &[&str]) -> Result<(), ConfigError> {
    let Some(url) = url else {
        return Ok(());
    };
    let is_one = |text: &str| schemes.iter().any(|scheme| text.starts_with(scheme));
    let addresses = url.addresses();
    if !is_one(url.expose()) || !addresses.iter().all(|one| is_one(one.expose())) {
        let expected = format!("expected a URL that starts with {}", schemes.join(" or "));
        return refuse(setting, expected);
    }
    let is_empty = |one: &Secret| {
        let host = one.host();
        schemes.iter().any(|scheme| {
            let host = host.strip_prefix(scheme);
            host.is_some_and(|host| host.is_empty() || host.starts_with('/'))
        })
    };
    if addresses.len() > 1 && addresses.iter().any(is_empty) {
        return refuse(setting, "expected a host before and after each comma");
    }
    Ok(())
}

pub(super) fn trace(trace: &Trace) -> Result<(), ConfigError> {
    if let Some(endpoint) = &trace.endpoint {
        let uri: Option<Uri> = endpoint.parse().ok();
        if !uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some()) {
            let expected = "expected a URL that starts with http://, such as http://127.0.0.1:4318";
            return refuse("trace.endpoint", expected);
        }
    }
    if (0.0..=1.0).contains(&trace.share) {
        return Ok(());
    }
    refuse("trace.share", "expected 0 to 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ApiKey, Scope};

    #[test]
    fn origins_are_written_as_browsers_write_them_and_need_a_key() {
        let check = |listed: &[&str], has_key: bool| {
            let mut http = Http {
                cors_origins: listed.iter().map(|&one| one.to_owned()).collect(),
                ..Http::default()
            };
            if has_key {
                let key = ApiKey {
                    sha256: "0".repeat(64),
                    scopes: vec![Scope::Score],
                    requests_per_second: None,
                };
                http.keys.insert("page".into(), key);
            }
            super::http(&http).map_err(|error| error.to_string())
        };
        let good = [
            "https://shop.example",
            "http://localhost:3000",
            "http://[::1]:3000",
        ];
        assert_eq!(check(&good, true), Ok(()));
        assert_eq!(check(&[], false), Ok(()));
        let keyless = check(&good, false).expect_err("no key");
        assert!(keyless.contains("http.cors_origins"), "{keyless}");
        for bad in [
            "*",
            "null",
            "",
            "shop.example",
            "https://shop.example/",
            "https://shop.example:443",
            "https://Shop.example",
            "https://*.example",
            "https://shop.example/path",
            "https://user@shop.example",
            "file:///etc",
            "https://shop.example https://other.example",
        ] {
            let refused = check(&[bad], true).expect_err(bad);
            assert!(refused.contains("expected an origin"), "{refused}");
        }
        let many = vec!["https://shop.example"; MAX_ORIGINS + 1];
        assert!(check(&many, true).is_err());
    }
}
