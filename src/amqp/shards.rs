//! Owns the queues over which producers' jobs may be spread beside `kiln.jobs`: their names, the exchange that spreads jobs over them, and
//! which of them are there.
//!
//! Promises that whatever is published to the exchange gets to a queue, whichever shards are bound: what none of them gets goes to
//! `kiln.jobs`. Refuses to delete queues: only a person knows who still publishes.

use super::declare::{NOT_FOUND, PRECONDITION_FAILED, Refusal, on_own_channel};
use crate::config::Queues;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions},
    types::{AMQPValue, FieldTable},
};
use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Shards that there may be.
pub const MAX_SHARDS: usize = 32;
/// The type of exchange that sends messages with equal routing keys to the same one of its queues.
const CONSISTENT_HASH: &str = "x-consistent-hash";
/// Where an exchange sends what it has no queue for.
const ALTERNATE: &str = "alternate-exchange";
/// How many parts of the hashes a shard gets: the same for all.
const WEIGHT: &str = "1";
/// AMQP's reply code for a type of exchange that the broker doesn't know. It ends the connection.
const COMMAND_INVALID: u16 = 503;

/// Why the exchange can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The broker doesn't know exchanges of this type.
    #[error(
        "RabbitMQ's plugin rabbitmq_consistent_hash_exchange is off; on each node: \
         `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange`"
    )]
    NoPlugin,
    /// One of that name exists, and is another one.
    #[error(
        "an exchange of that name exists with another type or other arguments than Kiln's ({0}); \
         delete it, or name another one: queues.exchange"
    )]
    Mismatch(String),
    /// The broker can't be asked now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Refusal> for ExchangeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Replied(COMMAND_INVALID, _) => Self::NoPlugin,
            Refusal::Replied(PRECONDITION_FAILED, detail) => Self::Mismatch(detail),
            Refusal::Replied(_, detail) | Refusal::Silent(detail) => Self::Unavailable(detail),
        }
    }
}

/// The shards of the jobs' queue. Clones share what is known of them.
#[derive(Debug, Clone)]
pub struct Shards {
    jobs: String,
    exchange: String,
    wanted: usize,
    found: Arc<watch::Sender<BTreeSet<usize>>>,
}

impl Shards {
    /// Those that the settings want of the queue `jobs`.
    pub(super) fn new(queues: &Queues, jobs: &str) -> Self {
        let exchange = if queues.exchange.is_empty() {
            &queues.prefix
        } else {
            &queues.exchange
        };
        Self {
            jobs: jobs.to_owned(),
            exchange: exchange.clone(),
            wanted: queues.shards,
            found: Arc::new(watch::Sender::new(BTreeSet::new())),
        }
    }

    /// The name of a shard's queue.
    pub fn queue(&self, number: usize) -> String {
        format!("{}.{number}", self.jobs)
    }

    /// The exchange that spreads jobs by their routing keys.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// Where that exchange sends what it has no shard for: to `jobs`.
    fn alternate(&self) -> String {
        format!("{}.unsharded", self.exchange)
    }

    /// The numbers of those that the settings want.
    pub fn wanted(&self) -> Range<usize> {
        0..self.wanted
    }

    /// The numbers of those that there may be beyond.
    pub fn beyond(&self) -> Range<usize> {
        self.wanted..MAX_SHARDS
    }

    /// The numbers of those that are there, as far as is known.
    pub fn found(&self) -> watch::Receiver<BTreeSet<usize>> {
        self.found.subscribe()
    }

    /// Notes that these are there.
    pub fn note_found(&self, numbers: impl IntoIterator<Item = usize>) {
        let numbers: Vec<usize> = numbers.into_iter().collect();
        self.found.send_if_modified(|found| {
            let before = found.len();
            found.extend(numbers);
            found.len() > before
        });
    }

    /// Notes that one isn't there any more.
    pub fn note_gone(&self, number: usize) {
        self.found.send_if_modified(|found| found.remove(&number));
    }

    /// Declares the exchange, and the way from it to `jobs` beside all shards. A broker that doesn't know its type ends the connection.
    pub async fn declare_exchange(
        &self,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let alternate = self.alternate();
        let beside = |channel: Channel| async move {
            let name = alternate.as_str();
            declare(&channel, name, ExchangeKind::Fanout, FieldTable::default()).await?;
            bind(&channel, &self.jobs, name, "").await
        };
        let declared = on_own_channel(connection, timeout, beside).await;
        declared.map_err(ExchangeError::from)?;
        self.declare_hashing(connection, timeout).await
    }

