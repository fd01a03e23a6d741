//! Owns the checks of `tls` tables: every file can be used, and none is given for a connection that isn't encrypted.

use crate::{
    config::Settings,
    secret::Secret,
    tls::{Tls, TlsError, TlsSettings},
};

/// Reads every file that the settings name, before anything connects.
pub(super) fn check(settings: &Settings) -> Result<(), TlsError> {
    let (amqp, redis) = (&settings.amqp, &settings.redis);
    one("amqp", &amqp.tls, amqp.url.as_ref(), &["amqps://"])?;
    let schemes = ["rediss://", "rediss+sentinel://"];
    one("redis", &redis.tls, redis.url.as_ref(), &schemes)?;
    // A Postgres URL asks for TLS by its parameter `sslmode`, which defaults to TLS where there is an authority.
    one("database", &settings.database.tls, None, &[])?;
    for (name, database) in &settings.databases {
        one(&format!("databases.{name}"), &database.tls, None, &[])?;
    }
    for (name, redis) in &settings.redis_sources {
        let (name, url) = (format!("redis_sources.{name}"), Some(&redis.url));
        one(&name, &redis.tls, url, &schemes)?;
    }
    Ok(())
}

fn one(
    server: &str,
    tls: &TlsSettings,
    url: Option<&Secret>,
    schemes: &[&str],
) -> Result<(), TlsError> {
    Tls::read(server, tls)?;
    match url {
        Some(url)
            if !schemes.is_empty() && !is_each(url, schemes) && *tls != TlsSettings::default() =>
        {
            let expected = schemes.join(" or ");
            Err(TlsError {
                setting: format!("{server}.url"),
                problem: format!("{server}.tls is set: expected a URL that starts with {expected}"),
            })
        }
        _ => Ok(()),
    }
}

/// Whether every address of a server starts so.
fn is_each(url: &Secret, schemes: &[&str]) -> bool {
    let is_one = |text: &str| schemes.iter().any(|scheme| text.starts_with(scheme));
    url.addresses().iter().all(|one| is_one(one.expose()))
}
