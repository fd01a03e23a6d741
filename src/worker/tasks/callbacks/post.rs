//! Owns one callback on its way: its host is looked up, its addresses are judged, one is connected to, and the answer's status is heard.
//!
//! Promises that a name is looked up once and only an address that was judged is connected to; that no redirection is followed; that little of an answer
//! is read; and that all of it ends in time. What it says of a failure has nothing of the URL and nothing of the answer but its status.

use crate::{
    config::{Network, is_reachable},
    redact::Redact,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};
use url::{Host, Url};

/// Addresses of a host that are tried, and the longest wait for one of them.
const MAX_ADDRESSES: usize = 4;
const CONNECT: Duration = Duration::from_secs(5);
/// What is read of an answer: its status and headers, and then of its body, in bytes; and the longest wait for that.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: usize = 4 << 10;
const REST: Duration = Duration::from_secs(1);

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Delivered,
    /// The receiver wants it no more.
    Gone,
    /// It may be tried again.
    Failed(String),
}

/// What is posted.
pub(super) struct Letter {
    pub url: String,
    /// Whether its host may be at a private address.
    pub may_be_private: bool,
    pub body: Vec<u8>,
    pub signature: String,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Posts a letter, within a time.
pub(super) async fn post(letter: Letter, tls: Arc<ClientConfig>, limit: Duration) -> Answer {
    let answer = tokio::time::timeout(limit, exchange(letter, tls)).await;
    match answer {
        Ok(Ok(status)) => judge(status),
        Ok(Err(reason)) => Answer::Failed(reason),
        Err(_) => Answer::Failed("no answer in time".to_owned()),
    }
}

fn judge(status: StatusCode) -> Answer {
    match status {
        status if status.is_success() => Answer::Delivered,
        StatusCode::GONE => Answer::Gone,
        status if status.is_redirection() => Answer::Failed(format!(
            "answered {}, which isn't followed",
            status.as_u16()
        )),
        status => Answer::Failed(format!("answered {}", status.as_u16())),
    }
}

async fn exchange(letter: Letter, tls: Arc<ClientConfig>) -> Result<StatusCode, String> {
    let url = Url::parse(&letter.url).map_err(|_| "its URL can't be read".to_owned())?;
    let stream = connect(&url, letter.may_be_private, tls).await?;
    let request = request(&url, letter)?;
    let shaken = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = shaken.map_err(|e| e.redacted())?;
    let exchange = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|e| e.redacted())?;
        let status = response.status();
        // Whoever is cut off in the middle of a short answer might take that for a failure. What it says is of no use.
        let _rest = tokio::time::timeout(REST, drain(response.into_body())).await;
        Ok(status)
    };
    let (mut exchange, mut connection) = (Box::pin(exchange), Box::pin(connection));
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // What has come is still there to be read.
        _ended = &mut connection => exchange.await,
    }
}

async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= MAX_BODY_BYTES {
            return;
        }
    }
}

fn request(url: &Url, letter: Letter) -> Result<Request<Full<Bytes>>, String> {
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut host = url.host_str().unwrap_or_default().to_owned();
    if let Some(port) = url.port() {
        host = format!("{host}:{port}");
    }
    Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("kiln/", env!("CARGO_PKG_VERSION")),
        )
        .header("kiln-signature", letter.signature)
        .body(Full::new(Bytes::from(letter.body)))
        .map_err(|_| "its URL can't be asked for".to_owned())
}

async fn connect(
    url: &Url,
    may_be_private: bool,
    tls: Arc<ClientConfig>,
) -> Result<Box<dyn Wire>, String> {
    let mut failure = "its host has no address".to_owned();
    for address in addresses(url, may_be_private).await? {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) if url.scheme() == "https" => return encrypt(url, stream, tls).await,
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => failure = error.kind().to_string(),
            Err(_) => failure = "no connection in time".to_owned(),
        }
    }
    Err(failure)
}

async fn encrypt(
    url: &Url,
    stream: TcpStream,
    tls: Arc<ClientConfig>,
) -> Result<Box<dyn Wire>, String> {
    let name = match url.host() {
        Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).ok(),
        Some(Host::Ipv4(address)) => Some(ServerName::from(IpAddr::from(address))),
        Some(Host::Ipv6(address)) => Some(ServerName::from(IpAddr::from(address))),
        None => None,
    };
    let name = name.ok_or_else(|| "its host is no name for TLS".to_owned())?;
    let encrypted = TlsConnector::from(tls).connect(name, stream).await;
    let encrypted = encrypted.map_err(|error| format!("TLS failed: {}", error.redacted()))?;
    Ok(Box::new(encrypted))
}

/// The addresses of a URL's host that may be connected to.
async fn addresses(url: &Url, may_be_private: bool) -> Result<Vec<SocketAddr>, String> {
    let port = url.port_or_known_default().unwrap_or(80);
    let all: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![SocketAddr::from((address, port))],
        Some(Host::Ipv6(address)) => vec![SocketAddr::from((address, port))],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|error| format!("its name can't be looked up: {}", error.redacted()))?
            .collect(),
        None => Vec::new(),
    };
    let no_network: &[Network] = &[];
    let allowed = all
        .into_iter()
        .filter(|one| may_be_private || is_reachable(one.ip(), no_network));
    let allowed: Vec<SocketAddr> = allowed.take(MAX_ADDRESSES).collect();
    if allowed.is_empty() {
        return Err("its host has no address that callbacks.hosts may reach".to_owned());
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let of = |status: u16| judge(StatusCode::from_u16(status).expect("a status"));
        assert_eq!((of(200), of(204)), (Answer::Delivered, Answer::Delivered));
        assert_eq!(of(410), Answer::Gone);
        for status in [301, 308, 400, 404, 429, 500, 503] {
            assert!(matches!(of(status), Answer::Failed(_)), "{status}");
        }
    }

    #[tokio::test]
    async fn a_private_address_is_refused_however_it_is_written() {
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0x7f.1",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "100.64.0.1",
        ] {
            let url = Url::parse(&format!("http://{host}:1/")).expect("a URL");
            let said = addresses(&url, false).await.expect_err(host);
            assert!(said.contains("may reach"), "{host}: {said}");
            let own = addresses(&url, true).await.expect(host);
            assert!(!own.is_empty(), "{host}");
        }
    }
}
