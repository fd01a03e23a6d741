//! A producer's side of the broker: confirmed publishing, collected replies, and a look at the dead letters.
//!
//! Reconnects by itself, so that a test may kill the broker under it. A message whose confirm was lost is published
//! again: producers do that too, and a job id makes it harmless.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::jobs::{DeadLetter, Reply, job_id};
use super::{PATIENCE, eventually};

/// Where jobs go, as the contract names it.
pub const JOBS: &str = "kiln.jobs";
/// Where rejected jobs end.
pub const DEAD: &str = "kiln.dead";
/// The durable queue to which tests ask replies to be sent.
pub const REPLIES: &str = "test.replies";

const WINDOW: usize = 200;
const OPERATION_LIMIT: Duration = Duration::from_secs(5);

/// Connects on first use.
pub struct Bus {
    /// The addresses of one broker; the next one is tried where one fails.
    urls: Vec<String>,
    failed: AtomicUsize,
    link: Mutex<Option<(Connection, Channel)>>,
}

/// Messages that were taken and not settled. They return with their channel, which lapin closes when the last handle of it is dropped:
/// the connection alone holds none.
pub struct Delivered {
    _channel: Channel,
    _connection: Connection,
}

/// A message to publish: the queue is given apart.
pub type Message = (Vec<u8>, BasicProperties);

impl Bus {
    pub fn new(url: String) -> Self {
        Self::of(vec![url])
    }

    /// The same of a cluster, by any of its nodes.
    pub fn of(urls: Vec<String>) -> Self {
        Self {
            urls,
            failed: AtomicUsize::new(0),
            link: Mutex::default(),
        }
    }

    /// Publishes jobs to [`JOBS`], each confirmed, with a reply asked for.
    pub async fn publish_jobs(&self, jobs: &[Value]) {
        self.publish(JOBS, jobs.iter().map(asking_reply).collect())
            .await;
    }

    /// Publishes one job to [`JOBS`], confirmed, with a reply asked for.
    pub async fn publish_job(&self, job: &Value) {
        self.publish(JOBS, vec![asking_reply(job)]).await;
    }

    /// The same with a W3C trace context.
    pub async fn publish_traced(&self, job: &Value, traceparent: &str) {
        let (body, properties) = asking_reply(job);
        let mut headers = FieldTable::default();
        let value = lapin::types::AMQPValue::LongString(traceparent.into());
        headers.insert("traceparent".into(), value);
        self.publish(JOBS, vec![(body, properties.with_headers(headers))])
            .await;
    }

    /// Publishes jobs to an exchange, each confirmed and under its id, with a reply asked for. One that the exchange has no queue for is lost.
    pub async fn publish_through(&self, exchange: &str, jobs: &[Value]) {
        let messages = jobs.iter().map(asking_reply).collect();
        self.publish_to(exchange, "", messages).await;
    }

    /// Publishes to `queue` until every message is confirmed and was routed there, in windows of unconfirmed messages.
    pub async fn publish(&self, queue: &str, messages: Vec<Message>) {
        self.publish_to("", queue, messages).await;
    }

    async fn publish_to(&self, exchange: &str, queue: &str, messages: Vec<Message>) {
        self.declare_replies().await;
        for window in messages.chunks(WINDOW) {
            let mut left: Vec<&Message> = window.iter().collect();
            eventually(
                &format!("messages to {queue} are confirmed"),
                PATIENCE,
                async || {
                    let window = std::mem::take(&mut left);
                    left = self.publish_window(exchange, queue, window).await;
                    left.is_empty().then_some(())
                },
            )
            .await;
        }
    }

    /// Declares the queue for replies, which survives the broker; in a cluster, any of its nodes.
    pub async fn declare_replies(&self) {
        let mut arguments = FieldTable::default();
        if self.urls.len() > 1 {
            let kind = AMQPValue::LongString("quorum".into());
            arguments.insert("x-queue-type".into(), kind);
        }
        self.declare(REPLIES, arguments).await;
    }

    /// Declares a durable queue with `arguments`.
    pub async fn declare(&self, queue: &str, arguments: FieldTable) {
        eventually(&format!("{queue} is declared"), PATIENCE, || async {
            let channel = self.channel().await?;
            let declared = channel.queue_declare(
                queue.into(),
                QueueDeclareOptions::durable(),
                arguments.clone(),
            );
            self.checked(timeout(OPERATION_LIMIT, declared).await).await
        })
        .await;
    }

