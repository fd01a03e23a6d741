//! Owns making a connection to one server of Redis.

use crate::{
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
    tls::{Tls, TlsSettings},
};
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, aio::MultiplexedConnection};

/// The error when no answer comes.
pub(super) const LATE: &str = "no answer in time";

/// A client of the server at `url`; an error holds no credentials.
pub(super) fn client(url: &Secret, settings: &TlsSettings) -> Result<Client, String> {
    let made = if url.expose().starts_with("rediss://") {
        let tls = Tls::read("redis", settings).map_err(|e| e.to_string())?;
        Client::build_with_tls(url.expose(), tls.redis())
    } else {
        Client::open(url.expose())
    };
    made.map_err(|e| url.scrub(&e.redacted()))
}

/// Connects to the server at `url`, within the time for one answer. Each question needs a limit of its own.
pub async fn connect_one(
    url: &Secret,
    settings: &Redis,
) -> Result<MultiplexedConnection, RedisError> {
    let wrong = |e| RedisError::from((ErrorKind::InvalidClientConfig, "settings", e));
    let client = client(url, &settings.tls).map_err(wrong)?;
    let timeout = config::ms(settings.timeout_ms);
    #[cfg(all(test, feature = "faults"))]
    if let Some(server) = super::simulated::Server::at(&url.host()) {
        let late = |_| RedisError::from((ErrorKind::Io, LATE));
        let connected = tokio::time::timeout(timeout, server.connect()).await;
        return connected.map_err(late).flatten();
    }
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None);
    let connected = client.get_multiplexed_async_connection_with_config(&limits);
    match tokio::time::timeout(timeout, connected).await {
        Ok(Err(error)) if !error.is_timeout() => Err(error),
        Ok(Ok(connection)) => Ok(connection),
        // It takes the first bytes of TLS for the beginning of a command, and waits for the rest.
        Ok(Err(_)) | Err(_) if url.expose().starts_with("rediss://") => {
            let silent = "no answer to a TLS handshake, as if the server speaks plaintext there";
            Err(RedisError::from((ErrorKind::Io, silent)))
        }
        Ok(Err(_)) | Err(_) => Err(RedisError::from((ErrorKind::Io, LATE))),
    }
}
