//! `kiln health`: whether the worker on this machine is ready, for containers' health checks.
//!
//! Promises an answer within seconds. Refuses to load more than it needs: it runs every few seconds in every container.

use super::Exit;
use crate::config::Settings;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Checks whether the worker on this machine is ready, for container health checks.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 if it is ready, degraded or not, and with 1 if it isn't or doesn't answer; prints what is missing.

Example:
  kiln health")]
pub(super) struct Arguments {
    /// Where it listens [default: the setting http.addr].
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<SocketAddr>,
}

/// Longest time for the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> anyhow::Result<Exit> {
    let addr = here(arguments.addr.unwrap_or(settings.http.addr));
    let (status, body) = ask(addr).with_context(|| format!("the worker at {addr}"))?;
    print!("{body}");
    Ok(if status == 200 {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// Where a worker that listens on every address is reached from its own machine.
fn here(mut addr: SocketAddr) -> SocketAddr {
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    addr
}

fn ask(addr: SocketAddr) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let status = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    let (Some(status), Some((_, body))) = (status, answer.split_once("\r\n\r\n")) else {
        bail!("its answer isn't HTTP");
    };
    Ok((status, body.to_owned()))
}
