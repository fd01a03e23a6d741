//! Owns the queues: their names, their arguments, and declaring them.
//!
//! Promises that no message is dropped by the broker unseen: what expires in a queue or is delivered too often
//! goes, at least once, to a queue from which Kiln writes its rejection. Each queue is a quorum queue: it outlives any node of a cluster.

pub use super::declare::{Seen, TopologyError, inspect, look};
use super::{
    declare::{PRECONDITION_FAILED, Refusal, attempt},
    shards::Shards,
};
use crate::config::{Queues, Retry};
use futures_util::future::join_all;
use lapin::{
    Connection,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, LongString},
};
use std::{collections::BTreeSet, time::Duration};

/// The quorum queue arguments that Kiln uses.
const QUEUE_TYPE: &str = "x-queue-type";
/// A delivery limit that is never reached. A queue without a dead-letter exchange drops a message at its limit,
/// and RabbitMQ 4 sets one of 20 where none is given. -1 means none there, and on 3.10 the first return.
const NEVER: i64 = i32::MAX as i64;

/// Hints that wait at most; the oldest are dropped beyond.
const MAX_HINTS: i64 = 10_000;
/// How long a run's replies wait for its command, in milliseconds: a week.
const RUN_UNUSED_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// Life of a hint, in milliseconds.
const HINT_MS: i64 = 60_000;

/// Where a job came from, and so where a retry returns it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Producers' jobs.
    Jobs,
    /// The scheduler's jobs.
    Warm,
    /// What the broker set aside.
    Expired,
    /// Jobs that wait for their lane.
    Lane,
}

impl Origin {
    /// As it stands in headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Warm => "warm",
            Self::Expired => "expired",
            Self::Lane => "lane",
        }
    }
}

/// Looks at several shards at the same time.
pub async fn inspect_all(
    connection: &Connection,
    shards: &Shards,
    numbers: &BTreeSet<usize>,
    timeout: Duration,
) -> Vec<Result<Option<Seen>, TopologyError>> {
    let queues: Vec<String> = numbers.iter().map(|one| shards.queue(*one)).collect();
    let looks = queues
        .iter()
        .map(|queue| inspect(connection, queue, timeout));
    join_all(looks).await
}

/// One queue with its arguments.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    pub name: String,
    pub arguments: FieldTable,
}

/// The names and arguments of every queue.
#[derive(Debug, Clone)]
pub struct Topology {
    pub jobs: String,
    pub warm: String,
    pub dead: String,
    /// What the broker set aside from `jobs` and `warm`, until its rejection is written.
    pub expired: String,
    /// What readers' services tell of their reads.
    pub hits: String,
    /// The queues over which jobs may be spread, beside `jobs`.
    pub shards: Shards,
    prefix: String,
    delays_ms: Vec<u64>,
    delivery_limit: u32,
}

impl Topology {
    /// The queues that the settings name.
    pub fn new(queues: &Queues, retry: &Retry) -> Self {
        let named = |name: &str, default: &str| {
            if name.is_empty() {
                format!("{}.{default}", queues.prefix)
            } else {
                name.to_owned()
            }
        };
        let jobs = named(&queues.jobs, "jobs");
        Self {
            shards: Shards::new(queues, &jobs),
            jobs,
            warm: named(&queues.warm, "warm"),
            dead: named(&queues.dead, "dead"),
            expired: format!("{}.expired", queues.prefix),
            hits: format!("{}.hits", queues.prefix),
            prefix: queues.prefix.clone(),
            delays_ms: retry.delays_ms.clone(),
            delivery_limit: queues.delivery_limit,
        }
    }

    /// The queue in which a job waits before its next try, after `tries` of them.
    pub fn retry(&self, origin: Origin, tries: u32) -> String {
        let tier = (tries.max(1) as usize - 1).min(self.delays_ms.len().saturating_sub(1));
        self.retry_queue(origin, self.delays_ms.get(tier).copied().unwrap_or(1_000))
    }

    fn retry_queue(&self, origin: Origin, delay_ms: u64) -> String {
        let origin = if origin == Origin::Warm {
            "warm"
        } else {
            "jobs"
        };
        format!("{}.retry.{origin}.{delay_ms}ms", self.prefix)
    }

    /// A queue of a lane: the first bears the lane's name, the others a number as well.
    pub fn lane(&self, lane: &str, number: usize) -> String {
        match number {
            0 => format!("{}.lane.{lane}", self.prefix),
            _ => format!("{}.lane.{lane}.{number}", self.prefix),
        }
    }

    /// The queues of a lane, with their arguments.
    pub fn lane_queues(&self, lane: &str, count: usize) -> Vec<QueueSpec> {
        let names = (0..count.max(1)).map(|number| self.lane(lane, number));
        names.map(|name| self.of_jobs(&name)).collect()
    }

    /// The queues of the shards that the settings want, with their arguments: those of `jobs`.
    pub fn shard_queues(&self) -> Vec<QueueSpec> {
        let wanted = self.shards.wanted();
        wanted.map(|number| self.shard_queue(number)).collect()
    }

    /// The queue of one shard, with its arguments.
    pub fn shard_queue(&self, number: usize) -> QueueSpec {
        self.of_jobs(&self.shards.queue(number))
    }

    fn of_jobs(&self, name: &str) -> QueueSpec {
        let limit = delivery_limit(self.delivery_limit.into());
        spec(name, dead_lettering(&self.expired).chain([limit]))
    }

