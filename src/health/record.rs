//! Decides which changes of a part are logged.
//!
//! Pure: the time is passed in. Promises that a part which changes all the time costs a bounded number of lines, and that the state in
//! which it comes to rest is logged in the end.

use super::state::PartState;
use std::time::Duration;

/// Lines that may follow each other at once.
const BURST: u32 = 6;
/// How often a part that has used them up may log another one.
const REFILL: Duration = Duration::from_secs(300);
/// How often another reason for the same state is logged, whatever becomes of it.
const REASONS: Duration = Duration::from_secs(60);
/// How long another reason has to stay the same to be logged at once, and how many of them may be until the state changes.
const STEADY: Duration = Duration::from_secs(2);
const STEADY_ONES: u32 = 3;

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub before: PartState,
    pub now: PartState,
    pub reason: String,
    /// Changes before this one that were not logged.
    pub unlogged: u32,
    /// Further changes will be logged seldom.
    pub is_last: bool,
}

/// What was logged of a part.
#[derive(Debug)]
pub(super) struct Record {
    state: PartState,
    reason: String,
    at: Duration,
    /// The latest reason, since when, and how many were logged for having stayed the same.
    latest: (String, Duration),
    steady: u32,
    /// The state at the last look, logged or not.
    seen: PartState,
    unlogged: u32,
    left: u32,
    refilled: Duration,
}

impl Record {
    pub(super) fn new(state: PartState) -> Self {
        Self {
            state,
            reason: String::new(),
            at: Duration::ZERO,
            latest: (String::new(), Duration::ZERO),
            steady: 0,
            seen: state,
            unlogged: 0,
            left: BURST,
            refilled: Duration::ZERO,
        }
    }

    /// The line for this state, if one is due.
    pub(super) fn line(&mut self, state: PartState, reason: &str, now: Duration) -> Option<Line> {
        let changed = std::mem::replace(&mut self.seen, state) != state;
        self.refill(now);
        let other_state = state != self.state;
        if self.latest.0 != reason {
            self.latest = (reason.to_owned(), now);
        }
        let is_steady = now.saturating_sub(self.latest.1) >= STEADY && self.steady < STEADY_ONES;
        let is_due = is_steady || now.saturating_sub(self.at) >= REASONS;
        let other_reason = reason != self.reason && is_due;
        if self.state == PartState::Unknown && state == PartState::Works {
            // What works from the start is no news.
            self.state = state;
            self.at = now;
            return None;
        }
        if !other_state && !other_reason {
            self.unlogged += u32::from(changed);
            return None;
        }
        if self.left == 0 {
            self.unlogged += u32::from(changed);
            return None;
        }
        self.left -= 1;
        self.steady = match (other_state, is_steady) {
            (true, _) => 0,
            (false, steady) => self.steady + u32::from(steady),
        };
        let line = Line {
            before: self.state,
            now: state,
            reason: reason.to_owned(),
            unlogged: std::mem::take(&mut self.unlogged),
            is_last: self.left == 0,
        };
        self.state = state;
        reason.clone_into(&mut self.reason);
        self.at = now;
        Some(line)
    }

    fn refill(&mut self, now: Duration) {
        while self.left < BURST && now.saturating_sub(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests;
