//! Owns making one connection to the broker, with a deadline and a name that operators recognise.

use crate::{
    config::{self, Amqp},
    secret::Secret,
};
use lapin::{Connection, ConnectionProperties, uri::AMQPUri};
use std::time::Duration;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL isn't one.
    #[error("setting `amqp.url`: {0}")]
    Url(String),
    /// The broker doesn't answer, or refuses.
    #[error("{0}")]
    Refused(String),
}

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct Broker {
    url: Secret,
    heartbeat_seconds: u16,
    timeout: Duration,
}

impl Broker {
    /// The broker at `url`.
    pub fn new(url: &Secret, settings: &Amqp) -> Self {
        Self {
            url: url.clone(),
            heartbeat_seconds: settings.heartbeat_seconds,
            timeout: config::ms(settings.timeout_ms),
        }
    }

    /// Longest wait for one answer of the broker.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where it is, without credentials.
    pub fn place(&self) -> String {
        self.url.place()
    }

    /// Connects. `purpose` tells the connections of one worker apart in the broker's own tools. Recovery is
    /// left to the caller: a connection that is lost stays lost.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let mut uri: AMQPUri = self
            .url
            .expose()
            .parse()
            .map_err(|e: String| ConnectError::Url(self.url.scrub(&e)))?;
        if uri.query.heartbeat.is_none() {
            uri.query.heartbeat = Some(self.heartbeat_seconds);
        }
        let name = format!("kiln {purpose} {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        match tokio::time::timeout(self.timeout, Connection::connect_uri(uri, properties)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(ConnectError::Refused(self.scrub(&error))),
            Err(_) => Err(ConnectError::Refused(format!(
                "no answer within {} ms",
                self.timeout.as_millis()
            ))),
        }
    }

    /// An error of the client library without credentials.
    pub fn scrub(&self, error: &lapin::Error) -> String {
        self.url.scrub(&error.to_string())
    }
}