    /// Declares only the exchange itself. Where it exists, that compares its type and arguments and changes nothing.
    pub async fn declare_hashing(
        &self,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let hashing = |channel: Channel| async move {
            let alternate = AMQPValue::LongString(self.alternate().into());
            let mut arguments = FieldTable::default();
            arguments.insert(ALTERNATE.into(), alternate);
            let kind = ExchangeKind::Custom(CONSISTENT_HASH.to_owned());
            declare(&channel, &self.exchange, kind, arguments).await
        };
        let declared = on_own_channel(connection, timeout, hashing).await;
        declared.map_err(ExchangeError::from)
    }

    /// Has what the exchange has no shard for go to `jobs`, where there is a way for it from former settings: `jobs` may have been deleted,
    /// and declared anew without it.
    pub async fn bind_unsharded(
        &self,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let alternate = self.alternate();
        if !exists(connection, &alternate, timeout).await? {
            return Ok(());
        }
        let work =
            |channel: Channel| async move { bind(&channel, &self.jobs, &alternate, "").await };
        let bound = on_own_channel(connection, timeout, work).await;
        bound.map_err(ExchangeError::from)
    }

    /// Has the exchange send jobs to a shard from now on.
    pub async fn bind(
        &self,
        connection: &Connection,
        number: usize,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let queue = self.queue(number);
        let work =
            |channel: Channel| async move { bind(&channel, &queue, &self.exchange, WEIGHT).await };
        let bound = on_own_channel(connection, timeout, work).await;
        bound.map_err(ExchangeError::from)
    }

    /// Has the exchange send no more jobs to a shard.
    pub async fn unbind(
        &self,
        connection: &Connection,
        number: usize,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let queue = self.queue(number);
        let work = |channel: Channel| async move {
            let (exchange, none) = (self.exchange.as_str().into(), FieldTable::default());
            channel
                .queue_unbind(queue.into(), exchange, WEIGHT.into(), none)
                .await
        };
        let unbound = on_own_channel(connection, timeout, work).await;
        unbound.map_err(ExchangeError::from)
    }

    /// Whether there is an exchange of that name, of whatever type.
    pub async fn has_exchange(
        &self,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<bool, ExchangeError> {
        exists(connection, &self.exchange, timeout).await
    }

    /// Tries whether the broker knows the exchange's type, on one that is deleted at once.
    pub async fn try_type(
        connection: &Connection,
        name: &str,
        timeout: Duration,
    ) -> Result<(), ExchangeError> {
        let work = |channel: Channel| async move {
            let kind = ExchangeKind::Custom(CONSISTENT_HASH.to_owned());
            declare(&channel, name, kind, FieldTable::default()).await?;
            channel
                .exchange_delete(name.into(), Default::default())
                .await
        };
        let tried = on_own_channel(connection, timeout, work).await;
        tried.map_err(ExchangeError::from)
    }
}

/// Whether there is an exchange of that name, of whatever type.
async fn exists(
    connection: &Connection,
    exchange: &str,
    timeout: Duration,
) -> Result<bool, ExchangeError> {
    let look = |channel: Channel| async move {
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        // The type isn't looked at.
        let (kind, none) = (ExchangeKind::Fanout, FieldTable::default());
        channel
            .exchange_declare(exchange.into(), kind, passive, none)
            .await
    };
    match on_own_channel(connection, timeout, look).await {
        Ok(()) => Ok(true),
        Err(Refusal::Replied(NOT_FOUND, _)) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

async fn declare(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, options, arguments)
        .await
}

async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
) -> Result<(), lapin::Error> {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel
        .queue_bind(queue.into(), exchange.into(), key.into(), options, none)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_named_after_the_queue_of_jobs_and_the_exchange_after_the_prefix() {
        let mut queues = Queues {
            shards: 4,
            ..Queues::default()
        };
        let shards = Shards::new(&queues, "kiln.jobs");
        assert_eq!(shards.queue(3), "kiln.jobs.3");
        assert_eq!((shards.exchange(), shards.wanted()), ("kiln", 0..4));
        assert_eq!(shards.beyond(), 4..MAX_SHARDS);
        assert_eq!(shards.alternate(), "kiln.unsharded");
        queues.exchange = "spread".into();
        assert_eq!(Shards::new(&queues, "scoring").queue(0), "scoring.0");
        assert_eq!(Shards::new(&queues, "scoring").exchange(), "spread");
    }

    #[test]
    fn those_who_follow_hear_of_a_shard_once() {
        let shards = Shards::new(&Queues::default(), "kiln.jobs");
        let mut found = shards.found();
        assert!(!found.has_changed().expect("it lives"));
        shards.clone().note_found([0, 1]);
        assert_eq!(*found.borrow_and_update(), BTreeSet::from([0, 1]));
        shards.note_found([1]);
        shards.note_gone(7);
        assert!(!found.has_changed().expect("it lives"));
        shards.note_gone(1);
        assert_eq!(*found.borrow_and_update(), BTreeSet::from([0]));
    }
}
