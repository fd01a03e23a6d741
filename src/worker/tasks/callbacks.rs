//! Owns posting jobs' ends to whoever asked for that: what is due is taken from the database, posted, and then forgotten or tried again later.
//!
//! Promises no more at once than the settings say, of all and to one host, and one at once to a host that is slow, so that it holds up no other; that
//! what a worker had in hand when it died is posted by another one once its time is over, so that a receiver may hear of a job twice; that at a stop what
//! hasn't been sent is another worker's at once; that what is given up is counted and said. Refuses to write what is to be posted: that is done with the
//! job's row.

mod parts;
mod post;
mod seats;
mod sign;

use crate::{
    config::{self, Settings},
    health::{Health, Part},
    store::{PostgresStore, StoreError},
    telemetry::metrics::Metrics,
    tls::Tls,
    worker::supervisor::{Stage, Supervisor},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parts::{Freed, Held, Parts};
use seats::Seats;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

/// How often it is asked what is due.
const LOOK: Duration = Duration::from_millis(500);
/// How often what is too old or too much is given up, and what waits is counted.
const TIDY: Duration = Duration::from_secs(60);
/// The same where nothing is posted, for what was to be posted when something was.
const SELDOM: Duration = Duration::from_secs(3_600);
/// The age, in seconds, and the number that no worker's settings go beyond.
const LOOSEST: (u64, u32) = (30 * 86_400, 10_000_000);
/// Longest wait, at a stop, for what is under way.
const GOODBYE: Duration = Duration::from_secs(2);

/// Adds the task, which posts nothing where the settings list no host.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    settings: &Arc<Settings>,
    store: &PostgresStore,
    health: &Health,
    metrics: &Metrics,
) {
    let mut callbacks = settings.callbacks.clone();
    if !callbacks.are_on() {
        // Other workers may still post what this one doesn't, for as long as theirs allow.
        (callbacks.max_age_seconds, callbacks.max_waiting) = LOOSEST;
    }
    let parts = Arc::new(Parts {
        settings: callbacks,
        max_body_bytes: settings.reply.max_bytes,
        database_limit: config::ms(settings.database.timeout_ms),
        store: store.clone(),
        metrics: metrics.clone(),
    });
    let health = health.clone();
    tasks.add(Stage::Background, "callbacks", move |stop| {
        keep_posting(parts.clone(), health.clone(), stop)
    });
}

/// What has come of something that is under way.
enum Event {
    Claimed(Result<Vec<Held>, StoreError>),
    Posted(Freed),
    Tidied,
}

async fn keep_posting(
    parts: Arc<Parts>,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !health.is_up(Part::Migrations) {
        if stop.run_until_cancelled(look.tick()).await.is_none() {
            return Ok(());
        }
    }
    if !parts.settings.are_on() {
        // Of what was to be posted when something was.
        while stop
            .run_until_cancelled(tokio::time::sleep(SELDOM))
            .await
            .is_some()
        {
            parts.tidy(&stop).await;
        }
        return Ok(());
    }
    let client = tokio::task::spawn_blocking(|| Tls::default().client()).await?;
    let client = Arc::new(client.map_err(anyhow::Error::msg)?);
    let mut under_way = UnderWay::new(&parts, &stop);
    let mut tidy = tokio::time::interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = under_way.all.next(), if !under_way.all.is_empty() => under_way.hear(event, &client),
            _ = look.tick() => under_way.claim(),
            _ = tidy.tick(), if !under_way.is_tidying => {
                under_way.is_tidying = true;
                under_way.all.push(parts.tidy(&stop).map(|()| Event::Tidied).boxed());
            }
        }
    }
    under_way.end().await;
    Ok(())
}

/// What is being done at the same time.
struct UnderWay<'a> {
    parts: &'a Parts,
    stop: &'a CancellationToken,
    all: FuturesUnordered<BoxFuture<'a, Event>>,
    seats: Seats,
    is_claiming: bool,
    is_tidying: bool,
    /// The last claim found something, so that there may be more.
    may_be_more: bool,
    /// It was said that the database refuses claims.
    is_refused: bool,
}

impl<'a> UnderWay<'a> {
    fn new(parts: &'a Parts, stop: &'a CancellationToken) -> Self {
        Self {
            parts,
            stop,
            all: FuturesUnordered::new(),
            seats: Seats::new(&parts.settings),
            is_claiming: false,
            is_tidying: false,
            may_be_more: false,
            is_refused: false,
        }
    }

    fn claim(&mut self) {
        let free = self.seats.free();
        if !self.is_claiming && !free.is_empty() {
            self.is_claiming = true;
            let claim = self.parts.claim(free, self.seats.left());
            self.all.push(claim.map(Event::Claimed).boxed());
        }
    }

    fn hear(&mut self, event: Event, client: &Arc<ClientConfig>) {
        match event {
            Event::Claimed(claimed) => {
                self.is_claiming = false;
                let held = self.judged(claimed);
                self.may_be_more = !held.is_empty();
                for one in held {
                    self.seats.take(&one.due.host);
                    let post = self.parts.deliver(one, client.clone(), self.stop);
                    self.all.push(post.map(Event::Posted).boxed());
                }
            }
            Event::Posted(freed) => {
                self.seats.give_back(&freed.host, freed.was_slow);
                if self.may_be_more {
                    self.claim();
                }
            }
            Event::Tidied => self.is_tidying = false,
        }
    }

    /// What was claimed. That the database is out of reach is told by its own check; that it refuses is said here, once.
    fn judged(&mut self, claimed: Result<Vec<Held>, StoreError>) -> Vec<Held> {
        match claimed {
            Ok(held) => {
                self.is_refused = false;
                held
            }
            Err(error) => {
                if !error.may_pass() && !std::mem::replace(&mut self.is_refused, true) {
                    tracing::warn!(%error, "callbacks wait: the database refuses to say which are due");
                }
                Vec::new()
            }
        }
    }

    /// Waits a little for what is under way. What was sent and has no answer by then is posted again: its receiver knows it by its delivery's id.
    async fn end(mut self) {
        let until = Instant::now() + GOODBYE;
        while self.seats.are_taken() || self.is_claiming || self.is_tidying {
            match tokio::time::timeout_at(until, self.all.next()).await {
                Ok(Some(Event::Posted(freed))) => {
                    self.seats.give_back(&freed.host, freed.was_slow);
                }
                Ok(Some(Event::Claimed(claimed))) => {
                    self.is_claiming = false;
                    for held in claimed.unwrap_or_default() {
                        let back = self.parts.give_back(&held);
                        let _left = tokio::time::timeout_at(until, back).await;
                    }
                }
                Ok(Some(Event::Tidied)) => self.is_tidying = false,
                Ok(None) | Err(_) => break,
            }
        }
    }
}
