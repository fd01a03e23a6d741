//! Owns that the shards are there and that the exchange sends jobs to as many as the settings say, and finds those that are left over from
//! when they said more.
//!
//! Promises that nothing that is wrong with them ends a session, since what a broker may end its connection over is asked on another one; that
//! each reason is said once; that jobs are sent to a shard only once the broker keeps it through a kill; and that without shards in the
//! settings nothing is changed at the broker, but that what comes through an exchange of former settings gets to `kiln.jobs`.

use super::optional::Missing;
use crate::{
    amqp::{
        connection::Broker,
        shards::Shards,
        spread::Spread,
        topology::{Topology, TopologyError, inspect},
    },
    backoff::Backoff,
};
use futures_util::future::join_all;
use lapin::Connection;
use rand::Rng;
use std::{collections::BTreeSet, convert::Infallible, ops::Range, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Rests between two tries.
const FIRST_REST: Duration = Duration::from_secs(1);
const MAX_REST: Duration = Duration::from_secs(60);
/// Tries in a row that may fail before that is said: of workers that declare a queue at the same time, the broker refuses some.
const SILENT_TRIES: u32 = 1;
/// Longest time between two looks for the next shard that another worker may have declared meanwhile, where there are any, and where there
/// never were. RabbitMQ logs a line each time.
const LOOK: Duration = Duration::from_secs(30);
const LOOK_FOR_FIRST: Duration = Duration::from_secs(300);
/// One look of so many is for all: for shards beyond one that isn't there, the exchange, and what it sends to.
const FAR_LOOK: u32 = 20;
/// Age from which the exchange sends to a shard: RabbitMQ keeps a declaration in memory for up to two seconds, and a node that is killed
/// meanwhile forgets the queue with its confirmed messages. Another worker may have declared it just before it was found.
const DECLARED: Duration = Duration::from_secs(3);
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// What keeps the shards.
pub(super) struct ShardKeeper {
    broker: Broker,
    topology: Arc<Topology>,
    missing: Missing,
    /// Cancelled when the queues and the exchange were tried once.
    tried: CancellationToken,
    /// Shards that the exchange sends to.
    bound: BTreeSet<usize>,
    /// Whether it still has to be seen to that it sends to none beyond: once, or workers with other settings would never come to rest.
    unbinds: bool,
}

impl ShardKeeper {
    pub(super) fn new(
        broker: Broker,
        topology: Arc<Topology>,
        missing: Missing,
        tried: CancellationToken,
    ) -> Self {
        Self {
            broker,
            topology,
            missing,
            tried,
            bound: BTreeSet::new(),
            unbinds: true,
        }
    }

    /// Keeps them for as long as a session lasts.
    pub(super) async fn run(mut self, session: Arc<Connection>) -> Infallible {
        let shards = self.topology.shards.clone();
        let mut found = shards.found();
        let mut rests = Backoff::new(FIRST_REST, MAX_REST);
        let (mut looks, mut is_well) = (0_u32, false);
        if shards.wanted().is_empty() {
            let _tried_by_each_session =
                shards.bind_unsharded(&session, self.broker.timeout()).await;
        }
        loop {
            let lacks = {
                let found = found.borrow_and_update();
                self.bound.retain(|number| found.contains(number));
                shards.wanted().any(|number| !found.contains(&number))
            };
            let is_far = looks.is_multiple_of(FAR_LOOK);
            looks = looks.wrapping_add(1);
            if shards.wanted().is_empty() || is_well && !lacks && !is_far {
                is_well = self.look(&session, is_far).await.1.is_none();
            } else {
                let troubles = self.declare(is_far).await;
                is_well = troubles.is_empty();
                let reason = troubles.join("; ");
                if is_well {
                    self.missing.found_exchange(shards.exchange());
                } else if rests.attempts() >= SILENT_TRIES && session.status().connected() {
                    self.missing.note_exchange(shards.exchange(), &reason);
                }
            }
            self.tried.cancel();
            let wait = if is_well {
                rests.reset();
                let has_any = !found.borrow().is_empty();
                let look = if has_any { LOOK } else { LOOK_FOR_FIRST };
                look.mul_f64(rand::rng().random_range(0.5..=1.0))
            } else {
                rests.next_wait()
            };
            rest(&shards, wait, is_well).await;
        }
    }

    /// Finds the shards beyond those that the settings want; says what couldn't be asked.
    async fn look(
        &self,
        connection: &Connection,
        is_far: bool,
    ) -> (Vec<usize>, Option<TopologyError>) {
        let shards = &self.topology.shards;
        let is_there = |number| self.is_shard(connection, number);
        let (numbers, error) = find(shards.beyond(), is_far, is_there).await;
        shards.note_found(numbers.iter().copied());
        (numbers, error)
    }

    /// Whether there is a shard of that number, rather than somebody else's queue of its name.
    async fn is_shard(
        &self,
        connection: &Connection,
        number: usize,
    ) -> Result<bool, TopologyError> {
        let (queue, timeout) = (self.topology.shard_queue(number), self.broker.timeout());
        if inspect(connection, &queue.name, timeout).await?.is_none() {
            return Ok(false);
        }
        if self.topology.shards.found().borrow().contains(&number) {
            return Ok(true);
        }
        // To declare what exists compares the arguments and changes nothing.
        match queue.declare(connection, timeout).await {
            Ok(()) => Ok(true),
            Err(TopologyError::Mismatch { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Declares what is missing, and says what couldn't be done.
    async fn declare(&mut self, is_far: bool) -> Vec<String> {
        let connection = match self.broker.connect("shards").await {
            Ok(connection) => connection,
            Err(error) => return vec![error.to_string()],
        };
        let (wanted, mut troubles) = self.declare_queues(&connection).await;
        let (beyond, error) = self.look(&connection, is_far || self.unbinds).await;
        troubles.extend(error.map(|error| error.to_string()));
        troubles.extend(self.bind(&connection, wanted, beyond).await);
        let closing = connection.close(200, "declared".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
        troubles
    }

    /// Declares the queues; gives the numbers of those that are as they should be.
    async fn declare_queues(&mut self, connection: &Connection) -> (Vec<usize>, Vec<String>) {
        let (shards, timeout) = (&self.topology.shards, self.broker.timeout());
        let queues = self.topology.shard_queues();
        let looks = queues
            .iter()
            .map(|queue| inspect(connection, &queue.name, timeout));
        for (number, there) in shards.wanted().zip(join_all(looks).await) {
            if !matches!(there, Ok(Some(_))) {
                self.bound.remove(&number);
            }
            if let (Ok(None), Some(queue)) = (there, queues.get(number)) {
                let mut spread = Spread::from(&self.broker, number);
                let _asked_again_below = spread.declare(queue, connection, timeout).await;
            }
        }
        let declared = queues
            .iter()
            .map(|queue| queue.declare(connection, timeout));
        let (mut well, mut troubles) = (Vec::new(), Vec::new());
        for (number, declared) in shards.wanted().zip(join_all(declared).await) {
            match declared {
                Ok(()) => well.push(number),
                Err(error) => {
                    if matches!(error, TopologyError::Mismatch { .. }) {
                        // There may be jobs in it.
                        shards.note_found([number]);
                    }
                    troubles.push(error.to_string());
                }
            }
        }
        shards.note_found(well.iter().copied());
        (well, troubles)
    }

    /// Has the exchange send jobs to `wanted`, once they are old enough, and the first time not to `beyond`.
    async fn bind(
        &mut self,
        connection: &Connection,
        wanted: Vec<usize>,
        beyond: Vec<usize>,
    ) -> Vec<String> {
        let (shards, timeout) = (&self.topology.shards, self.broker.timeout());
        if let Err(error) = shards.declare_exchange(connection, timeout).await {
            return vec![error.to_string()];
        }
        self.tried.cancel();
        if wanted.iter().any(|number| !self.bound.contains(number)) {
            tokio::time::sleep(DECLARED).await;
        }
        let mut troubles = Vec::new();
        for number in wanted {
            match shards.bind(connection, number, timeout).await {
                Ok(()) => drop(self.bound.insert(number)),
                Err(error) => troubles.push(error.to_string()),
            }
        }
        let beyond = if self.unbinds { beyond } else { Vec::new() };
        self.unbinds = false;
        for number in beyond {
            if let Err(error) = shards.unbind(connection, number, timeout).await {
                self.unbinds = true;
                troubles.push(error.to_string());
            }
        }
        troubles
    }
}

/// The numbers of those that are there, and the last error. Where the first of all isn't there, none is; beyond another that isn't there,
/// some are where it was deleted: that is asked where `is_far`.
async fn find<E, W: Future<Output = Result<bool, E>>>(
    numbers: Range<usize>,
    is_far: bool,
    is_there: impl Fn(usize) -> W,
) -> (Vec<usize>, Option<E>) {
    let (mut found, mut last) = (Vec::new(), None);
    for number in numbers {
        match is_there(number).await {
            Ok(true) => found.push(number),
            Ok(false) if number == 0 || !is_far => break,
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
    }
    (found, last)
}

/// Waits, or until one of the wanted shards is gone where all was well.
async fn rest(shards: &Shards, wait: Duration, is_well: bool) {
    let mut found = shards.found();
    let gone = async {
        let is_gone = found.wait_for(|found| shards.wanted().any(|one| !found.contains(&one)));
        if !is_well || is_gone.await.is_err() {
            std::future::pending::<()>().await;
        }
        // Whoever deleted it may be declaring it.
        tokio::time::sleep(FIRST_REST).await;
    };
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = gone => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(numbers: Range<usize>, is_far: bool) -> (Vec<usize>, Option<&'static str>) {
        let is_there = |number| {
            std::future::ready(match number {
                1 | 5 | 8 => Ok(true),
                4 => Err("away"),
                _ => Ok(false),
            })
        };
        find(numbers, is_far, is_there).await
    }

    #[tokio::test]
    async fn shards_are_found_beyond_one_that_is_gone_or_cannot_be_asked() {
        assert_eq!(found(1..32, true).await, (vec![1, 5, 8], Some("away")));
        assert_eq!(found(1..32, false).await, (vec![1], None));
        assert_eq!(found(4..32, false).await, (vec![5], Some("away")));
        assert_eq!(
            found(0..32, true).await,
            (vec![], None),
            "there never were any"
        );
    }
}
