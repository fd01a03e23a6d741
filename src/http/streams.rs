//! Owns what the requests of one HTTP/2 connection hold, and when that connection has to go.
//!
//! Promises that each request beyond a connection's first holds a permit as a connection of its own would, until its answer is gone; that an answer is
//! handed over in small pieces, so that what waits for a client is known and bounded; and that a client which takes nothing, which asks for nothing or
//! which gives up what it asked for is noticed. Refuses to close anything: that is the connection's.

use super::{permits::Seats, unread::Stall};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::Instant,
};

/// What is handed over of an answer at a time, in bytes: as much as one frame has.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Requests that a client may give up beyond those that it takes an answer of.
const MAX_GIVEN_UP: u64 = 64;
/// How long a connection that is to end may take when nothing is under way on it.
const GOODBYE: Duration = Duration::from_secs(1);

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
    state: Mutex<State>,
    /// Something may be to judge.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    open: BTreeMap<u64, Request>,
    next: u64,
    /// The one that needs no permit beside the connection's.
    first: Option<u64>,
    /// Since when there is none.
    idle_since: Instant,
    answered: u64,
    given_up: u64,
}

/// A request, from its headers to the end of its answer.
#[derive(Debug, Default)]
struct Request {
    /// Since when its answer waits for the client; nothing while it is being made.
    stall: Option<Stall>,
    /// Bytes that were handed over and aren't known to be gone.
    given: usize,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            open: BTreeMap::new(),
            next: 0,
            first: None,
            idle_since: now,
            answered: 0,
            given_up: 0,
        }
    }

    fn begin(&mut self) -> u64 {
        let key = self.next;
        self.next += 1;
        self.open.insert(key, Request::default());
        key
    }

    fn end(&mut self, key: u64, is_answered: bool, now: Instant) {
        self.open.remove(&key);
        if self.first == Some(key) {
            self.first = None;
        }
        match is_answered {
            true => self.answered += 1,
            false => self.given_up += 1,
        }
        self.idle_since = now;
    }

    fn is_rude(&self) -> bool {
        self.given_up > self.answered.saturating_add(MAX_GIVEN_UP)
    }

    /// What is to become of the connection, which is to end since then; whose last answers may still be on their way.
    fn judge(
        &self,
        limits: Limits,
        leaving: Option<Instant>,
        is_sending: bool,
        now: Instant,
    ) -> Verdict {
        let mut stalls = self.open.values().filter_map(|request| request.stall);
        if self.is_rude() || stalls.any(|stall| stall.due(limits.unread) <= now) {
            return Verdict::Cut;
        }
        if !self.open.is_empty() || is_sending {
            return Verdict::Stay;
        }
        let is_done = limits.is_for_one && self.answered + self.given_up > 0;
        match leaving {
            Some(since) if now >= since.max(self.idle_since) + GOODBYE => Verdict::Cut,
            None if is_done || now >= self.idle_since + limits.idle => Verdict::Leave,
            _ => Verdict::Stay,
        }
    }
}

impl Streams {
    pub(super) fn new(seats: Seats) -> Arc<Self> {
        Arc::new(Self {
            seats,
            state: Mutex::new(State::new(Instant::now())),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request for this path has come; and whether it may be served.
    pub(super) fn begin(self: &Arc<Self>, path: &str) -> (Open, bool) {
        let mut open = Open {
            key: self.state().begin(),
            streams: self.clone(),
            is_answered: false,
            permit: None,
        };
        if !self.seats.admit(path) {
            return (open, false);
        }
        let mut state = self.state();
        if state.first.is_none() {
            state.first = Some(open.key);
            return (open, true);
        }
        drop(state);
        open.permit = self.seats.another();
        let is_admitted = open.permit.is_some();
        (open, is_admitted)
    }

    /// Waits until there may be something to judge before its time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn judge(
        &self,
        limits: Limits,
        leaving: Option<Instant>,
        is_sending: bool,
    ) -> Verdict {
        let now = Instant::now();
        self.state().judge(limits, leaving, is_sending, now)
    }
}

/// A request that is under way. It ends when it is dropped.
pub(super) struct Open {
    streams: Arc<Streams>,
    key: u64,
    is_answered: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl Open {
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

/// An answer's body, a piece at a time.
pub(super) struct Pieces {
    body: Body,
    /// What is left of a part of it.
    rest: Bytes,
    open: Open,
}

impl Pieces {
    pub(super) fn new(body: Body, mut open: Open) -> Self {
        open.is_answered = body.is_end_stream();
        Self {
            body,
            rest: Bytes::new(),
            open,
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        this.open.went();
        if this.rest.is_empty() {
            let frame = match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    this.open.rests();
                    return Poll::Pending;
                }
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.open.is_answered = true;
                    return Poll::Ready(None);
                }
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        this.open.gives(piece.len());
        this.open.is_answered = this.is_end_stream();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests;
