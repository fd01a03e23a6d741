//! Owns what makes sense of a setting's value, beyond its type.

mod tls;

use super::{ConfigError, Http, Settings};
use hyper::Uri;

/// Nobody listens to the network without knowing who asks.
fn http(http: &Http) -> Result<(), ConfigError> {
    for (name, key) in &http.keys {
        let wrong = |problem: &str| ConfigError::OutOfRange {
            name: "http.keys",
            problem: format!("`{name}`: {problem}"),
        };
        if !crate::job::is_namespace(name) {
            return Err(wrong("expected a name of 1 to 64 of a-z, 0-9, _ and -"));
        }
        if key.sha256.len() != 64 || hex::decode(&key.sha256).is_err() {
            return Err(wrong("`sha256`: expected 64 hexadecimal digits"));
        }
        if key.scopes.is_empty() {
            return Err(wrong("`scopes`: expected some of read, score, admin"));
        }
        if key.requests_per_second == Some(0) {
            return Err(wrong("`requests_per_second`: expected 1 or more"));
        }
    }
    if http.api && http.keys.is_empty() && !http.addr.ip().is_loopback() {
        return Err(ConfigError::OutOfRange {
            name: "http.addr",
            problem: format!(
                "{} can be reached from other machines, and the API has no key: give one under [http.keys] (`kiln key` \
                 makes one), or set http.api = false to serve only /metrics, /livez and /readyz",
                http.addr
            ),
        });
    }
    Ok(())
}

/// Why an address can't be that of an OpenTelemetry collector.
fn no_collector(endpoint: &str) -> Option<&'static str> {
    let uri: Option<Uri> = endpoint.parse().ok();
    let good = uri.is_some_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
    (!good).then_some("expected a URL that starts with http://, such as http://127.0.0.1:4318")
}

pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
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
    within(
        "warm.piece_inputs",
        settings.warm.piece_inputs as u64,
        1,
        crate::job::MAX_INPUTS as u64,
    )?;
    within(
        "warm.runs_at_once",
        settings.warm.runs_at_once as u64,
        1,
        64,
    )?;
    within("cache.lease_ms", settings.cache.lease_ms, 10, 600_000)?;
    if settings.cache.lease_from_ms.is_nan() || settings.cache.lease_from_ms < 0.0 {
        return Err(ConfigError::OutOfRange {
            name: "cache.lease_from_ms",
            problem: "expected 0 or more".into(),
        });
    }
    let share = settings.intake.warm_share;
    if !(share > 0.0 && share <= 1.0) {
        return Err(ConfigError::OutOfRange {
            name: "intake.warm_share",
            problem: "expected above 0 and at most 1".into(),
        });
    }
    within(
        "intake.warm_idle_ms",
        settings.intake.warm_idle_ms,
        0,
        3_600_000,
    )?;
    http(&settings.http)?;
    within("http.timeout_ms", settings.http.timeout_ms, 10, 3_600_000)?;
    within(
        "http.connections",
        settings.http.connections as u64,
        1,
        65_536,
    )?;
    within("warm.claim_seconds", settings.warm.claim_seconds, 1, 3_600)?;
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
    within(
        "cache.grace_seconds",
        settings.cache.grace_seconds,
        0,
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
        if let Some(grace) = namespace.grace_seconds {
            within(
                "namespaces.*.grace_seconds",
                grace,
                0,
                crate::job::MAX_TTL_SECONDS,
            )?;
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
        if !url.expose().starts_with(scheme) && !url.expose().starts_with(secure) {
            return Err(ConfigError::OutOfRange {
                name,
                problem: format!("expected a URL that starts with {scheme} or {secure}"),
            });
        }
    }
    if let Some(problem) = settings.trace.endpoint.as_deref().and_then(no_collector) {
        return Err(ConfigError::OutOfRange {
            name: "trace.endpoint",
            problem: problem.into(),
        });
    }
    if !(0.0..=1.0).contains(&settings.trace.share) {
        return Err(ConfigError::OutOfRange {
            name: "trace.share",
            problem: "expected 0 to 1".into(),
        });
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
    tls::check(settings)?;
    Ok(())
}
