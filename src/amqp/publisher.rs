//! Owns the worker's publishing: two publishers, each with a connection of its own. Replies have one; whatever must arrive has the
//! other, so that nothing which happens to a reply slows it.
//!
//! Promises that a message which must arrive is published until the broker has it, and that a reply ends after a bounded effort while
//! the connection works. Each message has a future of its own: a slow one holds up no other. Refuses to bound the messages that it
//! holds: they are as many as its callers have in hand.

mod answers;
mod entry;
mod flights;
mod line;
mod notices;
mod outbox;
#[cfg(test)]
#[cfg(feature = "faults")]
pub mod simulated;
mod status;
mod task;
mod verdict;
mod wire;

pub use status::PublisherStatus;
pub use task::PublisherTask;

use super::{connection::Broker, message::Message};
use crate::telemetry::metrics::{Metrics, PublisherKind, ReplyOutcome};
use entry::{End, Entry};
use futures_util::future::try_join_all;
use outbox::Policy;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The broker takes no message of this size, and would close the channel on each try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker takes no message of {bytes} bytes: see its max_message_size")]
pub struct TooLarge {
    pub bytes: usize,
}

/// Hands messages over.
#[derive(Debug, Clone)]
struct Outlet {
    broker: Broker,
    inbox: mpsc::UnboundedSender<Entry>,
    status: watch::Receiver<PublisherStatus>,
}

/// For what must arrive: dead letters, retries, jobs of Kiln's own.
#[derive(Debug, Clone)]
pub struct Publisher(Outlet);

/// For replies.
#[derive(Debug, Clone)]
pub struct Replies(Outlet);

/// The publisher for what must arrive, and the task that keeps its connection.
pub fn must_arrive(
    broker: Broker,
    max_backoff: Duration,
    metrics: Metrics,
) -> (Publisher, PublisherTask) {
    let policy = Policy {
        must_arrive: true,
        patience: broker.timeout(),
    };
    let kind = PublisherKind::MustArrive;
    let (outlet, task) = open(broker, kind, policy, max_backoff, metrics);
    (Publisher(outlet), task)
}

/// The publisher for replies, each of which may be unconfirmed for `patience`, and the task that keeps its connection.
pub fn replies(
    broker: Broker,
    patience: Duration,
    max_backoff: Duration,
    metrics: Metrics,
) -> (Replies, PublisherTask) {
    let policy = Policy {
        must_arrive: false,
        patience,
    };
    let (outlet, task) = open(broker, PublisherKind::Replies, policy, max_backoff, metrics);
    (Replies(outlet), task)
}

fn open(
    broker: Broker,
    kind: PublisherKind,
    policy: Policy,
    max_backoff: Duration,
    metrics: Metrics,
) -> (Outlet, PublisherTask) {
    let (sender, inbox) = mpsc::unbounded_channel();
    let (status, watched) = status::channel();
    metrics.publisher(kind, false);
    let task = PublisherTask::new(
        broker.clone(),
        kind,
        policy,
        max_backoff,
        metrics,
        inbox,
        status,
    );
    let outlet = Outlet {
        broker,
        inbox: sender,
        status: watched,
    };
    (outlet, task)
}

impl Outlet {
    /// Hands a message over now; the future gives its end. Dropped, it withdraws the message, unless that was written already.
    fn send(&self, message: Message) -> impl Future<Output = End> + Send + use<> {
        let (end, ended) = oneshot::channel();
        // Without its task the worker is about to end.
        let _stopped = self.inbox.send(Entry::new(message, end));
        async move {
            match ended.await {
                Ok(end) => end,
                // So is the caller: what it waits for never happens.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

impl Publisher {
    /// Publishes a message until the broker has it, whatever that takes. The message is handed over now; a future that is dropped
    /// withdraws it, unless it was written already.
    pub fn send(
        &self,
        message: Message,
    ) -> impl Future<Output = Result<(), TooLarge>> + Send + use<> {
        let bytes = message.body.len();
        let sending = self.0.send(message);
        async move {
            match sending.await {
                End::TooLarge => Err(TooLarge { bytes }),
                // Nothing else ends a message that must arrive.
                End::Sent | End::SentBrief | End::Unroutable | End::Refused | End::Unconfirmed => {
                    Ok(())
                }
            }
        }
    }

    /// Publishes messages until the broker has each.
    pub async fn publish(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<(), TooLarge> {
        let sending: Vec<_> = messages.into_iter().map(|m| self.send(m)).collect();
        try_join_all(sending).await.map(|_| ())
    }

    /// The address of the broker that the worker's connections prefer by now; nothing before the first one.
    pub fn connected_to(&self) -> Option<String> {
        self.0.broker.connected_to()
    }

    /// Whether messages get to the broker, and since when.
    pub fn status(&self) -> watch::Receiver<PublisherStatus> {
        self.0.status.clone()
    }
}

impl Replies {
    /// Publishes a reply. While the connection works it ends after a bounded effort; it is counted by its end. The reply is handed
    /// over now; a future that is dropped withdraws it, unless it was written already.
    pub fn send(&self, reply: Message) -> impl Future<Output = ReplyOutcome> + Send + use<> {
        let sending = self.0.send(reply);
        async move { sending.await.into() }
    }

    /// Whether replies get to the broker, and since when.
    pub fn status(&self) -> watch::Receiver<PublisherStatus> {
        self.0.status.clone()
    }
}
