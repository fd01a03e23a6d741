//! Decides the state of one part from what is reported of it, and when.
//!
//! Pure: the time is passed in, as the time since the start. Promises that a part which fails for less than its policy's patience is
//! never shown as failing, and that one which failed is shown as working only after it has worked for as long as its policy says.

use super::{
    policy::Policy,
    record::{Line, Record},
    state::PartState,
};
use std::time::Duration;

/// Longest reason that is kept, in characters.
const REASON_CHARS: usize = 400;

/// Who reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// What jobs themselves did, or the part's owner.
    Work,
    /// A check, made only to learn how the part is.
    Check,
}

/// What is reported.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    Works,
    Fails {
        /// When the attempt that failed began.
        since: Duration,
        /// `Down` or `Degraded`.
        state: PartState,
        reason: &'a str,
    },
}

/// Failures that no success interrupted.
#[derive(Debug, Clone)]
struct Failing {
    /// When the first failed attempt began.
    since: Duration,
    /// When the last one ended.
    until: Duration,
    state: PartState,
    reason: String,
}

/// What one source says of the part.
#[derive(Debug, Clone, Default)]
struct Account {
    failing: Option<Failing>,
    /// When the first success came that no failure followed.
    works_since: Option<Duration>,
    /// It failed for too long, and hasn't worked for long enough since.
    tripped: Option<(PartState, String)>,
    last: Duration,
}

impl Account {
    fn works(&mut self, now: Duration) {
        self.failing = None;
        self.works_since.get_or_insert(now);
        self.last = now;
    }

    fn fails(&mut self, since: Duration, now: Duration, state: PartState, reason: String) {
        let since = self
            .failing
            .as_ref()
            .map_or(since, |failing| failing.since.min(since));
        if let Some(tripped) = &mut self.tripped {
            *tripped = (state, reason.clone());
        }
        self.failing = Some(Failing {
            since,
            until: now,
            state,
            reason,
        });
        self.works_since = None;
        self.last = now;
    }

    fn settle(&mut self, now: Duration, policy: &Policy) {
        if let Some(failing) = &self.failing {
            let until = if policy.lasts { now } else { failing.until };
            let failed_for = until.saturating_sub(failing.since);
            if self.tripped.is_none() && failed_for >= policy.down_after {
                self.tripped = Some((failing.state, failing.reason.clone()));
            }
        }
        let worked_for = self.works_since.map(|since| now.saturating_sub(since));
        if worked_for.is_some_and(|time| time >= policy.up_after) {
            self.tripped = None;
        }
    }
}

/// What is shown of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub state: PartState,
    /// Empty where it works.
    pub reason: String,
    /// When it came into this state.
    pub since: Duration,
}

/// One part.
#[derive(Debug)]
pub(super) struct Machine {
    policy: Policy,
    work: Account,
    check: Account,
    shown: Shown,
    record: Record,
}

impl Machine {
    /// A part of which nothing was reported yet.
    pub(super) fn new(policy: Policy) -> Self {
        let state = if policy.assumed {
            PartState::Works
        } else {
            PartState::Unknown
        };
        Self {
            policy,
            work: Account::default(),
            check: Account::default(),
            shown: Shown {
                state,
                reason: String::new(),
                since: Duration::ZERO,
            },
            record: Record::new(state),
        }
    }

    /// Takes a report, and returns what is to be logged of it.
    pub(super) fn report(&mut self, source: Source, seen: Seen<'_>, now: Duration) -> Option<Line> {
        let account = match source {
            Source::Work => &mut self.work,
            Source::Check => &mut self.check,
        };
        match seen {
            Seen::Works => account.works(now),
            Seen::Fails {
                since,
                state,
                reason,
            } => {
                let state = if self.policy.optional {
                    PartState::Degraded
                } else {
                    state
                };
                account.fails(since.min(now), now, state, one_line(reason));
            }
        }
        // Work that is done proves more than a check that failed, of a database whose connections are all in use, say.
        if source == Source::Work && matches!(seen, Seen::Works) && self.check.failing.is_some() {
            self.check.works(now);
        }
        self.settle(now)
    }

    /// Brings the state up to date, and returns what is to be logged.
    pub(super) fn settle(&mut self, now: Duration) -> Option<Line> {
        if let Some(time) = self.policy.forgotten_after
            && now.saturating_sub(self.work.last) >= time
            && self.check.last > self.work.last
        {
            self.work = Account::default();
        }
        self.work.settle(now, &self.policy);
        self.check.settle(now, &self.policy);
        let (state, reason) = self.current();
        if state != self.shown.state {
            self.shown.since = now;
        }
        self.shown.state = state;
        self.shown.reason = reason;
        if !self.policy.logged {
            return None;
        }
        match self.shown.state {
            PartState::Degraded if !self.policy.logs_degraded => {
                self.record.line(PartState::Works, "", now)
            }
            state => self.record.line(state, &self.shown.reason, now),
        }
    }

    fn current(&self) -> (PartState, String) {
        let accounts = [&self.work, &self.check];
        let tripped = accounts.iter().filter_map(|a| a.tripped.as_ref());
        if let Some((state, reason)) = tripped.max_by_key(|(state, _)| *state) {
            return (*state, reason.clone());
        }
        if self.policy.assumed || accounts.iter().any(|a| a.works_since.is_some()) {
            return (PartState::Works, String::new());
        }
        if self.shown.state == PartState::Works {
            // It worked, and the failure that followed hasn't lasted yet.
            return (PartState::Works, String::new());
        }
        // It never worked: the first reason is news.
        let failing = accounts.iter().find_map(|a| a.failing.as_ref());
        match failing {
            Some(failing) => (failing.state, failing.reason.clone()),
            None => (PartState::Unknown, String::new()),
        }
    }

    pub(super) fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Whether the last report says that it works, however short a time.
    pub(super) fn works_now(&self) -> bool {
        let accounts = [&self.work, &self.check];
        accounts.iter().all(|a| a.failing.is_none())
            && accounts.iter().any(|a| a.works_since.is_some())
    }
}

/// A reason as one line of a bounded length.
fn one_line(reason: &str) -> String {
    let words = reason.split_whitespace();
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.chars().count() > REASON_CHARS {
            return line.chars().take(REASON_CHARS).collect::<String>() + "…";
        }
    }
    line
}

#[cfg(test)]
mod tests;
