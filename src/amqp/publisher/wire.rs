//! Owns one channel of a publisher: what is written to it, and its confirms.

use super::{outbox::Outgoing, verdict::Closing};
use crate::amqp::{
    confirm::{self, Confirming},
    confirms::{Confirms, Ended},
    connection::{Broker, NoAnswer},
    headers,
    returns::Answer,
};
use crate::redact;
use futures_util::{FutureExt, future::BoxFuture};
use lapin::{Channel, Connection, ErrorKind, PublisherConfirm, options::ConfirmSelectOptions};
use std::{future::poll_fn, task::Poll};
use tokio::sync::oneshot;

/// Why a message has no answer.
#[derive(Debug)]
pub(super) enum Cause {
    /// The broker closed the channel.
    Closed(Closing),
    /// The channel was closing already when it was to be written.
    Unsent,
    /// The connection is lost.
    Lost(lapin::Error),
}

impl From<lapin::Error> for Cause {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) if error.is_amqp_soft_error() => Self::Closed(Closing {
                code: said.get_id(),
                text: redact::reply(said.get_message().as_str()),
            }),
            ErrorKind::InvalidChannelState(..) => Self::Unsent,
            _ => Self::Lost(error),
        }
    }
}

/// A channel in confirm mode.
pub(super) struct Wire {
    channel: Channel,
    frame_max: usize,
    confirms: Confirms<Confirming>,
}

impl Wire {
    pub(super) async fn open(broker: &Broker, connection: &Connection) -> Result<Self, NoAnswer> {
        Ok(Self {
            channel: confirm::open_channel(broker, connection).await?,
            frame_max: connection.configuration().frame_max() as usize,
            confirms: Confirms::default(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Publishes a message: its frames are queued when its confirm is first looked at.
    pub(super) fn publish(&mut self, message: Outgoing) {
        let number = message.number;
        let write = self.write(message);
        let confirm = async move { Ok(Answer::from(write.await?.await?)) };
        self.confirms.add(number, confirm.boxed());
    }

    /// Publishes a message. The future ends well when the broker has worked through it, which it has when it answers what came after;
    /// the message's confirm may take longer: that is its queue's.
    pub(super) fn try_alone(
        &mut self,
        message: Outgoing,
    ) -> BoxFuture<'static, Result<(), lapin::Error>> {
        let number = message.number;
        let write = self.write(message);
        let (written, is_written) = oneshot::channel();
        let confirm = async move {
            let confirm = write.await?;
            let _nobody_asks = written.send(());
            Ok(Answer::from(confirm.await?))
        };
        self.confirms.add(number, confirm.boxed());
        let channel = self.channel.clone();
        let cleared = async move {
            // Not before: lapin lets a question overtake messages that it hasn't written. Where it never is, the question fails.
            let _never_written = is_written.await;
            let options = ConfirmSelectOptions::default();
            channel.confirm_select(options).await
        };
        cleared.boxed()
    }

    /// The next messages that ended.
    pub(super) async fn ended(&mut self) -> Ended<lapin::Error> {
        poll_fn(|context| self.confirms.poll_ended(context)).await
    }

    fn write(
        &self,
        message: Outgoing,
    ) -> impl Future<Output = Result<PublisherConfirm, lapin::Error>> + Send + use<> {
        let Outgoing {
            number,
            queue,
            body,
            properties,
        } = message;
        let properties = headers::numbered(&properties, number, self.frame_max);
        let channel = self.channel.clone();
        async move { confirm::write(&channel, queue, &body, properties).await }
    }
}

/// The next messages that ended on a channel that may not be there.
pub(super) async fn ended(wire: &mut Option<Wire>) -> Ended<lapin::Error> {
    match wire {
        Some(wire) => wire.ended().await,
        None => poll_fn(|_| Poll::Pending).await,
    }
}