    /// Declares a topic exchange, or deletes whichever exchange has that name.
    pub async fn exchange(&self, name: &str, is_there: bool) {
        eventually(&format!("the exchange {name}"), PATIENCE, || async {
            let channel = self.channel().await?;
            let done = async {
                if is_there {
                    let (options, none) = (Default::default(), FieldTable::default());
                    let kind = lapin::ExchangeKind::Topic;
                    channel
                        .exchange_declare(name.into(), kind, options, none)
                        .await
                } else {
                    channel
                        .exchange_delete(name.into(), Default::default())
                        .await
                }
            };
            self.checked(timeout(OPERATION_LIMIT, done).await).await
        })
        .await;
    }

    /// Deletes a queue, with what is in it.
    pub async fn delete(&self, queue: &str) {
        eventually(&format!("{queue} is deleted"), PATIENCE, || async {
            let channel = self.channel().await?;
            let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
            self.checked(timeout(OPERATION_LIMIT, deleted).await).await
        })
        .await;
    }

    /// Messages that wait in `queue`, without those that a consumer holds; `None` while the broker or the queue is away.
    pub async fn waiting(&self, queue: &str) -> Option<u32> {
        self.look(queue).await.map(|queue| queue.message_count())
    }

    /// Consumers of `queue`; `None` while the broker or the queue is away.
    pub async fn consumers(&self, queue: &str) -> Option<u32> {
        self.look(queue).await.map(|queue| queue.consumer_count())
    }

    async fn look(&self, queue: &str) -> Option<lapin::Queue> {
        let channel = self.channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
        self.checked(timeout(OPERATION_LIMIT, asked).await).await
    }

    /// Takes and acknowledges the next message of `queue`, where one waits and the broker is there.
    pub async fn take(&self, queue: &str) -> Option<BasicGetMessage> {
        let channel = self.channel().await?;
        let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
        self.checked(timeout(OPERATION_LIMIT, got).await).await?
    }

