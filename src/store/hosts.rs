//! Owns the addresses of a database, and which of them takes writes: what libpq calls `target_session_attrs=read-write`.
//!
//! Promises that one which is frozen or gone costs a moment only, since the next one is tried meanwhile; that of several addresses only one
//! that takes writes is used; and that a worker which has moved to another one says so once. Refuses to find out which of two that take
//! writes is the right one: that is for whoever promotes.

use super::address::{Address, Session};
use crate::telemetry::metrics::{Metrics, Server};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::seq::SliceRandom;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use std::{
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How long one address is tried before the next one is tried beside it.
const ALONE: Duration = Duration::from_millis(150);
/// Longest wait for one of several addresses.
const LIMIT: Duration = Duration::from_secs(3);

/// Where the database was last.
#[derive(Debug, Default)]
struct Last {
    index: Option<usize>,
    /// Why it was left.
    why: String,
}

/// What became of one address that was tried.
#[derive(Debug)]
pub struct Opened {
    pub host: String,
    /// Whether a pooler stands there.
    pub is_pooled: bool,
    /// A connection, and whether the server takes no writes; nothing where it didn't answer.
    pub session: Option<Result<(PgConnection, bool), sqlx::Error>>,
}

/// The addresses of one database.
#[derive(Debug)]
pub(super) struct Hosts {
    all: Vec<Address>,
    last: Mutex<Last>,
    /// Rises when another address takes writes, or the present one was left: connections that were made before are of no use.
    turn: watch::Sender<u64>,
    /// Counts failovers, in a worker.
    pub metrics: OnceLock<Metrics>,
}

impl Hosts {
    pub fn new(all: Vec<Address>) -> Self {
        Self {
            all,
            last: Mutex::default(),
            turn: watch::Sender::new(0),
            metrics: OnceLock::new(),
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // It is sound after a panic elsewhere: each field stands for itself.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a choice.
    pub fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// Rises when connections that were made before are of no use.
    pub fn turn(&self) -> u64 {
        *self.turn.borrow()
    }

    /// Waits until connections of this turn are of no use; for ever where there is one address.
    pub async fn turned(&self, turn: u64) {
        if !self.are_several() {
            return std::future::pending().await;
        }
        let mut turns = self.turn.subscribe();
        // The sender is ours.
        let _here = turns.wait_for(|now| *now != turn).await;
    }

    /// The address that took writes last.
    fn present(&self) -> Option<&Address> {
        let index = self.last().index?;
        self.all.get(index)
    }

    /// Where the one is that took writes last.
    pub fn address(&self) -> Option<String> {
        self.present().map(Address::host)
    }

    /// How to connect where a session is surely Kiln's own.
    pub fn own_session(&self, limit: Duration) -> Option<PgConnectOptions> {
        self.present()?.own_session(limit)
    }

    /// Whether a pooler stands there, as far as is known.
    pub fn is_pooled(&self) -> bool {
        self.present().is_some_and(Address::is_pooled)
    }

    /// Notes that the present address is of no use: connections to it aren't lent again.
    pub fn leave(&self, why: &str) {
        why.clone_into(&mut self.last().why);
        self.turn.send_modify(|turn| *turn += 1);
    }

    /// Every address, each tried for so long.
    pub async fn open_each(&self, name: &str, limit: Duration) -> Vec<Opened> {
        let each = self.all.iter().map(|address| async move {
            let opened = tokio::time::timeout(limit, address.open(name, None)).await;
            Opened {
                host: address.host(),
                is_pooled: address.is_pooled(),
                session: opened
                    .ok()
                    .map(|opened| opened.map(|session| (session.connection, session.is_read_only))),
            }
        });
        futures_util::future::join_all(each).await
    }

    /// A connection of its own, with no limit.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        Ok(self.open("kiln", None).await?.connection)
    }

    /// A connection to the one that takes writes; where there is no choice, to the one there is.
    pub async fn open(&self, name: &str, limit: Option<Duration>) -> Result<Session, sqlx::Error> {
        if let [only] = self.all.as_slice() {
            let session = only.open(name, limit).await?;
            self.last().index = Some(0);
            return Ok(session);
        }
        let mut waiting = self.order().into_iter();
        let mut tried = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            let next = waiting
                .next()
                .and_then(|index| Some((index, self.all.get(index)?)));
            let wait = match next {
                Some((index, address)) => {
                    tried.push(async move { (index, writable(address, name, limit).await) });
                    ALONE
                }
                None => LIMIT,
            };
            match tokio::time::timeout(wait, tried.next()).await {
                Ok(Some((index, Ok(session)))) => {
                    self.found(index, &failures);
                    return Ok(session);
                }
                Ok(Some((index, Err(error)))) => failures.push((index, error)),
                Ok(None) => return Err(none_of(self.explain(&failures))),
                Err(_) => {}
            }
        }
    }

    /// The present address first, the others in any order.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.shuffle(&mut rand::rng());
        let present = self.last().index;
        order.sort_by_key(|index| Some(*index) != present);
        order
    }

    fn explain(&self, failures: &[(usize, sqlx::Error)]) -> String {
        let each = failures.iter().map(|(index, error)| {
            let host = self.all.get(*index).map(Address::host).unwrap_or_default();
            format!("{host}: {error}")
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Notes which address takes writes.
    fn found(&self, index: usize, failures: &[(usize, sqlx::Error)]) {
        let host = |index: usize| self.all.get(index).map(Address::host).unwrap_or_default();
        let (from, why) = {
            let mut last = self.last();
            let from = last.index.replace(index);
            (from, std::mem::take(&mut last.why))
        };
        let Some(from) = from.filter(|from| *from != index) else {
            return;
        };
        self.turn.send_modify(|turn| *turn += 1);
        let refused = failures.iter().find(|(index, _)| *index == from);
        let why = match refused {
            Some((_, error)) => error.to_string(),
            None if why.is_empty() => format!("no answer within {} ms", ALONE.as_millis()),
            None => why,
        };
        // Commands that are over in a moment tell nobody.
        if let Some(metrics) = self.metrics.get() {
            metrics.failover(Server::Postgres);
            let (from, to) = (host(from), host(index));
            tracing::info!(
                server = "postgres",
                from,
                to,
                why,
                "connected to another address"
            );
        }
    }
}

/// A session on an address, if it takes writes.
async fn writable(
    address: &Address,
    name: &str,
    limit: Option<Duration>,
) -> Result<Session, sqlx::Error> {
    let opened = tokio::time::timeout(LIMIT, address.open(name, limit)).await;
    let session = match opened {
        Ok(opened) => opened?,
        Err(_) => {
            return Err(none_of(format!(
                "no answer within {} ms",
                LIMIT.as_millis()
            )));
        }
    };
    if session.is_read_only {
        return Err(none_of("it takes no writes".to_owned()));
    }
    Ok(session)
}

fn none_of(why: String) -> sqlx::Error {
    sqlx::Error::Io(io::Error::other(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere(ports: &[u16]) -> Hosts {
        let address = |port: &u16| {
            let options = PgConnectOptions::new().host("127.0.0.1").port(*port);
            Address::new(options)
        };
        Hosts::new(ports.iter().map(address).collect())
    }

    #[tokio::test]
    async fn where_no_address_takes_writes_each_says_why() {
        // Nobody listens on these.
        let hosts = nowhere(&[1, 2]);
        let error = hosts.open("kiln", None).await.map(|_| ());
        let said = error.expect_err("nobody is there").to_string();
        assert!(
            said.contains("127.0.0.1:1: ") && said.contains("127.0.0.1:2: "),
            "{said}"
        );
    }

    #[tokio::test]
    async fn the_one_that_took_writes_last_comes_first_and_another_one_ends_its_turn() {
        let hosts = nowhere(&[1, 2, 3]);
        hosts.found(1, &[]);
        let turn = hosts.turn();
        for _ in 0..10 {
            assert_eq!(hosts.order().first(), Some(&1));
        }
        hosts.found(1, &[]);
        assert_eq!(hosts.turn(), turn, "nothing has changed");
        let waiting = tokio::join!(hosts.turned(turn), async { hosts.found(2, &[]) });
        assert_eq!(waiting, ((), ()));
        assert_eq!(hosts.order().first(), Some(&2));
    }
}
