//! Owns that the shards are there and that the exchange sends jobs to as many as the settings say, and finds those that are left over from
//! when they said more.
//!
//! Promises that nothing that is wrong with them ends a session, since what a broker may end its connection over is asked on another one; that
//! each reason is said once; and that without shards in the settings nothing is changed at the broker.

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
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Rests between two tries.
const FIRST_REST: Duration = Duration::from_secs(1);
const MAX_REST: Duration = Duration::from_secs(60);
/// Tries in a row that may fail before that is said: of workers that declare a queue at the same time, the broker refuses some.
const SILENT_TRIES: u32 = 1;
/// Longest time between two looks for shards that another worker has declared meanwhile. RabbitMQ logs a line each time.
const LOOK: Duration = Duration::from_secs(300);
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// What keeps the shards.
pub(super) struct ShardKeeper {
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub missing: Missing,
    /// Cancelled when everything was tried once.
    pub tried: CancellationToken,
}

impl ShardKeeper {
    /// Keeps them for as long as a session lasts.
    pub(super) async fn run(self, session: Arc<Connection>) -> Infallible {
        let shards = self.topology.shards.clone();
        let mut found = shards.found();
        let mut rests = Backoff::new(FIRST_REST, MAX_REST);
        let (mut is_first, mut is_well) = (true, false);
        loop {
            let lacks = {
                let found = found.borrow_and_update();
                shards.wanted().any(|number| !found.contains(&number))
            };
            if shards.wanted().is_empty() || is_well && !lacks {
                is_well = self.look(&session).await.is_ok();
            } else {
                let troubles = self.declare(is_first).await;
                is_well = troubles.is_empty();
                let reason = troubles.join("; ");
                if is_well {
                    self.missing.found_exchange(shards.exchange());
                } else if rests.attempts() >= SILENT_TRIES && session.status().connected() {
                    self.missing.note_exchange(shards.exchange(), &reason);
                }
            }
            self.tried.cancel();
            is_first &= !is_well;
            let wait = if is_well {
                rests.reset();
                LOOK.mul_f64(rand::rng().random_range(0.5..=1.0))
            } else {
                rests.next_wait()
            };
            rest(&shards, wait, is_well).await;
        }
    }

    /// Finds the shards beyond those that the settings want.
    async fn look(&self, connection: &Connection) -> Result<Vec<usize>, TopologyError> {
        let shards = &self.topology.shards;
        let mut numbers = Vec::new();
        for number in shards.beyond() {
            let queue = shards.queue(number);
            match inspect(connection, &queue, self.broker.timeout()).await {
                Ok(Some(_)) => numbers.push(number),
                Ok(None) => break,
                Err(error) => {
                    shards.note_found(numbers);
                    return Err(error);
                }
            }
        }
        shards.note_found(numbers.iter().copied());
        Ok(numbers)
    }

    /// Declares what is missing, and says what couldn't be done. `unbinds`: jobs are sent to no more shards than the settings want.
    async fn declare(&self, unbinds: bool) -> Vec<String> {
        let connection = match self.broker.connect("shards").await {
            Ok(connection) => connection,
            Err(error) => return vec![error.to_string()],
        };
        let (wanted, mut troubles) = self.declare_queues(&connection).await;
        let beyond = self.look(&connection).await.unwrap_or_else(|error| {
            troubles.push(error.to_string());
            Vec::new()
        });
        let beyond = if unbinds { beyond } else { Vec::new() };
        troubles.extend(self.bind(&connection, wanted, beyond).await);
        let closing = connection.close(200, "declared".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
        troubles
    }

    /// Declares the queues; gives the numbers of those that are as they should be.
    async fn declare_queues(&self, connection: &Connection) -> (Vec<usize>, Vec<String>) {
        let (shards, timeout) = (&self.topology.shards, self.broker.timeout());
        let queues = self.topology.shard_queues();
        let looks = queues
            .iter()
            .map(|queue| inspect(connection, &queue.name, timeout));
        for (number, there) in shards.wanted().zip(join_all(looks).await) {
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

    /// Has the exchange send jobs to `wanted` and not to `beyond`.
    async fn bind(
        &self,
        connection: &Connection,
        wanted: Vec<usize>,
        beyond: Vec<usize>,
    ) -> Vec<String> {
        let (shards, timeout) = (&self.topology.shards, self.broker.timeout());
        if let Err(error) = shards.declare_exchange(connection, timeout).await {
            return vec![error.to_string()];
        }
        let mut troubles = Vec::new();
        for number in wanted {
            let bound = shards.bind(connection, number, timeout).await;
            troubles.extend(bound.err().map(|error| error.to_string()));
        }
        for number in beyond {
            let unbound = shards.unbind(connection, number, timeout).await;
            troubles.extend(unbound.err().map(|error| error.to_string()));
        }
        troubles
    }
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
