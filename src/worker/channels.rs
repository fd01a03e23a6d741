//! Owns the end of the channels that deliveries came by: the last acknowledgements, and then the channels' own end.

use crate::amqp::{ack::Acks, consumer::QueueConsumer};
use lapin::Channel;
use std::{sync::Arc, time::Duration};

/// How long a settled delivery waits behind an open one before it is acknowledged by itself.
pub(super) const STRAGGLER_WAIT: Duration = Duration::from_millis(50);
/// Longest goodbye to the broker: the last acknowledgements, and the channels' ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// The channel of a consumer, with what its deliveries are acknowledged by.
#[derive(Clone)]
pub(super) struct DeliveryChannel {
    channel: Channel,
    acks: Arc<Acks>,
}

impl DeliveryChannel {
    /// That of a consumer.
    pub(super) fn of(consumer: &QueueConsumer) -> Self {
        Self {
            channel: consumer.channel.clone(),
            acks: consumer.acks.clone(),
        }
    }

    /// Whether the broker waits to hear of any of its deliveries.
    pub(super) fn is_awaited(&self) -> bool {
        self.is_open() && self.acks.at_broker() > 0
    }

    /// Tells the broker of what is settled behind a delivery that isn't, beside the caller.
    pub(super) fn flush_stragglers(&self) {
        self.acks.flush_stragglers();
    }

    /// Whether the broker still has it.
    pub(super) fn is_open(&self) -> bool {
        self.acks.is_open()
    }
}

/// Tells the broker of what is settled behind a delivery that isn't, beside the caller.
pub(super) fn flush_stragglers(channels: &[DeliveryChannel]) {
    for channel in channels {
        channel.flush_stragglers();
    }
}

/// The same again and again, until `ended`.
pub(super) async fn flush_until(channels: &[DeliveryChannel], ended: impl Future<Output = ()>) {
    flush_stragglers(channels);
    let mut stragglers = tokio::time::interval(STRAGGLER_WAIT);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => return,
            _ = stragglers.tick() => flush_stragglers(channels),
        }
    }
}

/// Sends the last acknowledgements and closes the channels, within `limit`.
pub(super) async fn close(channels: &[DeliveryChannel], limit: Duration) {
    let _goodbye = tokio::time::timeout(limit.min(GOODBYE), async {
        for channel in channels {
            channel.acks.flush(true).await;
        }
        for channel in channels {
            let _gone_counts_too = channel.channel.close(200, "stopped".into()).await;
        }
    })
    .await;
}
