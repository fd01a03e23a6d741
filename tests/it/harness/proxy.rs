//! A TCP proxy that makes a connection slow, silent or dead, in front of any server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::sandbox;
use super::{PATIENCE, eventually_equals};

/// What happens to bytes and to new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Pass,
    /// Every chunk waits this long before it goes on.
    Delay(Duration),
    /// The same on one connection alone, by its number.
    DelayOne(u64, Duration),
    /// Each connection carries so many bytes a second in each direction.
    Throttle(u32),
    /// Bytes are swallowed in both directions, and new connections are accepted and never answered.
    Blackhole,
    /// Connections are reset, and new ones refused.
    Cut,
}

/// What every connection watches. The generation tells the connections of before a cut from those of after it.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    generation: u64,
}

/// Listens on a port of its own until dropped, and passes bytes on to one server.
pub struct Proxy {
    pub port: u16,
    state: watch::Sender<State>,
    target: Arc<AtomicU16>,
    accepted: Arc<AtomicU64>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens in front of the server at `target`, a loopback port, which need not be up yet.
    pub async fn start(target: u16) -> Self {
        let port = sandbox::free_port();
        let (state, watched) = watch::channel(State {
            mode: Mode::Pass,
            generation: 0,
        });
        let (open, listening) = watch::channel(false);
        let accepted = Arc::new(AtomicU64::new(0));
        let target = Arc::new(AtomicU16::new(target));
        let task = tokio::spawn(listen(
            port,
            target.clone(),
            watched,
            open,
            accepted.clone(),
        ));
        let proxy = Self {
            port,
            state,
            target,
            accepted,
            listening,
            task,
        };
        proxy.switch(Mode::Pass).await;
        proxy
    }

    /// Passes everything on again. Connections that lost bytes in a blackhole are reset first.
    pub async fn resume(&self) {
        self.switch(Mode::Pass).await;
    }

    /// Resets all connections and refuses new ones.
    pub async fn cut(&self) {
        self.switch(Mode::Cut).await;
    }

    /// Swallows everything, of existing connections too, without closing anything.
    pub async fn blackhole(&self) {
        self.switch(Mode::Blackhole).await;
    }

    /// Holds every chunk back by `delay`.
    pub async fn delay(&self, delay: Duration) {
        self.switch(Mode::Delay(delay)).await;
    }

    /// Holds every chunk of one connection back by `delay`, by its number from 0 in the order in which they came.
    pub async fn delay_one(&self, number: u64, delay: Duration) {
        self.switch(Mode::DelayOne(number, delay)).await;
    }

    /// Lets each connection carry so many bytes a second in each direction.
    pub async fn throttle(&self, bytes_a_second: u32) {
        self.switch(Mode::Throttle(bytes_a_second)).await;
    }

    /// Passes new connections on to another server; those that are there stay where they are.
    pub fn retarget(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// The port of the server that it passes to.
    pub fn target(&self) -> u16 {
        self.target.load(Ordering::SeqCst)
    }

    /// How many connections were accepted so far, those that nothing answers included.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    async fn switch(&self, mode: Mode) {
        self.state.send_modify(|state| {
            let breaks =
                mode == Mode::Cut || (state.mode == Mode::Blackhole && mode != Mode::Blackhole);
            *state = State {
                mode,
                generation: state.generation + u64::from(breaks),
            };
        });
        eventually_equals(
            "the proxy listening",
            PATIENCE,
            mode != Mode::Cut,
            || async { *self.listening.borrow() },
        )
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            *state = State {
                mode: Mode::Cut,
                generation: state.generation + 1,
            }
        });
        self.task.abort();
    }
}

async fn listen(
    port: u16,
    target: Arc<AtomicU16>,
    mut state: watch::Receiver<State>,
    open: watch::Sender<bool>,
    accepted: Arc<AtomicU64>,
) {
    let watched = state.clone();
    loop {
        if state
            .wait_for(|state| state.mode != Mode::Cut)
            .await
            .is_err()
        {
            return;
        }
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .expect("the proxy's port stays its own");
        open.send_replace(true);
        loop {
            tokio::select! {
                changed = state.wait_for(|state| state.mode == Mode::Cut) => {
                    drop(listener);
                    open.send_replace(false);
                    match changed { Ok(_) => break, Err(_) => return }
                }
                client = listener.accept() => {
                    if let Ok((client, _)) = client {
                        let number = accepted.fetch_add(1, Ordering::SeqCst);
                        let target = target.load(Ordering::SeqCst);
                        tokio::spawn(serve(client, number, target, watched.clone()));
                    }
                }
            }
        }
    }
}

/// Ends, by resetting both sides, with the first side that ends, a cut, or the end of a blackhole.
async fn serve(client: TcpStream, number: u64, target: u16, state: watch::Receiver<State>) {
    let _ = client.set_nodelay(true);
    let _ = client.set_zero_linger();
    let mut doom = state.clone();
    let born = doom.borrow().generation;
    let doomed = async move {
        let _ = doom.wait_for(|state| state.generation != born).await;
    };
    let passing = async move {
        if state.borrow().mode == Mode::Blackhole {
            return std::future::pending().await;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
            return;
        };
        let _ = server.set_nodelay(true);
        let _ = server.set_zero_linger();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = pump(from_client, to_server, number, state.clone()) => {}
            () = pump(from_server, to_client, number, state) => {}
        }
    };
    tokio::select! {
        () = doomed => {}
        () = passing => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            // A side that closes inside a blackhole must not be noticed by the other one.
            if state.borrow().mode == Mode::Blackhole {
                return std::future::pending().await;
            }
            return;
        };
        let now = state.borrow().mode;
        match now {
            Mode::Delay(delay) => sleep(delay).await,
            Mode::DelayOne(slow, delay) if slow == number => sleep(delay).await,
            Mode::Throttle(rate) => {
                sleep(Duration::from_secs_f64(length as f64 / f64::from(rate))).await;
            }
            Mode::Pass | Mode::DelayOne(..) => {}
            Mode::Blackhole => continue,
            Mode::Cut => return,
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
