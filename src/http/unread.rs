//! Cuts clients that don't read their answer.
//!
//! Promises that a write ends within a bounded time: a client that takes nothing for as long as the limit, or less than a modem could
//! carry, is cut, and what its connection held is free. Refuses to judge the time between answers: that is the server's.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// What a client has to take on average of an answer that waits for it, in bytes a second.
pub(super) const MIN_RATE: u64 = 8 << 10;

/// A stream whose writes end.
pub(super) struct Impatient<S> {
    stream: S,
    limit: Duration,
    /// Since when an answer waits for the client; nothing while all that was written is gone.
    stall: Option<Stall>,
    unsent: Unsent,
    timer: Pin<Box<Sleep>>,
}

/// Whether something of what was written waits for the client.
#[derive(Debug, Clone, Default)]
pub(super) struct Unsent(Arc<AtomicBool>);

impl Unsent {
    pub(super) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_any: bool) {
        self.0.store(is_any, Ordering::Relaxed);
    }
}

/// An answer that waits for its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    since: Instant,
    /// When the client last took something.
    last: Instant,
    /// Bytes that it took meanwhile.
    taken: u64,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: now,
            taken: 0,
        }
    }

    /// The client has taken so much more.
    pub(super) fn took(&mut self, bytes: usize, now: Instant) {
        self.last = now;
        self.taken = self.taken.saturating_add(bytes as u64);
    }

    /// When the client is cut, unless it takes more.
    pub(super) fn due(&self, limit: Duration) -> Instant {
        let earned = Duration::from_millis(self.taken.saturating_mul(1_000) / MIN_RATE);
        let by_rate = self.since.checked_add(limit.saturating_add(earned));
        let by_progress = self.last + limit;
        by_rate.map_or(by_progress, |by_rate| by_rate.min(by_progress))
    }
}

impl<S> Impatient<S> {
    /// A stream whose writes wait for the client for `limit` at most.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            stall: None,
            unsent: Unsent::default(),
            timer: Box::pin(tokio::time::sleep(limit)),
        }
    }

    /// Says whether something waits for the client, for as long as the stream is there.
    pub(super) fn unsent(&self) -> Unsent {
        self.unsent.clone()
    }

    /// Judges the outcome of a write.
    fn judge(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        match written {
            Poll::Ready(Ok(bytes)) => {
                if let Some(stall) = &mut self.stall {
                    stall.took(bytes, now);
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.unsent.set(true);
                let stall = self.stall.get_or_insert_with(|| Stall::new(now));
                let due = stall.due(self.limit);
                self.timer.as_mut().reset(due);
                match self.timer.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            // The server flushes when it has nothing left to write: the client took all of it.
            self.stall = None;
            self.unsent.set(false);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Longer than any pause of a busy machine.
    const LIMIT: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut() {
        let (ours, _theirs) = duplex(1_024);
        let mut stream = Impatient::new(ours, SHORT);
        let unsent = stream.unsent();
        assert!(!unsent.is_any());
        let cut = stream.write_all(&[0; 4_096]).await;
        assert!(unsent.is_any());
        assert_eq!(cut.expect_err("cut").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_trickles_is_cut_though_it_takes_something() {
        let (ours, mut theirs) = duplex(64);
        let mut stream = Impatient::new(ours, SHORT);
        let trickle = async {
            let mut some = [0; 16];
            while theirs.read(&mut some).await.is_ok() {
                tokio::time::sleep(SHORT / 10).await;
            }
        };
        let cut = tokio::select! {
            cut = stream.write_all(&[0; 1 << 20]) => cut,
            () = trickle => Ok(()),
        };
        assert_eq!(cut.expect_err("cut").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_client_gets_all_of_it_and_may_rest_before_the_next() {
        const BYTES: usize = 256 << 10;
        let (ours, mut theirs) = duplex(16 << 10);
        let mut stream = Impatient::new(ours, LIMIT);
        let slow = async {
            let (mut taken, mut chunk) = (0, vec![0; 16 << 10]);
            while taken < BYTES {
                taken += theirs.read(&mut chunk).await.expect("bytes");
                tokio::task::yield_now().await;
            }
        };
        let write = async {
            stream.write_all(&vec![0; BYTES]).await?;
            stream.flush().await
        };
        let (written, ()) = tokio::join!(write, slow);
        written.expect("all was taken");
        assert!(stream.stall.is_none() && !stream.unsent().is_any());
    }

    #[test]
    fn what_was_taken_earns_time_but_no_rest() {
        const LIMIT: Duration = Duration::from_secs(10);
        let now = Instant::now();
        let mut stall = Stall::new(now);
        assert_eq!(stall.due(LIMIT), now + LIMIT);
        stall.taken = MIN_RATE * 60;
        stall.last = now + Duration::from_secs(5);
        assert_eq!(stall.due(LIMIT), now + Duration::from_secs(15));
        stall.last = now + Duration::from_secs(500);
        assert_eq!(stall.due(LIMIT), now + Duration::from_secs(70));
        stall.taken = u64::MAX;
        assert_eq!(stall.due(LIMIT), now + Duration::from_secs(510));
    }
}
