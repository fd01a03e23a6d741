//! Owns looking through the dead letters one by one.
//!
//! Promises that a letter leaves the queue only by [`DeadLetterScan::remove`]: whatever else happens, to this process
//! or its connection, the broker puts the letters back. Looks at no more letters than there were at the
//! start, so that a replayed letter that comes back isn't met again.

use crate::{
    amqp::{connection::Broker, topology::inspect},
    cli::post::{close, connect},
};
use anyhow::{Context, bail};
use lapin::{
    Acker, Channel, Connection,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
};
use std::time::Duration;

/// Longest wait for letters that were put back to be seen in their queue.
const RETURN: Duration = Duration::from_secs(2);
/// Time between two questions how many letters wait.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The queue of dead letters, and the letters of it that are held.
pub(super) struct DeadLetterScan {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    queue: String,
    /// Letters that were there at the start.
    pub(super) waiting: u32,
    /// Letters taken since.
    pub(super) seen: u32,
    /// The last letter that goes back, and how many there are.
    last_held: Option<HeldDelivery>,
    held: u32,
    max_held: u32,
}

/// A letter that was taken and is neither removed nor put back yet.
pub(super) struct HeldDelivery {
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
    pub(super) async fn open(broker: &Broker, queue: &str, max_held: u32) -> anyhow::Result<Self> {
        let connection = connect(broker, "dead").await?;
        let Some(seen) = inspect(&connection, queue, broker.timeout()).await? else {
            bail!("there is no queue `{queue}`: `kiln run` declares it when it starts");
        };
        let channel = broker
            .within(connection.create_channel())
            .await
            .context("opening a channel")?;
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
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Delivery>> {
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
            .context("taking a dead letter")?;
        self.seen += u32::from(got.is_some());
        Ok(got.map(|got| got.delivery))
    }

    /// Whether no more letters may be held.
    pub(super) fn is_full(&self) -> bool {
        self.held >= self.max_held
    }

    /// Holds a letter until the end; it goes back in [`DeadLetterScan::close`].
    pub(super) fn hold(&mut self, letter: impl Into<HeldDelivery>) {
        let letter = letter.into();
        self.held += 1;
        // Acknowledgements that say "and all before" go by the order of delivery.
        self.last_held = Some(match self.last_held.take() {
            Some(last) if last.tag > letter.tag => last,
            _ => letter,
        });
    }

    /// Removes a letter from the queue for good; certain only once [`DeadLetterScan::close`] has succeeded.
    pub(super) async fn remove(&self, letter: &HeldDelivery) -> anyhow::Result<()> {
        let ack = letter.acker.ack(BasicAckOptions::default());
        let taken = self
            .broker
            .within(ack)
            .await
            .context("removing a dead letter")?;
        if !taken {
            bail!("the connection to the broker was lost");
        }
        Ok(())
    }

    /// Puts back what was held. When it succeeds, the broker has heard of every removal.
    pub(super) async fn close(self) -> anyhow::Result<()> {
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
            .context("putting the letters back")?;
        // The queue takes them back a moment later; whoever looks next should see them. That others take or
        // bring letters meanwhile must not hold this up.
        let _others_may_have_them = tokio::time::timeout(RETURN, self.returned()).await;
        close(&self.connection).await;
        Ok(())
    }

    /// Returns when as many letters wait as were held or not reached.
    async fn returned(&self) {
        let expected = self.held + (self.waiting - self.seen);
        while let Ok(Some(seen)) =
            inspect(&self.connection, &self.queue, self.broker.timeout()).await
            && seen.messages < expected
        {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}
