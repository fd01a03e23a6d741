//! Owns asking the worker on this machine over HTTP.
//!
//! Promises an answer within seconds. Refuses to load more than it needs: containers ask every few seconds.

use anyhow::bail;
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Longest time for the answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Where a worker that listens on every address is reached from its own machine.
pub(super) fn here(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    addr
}

/// Asks for a path; the status and the body. No more than so many bytes are read.
pub(super) fn ask(addr: SocketAddr, path: &str, max_bytes: u64) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(max_bytes).read_to_string(&mut answer)?;
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    let (Some(status), Some((_, body))) = (status, answer.split_once("\r\n\r\n")) else {
        bail!("its answer isn't HTTP");
    };
    Ok((status, body.to_owned()))
}
