//! Owns collecting the replies of one submission: a queue that lives as long as this connection.

use crate::{
    amqp::connection::Broker,
    cli::post::{close, connect},
};
use anyhow::{Context, anyhow, bail};
use futures_util::StreamExt;
use lapin::{
    Connection, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};

/// Replies that the broker sends ahead.
const AHEAD: u16 = 256;

/// The reply queue and its consumer. Consuming has a connection of its own: a broker that blocks publishers
/// still delivers.
pub(super) struct Replies {
    broker: Broker,
    connection: Connection,
    consumer: Consumer,
    /// The name that jobs give as `reply_to`.
    pub(super) queue: ShortString,
}

impl Replies {
    /// Declares the queue and listens to it.
    pub(super) async fn open(broker: &Broker) -> anyhow::Result<Self> {
        let connection = connect(broker, "submit replies").await?;
        let open = async {
            let channel = connection.create_channel().await?;
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            // Without a name the broker chooses one, which is nobody else's.
            let queue = channel
                .queue_declare("".into(), options, FieldTable::default())
                .await?
                .name()
                .clone();
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            let consumer = channel
                .basic_consume(
                    queue.clone(),
                    "".into(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await?;
            Ok::<_, lapin::Error>((queue, consumer))
        };
        let (queue, consumer) = broker
            .within(open)
            .await
            .context("declaring a queue for replies")?;
        Ok(Self {
            broker: broker.clone(),
            connection,
            consumer,
            queue,
        })
    }

    /// The next reply, to be given to [`Replies::taken`]. An error means that no further one can come: the
    /// queue went with its connection. A wait that is given up loses nothing.
    pub(super) async fn next(&mut self) -> anyhow::Result<Delivery> {
        // One await and no more: what was taken from the consumer must reach the caller.
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(delivery),
            Some(Err(error)) => Err(anyhow!("{LOST}: {}", self.broker.scrub(&error))),
            None => bail!("{LOST}"),
        }
    }

    /// Makes room for a further reply.
    pub(super) async fn taken(&self, reply: &Delivery) -> anyhow::Result<()> {
        let ack = reply.acker.ack(BasicAckOptions::default());
        self.broker.within(ack).await.context("taking a reply")?;
        Ok(())
    }

    /// Says goodbye, and takes the queue along.
    pub(super) async fn close(self) {
        // Nothing depends on it: the broker drops the queue when the process is gone.
        close(&self.connection).await;
    }
}

const LOST: &str = "the connection for replies was lost";
