//! Owns the connections to one database: no more than the settings allow, each lent for one statement or transaction at a time.
//!
//! Promises that the server itself ends a statement that runs past its limit, and that a connection is lent again only after the server has
//! answered. One that is dropped before that is closed and noted as lost. Each has a name of its own, by which the server can be
//! asked to end what runs on it, also behind pgbouncer, where a connection has no backend of its own.

use super::{address::Session, hosts::Hosts, lost::Lost};
use rand::Rng;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    fmt::Write,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest life of a connection, so that one that was made before a failover or a change of settings is replaced.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// How long a connection that nobody needs is held.
const MAX_IDLE: Duration = Duration::from_secs(10 * 60);
/// Connections that are held for so long; with the one that listens, a worker that has nothing to do has four.
const KEPT_IDLE: usize = 3;
/// How long further ones are held, so that a load that comes and goes doesn't make them anew each time.
const SPARE_IDLE: Duration = Duration::from_secs(5);
/// Added to a statement's limit before the server is trusted to have ended it.
const GRACE: Duration = Duration::from_secs(1);
/// Longest goodbye to the server.
const GOODBYE: Duration = Duration::from_secs(1);

/// A connection that nobody uses.
#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    name: Option<String>,
    made: Instant,
    /// The turn of the addresses in which it was made.
    turn: u64,
    since: Instant,
}

/// A connection that is lent. Dropped without [`Sessions::give_back`] or [`Sessions::close`], its statement counts as lost.
#[derive(Debug)]
pub(super) struct Lease {
    connection: PgConnection,
    made: Instant,
    turn: u64,
    is_transaction: bool,
    is_pooled: bool,
    watch: Watch,
    permit: OwnedSemaphorePermit,
}

/// Notes a statement as lost unless it was answered.
#[derive(Debug)]
struct Watch {
    name: Option<String>,
    lost: Option<Arc<Lost>>,
    limit: Duration,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(lost) = self.lost.take() {
            lost.add(self.name.take(), Instant::now() + self.limit + GRACE);
        }
    }
}

impl Lease {
    /// Whether a transaction was begun.
    pub fn is_transaction(&self) -> bool {
        self.is_transaction
    }

