//! Owns taking producers' jobs from all the queues that they may be in: `kiln.jobs`, and shards of it.
//!
//! Promises that the queues are taken from in turns; that each shard which is found to be there is taken from, whatever the settings say; and
//! that one which can't be taken from holds up no other: each has a connection of its own. An end of `kiln.jobs` is an end of all.

use super::{
    optional::{Missing, OptionalConsumer, OptionalQueue},
    share::Share,
    sized_consumer::SizedConsumer,
};
use crate::{
    amqp::{
        connection::Broker,
        consumer::QueueConsumer,
        delivery::Delivery,
        topology::{Origin, Topology},
    },
    config::{self, Intake, Settings},
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all, select_all},
};
use lapin::Connection;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The consumers of the queues of jobs.
pub(super) struct JobQueues {
    broker: Broker,
    connection: Arc<Connection>,
    topology: Arc<Topology>,
    missing: Missing,
    timeout: Duration,
    intake: Intake,
    jobs: SizedConsumer,
    shards: Vec<Shard>,
    found: watch::Receiver<BTreeSet<usize>>,
    /// The queue whose turn it is: the one of jobs, and behind it the shards.
    turn: usize,
}

struct Shard {
    number: usize,
    consumer: OptionalConsumer,
}

impl JobQueues {
    /// Starts consuming jobs; the consumers of the shards follow when they can.
    pub async fn open(
        broker: &Broker,
        connection: Arc<Connection>,
        topology: Arc<Topology>,
        settings: &Settings,
        missing: &Missing,
    ) -> Result<Self, lapin::Error> {
        let intake = settings.intake.clone();
        let shards = topology.shards.wanted().len();
        let share = Share::jobs(intake.prefetch, intake.max_bytes_in_hand, shards);
        let queue = topology.jobs.clone();
        let mut found = topology.shards.found();
        // Those that are known from before this connection.
        found.mark_changed();
        Ok(Self {
            jobs: SizedConsumer::open(connection.clone(), &queue, Origin::Jobs, share).await?,
            broker: broker.clone(),
            connection,
            topology,
            missing: missing.clone(),
            timeout: config::ms(settings.amqp.timeout_ms),
            intake,
            shards: Vec::new(),
            found,
            turn: 0,
        })
    }

    /// The next delivery. An error is why nothing comes any more.
    pub async fn next(&mut self) -> Result<Delivery, String> {
        const CANCELLED: &str = "the broker cancelled the consumer of the jobs";
        loop {
            if self.found.has_changed().unwrap_or_default() {
                self.take_from_found();
            }
            if self.shards.is_empty() {
                tokio::select! {
                    biased;
                    delivery = self.jobs.next() => return delivery?.ok_or_else(|| CANCELLED.to_owned()),
                    () = changed(&mut self.found) => {}
                }
            } else {
                let jobs = self.jobs.next();
                let jobs = async { jobs.await?.ok_or_else(|| CANCELLED.to_owned()) };
                let shards = self.shards.iter_mut();
                let shards = shards.map(|one| one.consumer.next().map(Ok).boxed());
                let each = std::iter::once(jobs.boxed()).chain(shards).collect();
                tokio::select! {
                    (delivery, turn) = in_turn(each, self.turn) => {
                        self.turn = turn;
                        return delivery;
                    }
                    () = changed(&mut self.found) => {}
                }
            }
        }
    }

    /// A delivery that is here already, of the queue whose turn it is as far as it has one.
    pub fn ready(&mut self) -> Result<Option<Delivery>, String> {
        let queues = self.shards.len() + 1;
        for _ in 0..queues {
            let turn = self.turn % queues;
            self.turn = turn + 1;
            let delivery = match turn.checked_sub(1) {
                None => self.jobs.ready()?,
                Some(shard) => {
                    let shard = self.shards.get_mut(shard);
                    shard.and_then(|shard| shard.consumer.ready())
                }
            };
            if delivery.is_some() {
                return Ok(delivery);
            }
        }
        Ok(None)
    }

    /// Takes from each shard that is there by now.
    fn take_from_found(&mut self) {
        let numbers = self.found.borrow_and_update().clone();
        let wanted = self.topology.shards.wanted().len();
        let left_over = numbers.range(wanted..).count();
        let (prefetch, bytes) = (self.intake.prefetch, self.intake.max_bytes_in_hand);
        let share = |number: usize| {
            if number < wanted {
                Share::shard(prefetch, bytes, wanted)
            } else {
                Share::left_over(prefetch, bytes, left_over)
            }
        };
        for number in numbers {
            match self.shards.iter_mut().find(|one| one.number == number) {
                Some(shard) => shard.consumer.revive(),
                None => self.shards.push(Shard {
                    number,
                    consumer: self.shard(number, share(number)),
                }),
            }
        }
    }

    fn shard(&self, number: usize, share: Share) -> OptionalConsumer {
        let shards = self.topology.shards.clone();
        let queue = OptionalQueue {
            name: shards.queue(number),
            origin: Origin::Jobs,
            share,
            own: Some(self.broker.clone()),
            gone: Some(Arc::new(move || shards.note_gone(number))),
        };
        let (connection, topology) = (&self.connection, &self.topology);
        OptionalConsumer::new(connection, topology, queue, self.timeout, &self.missing)
    }

    /// Cancels every consumer and returns what was delivered and not taken.
    pub async fn end(&mut self) -> Vec<Delivery> {
        let shards = self.shards.iter_mut().map(|shard| shard.consumer.end());
        // Its jobs are waited for as long as the drain limit allows.
        let jobs = self.jobs.end(Duration::MAX);
        let (mut jobs, shards) = tokio::join!(jobs, join_all(shards));
        jobs.extend(shards.into_iter().flatten());
        jobs
    }

    /// Every consumer there is.
    pub fn consumers(&self) -> impl Iterator<Item = &QueueConsumer> {
        let shards = self.shards.iter().map(|shard| shard.consumer.consumers());
        self.jobs.consumers().chain(shards.flatten())
    }
}

async fn changed(found: &mut watch::Receiver<BTreeSet<usize>>) {
    if found.changed().await.is_err() {
        // Nobody can find any more.
        std::future::pending::<()>().await;
    }
    found.mark_changed();
}

/// What comes first, of several that are here the one whose turn it is; and whose turn it is then.
async fn in_turn<T>(mut each: Vec<BoxFuture<'_, T>>, turn: usize) -> (T, usize) {
    let count = each.len().max(1);
    let first = turn % count;
    each.rotate_left(first);
    let (came, index, _) = select_all(each).await;
    (came, (first + index) % count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn none_of_many_full_queues_is_left_out() {
        let (mut turn, mut came) = (0, Vec::new());
        for _ in 0..6 {
            let mut each: Vec<_> = (0..3).map(|one| std::future::ready(one).boxed()).collect();
            each.push(std::future::pending().boxed());
            let (one, next) = in_turn(each, turn).await;
            came.push(one);
            turn = next;
        }
        assert_eq!(came, [0, 1, 2, 0, 1, 2]);
    }
}
