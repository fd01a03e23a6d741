//! Owns making one connection to the broker, with a deadline and a name that operators recognise.
//!
//! Promises that no error that leaves it shows credentials. Refuses to connect again: a connection that is lost stays lost.

use super::screen;
use crate::{
    config::{self, Amqp},
    secret::Secret,
    tls::{self, Tls, TlsSettings},
};
use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    uri::{AMQPScheme, AMQPUri},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// AMQP's reply code for a login that is refused.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's reply code for a virtual host that is refused.
const NOT_ALLOWED: u16 = 530;
/// Longest first frame that is read: the broker's own is under 1 KiB.
const GREETING: usize = 16 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL isn't one.
    #[error("setting `amqp.url`: {0}")]
    Url(String),
    /// The broker knows no such user, or not with that password.
    #[error("{0}")]
    Credentials(String),
    /// There is no such virtual host, or it isn't for this user.
    #[error("{0}")]
    VirtualHost(String),
    /// The broker doesn't answer, or refuses for another reason.
    #[error("{0}")]
    Refused(String),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// The connection or channel failed, or the broker refused.
    #[error("{0}")]
    Failed(String),
}

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct Broker {
    url: Secret,
    tls: TlsSettings,
    heartbeat_seconds: u16,
    timeout: Duration,
}

impl Broker {
    /// The broker at `url`.
    pub fn new(url: &Secret, settings: &Amqp) -> Self {
        Self {
            url: url.clone(),
            tls: settings.tls.clone(),
            heartbeat_seconds: settings.heartbeat_seconds,
            timeout: config::ms(settings.timeout_ms),
        }
    }

    /// Longest wait for one answer of the broker.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs one conversation with the broker under its deadline.
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, lapin::Error>>,
    ) -> Result<T, NoAnswer> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(answer) => answer.map_err(|e| NoAnswer::Failed(self.scrub(&e))),
            Err(_) => Err(NoAnswer::Silent(self.timeout)),
        }
    }

    /// Where it is, without credentials.
    pub fn host(&self) -> String {
        self.url.host()
    }

    /// Connects. `purpose` tells the connections of one worker apart in the broker's own tools. Recovery is
    /// left to the caller: a connection that is lost stays lost.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let mut uri = self.uri()?;
        if uri.query.heartbeat.is_none() {
            uri.query.heartbeat = Some(self.heartbeat_seconds);
        }
        let name = format!("kiln {purpose} {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = Tls::read("amqp", &self.tls);
        let tls = tls
            .map_err(|e| ConnectError::Refused(e.to_string()))?
            .amqp();
        let connect = screen::connect(uri, properties, tls);
        match tokio::time::timeout(self.timeout, connect).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.refused(&error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// The version that the broker tells before anybody logs in; `None` where it tells none, or tells it encrypted.
    pub async fn version(&self) -> Result<Option<String>, ConnectError> {
        let uri = self.uri()?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Ok(None);
        }
        let greeting = async {
            let (host, port) = (uri.authority.host.as_str(), uri.authority.port);
            let mut stream = TcpStream::connect((host, port)).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            let mut header = [0; 7];
            stream.read_exact(&mut header).await?;
            let [_, _, _, a, b, c, d] = header;
            let mut frame = vec![0; (u32::from_be_bytes([a, b, c, d]) as usize).min(GREETING)];
            stream.read_exact(&mut frame).await?;
            Ok::<_, std::io::Error>(frame)
        };
        match tokio::time::timeout(self.timeout, greeting).await {
            Ok(Ok(frame)) => Ok(version_in(&frame)),
            Ok(Err(error)) => Err(ConnectError::Refused(error.to_string())),
            Err(_) => Err(self.silent()),
        }
    }

    fn uri(&self) -> Result<AMQPUri, ConnectError> {
        self.url
            .expose()
            .parse()
            .map_err(|e: String| ConnectError::Url(self.url.scrub(&e)))
    }

    fn refused(&self, error: &lapin::Error) -> ConnectError {
        let code = match error.kind() {
            ErrorKind::ProtocolError(error) => Some(error.get_id()),
            _ => None,
        };
        let mut text = self.scrub(error);
        if text.contains("reset by peer") && self.url.expose().starts_with("amqps") {
            // The broker judges a client's certificate after the handshake, and its reason may be lost with the connection.
            text.push_str("; it may not take the certificate in tls.cert_file, or want one");
        }
        match code {
            Some(ACCESS_REFUSED) => ConnectError::Credentials(text),
            Some(NOT_ALLOWED) => ConnectError::VirtualHost(text),
            _ => ConnectError::Refused(text),
        }
    }

    fn silent(&self) -> ConnectError {
        ConnectError::Refused(format!("no answer within {} ms", self.timeout.as_millis()))
    }

    /// An error of the client library without credentials.
    pub fn scrub(&self, error: &lapin::Error) -> String {
        tls::explain(self.url.scrub(&error.to_string()))
    }
}

/// The entry `version` of the table of properties in the broker's first frame: a short name, the type of a
/// long string, its length and its bytes.
fn version_in(frame: &[u8]) -> Option<String> {
    const ENTRY: &[u8] = b"\x07versionS";
    let at = frame.windows(ENTRY.len()).position(|w| w == ENTRY)? + ENTRY.len();
    let (length, rest) = frame.get(at..)?.split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_the_first_frame() {
        let mut frame =
            b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x40\x07productS\x00\x00\x00\x08RabbitMQ"
                .to_vec();
        assert_eq!(version_in(&frame), None);
        frame.extend_from_slice(b"\x07versionS\x00\x00\x00\x063.10.8\x00");
        assert_eq!(version_in(&frame).as_deref(), Some("3.10.8"));
        frame.truncate(frame.len() - 3);
        assert_eq!(version_in(&frame), None);
    }
}
