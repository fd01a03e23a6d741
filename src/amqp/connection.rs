//! Owns making one connection to the broker, by whichever of its addresses answers, with a deadline and a name that operators recognise.
//!
//! Promises that no error that leaves it shows credentials; that an address which doesn't answer is waited for alone for a moment only; and
//! that a worker which moves to another address says so once. Refuses to connect again: a connection that is lost stays lost.

use super::{
    addresses::{Addresses, Failover},
    screen::{self, Silence},
};
use crate::{
    config::{self, Amqp},
    redact::Redact,
    secret::Secret,
    telemetry::metrics::{Metrics, Server},
    tls::{self, Tls, TlsSettings},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    uri::{AMQPScheme, AMQPUri},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
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
/// How long one address is waited for before the next one is tried beside it.
const ALONE: Duration = Duration::from_secs(1);
/// A broker sends something once in a heartbeat's time at the latest. It may be late by half of that, or so much.
const LATE: Duration = Duration::from_millis(1_500);

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

/// How to reach the broker. Clones share what is known of its addresses.
#[derive(Debug, Clone)]
pub struct Broker {
    addresses: Arc<Addresses>,
    tls: TlsSettings,
    heartbeat_seconds: u16,
    timeout: Duration,
    metrics: Option<Metrics>,
}

/// What a broker tells before anybody logs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Greeting {
    pub version: Option<String>,
    /// The same on every node of a cluster.
    pub cluster: Option<String>,
}

impl Broker {
    /// The broker at `url`.
    pub fn new(url: &Secret, settings: &Amqp) -> Self {
        Self {
            addresses: Arc::new(Addresses::new(url)),
            tls: settings.tls.clone(),
            heartbeat_seconds: settings.heartbeat_seconds,
            timeout: config::ms(settings.timeout_ms),
            metrics: None,
        }
    }

    /// The same for a worker, whose failovers are counted and logged.
    pub fn counted(self, metrics: Metrics) -> Self {
        Self {
            metrics: Some(metrics),
            ..self
        }
    }

    /// Each of its addresses as a broker of its own.
    pub fn each(&self) -> Vec<Self> {
        let each = self.addresses.all().iter().map(|url| Self {
            addresses: Arc::new(Addresses::new(url)),
            metrics: None,
            ..self.clone()
        });
        each.collect()
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
        let all: Vec<String> = self.addresses.all().iter().map(Secret::host).collect();
        all.join(", ")
    }

    /// The address that its connections prefer by now; nothing before the first one.
    pub fn connected_to(&self) -> Option<String> {
        self.addresses.current()
    }

