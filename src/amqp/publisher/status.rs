//! Owns whether a publisher gets its messages to the broker, since when, and why not.

use crate::clock;
use std::time::Instant;
use tokio::sync::watch;

/// Whether messages get to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublisherState {
    /// They do.
    Up,
    /// There is no connection, publishing isn't allowed, or what must arrive has long been refused: messages wait.
    Down(String),
    /// The broker takes no messages now, and has said why: its memory or disk is short.
    Blocked(String),
}

/// A publisher's state, and when it began.
#[derive(Debug, Clone)]
pub struct PublisherStatus {
    pub state: PublisherState,
    pub since: Instant,
}

impl PublisherStatus {
    /// Why nothing is published at the moment; nothing where it is.
    pub fn trouble(&self) -> Option<String> {
        match &self.state {
            PublisherState::Up => None,
            PublisherState::Down(reason) => Some(reason.clone()),
            PublisherState::Blocked(reason) => {
                Some(format!("the broker blocks publishers: {reason}"))
            }
        }
    }
}

/// The status of a publisher that hasn't connected yet, to be changed and to be read.
pub(super) fn channel() -> (
    watch::Sender<PublisherStatus>,
    watch::Receiver<PublisherStatus>,
) {
    watch::channel(PublisherStatus {
        state: PublisherState::Down("not connected yet".to_owned()),
        since: clock::instant(),
    })
}

/// Notes a state. Its beginning stays where only the reason has changed. Returns whether anything did.
pub(super) fn note(status: &watch::Sender<PublisherStatus>, state: PublisherState) -> bool {
    status.send_if_modified(|status| {
        if status.state == state {
            return false;
        }
        if std::mem::discriminant(&status.state) != std::mem::discriminant(&state) {
            status.since = clock::instant();
        }
        status.state = state;
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reason_is_not_another_beginning() {
        let (sender, receiver) = channel();
        let since = receiver.borrow().since;
        assert!(note(&sender, PublisherState::Down("refused".to_owned())));
        assert!(!note(&sender, PublisherState::Down("refused".to_owned())));
        assert_eq!(receiver.borrow().since, since);
        assert!(note(&sender, PublisherState::Up));
        assert!(receiver.borrow().since >= since);
        assert_eq!(receiver.borrow().state, PublisherState::Up);
    }
}
