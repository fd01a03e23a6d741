//! Owns how a command publishes: one connection with publisher confirms, and a deadline for each message.
//!
//! Promises that a message counts as sent only when the broker has confirmed it. Refuses to try again: a
//! command that fails says so, and is safe to run again.

use crate::amqp::{
    confirm::{ConfirmChannel, PublishOutcome, Unconfirmed},
    connection::{Broker, NoAnswer},
    message::Message,
    topology::inspect,
};
use anyhow::{Context, anyhow};
use lapin::Connection;
use std::{sync::Arc, time::Duration};

/// Messages that may wait for their confirms together.
pub(super) const WINDOW: usize = 256;

/// What to say when the broker blocks publishers.
pub(super) const BLOCKED: &str = "the broker takes no messages now: its memory or disk alarm is on (see `rabbitmq-diagnostics alarms`)";

/// A channel in confirm mode with its connection.
pub(super) struct Post {
    pub(super) broker: Arc<Broker>,
    pub(super) connection: Connection,
    channel: ConfirmChannel,
}

/// A message that was written and waits for its confirm.
pub(super) struct Pending {
    broker: Arc<Broker>,
    queue: String,
    unconfirmed: Unconfirmed,
}

/// A connection, with an error that says where it was sought.
pub(super) async fn connect(broker: &Broker, purpose: &str) -> anyhow::Result<Connection> {
    broker
        .connect(purpose)
        .await
        .with_context(|| format!("the broker at {} can't be reached", broker.host()))
}

/// Closes a connection whose work is done: a broker that doesn't answer any more changes nothing.
pub(super) async fn close(connection: &Connection) {
    let goodbye = connection.close(200, "done".into());
    let _gone_too = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
}

impl Post {
    /// Connects.
    pub(super) async fn open(broker: Broker, purpose: &str) -> anyhow::Result<Self> {
        let connection = connect(&broker, purpose).await?;
        let channel = ConfirmChannel::open(&broker, &connection)
            .await
            .context("opening a channel")?;
        Ok(Self {
            broker: Arc::new(broker),
            connection,
            channel,
        })
    }

    /// Whether there is such a queue.
    pub(super) async fn knows(&self, queue: &str) -> anyhow::Result<bool> {
        Ok(self.consumers(queue).await?.is_some())
    }

    /// How many take from a queue; nothing where there is none of that name.
    pub(super) async fn consumers(&self, queue: &str) -> anyhow::Result<Option<u32>> {
        let seen = inspect(&self.connection, queue, self.broker.timeout()).await?;
        Ok(seen.map(|seen| seen.consumers))
    }

    /// Writes a message.
    pub(super) async fn send(&self, message: &Message) -> anyhow::Result<Pending> {
        match self.broker.within(self.channel.write(message)).await {
            Ok(unconfirmed) => Ok(Pending {
                broker: self.broker.clone(),
                queue: message.queue.to_string(),
                unconfirmed,
            }),
            Err(NoAnswer::Failed(error)) => Err(lost(&error)),
            Err(NoAnswer::Silent(_)) if self.is_blocked() => Err(anyhow!(BLOCKED)),
            Err(NoAnswer::Silent(limit)) => {
                Err(anyhow!("a message could not be written within {limit:?}"))
            }
        }
    }

    /// Whether the broker has said that it takes no messages now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Says goodbye; what is unconfirmed by now stays so.
    pub(super) async fn close(self) {
        close(&self.connection).await;
    }
}

impl Pending {
    /// Waits for the confirm.
    pub(super) async fn settle(self) -> anyhow::Result<PublishOutcome> {
        match self.broker.within(self.unconfirmed.outcome()).await {
            Ok(outcome) => Ok(outcome),
            Err(NoAnswer::Failed(error)) => Err(lost(&error)),
            Err(NoAnswer::Silent(limit)) => Err(anyhow!(
                "the broker did not confirm a message to `{}` within {limit:?}",
                self.queue
            )),
        }
    }
}

fn lost(error: &str) -> anyhow::Error {
    anyhow!("the connection to the broker was lost: {error}")
}