    /// Begins a transaction with a statement of Kiln's own.
    pub async fn begin(&mut self, statement: String) -> Result<(), sqlx::Error> {
        let begun = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.connection);
        begun.await?;
        self.is_transaction = true;
        Ok(())
    }

    /// Ends it.
    pub async fn commit(&mut self) -> Result<(), sqlx::Error> {
        self.finish("COMMIT").await
    }

    /// Undoes it.
    pub async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.finish("ROLLBACK").await
    }

    async fn finish(&mut self, statement: &'static str) -> Result<(), sqlx::Error> {
        if self.is_pooled {
            // The next session on the same backend may be another client's, and have statements of the same names.
            self.connection.clear_cached_statements().await?;
        }
        sqlx::raw_sql(statement)
            .execute(&mut self.connection)
            .await?;
        self.is_transaction = false;
        Ok(())
    }

    /// The turn of the addresses in which it was made.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Whether the server can be asked to end what runs on it.
    pub fn is_named(&self) -> bool {
        self.watch.name.is_some()
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// The connections to one database.
#[derive(Debug)]
pub(super) struct Sessions {
    pub hosts: Hosts,
    pub statement_limit: Duration,
    connections: u32,
    permits: Arc<Semaphore>,
    /// The one used last is at the end, and lent first: what isn't needed grows old.
    idle: Mutex<Vec<Idle>>,
    pub lost: Arc<Lost>,
}

impl Sessions {
    /// At most `connections`, each made when it is first needed.
    pub fn new(hosts: Hosts, connections: u32, statement_limit: Duration) -> Self {
        Self {
            hosts,
            statement_limit,
            connections,
            permits: Arc::new(Semaphore::new(connections as usize)),
            idle: Mutex::default(),
            lost: Arc::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to a connection; nothing once all were closed.
    pub async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().acquire_owned().await.ok()
    }

    /// A connection for who has the right to one.
    pub async fn lease(&self, permit: OwnedSemaphorePermit) -> Result<Lease, sqlx::Error> {
        let turn = self.hosts.turn();
        let idle = {
            let mut idle = self.idle();
            idle.retain(|one| one.turn == turn);
            idle.pop()
        };
        let Idle {
            connection,
            name,
            made,
            turn,
            ..
        } = match idle {
            Some(idle) => idle,
            None => self.open().await?,
        };
        let is_pooled = self.hosts.is_pooled();
        let mut lease = Lease {
            connection,
            made,
            turn,
            is_transaction: false,
            is_pooled,
            watch: Watch {
                name,
                lost: None,
                limit: self.statement_limit,
            },
            permit,
        };
        if is_pooled {
            // A session lasts as long as a transaction, and so does what is set in it.
            let limit_ms = self.statement_limit.as_millis();
            let mut begin = format!("BEGIN; SET LOCAL statement_timeout = {limit_ms}");
            if let Some(name) = &lease.watch.name {
                let _infallible = write!(begin, "; SET LOCAL application_name = '{name}'");
            }
            if let Err(error) = lease.begin(begin).await {
                // As a rule the others broke with it.
                self.close_idle();
                return Err(error);
            }
        }
        lease.watch.lost = Some(self.lost.clone());
        Ok(lease)
    }

    async fn open(&self) -> Result<Idle, sqlx::Error> {
        let token: [u8; 8] = rand::rng().random();
        let name = format!("kiln {}", hex::encode(token));
        let (opened, turn) = self.hosts.open(&name, Some(self.statement_limit)).await?;
        let Session {
            connection,
            is_seen,
            ..
        } = opened;
        let now = Instant::now();
        Ok(Idle {
            connection,
            name: is_seen.then_some(name),
            made: now,
            turn,
            since: now,
        })
    }

    /// Takes a connection back whose statement the server has answered.
    pub fn give_back(&self, mut lease: Lease) {
        lease.watch.lost = None;
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|one| now.duration_since(one.since) < MAX_IDLE);
        let is_of_use = lease.turn == self.hosts.turn();
        if is_of_use && self.hosts.are_several() {
            self.hosts.answered();
        }
        if is_of_use && now.duration_since(lease.made) < MAX_AGE && !self.permits.is_closed() {
            idle.push(Idle {
                connection: lease.connection,
                name: lease.watch.name.take(),
                made: lease.made,
                turn: lease.turn,
                since: now,
            });
        }
        let spare = idle.len().saturating_sub(KEPT_IDLE);
        let is_late = |one: &&Idle| now.duration_since(one.since) >= SPARE_IDLE;
        let late = idle.iter().take(spare).take_while(is_late).count();
        idle.drain(..late);
        drop(idle);
        // Whoever waits for it finds the connection there.
        drop(lease.permit);
    }

    /// Closes a connection on which nothing runs.
    pub fn close(&self, mut lease: Lease) {
        lease.watch.lost = None;
    }

    /// Closes those that nobody uses.
    pub fn close_idle(&self) {
        self.idle().clear();
    }

    /// Closes all, each when it is idle; from then on none is lent.
    pub async fn close_all(&self) {
        let all = self.permits.acquire_many(self.connections).await;
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle());
        for one in idle {
            // How the server takes the goodbye changes nothing.
            let _closed = tokio::time::timeout(GOODBYE, one.connection.close()).await;
        }
        drop(all);
    }
}

/// What ends the backends of these connections; its one number is how many of them are still there.
pub(super) fn end_backends(names: &[String]) -> AssertSqlSafe<String> {
    // Names of our own making: they need no quoting.
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    AssertSqlSafe(format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name IN ({}) AND pid <> pg_backend_pid()",
        names.join(", ")
    ))
}
