//! Owns what the requests of one HTTP/2 connection hold, and when that connection, or one of them, has to go.
//!
//! Promises that each request beyond a connection's first holds a permit as a connection of its own would, until its answer and its work are gone; that
//! an answer is handed over in small pieces, so that what waits for a client is known and bounded; that a client which takes nothing loses that answer;
//! and that one which asks for nothing or which gives up what it asked for is noticed. Refuses to close anything: that is the connection's.

mod pieces;

use super::{
    permits::{PROBED, Seat, Seats},
    unread::{MIN_RATE, Stall},
};
pub(super) use pieces::Pieces;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Requests that may be under way on one connection.
pub(super) const STREAMS: u32 = 32;
/// What is handed over of an answer at a time, in bytes: as much as one frame has.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Requests that a client may give up unanswered beyond those that it takes an answer of.
const MAX_GIVEN_UP: u64 = 64;
/// Requests of what watches the worker that are served on a connection where there is no permit for them.
const MAX_UNSEATED: usize = PROBED.len();
/// How long a connection that is to end may take when nothing was under way on it lately.
const GOODBYE: Duration = Duration::from_secs(1);
/// How much longer while its client takes bytes: the last piece of each answer may be among them.
const SENDING: Duration = Duration::from_secs(STREAMS as u64 * PIECE_BYTES as u64 / MIN_RATE);

/// What is to become of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Stay,
    /// It takes no further requests, and ends.
    Leave,
    Cut,
}

/// How long things may take on a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Without a request.
    pub idle: Duration,
    /// An answer that waits for its client.
    pub unread: Duration,
    /// It is for one request, and then free for the next connection.
    pub is_for_one: bool,
}

/// The requests of a connection.
pub(super) struct Streams {
    seats: Seats,
    limits: Limits,
    alive: CancellationToken,
    state: Mutex<State>,
    /// Something may be to judge.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    open: BTreeMap<u64, Request>,
    next: u64,
    /// One has what the connection itself holds, and needs no permit.
    is_own_taken: bool,
    /// Those that are served without either.
    unseated: usize,
    /// Since when there is none.
    idle_since: Instant,
    /// Since when the connection is to end.
    leaving: Option<Instant>,
    answered: u64,
    answered_last: Option<Instant>,
    given_up: u64,
}

/// A request, from its headers to the end of its answer.
#[derive(Debug, Default)]
struct Request {
    /// Since when its answer waits for the client; nothing while it is being made.
    stall: Option<Stall>,
    /// Bytes that were handed over and aren't known to be gone.
    given: usize,
    /// Its answer has begun.
    is_begun: bool,
    /// Ends it, and nothing else.
    cut: CancellationToken,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            open: BTreeMap::new(),
            next: 0,
            is_own_taken: false,
            unseated: 0,
            idle_since: now,
            leaving: None,
            answered: 0,
            answered_last: None,
            given_up: 0,
        }
    }

    /// Nothing where the connection takes no further ones: what comes then keeps nobody.
    fn begin(&mut self, limits: Limits, cut: CancellationToken) -> Option<u64> {
        if self.leaving.is_some() || (limits.is_for_one && self.next > 0) {
            return None;
        }
        let key = self.next;
        self.next += 1;
        let request = Request {
            cut,
            ..Request::default()
        };
        self.open.insert(key, request);
        Some(key)
    }

    fn end(&mut self, key: u64, is_answered: bool, now: Instant) {
        let request = self.open.remove(&key);
        // Who watches something without an end leaves in the midst of it.
        let is_begun = request.is_some_and(|request| request.is_begun);
        if is_answered {
            self.answered += 1;
            self.answered_last = Some(now);
        } else if !is_begun {
            self.given_up += 1;
        }
        self.idle_since = now;
    }

    fn is_rude(&self) -> bool {
        self.given_up > self.answered.saturating_add(MAX_GIVEN_UP)
    }

    /// Requests whose client takes too little of their answers.
    fn overdue(&self, limits: Limits, now: Instant) -> impl Iterator<Item = &Request> {
        let is_due = move |stall: Stall| stall.due(limits.unread) <= now;
        self.open
            .values()
            .filter(move |request| request.stall.is_some_and(is_due))
    }

    /// When a connection that is to end since then is cut, if nothing is under way on it.
    fn last_call(&self, since: Instant, limits: Limits, is_sending: bool) -> Instant {
        let mut last = since.max(self.idle_since) + GOODBYE;
        if let Some(answered) = self.answered_last {
            // The end of what was answered may still be on its way to who takes it slowly.
            last = last.max(answered + limits.unread);
        }
        match is_sending {
            true => last + SENDING,
            false => last,
        }
    }

    /// What is to become of the connection, whose last answers may still be on their way.
    fn judge(&self, limits: Limits, is_sending: bool, now: Instant) -> Verdict {
        let is_idle = self.open.is_empty();
        match self.leaving {
            Some(since) if is_idle && now >= self.last_call(since, limits, is_sending) => {
                Verdict::Cut
            }
            Some(_) => Verdict::Stay,
            None if self.is_rude() => Verdict::Leave,
            None if !is_idle => Verdict::Stay,
            None if limits.is_for_one && self.next > 0 => Verdict::Leave,
            None if now >= self.idle_since + limits.idle => Verdict::Leave,
            None => Verdict::Stay,
        }
    }
}

