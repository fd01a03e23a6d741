//! Owns publishing one message with its confirmation: a channel in confirm mode, writing to it, and what the broker's answer means.
//!
//! Promises that a message is [`PublishOutcome::Confirmed`] only where the broker has a queue for it and has taken it. Refuses to
//! try again and to set deadlines for messages: that is the callers' policy. The worker waits out a broker that blocks publishers
//! and repeats what must arrive; a command gives up and says so.

use super::{
    connection::{Broker, NoAnswer},
    message::Message,
};
use lapin::{
    Channel, Confirmation, Connection, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is in its queue, as safe as the queue is.
    Confirmed,
    /// There is no queue of that name: the broker gave it back.
    Unroutable,
    /// The queue is there and doesn't take it, for instance because it is full and rejects what comes.
    Refused,
}

impl From<Confirmation> for PublishOutcome {
    fn from(confirmation: Confirmation) -> Self {
        match confirmation {
            Confirmation::Ack(None) => Self::Confirmed,
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Self::Unroutable,
            Confirmation::Nack(None) | Confirmation::NotRequested => Self::Refused,
        }
    }
}

/// A channel in confirm mode.
#[derive(Debug, Clone)]
pub struct ConfirmChannel(Channel);

impl ConfirmChannel {
    /// Opens one on the connection, within the broker's deadline.
    pub async fn open(broker: &Broker, connection: &Connection) -> Result<Self, NoAnswer> {
        let open = async {
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok(Self(channel))
        };
        broker.within(open).await
    }

    /// The channel, for whatever else is done on it.
    pub fn channel(&self) -> &Channel {
        &self.0
    }

    /// Writes a message to the default exchange.
    pub async fn write(&self, message: &Message) -> Result<Unconfirmed, lapin::Error> {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let write = self.0.basic_publish(
            "".into(),
            message.queue.clone(),
            options,
            &message.body,
            message.properties.clone(),
        );
        Ok(Unconfirmed(write.await?))
    }
}

/// A message that was written, and that the broker may not have yet.
#[derive(Debug)]
#[must_use = "a message counts as sent only when it is confirmed"]
pub struct Unconfirmed(PublisherConfirm);

impl Unconfirmed {
    /// Waits for the broker's answer.
    pub async fn outcome(self) -> Result<PublishOutcome, lapin::Error> {
        Ok(self.0.await?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_acknowledgement_is_a_confirmation() {
        let outcome = |confirmation: Confirmation| PublishOutcome::from(confirmation);
        assert_eq!(outcome(Confirmation::Ack(None)), PublishOutcome::Confirmed);
        assert_eq!(outcome(Confirmation::Nack(None)), PublishOutcome::Refused);
        assert_eq!(outcome(Confirmation::NotRequested), PublishOutcome::Refused);
    }
}
