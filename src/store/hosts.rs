//! Owns the addresses of a database, and which of them takes writes: what libpq calls `target_session_attrs=read-write`.
//!
//! Promises that one which is frozen or gone costs a moment only, since the next one is tried meanwhile; that of several addresses only one
//! that takes writes is used, and the same for as long as it works; and that a worker which has moved to another one says so once. Refuses
//! to find out which of two that take writes is the right one: that is for whoever promotes.

use super::address::{Address, Session};
use crate::{
    redact::Redact,
    secret::Secret,
    telemetry::metrics::{Metrics, Server},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use rand::seq::SliceRandom;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use std::{
    io,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How long one address is tried before the next one is tried beside it.
const ALONE: Duration = Duration::from_millis(150);
/// Longest silence of the present address before another one is tried: leaving it ends every statement that runs there.
const SILENCE: Duration = Duration::from_secs(2);
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
    url: Secret,
    last: Mutex<Last>,
    /// Rises when another address takes writes, or the present one was left: connections that were made before are of no use.
    turn: watch::Sender<u64>,
    /// How many statements were answered in their turn.
    answers: AtomicU64,
    /// Longest silence of the present address: well below the time for one answer, or nobody would ever get to another one.
    silence: Duration,
    /// Counts failovers, in a worker.
    pub metrics: OnceLock<Metrics>,
}

impl Hosts {
    /// The addresses of `url`; `timeout` is the longest wait for an answer.
    pub fn new(all: Vec<Address>, url: Secret, timeout: Duration) -> Self {
        Self {
            all,
            url,
            answers: AtomicU64::new(0),
            silence: SILENCE.min(timeout / 2),
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

    /// Notes that the present address has answered a statement.
    pub fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
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

    /// Notes that the address of this turn is of no use: connections to it aren't lent again. One that was left before says nothing about the
    /// present one.
    pub fn leave(&self, turn: u64, why: &str) {
        let mut last = self.last();
        if turn == self.turn() {
            why.clone_into(&mut last.why);
            self.turn.send_modify(|turn| *turn += 1);
        }
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
        Ok(self.open("kiln", None).await?.0.connection)
    }

    /// A connection to the one that takes writes, and its turn; where there is no choice, to the one there is.
    pub async fn open(
        &self,
        name: &str,
        limit: Option<Duration>,
    ) -> Result<(Session, u64), sqlx::Error> {
        if let [only] = self.all.as_slice() {
            let turn = self.turn();
            let session = only.open(name, limit).await?;
            self.last().index = Some(0);
            return Ok((session, turn));
        }
        loop {
            let from = self.last().index;
            let (index, session, failures) = self.first(from, name, limit).await?;
            if let Some(turn) = self.found(index, from, &failures) {
                return Ok((session, turn));
            }
        }
    }

    /// The first one that takes writes, and what the others said before.
    async fn first(
        &self,
        present: Option<usize>,
        name: &str,
        limit: Option<Duration>,
    ) -> Result<(usize, Session, Vec<(usize, sqlx::Error)>), sqlx::Error> {
        let mut waiting = self.order(present).into_iter();
        let mut tried = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            let next = waiting.next();
            if let Some((index, address)) =
                next.and_then(|index| Some((index, self.all.get(index)?)))
            {
                tried.push(async move { (index, writable(address, name, limit).await) });
            }
            tokio::select! {
                biased;
                one = tried.next() => match one {
                    Some((index, Ok(session))) => return Ok((index, session, failures)),
                    Some((index, Err(error))) => failures.push((index, error)),
                    None => return Err(none_of(self.explain(&failures))),
                },
                () = self.late(next) => {}
            }
        }
    }

    /// Waits until an address that is tried is so late that the next one is tried beside it. The present one isn't while it answers statements:
    /// a pooler whose connections are all in use is slow to open another one, and works.
    async fn late(&self, tried: Option<usize>) {
        let Some(index) = tried else {
            return std::future::pending().await;
        };
        let is_trusted = {
            let last = self.last();
            last.index == Some(index) && last.why.is_empty()
        };
        if !is_trusted {
            return tokio::time::sleep(ALONE).await;
        }
        let answers = || self.answers.load(Ordering::Relaxed);
        loop {
            let before = answers();
            tokio::time::sleep(self.silence).await;
            if answers() == before {
                return;
            }
        }
    }

    /// The present address first, the others in any order.
    fn order(&self, present: Option<usize>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.all.len()).collect();
        order.shuffle(&mut rand::rng());
        order.sort_by_key(|index| Some(*index) != present);
        order
    }

    fn explain(&self, failures: &[(usize, sqlx::Error)]) -> String {
        let each = failures.iter().map(|(index, error)| {
            let host = self.all.get(*index).map(Address::host).unwrap_or_default();
            format!("{host}: {}", error.redacted())
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Notes which address takes writes, for who looked for one while `from` was the present one; its turn. Nothing where another one was found
    /// meanwhile: that one hasn't failed.
    fn found(
        &self,
        index: usize,
        from: Option<usize>,
        failures: &[(usize, sqlx::Error)],
    ) -> Option<u64> {
        let host = |index: usize| self.all.get(index).map(Address::host).unwrap_or_default();
        let (from, why, turn) = {
            let mut last = self.last();
            if last.index != from && last.index != Some(index) {
                return None;
            }
            let from = last.index.replace(index).filter(|from| *from != index);
            if from.is_some() {
                self.turn.send_modify(|turn| *turn += 1);
            }
            (from, std::mem::take(&mut last.why), self.turn())
        };
        let Some(from) = from else {
            return Some(turn);
        };
        let refused = failures.iter().find(|(index, _)| *index == from);
        let why = match refused {
            Some((_, error)) => self.url.scrub(&error.redacted()),
            None if why.is_empty() => format!("no answer within {} ms", self.silence.as_millis()),
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
        Some(turn)
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
    use std::time::Instant;

    fn nowhere(ports: &[u16]) -> Hosts {
        let address = |port: &u16| {
            let options = PgConnectOptions::new().host("127.0.0.1").port(*port);
            Address::new(options)
        };
        let all = ports.iter().map(address).collect();
        Hosts::new(all, Secret::new("postgres://a"), Duration::from_secs(15))
    }

    #[tokio::test]
    async fn where_no_address_takes_writes_each_says_why() {
        // Nobody listens on these.
        let hosts = nowhere(&[1, 2]);
        let error = hosts.open("kiln", None).await.map(|_| ());
        let said = error.expect_err("nobody is there").redacted();
        assert!(
            said.contains("127.0.0.1:1: ") && said.contains("127.0.0.1:2: "),
            "{said}"
        );
    }

    #[tokio::test]
    async fn the_one_that_took_writes_last_comes_first_and_another_one_ends_its_turn() {
        let hosts = nowhere(&[1, 2, 3]);
        hosts.found(1, None, &[]);
        let turn = hosts.turn();
        for _ in 0..10 {
            assert_eq!(hosts.order(Some(1)).first(), Some(&1));
        }
        assert_eq!(hosts.found(1, Some(1), &[]), Some(turn), "as it was");
        let waiting = tokio::join!(hosts.turned(turn), async { hosts.found(2, Some(1), &[]) });
        assert_eq!(waiting, ((), Some(turn + 1)));
        let late = hosts.found(1, Some(1), &[]);
        assert_eq!(late, None, "who found the former one later goes back");
        assert_eq!(hosts.turn(), turn + 1);
        hosts.leave(turn, "it takes no writes");
        assert_eq!(hosts.turn(), turn + 1, "an earlier one said so");
        hosts.leave(turn + 1, "it takes no writes");
        assert_eq!(hosts.turn(), turn + 2);
    }

    #[tokio::test]
    async fn the_present_address_is_waited_for_while_it_answers_statements() {
        let hosts = Hosts {
            silence: Duration::from_millis(10),
            ..nowhere(&[1, 2])
        };
        hosts.found(1, None, &[]);
        let start = Instant::now();
        let answers = async {
            while start.elapsed() < 5 * hosts.silence {
                hosts.answered();
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = answers => {}
            () = hosts.late(Some(1)) => panic!("it was left though it works"),
        }
        // Silent from now on.
        hosts.late(Some(1)).await;
    }
}
