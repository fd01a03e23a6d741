//! Owns looking through the dead letters one by one.
//!
//! Promises that a letter leaves the queue only by [`DeadLetterScan::remove`]: whatever else happens, to this process
//! or its connection, the broker puts the letters back. Looks at no more letters than there were at the
//! start, so that a replayed letter that comes back isn't met again.

use super::{
    connection::{Broker, ConnectError, NoAnswer},
    topology::{TopologyError, inspect},
};
use lapin::{
    Acker, Channel, Connection,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
};
use std::time::{Duration, Instant};

/// Longest wait for letters that were put back to be seen in their queue.
const RETURN: Duration = Duration::from_secs(2);
/// Time between two questions how many letters wait.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why the letters can't be looked through.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("the broker at {host} can't be reached: {reason}")]
    Unreachable { host: String, reason: ConnectError },
    #[error("there is no queue `{0}`: `kiln run` declares it when it starts")]
    NoQueue(String),
    #[error("{0}")]
    Queue(#[from] TopologyError),
    #[error("{doing}: {reason}")]
    NoAnswer {
        doing: &'static str,
        reason: NoAnswer,
    },
    #[error("the connection to the broker was lost")]
    Lost,
}

fn while_doing(doing: &'static str) -> impl Fn(NoAnswer) -> DeadLetterError {
    move |reason| DeadLetterError::NoAnswer { doing, reason }
}

/// The queue of dead letters, and the letters of it that are held.
pub struct DeadLetterScan {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    queue: String,
    /// Letters that were there at the start.
    pub waiting: u32,
    /// Letters taken since.
    pub seen: u32,
    /// The last letter that goes back, and how many there are.
    last_held: Option<HeldDelivery>,
    held: u32,
    max_held: u32,
}

/// A letter that was taken and is neither removed nor put back yet.
pub struct HeldDelivery {
    tag: u64,
    acker: Acker,
}

impl From<Delivery> for HeldDelivery {
    fn from(letter: Delivery) -> Self {
        Self {
            tag: letter.delivery_tag,
            acker: letter.acker,
        }
    }
}

impl DeadLetterScan {
    /// Opens the queue; at most `max_held` letters are held, to go back.
    pub async fn open(
        broker: &Broker,
        queue: &str,
        max_held: u32,
    ) -> Result<Self, DeadLetterError> {
        let connection = broker.connect("dead").await;
        let connection = connection.map_err(|reason| DeadLetterError::Unreachable {
            host: broker.host(),
            reason,
        })?;
        let Some(seen) = inspect(&connection, queue, broker.timeout()).await? else {
            return Err(DeadLetterError::NoQueue(queue.to_owned()));
        };
        let channel = broker
            .within(connection.create_channel())
            .await
            .map_err(while_doing("opening a channel"))?;
        Ok(Self {
            broker: broker.clone(),
            connection,
            channel,
            queue: queue.to_owned(),
            waiting: seen.messages,
            seen: 0,
            last_held: None,
            held: 0,
            max_held,
        })
    }

    /// The next letter; `None` where all were seen or as many are held as may be.
    pub async fn next(&mut self) -> Result<Option<Delivery>, DeadLetterError> {
        if self.seen >= self.waiting || self.is_full() {
            return Ok(None);
        }
        let get = self
            .channel
            .basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let got = self
            .broker
            .within(get)
            .await
            .map_err(while_doing("taking a dead letter"))?;
        self.seen += u32::from(got.is_some());
        Ok(got.map(|got| got.delivery))
    }

    /// Whether no more letters may be held.
    pub fn is_full(&self) -> bool {
        self.held >= self.max_held
    }

    /// Holds a letter until the end; it goes back in [`DeadLetterScan::close`].
    pub fn hold(&mut self, letter: impl Into<HeldDelivery>) {
        let letter = letter.into();
        self.held += 1;
        // Acknowledgements that say "and all before" go by the order of delivery.
        self.last_held = Some(match self.last_held.take() {
            Some(last) if last.tag > letter.tag => last,
            _ => letter,
        });
    }

    /// Removes a letter from the queue for good; certain only once [`DeadLetterScan::close`] has succeeded.
    pub async fn remove(&self, letter: &HeldDelivery) -> Result<(), DeadLetterError> {
        let ack = letter.acker.ack(BasicAckOptions::default());
        let taken = self
            .broker
            .within(ack)
            .await
            .map_err(while_doing("removing a dead letter"))?;
        if !taken {
            return Err(DeadLetterError::Lost);
        }
        Ok(())
    }

    /// Puts back what was held. When it succeeds, the broker has heard of every removal.
    pub async fn close(self) -> Result<(), DeadLetterError> {
        let goodbye = async {
            if let Some(last) = &self.last_held {
                let options = BasicNackOptions {
                    multiple: true,
                    requeue: true,
                };
                last.acker.nack(options).await?;
            }
            // Answered only after everything before it on this channel was taken in.
            self.channel.close(200, "done".into()).await
        };
        self.broker
            .within(goodbye)
            .await
            .map_err(while_doing("putting the letters back"))?;
        // The queue takes them back a moment later; whoever looks next should see them. That others take or
        // bring letters meanwhile must not hold this up.
        self.returned().await;
        let goodbye = self.connection.close(200, "done".into());
        let _gone_too = tokio::time::timeout(GOODBYE, goodbye).await;
        Ok(())
    }

    /// Returns when as many letters wait as were held or not reached, or after a while. No question is cut short: its answer would come to a connection
    /// that is closing.
    async fn returned(&self) {
        let begun = Instant::now();
        let expected = self.held + (self.waiting - self.seen);
        while begun.elapsed() < RETURN
            && let Ok(Some(seen)) =
                inspect(&self.connection, &self.queue, self.broker.timeout()).await
            && seen.messages < expected
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
