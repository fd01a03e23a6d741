//! Tells how many messages wait in each queue.

use crate::{
    amqp::{
        connection::Broker,
        topology::{self, Topology},
    },
    health::{Health, Part},
    telemetry::metrics::{Metrics, QueueKind},
};
use std::{sync::Arc, time::Duration};

/// How often queue depths are asked.
const DEPTHS: Duration = Duration::from_secs(5);

pub(in crate::worker) async fn watch(
    broker: Broker,
    topology: Arc<Topology>,
    metrics: Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(DEPTHS);
    let queues = [
        (QueueKind::Jobs, &topology.jobs),
        (QueueKind::Warm, &topology.warm),
        (QueueKind::Dead, &topology.dead),
        (QueueKind::Expired, &topology.expired),
    ];
    let mut channel = None;
    loop {
        tick.tick().await;
        // Before the first session the queues may not be declared.
        if !health.is_up(Part::Broker) {
            channel = None;
            continue;
        }
        if channel.is_none() {
            let connection = broker.connect("depths").await.ok();
            let open = match &connection {
                Some(connection) => {
                    tokio::time::timeout(broker.timeout(), connection.create_channel()).await
                }
                None => continue,
            };
            channel = open
                .ok()
                .and_then(Result::ok)
                .and_then(|channel| Some((connection?, channel)));
        }
        for (kind, queue) in queues {
            let Some((_, open)) = &channel else { break };
            match tokio::time::timeout(broker.timeout(), topology::depth(open, queue)).await {
                Ok(Ok(messages)) => metrics.queue(kind, messages),
                // The connection may hang or the queue not be there yet: start anew at the next tick.
                Ok(Err(_)) | Err(_) => channel = None,
            }
        }
    }
}
