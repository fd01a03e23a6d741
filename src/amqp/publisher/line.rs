//! Owns what waits for one queue and is on its way there, and decides what the next of it may do. Pure.
//!
//! Promises that a queue which confirms slowly, or not at all, has a bounded share of what is unconfirmed, and stops nobody else.

use super::{
    entry::{End, Entry},
    verdict::{Standing, Why},
};
use crate::backoff::Backoff;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Messages to one queue that may be unconfirmed together.
pub(super) const SHARE: usize = 256;
/// Bytes of them; a larger message is alone.
pub(super) const SHARE_BYTES: usize = 8 << 20;

/// The messages for one queue.
#[derive(Debug)]
pub(super) struct Line {
    pub waiting: VecDeque<Entry>,
    /// Unconfirmed messages, and their bytes.
    pub in_flight: usize,
    pub bytes: usize,
    /// Of those in flight, the ones that have been so for long.
    pub late: usize,
    /// Messages that are to be tried alone, or just are.
    pub alone: usize,
    /// Messages that rest until their next try.
    pub resting: usize,
    /// Messages that were given up unconfirmed, and may be confirmed yet.
    pub abandoned: usize,
    pub standing: Standing,
    /// When the first is tried again; for messages that must arrive.
    pub retry_at: Option<Instant>,
    pub backoff: Backoff,
    /// Whether it stands in the queue of lines that may have a turn.
    pub is_queued: bool,
}

/// What the next message of a line may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Be published beside others.
    Main,
    /// Be published alone.
    Alone,
    /// Wait until something else has happened.
    Wait,
    /// End, and all behind it.
    End(End),
}

impl Default for Line {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: 0,
            bytes: 0,
            late: 0,
            alone: 0,
            resting: 0,
            abandoned: 0,
            standing: Standing::Taking,
            retry_at: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
            is_queued: false,
        }
    }
}

impl Line {
    /// What the next message, of `bytes`, may do.
    pub(super) fn step(&self, must_arrive: bool, bytes: usize, now: Instant) -> Step {
        let refusing = match self.standing {
            Standing::Taking => None,
            Standing::Refusing(why) => Some(why),
        };
        match refusing {
            // The ones before show whether it takes messages again: their confirms do, or their trial.
            Some(Why::Silent) if !must_arrive && self.abandoned > 0 => {
                return Step::End(End::Unconfirmed);
            }
            Some(Why::Closing) if !must_arrive && self.alone > 0 => return Step::End(End::Refused),
            Some(_) if must_arrive => {
                let others = self.in_flight + self.alone + self.abandoned;
                if others > 0 || self.retry_at.is_some_and(|at| at > now) {
                    return Step::Wait;
                }
            }
            // A full queue isn't asked for all that waits before it is known to be full.
            None if must_arrive && self.resting >= SHARE => return Step::Wait,
            _ => {}
        }
        let is_full = self.in_flight >= SHARE || self.bytes + bytes > SHARE_BYTES;
        if self.late > 0 || (self.in_flight > 0 && is_full) {
            Step::Wait
        } else if refusing == Some(Why::Closing) {
            Step::Alone
        } else {
            Step::Main
        }
    }

    /// Whether nothing is known of it that matters.
    pub(super) fn is_idle(&self) -> bool {
        let unfinished = self.in_flight + self.alone + self.resting + self.abandoned;
        self.waiting.is_empty() && unfinished == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &Line, must_arrive: bool) -> Step {
        line.step(must_arrive, 1_000, Instant::now())
    }

    #[test]
    fn a_line_has_its_share_and_no_more() {
        let mut line = Line::default();
        assert_eq!(step(&line, false), Step::Main);
        line.in_flight = SHARE - 1;
        assert_eq!(step(&line, false), Step::Main);
        line.in_flight = SHARE;
        assert_eq!(step(&line, false), Step::Wait);
        (line.in_flight, line.bytes) = (1, SHARE_BYTES);
        assert_eq!(step(&line, false), Step::Wait);
        line.in_flight = 0;
        assert_eq!(step(&line, false), Step::Main, "a large one is alone");
        (line.in_flight, line.bytes, line.late) = (1, 1, 1);
        assert_eq!(step(&line, false), Step::Wait, "it is slow just now");
        line = Line::default();
        line.resting = SHARE;
        assert_eq!(step(&line, true), Step::Wait, "it refused a share of them");
        assert_eq!(step(&line, false), Step::Main);
    }

    #[test]
    fn replies_are_not_held_up_by_a_queue_that_refuses_them() {
        let refusing = |why| Line {
            standing: Standing::Refusing(why),
            ..Line::default()
        };
        assert_eq!(step(&refusing(Why::Full), false), Step::Main);
        assert_eq!(step(&refusing(Why::Gone), false), Step::Main);
        assert_eq!(step(&refusing(Why::Closing), false), Step::Alone);
        let mut line = refusing(Why::Closing);
        line.alone = 1;
        assert_eq!(step(&line, false), Step::End(End::Refused));
        let mut line = refusing(Why::Silent);
        assert_eq!(step(&line, false), Step::Main);
        (line.abandoned, line.late) = (1, 1);
        assert_eq!(step(&line, false), Step::End(End::Unconfirmed));
    }

    #[test]
    fn what_must_arrive_is_tried_one_by_one_where_it_is_refused() {
        for (why, wanted) in [
            (Why::Full, Step::Main),
            (Why::Gone, Step::Main),
            (Why::Closing, Step::Alone),
            (Why::Silent, Step::Main),
        ] {
            let mut line = Line {
                standing: Standing::Refusing(why),
                ..Line::default()
            };
            assert_eq!(step(&line, true), wanted, "{why:?}");
            line.retry_at = Some(Instant::now() + Duration::from_secs(5));
            assert_eq!(step(&line, true), Step::Wait, "{why:?}");
            line.retry_at = None;
            line.in_flight = 1;
            assert_eq!(step(&line, true), Step::Wait, "{why:?}");
        }
    }
}
