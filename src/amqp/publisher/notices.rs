//! Owns the log lines about queues that don't take messages, and those that do again.
//!
//! Promises one line for each change, and a bounded number of lines a minute whatever changes: what isn't logged is counted on the
//! next line.

use super::verdict::Why;
use lapin::types::ShortString;
use std::time::{Duration, Instant};

/// Lines in a minute.
const LINES: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Refuses(ShortString, Why),
    Takes(ShortString),
    /// The broker takes no larger messages.
    Limit(usize),
}

/// What was logged lately.
#[derive(Debug, Default)]
pub(super) struct Notices {
    begun: Option<Instant>,
    lines: u32,
    /// Changes without a line.
    left_out: u64,
}

impl Notices {
    /// Logs a change, or counts it.
    pub(super) fn log(&mut self, change: &Change, must_arrive: bool, now: Instant) {
        let Some(left_out) = self.line(now) else {
            return;
        };
        match change {
            Change::Refuses(queue, why) => {
                let (queue, reason) = (queue.as_str(), why.as_str());
                if must_arrive {
                    tracing::warn!(
                        queue,
                        reason,
                        left_out,
                        "a queue doesn't take messages; they wait"
                    );
                } else if *why == Why::Gone {
                    tracing::info!(
                        queue,
                        left_out,
                        "a reply queue is gone; replies to it are dropped"
                    );
                } else {
                    tracing::warn!(
                        queue,
                        reason,
                        left_out,
                        "a reply queue doesn't take replies; they are dropped"
                    );
                }
            }
            Change::Takes(queue) => {
                let queue = queue.as_str();
                tracing::info!(queue, left_out, "a queue takes messages again");
            }
            Change::Limit(max_bytes) => tracing::warn!(
                max_bytes,
                left_out,
                "the broker takes no larger messages; set reply.max_bytes and intake.max_body_bytes by its max_message_size"
            ),
        }
    }

    /// A line, with how many changes had none before; nothing where there were enough.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.begun.is_none_or(|begun| begun + MINUTE <= now) {
            (self.begun, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_is_left_out_is_counted() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        let lines = (0..1_000).filter(|_| notices.line(now).is_some()).count();
        assert_eq!(lines, 20);
        assert_eq!(notices.line(now + MINUTE), Some(980));
        assert_eq!(notices.line(now + MINUTE), Some(0));
    }
}
