//! Whether jobs that were posted are nowhere any more, as where somebody purges their queue or a broker loses it. Pure: takes the time.
//!
//! A job that is neither done nor in its queue is in some worker's hand, or waits to be tried again. What is in neither for longer than that takes is
//! lost. A mistake costs little: what is posted again has its scores by then.

use crate::config::Settings;
use std::time::Duration;
use tokio::time::Instant;

/// How many times as long as a claim lasts unrenewed a job may be in a worker's hand.
const SILENT: u32 = 4;

/// What is known of the queue of those that wait.
#[derive(Debug)]
pub(super) struct Lost {
    patience: Duration,
    /// Since when it was empty each time that it was looked at.
    empty_since: Option<Instant>,
    /// Whether some are lost.
    pub is_found: bool,
}

impl Lost {
    /// A job may wait for its next try, and be in the hand of a worker that is silent for longer than any that lives.
    pub(super) fn of(settings: &Settings) -> Self {
        let delays = settings.retry.delays_ms.iter().copied();
        let silent = Duration::from_secs(settings.warm.claim_seconds);
        Self::new(Duration::from_millis(delays.max().unwrap_or_default()) + silent * SILENT)
    }

    /// Nothing is lost that hasn't waited for so long.
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            empty_since: None,
            is_found: false,
        }
    }

    /// Whether the queue is to be looked at, where something has waited for so long.
    pub(super) fn wants_to_know(&mut self, waits: Duration) -> bool {
        let wants = !self.is_found && waits >= self.patience / 2;
        if !wants {
            self.empty_since = None;
        }
        wants
    }

    /// The queue was looked at, and had so many jobs, as far as the broker answered: whether what has waited for so long is lost.
    pub(super) fn finds(&mut self, queued: Option<u32>, waits: Duration, now: Instant) -> bool {
        if queued != Some(0) {
            self.empty_since = None;
            return false;
        }
        let since = *self.empty_since.get_or_insert(now);
        self.is_found = waits >= self.patience && now.duration_since(since) >= self.patience / 2;
        self.is_found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_lost_once_its_queue_has_been_empty_for_long() {
        let (mut lost, start) = (Lost::new(Duration::from_secs(100)), Instant::now());
        let seconds = Duration::from_secs;
        assert!(!lost.wants_to_know(seconds(49)) && lost.wants_to_know(seconds(50)));
        let mut look = |queued, at| lost.finds(queued, seconds(at), start + seconds(at));
        assert!(!look(Some(0), 60) && !look(Some(0), 109));
        assert!(look(Some(0), 110));
        assert!(!look(Some(1), 111), "one is there");
        assert!(!look(Some(0), 112) && !look(Some(0), 161));
        assert!(!look(None, 162), "nobody knows");
        assert!(!look(Some(0), 163) && look(Some(0), 213));
    }
}