    /// Connects, to one address after the other: the next one is tried where one fails, and beside one that doesn't answer. `purpose` tells
    /// the connections of one worker apart in the broker's own tools. Recovery is left to the caller: a connection that is lost stays lost.
    pub async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let end = tokio::time::sleep(self.timeout);
        tokio::pin!(end);
        let (mut tried, mut failures) = (Vec::new(), Vec::new());
        let mut attempts = FuturesUnordered::new();
        loop {
            let next = self.addresses.next(&tried, Instant::now());
            if let Some(index) = next {
                tried.push(index);
                attempts.push(async move { (index, self.attempt(index, purpose).await) });
            } else if attempts.is_empty() {
                return Err(together(failures));
            }
            let is_last = tried.len() == self.addresses.all().len();
            tokio::select! {
                biased;
                Some((index, ended)) = attempts.next() => match ended {
                    Ok(connection) => {
                        self.connected(index, &tried, &failures);
                        return Ok(connection);
                    }
                    Err(error) => {
                        self.addresses.failed(index, error.to_string());
                        failures.push((self.host_of(index), index, error));
                    }
                },
                () = &mut end => return Err(self.silent()),
                () = tokio::time::sleep(ALONE), if !is_last => {}
            }
        }
    }

    /// One connection to one address.
    async fn attempt(&self, index: usize, purpose: &str) -> Result<Connection, ConnectError> {
        let mut uri = self.uri(index)?;
        let heartbeat = *uri.query.heartbeat.get_or_insert(self.heartbeat_seconds);
        let name = format!("kiln {purpose} {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = Tls::read("amqp", &self.tls);
        let tls = tls
            .map_err(|e| ConnectError::Refused(e.to_string()))?
            .amqp();
        let addresses = self.addresses.clone();
        let silence = silence_after(heartbeat).map(|limit| Silence {
            limit,
            noted: Arc::new(move |why| addresses.silent(index, why.to_owned(), Instant::now())),
        });
        let connected = screen::connect(uri, properties, tls, silence).await;
        connected.map_err(|error| self.refused(index, &error))
    }

    /// Notes a connection, and what it tells of the addresses that were tried before it and haven't answered.
    fn connected(&self, index: usize, tried: &[usize], failures: &[(String, usize, ConnectError)]) {
        let has_failed = |one: &usize| failures.iter().any(|(_, failed, _)| failed == one);
        for silent in tried
            .iter()
            .filter(|one| **one != index && !has_failed(one))
        {
            let why = format!("no answer within {} ms", ALONE.as_millis());
            self.addresses.silent(*silent, why, Instant::now());
        }
        let Some(Failover { from, to, why }) = self.addresses.connected(index) else {
            return;
        };
        if let Some(metrics) = &self.metrics {
            metrics.failover(Server::Broker);
            tracing::info!(
                server = Server::Broker.as_str(),
                from,
                to,
                why,
                "connected to another address"
            );
        }
    }

    fn host_of(&self, index: usize) -> String {
        let url = self.addresses.all().get(index);
        url.map(Secret::host).unwrap_or_default()
    }

    /// What the first address tells before anybody logs in; nothing where it tells it encrypted.
    pub async fn greeting(&self) -> Result<Greeting, ConnectError> {
        let uri = self.uri(0)?;
        if uri.scheme == AMQPScheme::AMQPS {
            return Ok(Greeting::default());
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
            Ok(Ok(frame)) => Ok(Greeting {
                version: text_in(&frame, b"\x07versionS"),
                cluster: text_in(&frame, b"\x0ccluster_nameS"),
            }),
            Ok(Err(error)) => Err(ConnectError::Refused(error.redacted())),
            Err(_) => Err(self.silent()),
        }
    }

    fn uri(&self, index: usize) -> Result<AMQPUri, ConnectError> {
        let url = self.addresses.all().get(index);
        let parsed = url.map(|url| url.expose().parse());
        let parsed = parsed.unwrap_or_else(|| Err("there is none".to_owned()));
        parsed.map_err(|e: String| ConnectError::Url(self.addresses.scrub(&e)))
    }

    fn refused(&self, index: usize, error: &lapin::Error) -> ConnectError {
        let code = match error.kind() {
            ErrorKind::ProtocolError(error) => Some(error.get_id()),
            _ => None,
        };
        let mut text = self.scrub(error);
        if text.contains("reset by peer") && self.host_of(index).starts_with("amqps") {
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
        tls::explain(self.addresses.scrub(&error.redacted()))
    }
}

/// How long nothing may come from a broker that was asked for heartbeats; nothing where there are none.
fn silence_after(heartbeat_seconds: u16) -> Option<Duration> {
    let heartbeat = Duration::from_secs(heartbeat_seconds.into());
    (heartbeat_seconds > 0).then(|| heartbeat + LATE.max(heartbeat / 2))
}

/// Why none of the addresses can be connected to. Of several reasons, what no waiting mends comes first.
fn together(failures: Vec<(String, usize, ConnectError)>) -> ConnectError {
    if failures.len() < 2 {
        let only = failures.into_iter().next().map(|(_, _, error)| error);
        return only.unwrap_or_else(|| ConnectError::Refused("there is no address".to_owned()));
    }
    let said = failures
        .iter()
        .map(|(host, _, error)| format!("{host}: {error}"));
    let said = said.collect::<Vec<_>>().join("; ");
    let any = |kind: fn(&ConnectError) -> bool| failures.iter().any(|(_, _, e)| kind(e));
    if any(|e| matches!(e, ConnectError::Url(_))) {
        ConnectError::Url(said)
    } else if any(|e| matches!(e, ConnectError::Credentials(_))) {
        ConnectError::Credentials(said)
    } else if any(|e| matches!(e, ConnectError::VirtualHost(_))) {
        ConnectError::VirtualHost(said)
    } else {
        ConnectError::Refused(said)
    }
}

/// An entry of the table of properties in the broker's first frame: `name` is a short name with its length and the type of a long string,
/// whose length and bytes follow.
fn text_in(frame: &[u8], name: &[u8]) -> Option<String> {
    let at = frame.windows(name.len()).position(|w| w == name)? + name.len();
    let (length, rest) = frame.get(at..)?.split_first_chunk::<4>()?;
    let text = rest.get(..u32::from_be_bytes(*length) as usize)?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_the_first_frame() {
        let version_in = |frame: &[u8]| text_in(frame, b"\x07versionS");
        let mut frame =
            b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x40\x07productS\x00\x00\x00\x08RabbitMQ"
                .to_vec();
        assert_eq!(version_in(&frame), None);
        frame.extend_from_slice(b"\x07versionS\x00\x00\x00\x063.10.8\x00");
        assert_eq!(version_in(&frame).as_deref(), Some("3.10.8"));
        frame.truncate(frame.len() - 3);
        assert_eq!(version_in(&frame), None);
    }

    #[test]
    fn a_frozen_node_is_given_up_in_time_and_a_late_heartbeat_is_no_reason() {
        let after = |seconds: u16| silence_after(seconds).map(|limit| limit.as_millis());
        assert_eq!(after(0), None);
        assert_eq!(after(1), Some(2_500));
        assert_eq!(after(Amqp::default().heartbeat_seconds), Some(6_000));
        assert_eq!(after(60), Some(90_000));
    }

    /// A listener that accepts, and never answers.
    async fn silent_port() -> (tokio::net::TcpListener, u16) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    #[tokio::test]
    async fn every_address_is_tried_within_one_limit() {
        let (_held, silent) = silent_port().await;
        let (closed, refusing) = silent_port().await;
        drop(closed);
        let url = format!("amqp://kiln:hunter2@127.0.0.1:{silent},127.0.0.1:{refusing}/v");
        let settings = Amqp {
            timeout_ms: 1_500,
            ..Amqp::default()
        };
        let broker = Broker::new(&Secret::new(url), &settings);
        let error = broker.connect("test").await.expect_err("nobody is there");
        assert!(matches!(error, ConnectError::Refused(_)));
        assert_eq!(broker.connected_to(), None);
        let each = broker.each();
        assert_eq!(each.len(), 2);
        let refused = each[1].connect("test").await.expect_err("refused");
        let said = refused.to_string();
        assert!(
            said.contains("refused") && !said.contains("hunter2"),
            "{said}"
        );
    }
}
