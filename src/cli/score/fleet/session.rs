//! Owns one connection of a run to the broker, or rather two: one on which jobs are posted, and one on which replies come, since a broker
//! that blocks publishers still delivers.

use crate::{
    amqp::{
        confirm::PublishOutcome,
        connection::Broker,
        message::{self, Message},
        topology::{QueueSpec, Topology},
    },
    cli::post::{Post, close, connect},
};
use anyhow::{Context, anyhow};
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Connection, Consumer,
    message::Delivery,
    options::{BasicConsumeOptions, BasicQosOptions, QueueDeleteOptions},
    types::{FieldTable, ShortString},
};

/// Replies that the broker sends ahead: no quorum queue takes a higher number.
const AHEAD: u16 = 2_000;
/// AMQP's mark for a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

/// A confirm on its way, with its job.
type Confirming = BoxFuture<'static, (String, anyhow::Result<PublishOutcome>)>;

/// The connections.
pub(super) struct Session {
    pub post: Post,
    connection: Connection,
    consumer: Consumer,
    confirms: FuturesUnordered<Confirming>,
}

/// What happens next on a session.
pub(super) enum Event {
    Confirmed(String, PublishOutcome),
    Reply(Box<Delivery>),
}

impl Session {
    /// Connects, and declares what is missing.
    pub async fn open(
        broker: &Broker,
        topology: &Topology,
        jobs: &str,
        replies: &QueueSpec,
    ) -> anyhow::Result<Self> {
        let post = Post::open(broker.clone(), "files").await?;
        if !post.knows(jobs).await? {
            // Before the first worker has started there are no queues: jobs may wait for it.
            let limit = broker.timeout();
            topology.declare(&post.connection, limit, limit).await?;
        }
        let connection = connect(broker, "files replies").await?;
        replies.declare(&connection, broker.timeout()).await?;
        let name = ShortString::try_new(replies.name.as_str())?;
        let consume = async {
            let channel = connection.create_channel().await?;
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume(name, "".into(), options, FieldTable::default())
                .await
        };
        let consumer = broker.within(consume).await.context("taking replies")?;
        Ok(Self {
            post,
            connection,
            consumer,
            confirms: FuturesUnordered::new(),
        })
    }

    /// Posts a job; its confirm comes later.
    pub async fn send(&mut self, key: &str, message: &Message) -> anyhow::Result<()> {
        let pending = self.post.send(message).await?;
        let key = key.to_owned();
        let confirming = async move { (key, pending.settle().await) };
        self.confirms.push(Box::pin(confirming));
        Ok(())
    }

    /// What comes next. An error means that the session is over. A wait that is given up loses nothing.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        tokio::select! {
            Some((key, outcome)) = self.confirms.next(), if !self.confirms.is_empty() => {
                Ok(Event::Confirmed(key, outcome?))
            }
            delivery = self.consumer.next() => match delivery {
                Some(Ok(delivery)) => Ok(Event::Reply(Box::new(delivery))),
                Some(Err(error)) => Err(anyhow!(self.post.broker.scrub(&error))),
                None => Err(anyhow!("the queue of replies is gone")),
            },
        }
    }

    /// Deletes the queue of replies.
    pub async fn delete(&mut self, queue: &str) {
        let delete = async {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeleteOptions::default();
            channel.queue_delete(queue.into(), options).await
        };
        // One that stays goes by itself.
        let _gone = self.post.broker.within(delete).await;
    }

    /// Says goodbye: what was taken and isn't acknowledged waits for the next session.
    pub async fn close(self) {
        close(&self.connection).await;
        self.post.close().await;
    }
}

/// A job's message.
pub(super) fn job(
    run: &str,
    (queue, reply_to): (&ShortString, &ShortString),
    (key, id): (&str, &str),
    body: Vec<u8>,
) -> Message {
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id.into())
        .with_reply_to(reply_to.clone())
        .with_correlation_id(key.into());
    message::of_run(Message::new(queue.clone(), body, properties), run)
}
