//! Owns knowing whether the queues have room for more warming.

use crate::{
    amqp::{
        connection::Broker,
        topology::{self, Topology},
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
        let max = [
            (&topology.jobs, settings.max_backlog),
            (&topology.warm, settings.max_queued),
        ];
        for (queue, max) in max {
            match tokio::time::timeout(broker.timeout(), topology::look(channel, queue)).await {
                Ok(Ok(Some(seen))) if seen.messages < max => {}
                Ok(Ok(Some(_))) => return false,
                Ok(Ok(None) | Err(_)) | Err(_) => {
                    self.0 = None;
                    return false;
                }
            }
        }
        true
    }
}