    /// Every queue of Kiln's that isn't a lane's.
    pub fn queues(&self) -> Vec<QueueSpec> {
        let mut queues = self.needed();
        queues.push(self.hints());
        queues
    }

    /// The queues through which jobs go. A queue comes after those that it dead-letters to.
    fn needed(&self) -> Vec<QueueSpec> {
        let mut queues: Vec<QueueSpec> = [&self.dead, &self.expired]
            .map(|name| spec(name, std::iter::once(delivery_limit(NEVER))))
            .into();
        queues.extend([&self.jobs, &self.warm].map(|name| self.of_jobs(name)));
        let mut delays = self.delays_ms.clone();
        delays.sort_unstable();
        delays.dedup();
        for (origin, home) in [(Origin::Jobs, &self.jobs), (Origin::Warm, &self.warm)] {
            for delay in &delays {
                let ttl = (
                    "x-message-ttl",
                    AMQPValue::LongLongInt(i64::try_from(*delay).unwrap_or(i64::MAX)),
                );
                queues.push(spec(
                    &self.retry_queue(origin, *delay),
                    dead_lettering(home).chain([ttl]),
                ));
            }
        }
        queues
    }

    /// The queue of hints: what nobody takes is of no use soon. No job needs it.
    pub fn hints(&self) -> QueueSpec {
        let limits = [
            ("x-max-length", AMQPValue::LongLongInt(MAX_HINTS)),
            ("x-message-ttl", AMQPValue::LongLongInt(HINT_MS)),
        ];
        spec(&self.hits, limits.into_iter())
    }

    /// Declares what is missing of the queues through which jobs go, all at once: one whose leader doesn't answer holds up no other. An
    /// error is why no job can be taken, or what no waiting mends; given are those that couldn't be declared now, and why. `others` bounds
    /// those that jobs can do without for a while.
    pub async fn declare(
        &self,
        connection: &Connection,
        timeout: Duration,
        others: Duration,
    ) -> Result<Vec<(QueueSpec, String)>, TopologyError> {
        let queues = self.needed();
        let declared = join_all(queues.iter().map(|queue| {
            let is_jobs = queue.name == self.jobs;
            queue.declare(connection, if is_jobs { timeout } else { others })
        }))
        .await;
        let mut left = Vec::new();
        for (queue, declared) in queues.into_iter().zip(declared) {
            match declared {
                Ok(()) => {}
                Err(TopologyError::Unavailable { detail, .. }) if queue.name != self.jobs => {
                    left.push((queue, detail));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// The queue in which the replies to a run of files wait, with its arguments: it goes once nobody has taken from it for long.
    pub fn run(&self, run: &str) -> QueueSpec {
        let unused = ("x-expires", AMQPValue::LongLongInt(RUN_UNUSED_MS));
        let limits = [unused, delivery_limit(NEVER)];
        spec(&format!("{}.run.{run}", self.prefix), limits.into_iter())
    }

    /// The name of a queue that lives for one trial of the broker; `token` keeps two trials apart.
    pub fn trial(&self, token: &str) -> String {
        format!("{}.trial.{token}", self.prefix)
    }
}

fn spec(name: &str, arguments: impl Iterator<Item = (&'static str, AMQPValue)>) -> QueueSpec {
    let mut table = FieldTable::default();
    table.insert(QUEUE_TYPE.into(), text("quorum"));
    for (key, value) in arguments {
        table.insert(key.into(), value);
    }
    QueueSpec {
        name: name.to_owned(),
        arguments: table,
    }
}

/// At-least-once dead-lettering to a queue; it wants publishes to be rejected when the queue is full.
fn dead_lettering(to: &str) -> impl Iterator<Item = (&'static str, AMQPValue)> {
    [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(to)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
    .into_iter()
}

fn delivery_limit(deliveries: i64) -> (&'static str, AMQPValue) {
    ("x-delivery-limit", AMQPValue::LongLongInt(deliveries))
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

impl QueueSpec {
    /// Declares this queue, on a channel of its own: creates it where it is missing.
    pub async fn declare(
        &self,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<(), TopologyError> {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        match attempt(connection, &self.name, options, &self.arguments, timeout).await {
            Ok(_) => Ok(()),
            Err(Refusal::Replied(PRECONDITION_FAILED, detail)) => Err(TopologyError::Mismatch {
                queue: self.name.clone(),
                detail,
            }),
            Err(refusal) => Err(refusal.unavailable(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_settings_and_tries_climb_the_tiers() {
        let queues = Queues {
            jobs: "scoring".into(),
            prefix: "k".into(),
            ..Queues::default()
        };
        let retry = Retry {
            delays_ms: vec![100, 5_000],
            max_tries: 9,
        };
        let topology = Topology::new(&queues, &retry);
        assert_eq!(
            (topology.jobs.as_str(), topology.dead.as_str()),
            ("scoring", "k.dead")
        );
        assert_eq!(topology.retry(Origin::Jobs, 1), "k.retry.jobs.100ms");
        assert_eq!(topology.retry(Origin::Warm, 2), "k.retry.warm.5000ms");
        assert_eq!(topology.retry(Origin::Jobs, 7), "k.retry.jobs.5000ms");
        let names: Vec<String> = topology.queues().into_iter().map(|q| q.name).collect();
        assert_eq!(names.len(), 9);
        assert!(names.contains(&topology.retry(Origin::Warm, 1)));
    }
}