impl Streams {
    /// The requests of a connection, each of which ends with `alive` at the latest.
    pub(super) fn new(seats: Seats, limits: Limits, alive: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            seats,
            limits,
            alive,
            state: Mutex::new(State::new(Instant::now())),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for this path has come; nothing where the connection takes no further ones.
    pub(super) fn begin(self: &Arc<Self>, path: &str) -> Option<Open> {
        let cut = self.alive.child_token();
        let key = self.state().begin(self.limits, cut.clone())?;
        Some(Open {
            key,
            cut,
            streams: self.clone(),
            is_answered: false,
            held: self.hold(path).map(Arc::new),
        })
    }

    /// What a request for this path needs to be served, if there is room.
    fn hold(self: &Arc<Self>, path: &str) -> Option<Held> {
        if !self.seats.admit(path) {
            return None;
        }
        let mut state = self.state();
        let by = if !state.is_own_taken {
            state.is_own_taken = true;
            By::Own
        } else if let Some(permit) = self.seats.another() {
            By::Permit { _held: permit }
        } else if PROBED.contains(&path) && state.unseated < MAX_UNSEATED {
            state.unseated += 1;
            By::Grace
        } else {
            return None;
        };
        drop(state);
        Some(Held {
            streams: self.clone(),
            by,
        })
    }

    /// Waits until there may be something to judge before its time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// From now on the connection takes no further requests.
    pub(super) fn leave(&self) {
        self.state().leaving.get_or_insert_with(Instant::now);
    }

    pub(super) fn are_leaving(&self) -> bool {
        self.state().leaving.is_some()
    }

    /// Ends requests whose client takes nothing, and says what is to become of the connection.
    pub(super) fn judge(&self, is_sending: bool) -> Verdict {
        let (now, state) = (Instant::now(), self.state());
        for request in state.overdue(self.limits, now) {
            request.cut.cancel();
        }
        state.judge(self.limits, is_sending, now)
    }
}

/// What a request holds until its answer is gone, and whatever work of it goes on.
struct Held {
    streams: Arc<Streams>,
    by: By,
}

enum By {
    /// What the connection holds.
    Own,
    Permit {
        _held: OwnedSemaphorePermit,
    },
    /// It watches the worker: few of them are served whoever else is there.
    Grace,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.streams.state();
        match &self.by {
            By::Own => state.is_own_taken = false,
            By::Permit { .. } => {}
            By::Grace => state.unseated -= 1,
        }
    }
}

/// A request that is under way. It ends when it is dropped.
pub(super) struct Open {
    streams: Arc<Streams>,
    key: u64,
    cut: CancellationToken,
    is_answered: bool,
    /// Nothing where there is no room for it.
    held: Option<Arc<Held>>,
}

impl Open {
    /// Ends it once it is cancelled.
    pub(super) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }

    /// What it holds; nothing where it can't be served.
    pub(super) fn held(&self) -> Option<Seat> {
        self.held.clone().map(|held| held as Seat)
    }

    fn with(&self, change: impl FnOnce(&mut Request)) {
        if let Some(request) = self.streams.state().open.get_mut(&self.key) {
            change(request);
        }
    }

    /// The client has room for more: what was handed over before is gone.
    fn went(&self) {
        self.with(|request| {
            let given = std::mem::take(&mut request.given);
            if let Some(stall) = &mut request.stall {
                stall.took(given, Instant::now());
            }
        });
    }

    /// Nothing waits for the client.
    fn rests(&self) {
        self.with(|request| request.stall = None);
    }

    fn gives(&self, bytes: usize) {
        self.with(|request| {
            request.given = bytes;
            request
                .stall
                .get_or_insert_with(|| Stall::new(Instant::now()));
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (key, is_answered) = (self.key, self.is_answered);
        let mut state = self.streams.state();
        state.end(key, is_answered, Instant::now());
        if state.is_rude() || state.open.is_empty() {
            self.streams.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
