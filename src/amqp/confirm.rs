//! Owns publishing one message with its confirmation: a channel in confirm mode, writing to it, and what the broker's answer means.
//!
//! Promises that a message is [`PublishOutcome::Confirmed`] only where the broker has a queue for it and has taken it. Refuses to
//! try again and to set deadlines for messages: that is the callers' policy. A command gives up and says so; the worker publishes
//! through its [publishers](super::publisher).

pub use super::publish_outcome::PublishOutcome;
use super::{
    confirms::Confirms,
    connection::{Broker, NoAnswer},
    headers,
    message::Message,
    returns::Answer,
};
use futures_util::future::BoxFuture;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

/// Names of queues that stand for a client which waits for a direct reply.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

impl From<Confirmation> for Answer {
    fn from(confirmation: Confirmation) -> Self {
        let taken = confirmation.is_ack();
        let carried = confirmation
            .take_message()
            .map(|message| headers::number(&message.delivery.properties));
        Self { taken, carried }
    }
}

/// A message's confirm on its way.
pub(super) type Confirming = BoxFuture<'static, Result<Answer, lapin::Error>>;

/// Opens a channel in confirm mode, within the broker's deadline.
pub(super) async fn open_channel(
    broker: &Broker,
    connection: &Connection,
) -> Result<Channel, NoAnswer> {
    let open = async {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        Ok(channel)
    };
    broker.within(open).await
}

/// Writes a message to the default exchange. On one channel, one caller at a time: lapin numbers a message and queues its frames in
/// two steps.
pub(super) async fn write(
    channel: &Channel,
    queue: ShortString,
    body: &[u8],
    properties: BasicProperties,
) -> Result<PublisherConfirm, lapin::Error> {
    // The broker delivers a direct reply and would return it all the same: there is no queue of that name.
    let mandatory = !queue.as_str().starts_with(DIRECT_REPLY);
    let options = BasicPublishOptions {
        mandatory,
        ..BasicPublishOptions::default()
    };
    channel
        .basic_publish("".into(), queue, options, body, properties)
        .await
}

/// A channel in confirm mode, for commands.
#[derive(Debug, Clone)]
pub struct ConfirmChannel {
    channel: Channel,
    frame_max: usize,
    /// The number of the last message; locked while one is written.
    last: Arc<tokio::sync::Mutex<u64>>,
    sent: Arc<Mutex<Sent>>,
}

/// The messages that were written.
#[derive(Default)]
struct Sent {
    confirms: Confirms<Confirming>,
    /// Ends that nobody has fetched yet.
    ended: HashMap<u64, Result<PublishOutcome, lapin::Error>>,
    waiting: HashMap<u64, Waker>,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sent")
    }
}

impl Sent {
    /// The end of one message. Whoever asks looks at all of them, and wakes those whose ends it finds.
    fn poll_outcome(
        &mut self,
        number: u64,
        context: &Context<'_>,
    ) -> Poll<Result<PublishOutcome, lapin::Error>> {
        if let Poll::Ready(ended) = self.confirms.poll_ended(context) {
            for (number, how) in ended {
                self.ended.insert(number, how);
                self.waiting
                    .remove(&number)
                    .into_iter()
                    .for_each(Waker::wake);
            }
        }
        match self.ended.remove(&number) {
            Some(how) => Poll::Ready(how),
            None => {
                self.waiting.insert(number, context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl ConfirmChannel {
    /// Opens one on the connection, within the broker's deadline.
    pub async fn open(broker: &Broker, connection: &Connection) -> Result<Self, NoAnswer> {
        Ok(Self {
            channel: open_channel(broker, connection).await?,
            frame_max: connection.configuration().frame_max() as usize,
            last: Arc::default(),
            sent: Arc::default(),
        })
    }

    /// The channel, for whatever else is done on it.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Writes a message to the default exchange.
    pub async fn write(&self, message: &Message) -> Result<Unconfirmed, lapin::Error> {
        let mut last = self.last.lock().await;
        *last += 1;
        let number = *last;
        let properties = headers::numbered(&message.properties, number, self.frame_max);
        let queue = message.queue.clone();
        let confirm = write(&self.channel, queue, &message.body, properties).await?;
        let answer = Box::pin(async move { Ok(Answer::from(confirm.await?)) });
        lock(&self.sent).confirms.add(number, answer);
        Ok(Unconfirmed {
            number,
            sent: self.sent.clone(),
        })
    }
}

fn lock(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message that was written, and that the broker may not have yet.
#[derive(Debug)]
#[must_use = "a message counts as sent only when it is confirmed"]
pub struct Unconfirmed {
    number: u64,
    sent: Arc<Mutex<Sent>>,
}

impl Unconfirmed {
    /// Waits for the broker's answer.
    pub async fn outcome(self) -> Result<PublishOutcome, lapin::Error> {
        std::future::poll_fn(|context| lock(&self.sent).poll_outcome(self.number, context)).await
    }
}

impl Drop for Unconfirmed {
    /// Hands the watch over: the last one that asked is the one that is woken.
    fn drop(&mut self) {
        let mut sent = lock(&self.sent);
        sent.waiting.remove(&self.number);
        if let Some(other) = sent.waiting.values().next() {
            other.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
    use tokio::sync::oneshot;

    #[test]
    fn only_an_acknowledgement_is_a_confirmation() {
        let taken = |confirmation: Confirmation| Answer::from(confirmation).taken;
        assert!(taken(Confirmation::Ack(None)));
        assert!(!taken(Confirmation::Nack(None)));
        assert!(!taken(Confirmation::NotRequested));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_in_whatever_order_the_answers_come() {
        let sent: Arc<Mutex<Sent>> = Arc::default();
        let mut answers = Vec::new();
        let mut waiting = FuturesUnordered::new();
        for number in 1..=20 {
            let (sender, receiver) = oneshot::channel::<Answer>();
            let confirm = async move { Ok(receiver.await.expect("an answer")) }.boxed();
            lock(&sent).confirms.add(number, confirm);
            let sent = sent.clone();
            waiting.push(Unconfirmed { number, sent }.outcome());
            answers.push(sender);
        }
        let answering = async {
            for sender in answers.into_iter().rev() {
                let answer = Answer {
                    taken: true,
                    carried: None,
                };
                sender.send(answer).expect("it waits");
                tokio::task::yield_now().await;
            }
        };
        let collecting = async {
            let mut outcomes = Vec::new();
            while let Some(outcome) = waiting.next().await {
                outcomes.push(outcome.expect("the channel lives"));
            }
            outcomes
        };
        let ((), outcomes) = tokio::join!(answering, collecting);
        assert_eq!(outcomes, [PublishOutcome::Confirmed; 20]);
    }
}
