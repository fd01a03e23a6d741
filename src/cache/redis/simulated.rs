//! Owns a stand-in of Redis for simulations: one server in memory, to which the client library speaks over pipes.
//!
//! Promises the commands and scripts that Kiln uses, as `conformance` holds them to the real server's; and that by a seed answers are
//! late or lost after they had their effect, connections break, are refused or hang, and writes are refused. Refuses to be a cluster.

mod commands;
mod keys;
mod scripts;

use crate::{
    clock,
    secret::Secret,
    simulated::{Chance, log},
};
use commands::{Reply, read_commands};
pub use keys::Watch;
use keys::{Keys, run};
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, aio::MultiplexedConnection,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

/// Bytes that a pipe holds.
const PIPE_BYTES: usize = 1 << 16;
/// What is refused while there is no memory.
const WRITES: [&str; 5] = ["SET", "PSETEX", "EVAL", "EVALSHA", "PEXPIRE"];

thread_local! {
    static SERVERS: RefCell<BTreeMap<String, Server>> = const { RefCell::new(BTreeMap::new()) };
}

/// A server as one client reaches it. Clones are the same.
#[derive(Clone)]
pub struct Server {
    state: Arc<Mutex<State>>,
    chance: Chance,
    /// Ends every connection of this client, for good.
    gone: CancellationToken,
}

struct State {
    keys: Keys,
    /// Ends every connection that there is.
    cut: CancellationToken,
    /// Nothing is answered before.
    frozen_until: Instant,
}

/// What happens to one round trip.
#[derive(Debug, Default)]
struct Lot {
    before: Duration,
    after: Duration,
    /// The connection breaks when so many commands have had their effect.
    breaks_after: Option<usize>,
    is_full: bool,
}

impl Lot {
    fn draw(chance: &Chance, commands: usize) -> Self {
        Self {
            before: chance.delay(),
            after: chance.delay(),
            breaks_after: chance.fails(25).then(|| chance.below(commands + 1)),
            is_full: chance.fails(15),
        }
    }
}

impl Server {
    /// An empty one.
    pub fn new(chance: &Chance, watch: Option<Watch>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                keys: Keys::new(watch),
                cut: CancellationToken::new(),
                frozen_until: clock::instant(),
            })),
            chance: chance.apart(),
            gone: CancellationToken::new(),
        }
    }

    /// The same for another client, at a host of its own; for as long as this thread's simulation lives.
    pub fn listen(&self, url: &Secret) -> Self {
        let other = Self {
            state: self.state.clone(),
            chance: self.chance.apart(),
            gone: CancellationToken::new(),
        };
        SERVERS.with_borrow_mut(|all| all.insert(url.host(), other.clone()));
        other
    }

    /// The one at an address.
    pub fn at(host: &str) -> Option<Self> {
        SERVERS.with_borrow(|all| all.get(host).cloned())
    }

    /// Nobody listens on this thread any more.
    pub fn close_all() {
        SERVERS.with_borrow_mut(BTreeMap::clear);
    }

    /// Leaves this client without an answer, for good.
    pub fn leave(&self) {
        self.gone.cancel();
    }

    /// Breaks every connection; with what is in memory, or without.
    pub fn restart(&self, keeps: bool) {
        let mut state = self.state();
        if !keeps {
            state.keys.clear();
        }
        std::mem::take(&mut state.cut).cancel();
    }

    /// Evicts some of its keys.
    pub fn evict(&self) {
        let mut state = self.state();
        state.keys.evict(|| self.chance.below(3) == 0);
    }

    /// Answers nothing for so long.
    pub fn freeze(&self, time: Duration) {
        self.state().frozen_until = clock::instant() + time;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection, as the client library makes it.
    pub async fn connect(self) -> Result<MultiplexedConnection, RedisError> {
        if self.gone.is_cancelled() || self.chance.fails(30) {
            std::future::pending::<()>().await;
        }
        if self.chance.fails(40) {
            log(|| "redis refuses a connection".to_owned());
            return Err(RedisError::from((ErrorKind::Io, "refused")));
        }
        tokio::time::sleep(self.chance.delay()).await;
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let cut = self.state().cut.clone();
        tokio::spawn(self.serve(far, cut));
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let limits = AsyncConnectionConfig::new().set_response_timeout(None);
        let connecting = MultiplexedConnection::new_with_config(&info, near, limits);
        let (connection, driver) = connecting.await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn serve(self, mut pipe: DuplexStream, cut: CancellationToken) {
        let mut asked = Vec::new();
        loop {
            let read = async {
                tokio::select! {
                    biased;
                    () = cut.cancelled() => None,
                    () = self.gone.cancelled() => Some(0),
                    read = pipe.read_buf(&mut asked) => read.ok(),
                }
            };
            match read.await {
                None => return,
                Some(0) => break,
                Some(_) => {}
            }
            let commands = read_commands(&mut asked);
            if !commands.is_empty() && !self.answer(&mut pipe, &cut, commands).await {
                return;
            }
        }
        if self.gone.is_cancelled() {
            // Whoever is gone hears nothing, not even that.
            std::future::pending::<()>().await;
        }
    }

    /// Answers one round trip. False where the connection breaks.
    async fn answer(
        &self,
        pipe: &mut DuplexStream,
        cut: &CancellationToken,
        commands: Vec<Vec<Vec<u8>>>,
    ) -> bool {
        let lot = Lot::draw(&self.chance, commands.len());
        tokio::time::sleep(lot.before).await;
        let frozen_until = self.state().frozen_until;
        tokio::time::sleep_until(frozen_until.into()).await;
        if cut.is_cancelled() {
            return false;
        }
        let count = commands.len();
        let mut answers = Vec::new();
        for command in commands.iter().take(lot.breaks_after.unwrap_or(count)) {
            let name = command.first().map(|name| name.to_ascii_uppercase());
            let name = String::from_utf8(name.unwrap_or_default()).unwrap_or_default();
            let reply = match lot.is_full && WRITES.contains(&name.as_str()) {
                true => {
                    Reply::Error("OOM command not allowed when used memory > 'maxmemory'.".into())
                }
                false => run(
                    &mut self.state().keys,
                    &name,
                    command.get(1..).unwrap_or_default(),
                ),
            };
            reply.write(&mut answers);
        }
        log(|| format!("redis answers {count} commands, {lot:?}"));
        tokio::time::sleep(lot.after).await;
        if lot.breaks_after.is_some() || cut.is_cancelled() {
            return false;
        }
        pipe.write_all(&answers).await.is_ok()
    }
}
