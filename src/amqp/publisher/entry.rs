//! Owns a message from its hand-over to its end.
//!
//! Promises that whoever handed it over hears of its end once, and that one which nobody waits for any more is known as such.

use crate::amqp::{brief::Brief, message::Message};
use lapin::{BasicProperties, types::ShortString};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The broker has it.
    Sent,
    /// The broker has what stands in for it.
    SentBrief,
    /// There is no queue of that name.
    Unroutable,
    /// Its queue doesn't take it, or it may not be published.
    Refused,
    /// Its queue didn't confirm it in time.
    Unconfirmed,
    /// The broker takes no message of this size.
    TooLarge,
}

/// A message that was handed over.
#[derive(Debug)]
pub(super) struct Entry {
    pub queue: ShortString,
    pub body: Arc<Vec<u8>>,
    pub properties: BasicProperties,
    /// Tries that its queue refused.
    pub tries: u32,
    /// Channels that were given up because it was refused there.
    pub renewals: u32,
    /// How often the broker closed a channel on which it was in flight beside others.
    pub suspected: u32,
    /// Whether a connection was given up because it wasn't confirmed there.
    pub was_overdue: bool,
    brief: Option<Brief>,
    is_brief: bool,
    end: oneshot::Sender<End>,
}

impl Entry {
    /// A message, and who waits for its end.
    pub(super) fn new(message: Message, end: oneshot::Sender<End>) -> Self {
        Self {
            queue: message.queue,
            body: Arc::new(message.body),
            properties: message.properties,
            tries: 0,
            renewals: 0,
            suspected: 0,
            was_overdue: false,
            brief: message.brief,
            is_brief: message.is_brief,
            end,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether nobody waits for its end any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.end.is_closed()
    }

    /// Puts what stands in for it in its stead; false where there is nothing.
    pub(super) fn shorten(&mut self) -> bool {
        let Some(brief) = self.brief.take() else {
            return false;
        };
        brief.put(&mut self.body, &mut self.properties);
        self.is_brief = true;
        true
    }

    /// How it ends when the broker confirms it.
    pub(super) fn confirmed(&self) -> End {
        if self.is_brief {
            End::SentBrief
        } else {
            End::Sent
        }
    }

    /// Ends it.
    pub(super) fn end(self, end: End) {
        // Whoever waited may have stopped waiting just now.
        let _withdrawn = self.end.send(end);
    }
}