    /// Takes `count` messages of `queue` and settles none: each returns, as delivered before, when what is given is dropped.
    pub async fn hold(&self, queue: &str, count: usize) -> Delivered {
        let connection = Connection::connect(self.url(), ConnectionProperties::default()).await;
        let connection = connection.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        for n in 0..count {
            let what = format!("message {} of {count} in {queue}", n + 1);
            eventually(&what, PATIENCE, async || {
                let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false });
                got.await.expect("the queue is there")
            })
            .await;
        }
        Delivered {
            _channel: channel,
            _connection: connection,
        }
    }

    /// Takes all that waits in `queue`.
    pub async fn take_all(&self, queue: &str) -> Vec<BasicGetMessage> {
        let mut messages = Vec::new();
        while let Some(message) = self.take(queue).await {
            messages.push(message);
        }
        messages
    }

    /// Takes `count` replies; fails where they don't come.
    pub async fn replies(&self, count: usize) -> Vec<Reply> {
        let mut replies = Vec::with_capacity(count);
        for n in 0..count {
            let what = format!("reply {} of {count} in {REPLIES}", n + 1);
            let message = eventually(&what, PATIENCE, || self.take(REPLIES)).await;
            replies.push(reply(message));
        }
        replies
    }

    /// Takes replies until each of `ids` has one at least, and checks that all of the same job say the same.
    pub async fn reply_to_each(&self, ids: &[String]) -> BTreeMap<String, Reply> {
        let mut answered: BTreeMap<String, Reply> = BTreeMap::new();
        eventually(
            &format!("a reply to each of {} jobs", ids.len()),
            PATIENCE,
            async || {
                while let Some(message) = self.take(REPLIES).await {
                    let reply = reply(message);
                    let first = answered
                        .entry(reply.job_id().to_owned())
                        .or_insert_with(|| reply.clone());
                    assert_eq!(
                        first.without_time(),
                        reply.without_time(),
                        "the same job, the same result"
                    );
                }
                ids.iter().all(|id| answered.contains_key(id)).then_some(())
            },
        )
        .await;
        answered
    }

    /// Takes one reply, within `deadline`.
    pub async fn reply_within(&self, deadline: Duration) -> Reply {
        reply(eventually("a reply", deadline, || self.take(REPLIES)).await)
    }

    /// Publishes one job and waits for its reply, which must be `ok`. No other reply may be on its way.
    pub async fn answer(&self, job: &Value) -> Reply {
        self.publish_job(job).await;
        let reply = self.reply_within(PATIENCE).await;
        assert_eq!(
            (reply.job_id(), reply.status()),
            (job_id(job), "ok"),
            "{}",
            reply.body
        );
        reply
    }

    /// Takes `count` dead letters; fails where they don't come.
    pub async fn dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut letters = Vec::with_capacity(count);
        for n in 0..count {
            let what = format!("dead letter {} of {count}", n + 1);
            letters.push(dead_letter(
                eventually(&what, PATIENCE, || self.take(DEAD)).await,
            ));
        }
        letters
    }

    async fn publish_window<'a>(
        &self,
        exchange: &str,
        queue: &str,
        batch: Vec<&'a Message>,
    ) -> Vec<&'a Message> {
        let Some(channel) = self.channel().await else {
            return batch;
        };
        let options = BasicPublishOptions {
            mandatory: exchange.is_empty(),
            ..Default::default()
        };
        let mut confirms = Vec::with_capacity(batch.len());
        for (body, properties) in &batch {
            let id = properties.correlation_id().clone().unwrap_or_default();
            let key = if exchange.is_empty() {
                queue.into()
            } else {
                id
            };
            let properties = properties.clone();
            let sent = channel.basic_publish(exchange.into(), key, options, body, properties);
            match self.checked(timeout(OPERATION_LIMIT, sent).await).await {
                Some(confirm) => confirms.push(confirm),
                None => break,
            }
        }
        let sent = confirms.len();
        let mut left = batch[sent..].to_vec();
        let mut is_silent = false;
        for (message, confirm) in batch.into_iter().zip(confirms) {
            // A node that is frozen says nothing to any of them: waiting for one is enough.
            if is_silent {
                left.push(message);
                continue;
            }
            let confirmed = timeout(OPERATION_LIMIT, confirm).await;
            is_silent = confirmed.is_err();
            let confirmed = self.checked(confirmed).await;
            // A returned message found no queue: the worker has not declared it yet.
            if !matches!(confirmed, Some(Confirmation::Ack(None))) {
                left.push(message);
            }
            // A channel that was opened while a node was lost may be refused for as long as that is away.
            if matches!(confirmed, Some(Confirmation::Nack(_))) {
                *self.link.lock().await = None;
            }
        }
        left
    }

    fn url(&self) -> &str {
        &self.urls[self.failed.load(Ordering::Relaxed) % self.urls.len()]
    }

    async fn channel(&self) -> Option<Channel> {
        let mut link = self.link.lock().await;
        if let Some((connection, channel)) = &*link
            && connection.status().connected()
            && channel.status().connected()
        {
            return Some(channel.clone());
        }
        *link = None;
        let opened = async {
            let connection =
                Connection::connect(self.url(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            lapin::Result::Ok((connection, channel))
        };
        let Ok(Ok((connection, channel))) = timeout(OPERATION_LIMIT, opened).await else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        *link = Some((connection, channel.clone()));
        Some(channel)
    }

    /// Drops the connection after a failure, so that the next operation makes a new one.
    async fn checked<T>(
        &self,
        outcome: Result<lapin::Result<T>, tokio::time::error::Elapsed>,
    ) -> Option<T> {
        match outcome {
            Ok(Ok(value)) => Some(value),
            Ok(Err(_)) | Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                *self.link.lock().await = None;
                None
            }
        }
    }
}

/// A job as a careful producer posts it: persistent, JSON, its id as correlation id, replies to [`REPLIES`].
pub fn asking_reply(job: &Value) -> Message {
    let id = job_id(job);
    (job.to_string().into_bytes(), answered_as(id))
}

/// The properties of a job that is to be answered under `correlation`.
pub fn answered_as(correlation: &str) -> BasicProperties {
    persistent()
        .with_reply_to(REPLIES.into())
        .with_correlation_id(correlation.into())
}

/// The properties of a persistent JSON message.
pub fn persistent() -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
}

fn reply(message: BasicGetMessage) -> Reply {
    let body = serde_json::from_slice(&message.data);
    Reply {
        correlation_id: message
            .properties
            .correlation_id()
            .as_ref()
            .map(ToString::to_string),
        content_type: message
            .properties
            .content_type()
            .as_ref()
            .map(ToString::to_string),
        traceparent: message.properties.headers().as_ref().and_then(|headers| {
            let value = headers.inner().get("traceparent")?;
            Some(value.as_long_string()?.to_string())
        }),
        body: body.unwrap_or_else(|error| panic!("a reply is not JSON: {error}")),
    }
}

fn dead_letter(message: BasicGetMessage) -> DeadLetter {
    let headers = message.properties.headers().clone().unwrap_or_default();
    let header = |name: &str| headers.inner().get(name).map(text_of).unwrap_or_default();
    DeadLetter {
        message_id: message
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string),
        code: header("kiln-error-code"),
        field: header("kiln-error-field"),
        message: header("kiln-error-message"),
        body: message.delivery.data,
    }
}

fn text_of(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        AMQPValue::ShortString(text) => text.to_string(),
        other => format!("{other:?}"),
    }
}
