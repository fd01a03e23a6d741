//! Owns a command's publishing: one connection with publisher confirms and a deadline for each.
//!
//! Promises that a message counts as sent only when the broker has confirmed it. Refuses to try again: a
//! command that fails says so, and is safe to run again.

use crate::{
    amqp::message::Message,
    amqp::{connection::Broker, topology::look},
};
use anyhow::{Context, anyhow, bail};
use lapin::{
    Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::time::Duration;

/// Messages that may wait for their confirms together.
pub(super) const WINDOW: usize = 256;

/// A channel in confirm mode with its connection.
pub(super) struct Post {
    pub(super) broker: Broker,
    pub(super) connection: Connection,
    channel: Channel,
}

/// A message that was written and waits for its confirm.
pub(super) struct Pending {
    queue: String,
    confirm: PublisherConfirm,
    limit: Duration,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Confirmed,
    /// There is no queue of that name.
    Unroutable,
    /// The broker has the queue and doesn't take the message, for instance because the queue is full.
    Refused,
}

/// A connection, with an error that says where it was sought.
pub(super) async fn connect(broker: &Broker, purpose: &str) -> anyhow::Result<Connection> {
    broker
        .connect(purpose)
        .await
        .with_context(|| format!("the broker at {} can't be reached", broker.host()))
}

impl Post {
    /// Connects.
    pub(super) async fn open(broker: Broker, purpose: &str) -> anyhow::Result<Self> {
        let connection = connect(&broker, purpose).await?;
        let open = async {
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = within(&broker, "opening a channel", open).await?;
        Ok(Self {
            broker,
            connection,
            channel,
        })
    }

    /// Whether there is such a queue.
    pub(super) async fn knows(&self, queue: &str) -> anyhow::Result<bool> {
        Ok(look(&self.connection, queue, self.broker.timeout())
            .await?
            .is_some())
    }

    /// Writes a message.
    pub(super) async fn send(&self, message: &Message) -> anyhow::Result<Pending> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let write = self.channel.basic_publish(
            "".into(),
            message.queue.clone(),
            options,
            &message.body,
            message.properties.clone(),
        );
        let limit = self.broker.timeout();
        match tokio::time::timeout(limit, write).await {
            Ok(Ok(confirm)) => Ok(Pending {
                queue: message.queue.to_string(),
                confirm,
                limit,
            }),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) if self.is_blocked() => bail!("{BLOCKED}"),
            Err(_) => bail!("a message could not be written within {limit:?}"),
        }
    }

    /// Whether the broker has said that it takes no messages now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    fn lost(&self, error: &lapin::Error) -> anyhow::Error {
        anyhow!(
            "the connection to the broker was lost: {}",
            self.broker.scrub(error)
        )
    }

    /// Says goodbye; what is unconfirmed by now stays so.
    pub(super) async fn close(self) {
        // The work is done and confirmed: a broker that doesn't answer any more changes nothing.
        let _gone_too = tokio::time::timeout(
            Duration::from_secs(1),
            self.connection.close(200, "done".into()),
        )
        .await;
    }
}

/// What to say when the broker blocks publishers.
pub(super) const BLOCKED: &str = "the broker takes no messages now: its memory or disk alarm is on (see `rabbitmq-diagnostics alarms`)";

impl Pending {
    /// Waits for the confirm.
    pub(super) async fn settle(self) -> anyhow::Result<Fate> {
        let Self {
            queue,
            confirm,
            limit,
        } = self;
        match tokio::time::timeout(limit, confirm).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(Fate::Confirmed),
            Ok(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))) => {
                Ok(Fate::Unroutable)
            }
            Ok(Ok(Confirmation::Nack(None) | Confirmation::NotRequested)) => Ok(Fate::Refused),
            Ok(Err(error)) => bail!("the connection to the broker was lost: {error}"),
            Err(_) => bail!("the broker did not confirm a message to `{queue}` within {limit:?}"),
        }
    }
}

/// Runs one conversation with the broker under its deadline; an error says what was tried.
pub(super) async fn within<T>(
    broker: &Broker,
    what: &str,
    work: impl Future<Output = Result<T, lapin::Error>>,
) -> anyhow::Result<T> {
    let limit = broker.timeout();
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| anyhow!("{what}: no answer within {limit:?}"))?
        .map_err(|e| anyhow!("{what}: {}", broker.scrub(&e)))
}
