//! Owns connecting to a host that somebody else has named: a job's `callback_url`, a schedule's document.
//!
//! Promises that a name is looked up once and only an address that was judged is connected to, so that neither a redirection nor a name whose address
//! changes leads to a private one; that one of several addresses is waited for no longer than the others, and no family of them hides the other. Refuses
//! to say more of a failure than what the caller knew.

use crate::{
    config::{Network, is_reachable},
    redact::Redact,
};
use rustls_pki_types::ServerName;
use std::{
    io,
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

/// Longest wait for one of a host's addresses.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection, encrypted or not.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy)]
pub enum Allowed<'a> {
    Any,
    /// Those that anybody on the internet has, and those of these networks.
    PublicAnd(&'a [Network]),
}

impl Allowed<'_> {
    fn has(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::PublicAnd(listed) => is_reachable(address, listed),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("its name can't be looked up: {0}")]
    LookUp(String),
    #[error("its host has no address")]
    NoAddress,
    /// It has addresses, and none that may be connected to.
    #[error("its host has no address that may be reached")]
    Private,
    #[error("{0}")]
    Failed(io::ErrorKind),
    #[error("no connection in time")]
    Silent,
    #[error("its host is no name for TLS")]
    NoName,
    /// What the library says, without anybody's data.
    #[error("TLS failed: {0}")]
    Tls(String),
}

/// Connects to a URL's host, encrypted where it is `https`; so many of its addresses are tried.
pub async fn connect(
    url: &Url,
    allowed: Allowed<'_>,
    max_addresses: usize,
    tls: Arc<ClientConfig>,
) -> Result<Box<dyn Wire>, ConnectError> {
    let mut failure = ConnectError::NoAddress;
    let found = addresses(url, allowed).await?;
    for address in interleaved(found).take(max_addresses) {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) if url.scheme() == "https" => return encrypt(url, stream, tls).await,
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => failure = ConnectError::Failed(error.kind()),
            Err(_) => failure = ConnectError::Silent,
        }
    }
    Err(failure)
}

async fn encrypt(
    url: &Url,
    stream: TcpStream,
    tls: Arc<ClientConfig>,
) -> Result<Box<dyn Wire>, ConnectError> {
    let name = match url.host() {
        Some(Host::Domain(name)) => ServerName::try_from(name.to_owned()).ok(),
        Some(Host::Ipv4(address)) => Some(ServerName::from(IpAddr::from(address))),
        Some(Host::Ipv6(address)) => Some(ServerName::from(IpAddr::from(address))),
        None => None,
    };
    let name = name.ok_or(ConnectError::NoName)?;
    let encrypted = TlsConnector::from(tls).connect(name, stream).await;
    match encrypted {
        Ok(encrypted) => Ok(Box::new(encrypted)),
        Err(error) => Err(ConnectError::Tls(error.redacted())),
    }
}

/// The addresses of a URL's host that may be connected to.
async fn addresses(url: &Url, allowed: Allowed<'_>) -> Result<Vec<SocketAddr>, ConnectError> {
    let port = url.port_or_known_default().unwrap_or(80);
    let all: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![SocketAddr::from((address, port))],
        Some(Host::Ipv6(address)) => vec![SocketAddr::from((address, port))],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|error| ConnectError::LookUp(error.redacted()))?
            .collect(),
        None => Vec::new(),
    };
    if all.is_empty() {
        return Err(ConnectError::NoAddress);
    }
    let judged = all.into_iter().filter(|one| allowed.has(one.ip()));
    let judged: Vec<SocketAddr> = judged.collect();
    match judged.is_empty() {
        true => Err(ConnectError::Private),
        false => Ok(judged),
    }
}

/// Addresses of both families by turns, the first one's first: where one family leads nowhere, the other is tried soon.
fn interleaved(all: Vec<SocketAddr>) -> impl Iterator<Item = SocketAddr> {
    let is_first = all.first().map(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|one| Some(one.is_ipv6()) == is_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    std::iter::from_fn(move || {
        let next = [first.next(), second.next()];
        next.iter().any(Option::is_some).then_some(next)
    })
    .flat_map(|pair| pair.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_address_is_refused_however_it_is_written() {
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0x7f.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "100.64.0.1",
        ] {
            let url = Url::parse(&format!("http://{host}:1/")).expect("a URL");
            let refused = addresses(&url, Allowed::PublicAnd(&[])).await;
            assert_eq!(refused, Err(ConnectError::Private), "{host}");
            let own = addresses(&url, Allowed::Any).await.expect(host);
            assert!(!own.is_empty(), "{host}");
        }
    }

    #[test]
    fn of_many_addresses_both_families_are_tried_soon() {
        let parsed = |all: &[&str]| -> Vec<SocketAddr> {
            all.iter().map(|one| one.parse().expect("one")).collect()
        };
        let all = ["[::1]:1", "[::2]:1", "[::3]:1", "[::4]:1", "1.0.0.1:1"];
        let tried: Vec<SocketAddr> = interleaved(parsed(&all)).collect();
        let expected = ["[::1]:1", "1.0.0.1:1", "[::2]:1", "[::3]:1", "[::4]:1"];
        assert_eq!(tried, parsed(&expected));
        let tried: Vec<SocketAddr> = interleaved(parsed(&["1.0.0.2:1", "[::5]:1"])).collect();
        assert_eq!(tried, parsed(&["1.0.0.2:1", "[::5]:1"]));
        assert_eq!(interleaved(Vec::new()).count(), 0);
    }

    #[tokio::test]
    async fn of_a_private_network_only_what_is_listed_is_reached() {
        let listed: [Network; 1] = ["127.0.0.0/30".parse().expect("a network")];
        let of = async |host: &str| {
            let url = Url::parse(&format!("http://{host}/")).expect("a URL");
            addresses(&url, Allowed::PublicAnd(&listed)).await
        };
        assert!(of("127.0.0.1").await.is_ok());
        assert_eq!(of("127.0.0.4").await, Err(ConnectError::Private));
    }
}
