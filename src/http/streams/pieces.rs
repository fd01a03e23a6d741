//! Owns how an answer is handed over: a piece at a time, so that it is known how far its client is.
//!
//! Promises that the answer is there, with what its request holds, until no more than its last byte waits for room at the client.

use super::{Open, PIECE_BYTES};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// An answer's body, a piece at a time.
pub(in crate::http) struct Pieces {
    body: Body,
    /// What is left of a part of it.
    rest: Bytes,
    open: Open,
}

impl Pieces {
    pub(in crate::http) fn new(body: Body, mut open: Open) -> Self {
        open.is_answered = body.is_end_stream();
        open.with(|request| request.is_begun = true);
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
        // The last byte goes by itself: it is asked for once there is room for all before it, of which the library may hold some until then.
        let but_one = this.rest.len().saturating_sub(1);
        let length = but_one.clamp(this.rest.len().min(1), PIECE_BYTES);
        let piece = this.rest.split_to(length);
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
