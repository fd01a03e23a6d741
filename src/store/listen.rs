//! Owns hearing at once that what workers share has changed: a connection that listens, and on which the question is asked.
//!
//! Promises that nothing depends on what is heard: it only makes the next question come sooner. Where no session is Kiln's own, behind pgbouncer
//! for one, nobody listens, and the question is asked more often instead.

use super::{News, PostgresStore, StoreError, news};
use rand::Rng;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::time::{Duration, Instant};

/// Where the statements that change something say so.
const CHANNEL: &str = "kiln";
/// How often is asked where changes are heard: workers of earlier releases don't tell.
const LISTENING: Duration = Duration::from_millis(2_000);
/// How often is asked where they aren't.
const DEAF: Duration = Duration::from_millis(1_000);
/// How far questions are spread, so that all workers don't ask in the same instant.
const SPREAD: Duration = Duration::from_millis(50);
/// How often is asked at the most, however much changes.
const FLOOR: Duration = Duration::from_millis(100);
/// How soon it is tried again to listen where that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// What asks for news, and hears when there may be some.
pub struct Listener {
    store: PostgresStore,
    /// With the turn of the addresses in which it was made.
    ear: Option<(PgListener, u64)>,
    /// When it may be tried again to listen.
    again: Instant,
    /// When it was asked last.
    asked: Instant,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({:?})", self.store)
    }
}

impl Listener {
    /// One that connects when it is first asked.
    pub fn new(store: PostgresStore) -> Self {
        Self {
            store,
            ear: None,
            again: Instant::now(),
            asked: Instant::now(),
        }
    }

    /// What is wanted of workers now, and the marks that were set after a change.
    pub async fn news(&mut self, since: i64) -> Result<News, StoreError> {
        self.asked = Instant::now();
        let turn = self.store.sessions.hosts.turn();
        // The address that was left may still answer.
        self.ear.take_if(|(_, made)| *made != turn);
        if self.ear.is_none()
            && self.again <= Instant::now()
            && let Some(options) = self.store.own_session()
        {
            self.ear = self.listen(options).await.map(|ear| (ear, turn));
            self.again = Instant::now() + AGAIN;
        }
        if let Some((ear, turn)) = &mut self.ear {
            let asked = self.store.deadline(news::ask(ear, since)).await;
            let hosts = &self.store.sessions.hosts;
            match asked {
                Ok(Ok(news)) if news.is_read_only && hosts.are_several() => {
                    hosts.leave(*turn, "it takes no writes");
                }
                Ok(Ok(news)) if hosts.turn() == *turn => return Ok(news),
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
            // The others say what is wrong.
            self.ear = None;
        }
        self.store.news(since).await
    }

    async fn listen(&self, options: PgConnectOptions) -> Option<PgListener> {
        let one = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.store.patience())
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options);
        let listening = async {
            let mut ear = PgListener::connect_with(&one).await?;
            ear.eager_reconnect(false);
            ear.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(ear)
        };
        self.store.deadline(listening).await.ok()?.ok()
    }

    /// Waits until there may be news, and for a while at most; says whether the database told of some.
    pub async fn changed(&mut self) -> bool {
        let spread = SPREAD.mul_f64(rand::rng().random());
        let Some((ear, _)) = &mut self.ear else {
            tokio::time::sleep(DEAF + spread).await;
            return false;
        };
        match tokio::time::timeout(LISTENING + spread, ear.try_recv()).await {
            Ok(Ok(Some(_))) => {
                // What changes meanwhile is in the same answer.
                let early = FLOOR.saturating_sub(self.asked.elapsed());
                tokio::time::sleep(early + spread).await;
                while ear.next_buffered().is_some() {}
                true
            }
            Ok(Ok(None) | Err(_)) => {
                // It is made anew at once where it has lasted for a while.
                self.ear = None;
                tokio::time::sleep(spread).await;
                false
            }
            Err(_) => false,
        }
    }
}
