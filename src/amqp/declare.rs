//! Owns asking the broker about queues and declaring what it lacks, each time on a channel of its own: a refusal costs the channel.
//!
//! Refuses to know names and arguments: those are the [topology](super::topology)'s.

use crate::redact::{self, Redact};
use lapin::{Channel, Connection, ErrorKind, options::QueueDeclareOptions, types::FieldTable};
use std::time::Duration;

/// AMQP's reply code for what exists with other arguments.
pub(super) const PRECONDITION_FAILED: u16 = 406;
/// AMQP's reply code for what doesn't exist.
pub(super) const NOT_FOUND: u16 = 404;
/// How RabbitMQ says with the same code that a classic queue exists, on a node that is away.
const HOME_IS_AWAY: &str = "inaccessible";

/// Why the queues can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A queue exists with other arguments: nothing that waiting mends.
    #[error(
        "queue `{queue}` exists with other arguments than Kiln's ({detail}); \
         delete it once it is empty, or name another one under [queues]"
    )]
    Mismatch { queue: String, detail: String },
    /// The broker can't be asked now.
    #[error("queue `{queue}`: {detail}")]
    Unavailable { queue: String, detail: String },
}

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages that wait to be delivered.
    pub messages: u32,
    pub consumers: u32,
}

/// Looks at a queue without changing it; `None` where there is none.
pub async fn inspect(
    connection: &Connection,
    queue: &str,
    timeout: Duration,
) -> Result<Option<Seen>, TopologyError> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    match attempt(connection, queue, options, &FieldTable::default(), timeout).await {
        Ok(seen) => Ok(Some(seen)),
        Err(Refusal::Replied(NOT_FOUND, detail)) if !detail.contains(HOME_IS_AWAY) => Ok(None),
        Err(refusal) => Err(refusal.unavailable(queue)),
    }
}

/// Why a declaration failed.
pub(super) enum Refusal {
    /// The broker's reply code and text.
    Replied(u16, String),
    /// The connection or channel failed, or nothing came in time.
    Silent(String),
}

impl Refusal {
    /// The same as what may be tried again.
    pub(super) fn unavailable(self, queue: &str) -> TopologyError {
        let (Self::Replied(_, detail) | Self::Silent(detail)) = self;
        TopologyError::Unavailable {
            queue: queue.to_owned(),
            detail,
        }
    }
}

/// Declares on a channel of its own: a refusal costs the channel.
pub(super) async fn attempt(
    connection: &Connection,
    queue: &str,
    options: QueueDeclareOptions,
    arguments: &FieldTable,
    timeout: Duration,
) -> Result<Seen, Refusal> {
    let declare = |channel: Channel| async move {
        let declared = channel.queue_declare(queue.into(), options, arguments.clone());
        let queue = declared.await?;
        Ok(Seen {
            messages: queue.message_count(),
            consumers: queue.consumer_count(),
        })
    };
    on_own_channel(connection, timeout, declare).await
}

/// Works on a channel of its own, which is closed afterwards.
pub(super) async fn on_own_channel<T, W>(
    connection: &Connection,
    timeout: Duration,
    work: impl FnOnce(Channel) -> W,
) -> Result<T, Refusal>
where
    W: Future<Output = Result<T, lapin::Error>>,
{
    let work = async {
        let channel = connection.create_channel().await?;
        let done = work(channel.clone()).await?;
        channel.close(200, "declared".into()).await?;
        Ok::<_, lapin::Error>(done)
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(e) => {
                Refusal::Replied(e.get_id(), redact::reply(e.get_message().as_str()))
            }
            _ => Refusal::Silent(error.redacted()),
        }),
        Err(_) => Err(Refusal::Silent(format!(
            "no answer within {} ms",
            timeout.as_millis()
        ))),
    }
}

/// The same on a channel that is open already; where there is no such queue, the channel is closed by that.
pub async fn look(channel: &Channel, queue: &str) -> Result<Option<Seen>, lapin::Error> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    match declared.await {
        Ok(queue) => Ok(Some(Seen {
            messages: queue.message_count(),
            consumers: queue.consumer_count(),
        })),
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(e) if e.get_id() == NOT_FOUND => Ok(None),
            _ => Err(error),
        },
    }
}
