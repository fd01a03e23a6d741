//! Owns looking through the dead letters one by one.
//!
//! Promises that a letter leaves the queue only by [`Desk::remove`]: whatever else happens, to this process
//! or its connection, the broker puts the letters back. Looks at no more letters than there were at the
//! start, so that a replayed letter that comes back isn't met again.

use crate::{
    amqp::{connection::Broker, topology::look},
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
/// Time between two looks at the queue.
const LOOK: Duration = Duration::from_millis(10);

/// The queue of dead letters, and the letters of it that are in hand.
pub(super) struct Desk {
    broker: Broker,
    connection: Connection,
    channel: Channel,
    queue: String,
    /// Letters that were there at the start.
    pub(super) waiting: u32,
    /// Letters taken since.
    pub(super) seen: u32,
    /// The last letter that goes back, and how many there are.
    kept: Option<Hand>,
    held: u32,
    most: u32,
}

/// A letter in hand.
pub(super) struct Hand {
    tag: u64,
    acker: Acker,
}

impl From<Delivery> for Hand {
    fn from(letter: Delivery) -> Self {
        Self {
            tag: letter.delivery_tag,
            acker: letter.acker,
        }
    }
}

impl Desk {
    /// Opens the queue; at most `most` letters are kept in hand, to go back.
    pub(super) async fn open(broker: &Broker, queue: &str, most: u32) -> anyhow::Result<Self> {
        let connection = connect(broker, "dead").await?;
        let Some(seen) = look(&connection, queue, broker.timeout()).await? else {
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
            kept: None,
            held: 0,
            most,
        })
    }

    /// The next letter; `None` where all were seen or as many are kept as may be.
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

    /// Whether no more letters may be kept.
    pub(super) fn is_full(&self) -> bool {
        self.held >= self.most
    }

    /// Keeps a letter in hand; it goes back in [`Desk::close`].
    pub(super) fn keep(&mut self, letter: impl Into<Hand>) {
        let letter = letter.into();
        self.held += 1;
        // Acknowledgements that say "and all before" go by the order of delivery.
        self.kept = Some(match self.kept.take() {
            Some(kept) if kept.tag > letter.tag => kept,
            _ => letter,
        });
    }

    /// Removes a letter from the queue for good; certain only once [`Desk::close`] has succeeded.
    pub(super) async fn remove(&self, letter: &Hand) -> anyhow::Result<()> {
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

    /// Puts back what was kept. When it succeeds, the broker has heard of every removal.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        let goodbye = async {
            if let Some(last) = &self.kept {
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

    /// Returns when as many letters wait as were kept or not reached.
    async fn returned(&self) {
        let expected = self.held + (self.waiting - self.seen);
        while let Ok(Some(seen)) = look(&self.connection, &self.queue, self.broker.timeout()).await
            && seen.messages < expected
        {
            tokio::time::sleep(LOOK).await;
        }
    }
}
