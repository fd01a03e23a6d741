//! Owns knowing whether the queues have room for more warming.

use super::run::Warmer;
use crate::amqp::topology;

/// A connection on which the queues' depths are asked.
#[derive(Default)]
pub(super) struct Depths(Option<(lapin::Connection, lapin::Channel)>);

impl Depths {
    /// Whether both queues are short enough for more. A broker that doesn't answer has no room.
    pub(super) async fn have_room(&mut self, warmer: &Warmer) -> bool {
        if self.0.is_none() {
            let Ok(connection) = warmer.broker.connect("warm").await else {
                return false;
            };
            let open =
                tokio::time::timeout(warmer.broker.timeout(), connection.create_channel()).await;
            let Ok(Ok(channel)) = open else { return false };
            self.0 = Some((connection, channel));
        }
        let Some((_, channel)) = &self.0 else {
            return false;
        };
        let most = [
            (&warmer.topology.jobs, warmer.settings.warm.max_backlog),
            (&warmer.topology.warm, warmer.settings.warm.max_queued),
        ];
        for (queue, most) in most {
            match tokio::time::timeout(warmer.broker.timeout(), topology::depth(channel, queue))
                .await
            {
                Ok(Ok(messages)) if messages < most => {}
                Ok(Ok(_)) => return false,
                Ok(Err(_)) | Err(_) => {
                    self.0 = None;
                    return false;
                }
            }
        }
        true
    }
}
