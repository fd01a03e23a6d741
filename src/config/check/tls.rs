//! Owns the checks of `tls` tables: every file can be used, and none is given for a connection that isn't encrypted.

use crate::{
    config::Settings,
    secret::Secret,
    tls::{Tls, TlsError, TlsSettings},
};

/// Reads every file that the settings name, before anything connects.
pub(super) fn check(settings: &Settings) -> Result<(), TlsError> {
    let (amqp, redis) = (&settings.amqp, &settings.redis);
    one("amqp", &amqp.tls, amqp.url.as_ref(), Some("amqps://"))?;
    one("redis", &redis.tls, redis.url.as_ref(), Some("rediss://"))?;
    // A Postgres URL asks for TLS by its parameter `sslmode`, which defaults to TLS where there is an authority.
    one("database", &settings.database.tls, None, None)?;
    for (name, database) in &settings.databases {
        one(&format!("databases.{name}"), &database.tls, None, None)?;
    }
    Ok(())
}

fn one(
    server: &str,
    tls: &TlsSettings,
    url: Option<&Secret>,
    scheme: Option<&str>,
) -> Result<(), TlsError> {
    Tls::read(server, tls)?;
    match (url, scheme) {
        (Some(url), Some(scheme)) if !is_each(url, scheme) && *tls != TlsSettings::default() => {
            Err(TlsError {
                setting: format!("{server}.url"),
                problem: format!("{server}.tls is set: expected a URL that starts with {scheme}"),
            })
        }
        _ => Ok(()),
    }
}

/// Whether every address of a server starts so.
fn is_each(url: &Secret, scheme: &str) -> bool {
    let addresses = url.addresses();
    addresses.iter().all(|one| one.expose().starts_with(scheme))
}
