//! Real servers, real workers and real trouble for the tests of Kiln's promises.
//!
//! Owns every process a test starts: a private RabbitMQ node, Redis servers, a Postgres cluster, worker binaries and
//! a proxy that breaks connections. Promises that they listen on the loopback only, live under one temporary folder,
//! and are gone when the test process ends; leftovers of a test process that was killed are swept by the next one.
//! Refuses to touch any server that it did not start. Runs on Linux only, since it finds processes through `/proc`.

pub mod broker;
pub mod browser;
pub mod bus;
pub mod certificates;
pub mod cluster;
pub mod collector;
pub mod frames;
pub mod growth;
pub mod jobs;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod redis;
pub mod sandbox;
pub mod shell;
pub mod stack;
pub mod state;
pub mod turn;
pub mod worker;

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for something that has to happen but has no promised time, before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(15);

/// Polls `condition` until it gives a value; panics with `what` when `deadline` has passed, even inside a poll that hangs.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left, condition()).await {
            Ok(Some(value)) => return value,
            Ok(None) if Instant::now() < end => sleep(POLL_INTERVAL).await,
            Ok(None) | Err(_) => panic!("not within {deadline:?}: {what}"),
        }
    }
}

/// Polls `measure` until it equals `wanted`; the panic at the deadline names the last value seen.
pub async fn eventually_equals<T>(
    what: &str,
    deadline: Duration,
    wanted: T,
    mut measure: impl AsyncFnMut() -> T,
) where
    T: PartialEq + Debug,
{
    let end = Instant::now() + deadline;
    let mut last = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match timeout(left, measure()).await {
            Ok(value) if value == wanted => return,
            Ok(value) => last = Some(value),
            Err(_) => panic!("not within {deadline:?}: {what} is {wanted:?}; last seen: {last:?}"),
        }
        if Instant::now() >= end {
            panic!("not within {deadline:?}: {what} is {wanted:?}; last seen: {last:?}");
        }
        sleep(POLL_INTERVAL).await;
    }
}
