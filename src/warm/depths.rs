//! Owns knowing whether the queues have room for more warming.

use crate::{
    amqp::{
        connection::Broker,
        topology::{self, Seen, Topology},
    },
    config::Warm,
};

/// A connection on which the queues' depths are asked.
#[derive(Default)]
pub(super) struct Depths(Option<(lapin::Connection, lapin::Channel)>);

impl Depths {
    /// Whether both queues are short enough for more. A broker that doesn't answer has no room.
    pub(super) async fn have_room(
        &mut self,
        broker: &Broker,
        topology: &Topology,
        settings: &Warm,
    ) -> bool {
        if self.0.is_none() {
            let Ok(connection) = broker.connect("warm").await else {
                return false;
            };
            let open = tokio::time::timeout(broker.timeout(), connection.create_channel()).await;
            let Ok(Ok(channel)) = open else { return false };
            self.0 = Some((connection, channel));
        }
        let Some((_, channel)) = &self.0 else {
            return false;
        };
        let shards = &topology.shards;
        let found = shards.found().borrow().clone();
        let mut jobs: Vec<String> = found.iter().map(|one| shards.queue(*one)).collect();
        jobs.push(topology.jobs.clone());
        let warm = vec![topology.warm.clone()];
        for (queues, max) in [(jobs, settings.max_backlog), (warm, settings.max_queued)] {
            let mut all = Seen::default();
            for queue in queues {
                let look = topology::look(channel, &queue);
                let Ok(Ok(Some(seen))) = tokio::time::timeout(broker.timeout(), look).await else {
                    self.0 = None;
                    return false;
                };
                all = all.and(seen);
            }
            if all.messages >= max {
                return false;
            }
        }
        true
    }
}
