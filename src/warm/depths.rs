//! Owns knowing whether the queues have room for more warming.

use crate::{
    amqp::{
        connection::Broker,
        topology::{self, Seen, Topology},
    },
    backoff::Backoff,
    config::Warm,
};
use std::time::Duration;

/// A connection on which the queues' depths are asked.
#[derive(Default)]
pub(super) struct Depths(Option<(lapin::Connection, lapin::Channel)>);

impl Depths {
    /// How long to wait before it is asked again where there was no room: `look` where the broker said so, and longer each time where it said nothing.
    pub(super) fn rest(&self, look: Duration, rests: &mut Backoff) -> Duration {
        if self.0.is_some() {
            rests.reset();
            return look;
        }
        rests.next_wait()
    }

    /// Whether both queues are short enough for more. A broker that doesn't answer has no room.
    pub(super) async fn have_room(
        &mut self,
        broker: &Broker,
        topology: &Topology,
        settings: &Warm,
    ) -> bool {
        let waiting = self.look(broker, topology).await;
        waiting.is_some_and(|waiting| {
            waiting.jobs < settings.max_backlog && waiting.warm < settings.max_queued
        })
    }

    /// How many jobs wait in both queues; nothing where the broker doesn't answer.
    pub(super) async fn look(&mut self, broker: &Broker, topology: &Topology) -> Option<Queued> {
        if self.0.is_none() {
            let connection = broker.connect("warm").await.ok()?;
            let open = tokio::time::timeout(broker.timeout(), connection.create_channel()).await;
            self.0 = Some((connection, open.ok()?.ok()?));
        }
        let (connection, channel) = self.0.as_ref()?;
        let queued = queued(connection, channel, broker, topology).await;
        if queued.is_none() {
            self.0 = None;
        }
        queued
    }
}

/// How many jobs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queued {
    /// In the queue of producers' jobs and its shards.
    pub jobs: u32,
    /// In the queue of warming jobs.
    pub warm: u32,
}

async fn queued(
    connection: &lapin::Connection,
    channel: &lapin::Channel,
    broker: &Broker,
    topology: &Topology,
) -> Option<Queued> {
    let in_shards = in_shards(connection, broker, topology).await?;
    let look = async |queue: &str| {
        let look = topology::look(channel, queue);
        let seen = tokio::time::timeout(broker.timeout(), look).await;
        seen.ok()?.ok()?.map(|seen| seen.messages)
    };
    let jobs = look(&topology.jobs).await?;
    Some(Queued {
        jobs: jobs.saturating_add(in_shards),
        warm: look(&topology.warm).await?,
    })
}

/// What waits in the shards that are there; nothing where that isn't known. Of a queue that has no leader the broker says that nothing is in
/// it and nobody takes from it.
async fn in_shards(
    connection: &lapin::Connection,
    broker: &Broker,
    topology: &Topology,
) -> Option<u32> {
    let numbers = topology.shards.found().borrow().clone();
    let seen = topology::inspect_all(connection, &topology.shards, &numbers, broker.timeout());
    let mut messages = 0_u32;
    for seen in seen.await {
        match seen {
            Ok(Some(seen)) if seen != Seen::default() => {
                messages = messages.saturating_add(seen.messages);
            }
            // It is gone.
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
    }
    Some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_does_not_answer_is_asked_less_and_less_often() {
        let look = Duration::from_millis(100);
        let mut rests = Backoff::new(look, look * 50);
        let depths = Depths::default();
        let waits: Vec<Duration> = (0..8).map(|_| depths.rest(look, &mut rests)).collect();
        let last = waits.last().copied().unwrap_or_default();
        assert!(
            waits.first() < Some(&(look * 2)) && last >= look * 25,
            "{waits:?}"
        );
    }
}
