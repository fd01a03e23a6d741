//! `kiln health`: whether the worker on this machine is ready, for containers' health checks.
//!
//! Promises an answer within seconds. Refuses to load more than it needs: it runs every few seconds in every container.

use super::{Exit, worker_api};
use crate::config::Settings;
use anyhow::Context;
use clap::Args;
use std::net::SocketAddr;

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

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

pub(super) fn run(arguments: &Arguments, settings: &Settings) -> anyhow::Result<Exit> {
    let addr = worker_api::here(arguments.addr.unwrap_or(settings.http.addr));
    let asked = worker_api::ask(addr, "/readyz", MAX_ANSWER);
    let (status, body) = asked.with_context(|| format!("the worker at {addr}"))?;
    print!("{body}");
    Ok(if status == 200 {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
