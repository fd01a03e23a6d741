//! Owns the stream between the broker and the client library, and what the library wants of a runtime that has such streams.
//!
//! Promises to hold back no more than one unfinished frame of a method or a content header, and only until the rest of it is here; that
//! a stream on which nothing comes for longer than heartbeats allow fails then, also one that nobody waits for any more; and that an attempt
//! which fails or is given up leaves nothing behind.

use super::{Part, part, screen};
use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{Stream, task::AtomicWaker};
use lapin::{
    Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig},
    uri::AMQPUri,
};
use std::{
    io::{self, IoSlice, Read, Write},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// Longest frame that is held back until it is whole. Brokers' frames hold 128 KiB, or what was agreed on.
const LONGEST: usize = 16 << 20;

/// How long nothing may come from a broker that sends heartbeats, and who hears of it where that is longer.
#[derive(Clone)]
pub(in crate::amqp) struct Silence {
    pub limit: Duration,
    pub noted: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Connects, and screens what comes. The library is handed a stream that is there: where its own connecting fails, or nobody waits for it any
/// more, tasks of its stay for ever.
pub(in crate::amqp) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
    silence: Option<Silence>,
) -> Result<Connection, lapin::Error> {
    let tokio = Runtime::new(Tokio::current());
    let stream = uri.connect_with_config_async(tls.as_ref(), &tokio).await?;
    let watch = Watch::new(silence);
    let mut attempt = Attempt(Some(watch.heard.clone()));
    let stream = Mutex::new(Some(Screened::new(stream, Some(watch))));
    let connect = async move |_: AMQPUri, _: Runtime<_>| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It is asked for once: nothing is tried again.
        let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok(AsyncTcpStream::Plain(stream))
    };
    let kit = RuntimeParts::new(Tokio::current(), Screening(Tokio::current()));
    let connected = Connection::connector(uri, Runtime::new(kit), connect, properties).await;
    attempt.0 = None;
    connected
}

/// An attempt to connect. Dropped before it has come to something, it ends its stream, which nobody else would: the library goes on
/// shaking hands.
struct Attempt(Option<Arc<Heard>>);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(heard) = &self.0 {
            heard.end("the attempt to connect was given up".to_owned());
        }
    }
}

type TokioStream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Tokio's reactor, whose streams are screened.
#[derive(Debug, Clone)]
struct Screening(Tokio);

impl Reactor for Screening {
    type TcpStream = Screened<TokioStream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// The client library registers no sockets of its own.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Self::TcpStream, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connect = self.0.tcp_connect_addr(address);
        async move { Ok(Screened::new(AsyncTcpStream::Plain(connect.await?), None)) }
    }
}

/// Knows when something last came, and ends a stream. Its clock runs in a task of its own: the client library's thread outlives the runtime,
/// whose clock it must not ask then.
#[derive(Debug)]
pub(super) struct Watch {
    heard: Arc<Heard>,
    /// Ends with this.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Heard {
    begun: tokio::time::Instant,
    /// When something last came, in milliseconds since it began.
    at_ms: AtomicU64,
    /// Why the stream is over, once it is.
    over: OnceLock<String>,
    reader: AtomicWaker,
}

impl Heard {
    fn end(&self, why: String) {
        let _why_it_was_before = self.over.set(why);
        self.reader.wake();
    }
}

impl Watch {
    /// From now on.
    pub(super) fn new(silence: Option<Silence>) -> Self {
        let heard = Arc::new(Heard {
            begun: tokio::time::Instant::now(),
            at_ms: AtomicU64::new(0),
            over: OnceLock::new(),
            reader: AtomicWaker::new(),
        });
        let mut task = JoinSet::new();
        if let Some(silence) = silence {
            task.spawn(watch(heard.clone(), silence));
        }
        Self { heard, _task: task }
    }

    fn hear(&mut self) {
        let now_ms = self.heard.begun.elapsed().as_millis() as u64;
        self.heard.at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Ends when nothing has come for too long, or nobody wants the stream.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.heard.reader.register(context.waker());
        match self.heard.over.get() {
            None => Poll::Pending,
            Some(why) => Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, why.as_str())),
        }
    }
}

/// Waits until nothing has come for too long, and says so.
async fn watch(heard: Arc<Heard>, silence: Silence) {
    loop {
        let at = Duration::from_millis(heard.at_ms.load(Ordering::Relaxed));
        let due = heard.begun + at + silence.limit;
        if tokio::time::Instant::now() >= due {
            break;
        }
        tokio::time::sleep_until(due).await;
    }
    let limit_ms = silence.limit.as_millis();
    let why = format!("nothing was heard from it for {limit_ms} ms");
    (silence.noted)(&why);
    heard.end(why);
}

/// A stream whose frames are screened on their way in.
#[derive(Debug)]
pub(super) struct Screened<S> {
    stream: S,
    watch: Option<Watch>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given on; that are screened; that are there.
    given: usize,
    screened: usize,
    filled: usize,
    /// Bytes to come of a frame that passes in pieces.
    passing: usize,
}

impl<S> Screened<S> {
    pub(super) fn new(stream: S, watch: Option<Watch>) -> Self {
        Self {
            stream,
            watch,
            buffer: vec![0; READ],
            given: 0,
            screened: 0,
            filled: 0,
            passing: 0,
        }
    }

    /// Screens what is here as a whole.
    fn advance(&mut self) {
        loop {
            let here = self.buffer.get_mut(self.screened..self.filled);
            let here = here.unwrap_or_default();
            if self.passing == 0 {
                match part(here) {
                    None => return,
                    Some(Part::Whole(bytes)) if bytes <= LONGEST => {
                        let Some(frame) = here.get_mut(..bytes) else {
                            return;
                        };
                        screen(frame);
                        self.screened += bytes;
                        continue;
                    }
                    Some(Part::Whole(bytes) | Part::Passing(bytes)) => self.passing = bytes,
                }
            }
            let passes = self.passing.min(here.len());
            self.screened += passes;
            self.passing -= passes;
            if self.passing > 0 {
                return;
            }
        }
    }

    /// Makes room behind what is held back.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.screened -= self.given;
        self.given = 0;
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
    }

    /// Gives on what is screened.
    fn give(&mut self, room: &mut [u8]) -> usize {
        let ready = self.buffer.get(self.given..self.screened);
        let count = ready.map_or(0, |mut ready| ready.read(room).unwrap_or_default());
        self.given += count;
        count
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.given == this.screened {
            this.make_room();
            let free = this.buffer.get_mut(this.filled..).unwrap_or_default();
            let read = match (
                Pin::new(&mut this.stream).poll_read(context, free),
                &mut this.watch,
            ) {
                (Poll::Pending, None) => return Poll::Pending,
                (Poll::Pending, Some(watch)) => return watch.poll_over(context).map(Err),
                (Poll::Ready(read), watch) => {
                    watch.iter_mut().for_each(Watch::hear);
                    read?
                }
            };
            if read == 0 {
                // What was held back is half a frame: nobody can read it.
                return Poll::Ready(Ok(0));
            }
            this.filled += read;
            this.advance();
        }
        Poll::Ready(Ok(this.give(room)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests;
