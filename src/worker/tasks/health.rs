//! Keeps health informed: asks Redis and Postgres how they are, and follows what others say of their parts.
//!
//! Promises to ask for what jobs need, and not only for an answer: a server that answers and takes no writes is of no use to them.

use crate::{
    cache::{Checks, Tally},
    health::{Health, Part},
    pipeline::Engine,
    store::PostgresStore,
    telemetry::metrics::{Metrics, Server},
};
use futures_util::future::select_all;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::{Interval, MissedTickBehavior},
};

/// How often servers are asked how they are.
const CHECK: Duration = Duration::from_secs(1);
/// How often Redis is asked: it may lose an invalidation's mark at any time, which is there again within a second.
const CHECK_REDIS: Duration = Duration::from_millis(900);
/// Longest wait for Postgres's answer to a check: an outage is to be known before a statement's own limit has passed.
const POSTGRES_LIMIT: Duration = Duration::from_secs(3);
/// Redis doesn't work for jobs where so many round trips of theirs fail, and more than one to as many that are answered.
const FAILING: u64 = 4;
/// How often health shows that the worker's runtime runs, and takes note of what has lasted long enough.
const BEAT: Duration = Duration::from_millis(500);

fn every(period: Duration) -> Interval {
    let mut tick = tokio::time::interval(period);
    // After an answer that took long, the next question is as far away as ever.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Brings health up to date again and again.
pub(in crate::worker) async fn beat(health: Health) -> anyhow::Result<()> {
    let mut tick = every(BEAT);
    loop {
        tick.tick().await;
        health.beat();
    }
}

/// Asks Redis how it is, again and again. Words that may have been written late are taken back beside that: they may be many.
pub(in crate::worker) async fn check_redis(
    engine: Arc<Engine>,
    health: Health,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let well = Notify::new();
    let taking_back = async {
        loop {
            well.notified().await;
            if let Some(redis) = engine.cache().server() {
                redis.take_back_unsure().await;
            }
        }
    };
    tokio::select! {
        ended = check_again(&engine, &health, &metrics, &well) => ended,
        () = taking_back => Ok(()),
    }
}

async fn check_again(
    engine: &Engine,
    health: &Health,
    metrics: &Metrics,
    well: &Notify,
) -> anyhow::Result<()> {
    let mut tick = every(CHECK_REDIS);
    let mut before = Tally::default();
    let mut checks = Checks::default();
    loop {
        tick.tick().await;
        let Some(redis) = engine.cache().server() else {
            health.up(Part::Redis);
            continue;
        };
        let begun = Instant::now();
        let checked = redis.check(&mut checks).await;
        metrics.marks_repaired(checked.repaired);
        if checked.works.is_ok() {
            well.notify_one();
        }
        let tally = redis.tally();
        let judged = checked.works.and_then(|()| judge(&before, &tally));
        health.checked(
            Part::Redis,
            begun,
            judged.as_ref().map_err(String::as_str).copied(),
        );
        before = tally;
    }
}

/// Whether round trips for jobs worked since the last check: a question may be answered while none of theirs is.
fn judge(before: &Tally, now: &Tally) -> Result<(), String> {
    let answered = now.answered.saturating_sub(before.answered);
    let failed = now.failed.saturating_sub(before.failed);
    // A part of a job's round trips is enough: those that only write may work while no look-up does.
    if failed > answered || (failed >= FAILING && failed > answered / FAILING) {
        return Err(format!("round trips fail: {}", now.reason));
    }
    Ok(())
}

pub(in crate::worker) async fn check_postgres(
    store: PostgresStore,
    metrics: Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let store = store.with_limit(POSTGRES_LIMIT);
    let mut tick = every(CHECK);
    loop {
        tick.tick().await;
        let begun = Instant::now();
        let works = if health.is_up(Part::Migrations) {
            store.probe_write().await
        } else {
            store.ping().await
        };
        // A server may answer and take no writes.
        let answers = works.is_ok() || store.ping().await.is_ok();
        metrics.server(Server::Postgres, answers);
        let works = works.map_err(|error| error.to_string());
        health.checked(
            Part::Postgres,
            begun,
            works.as_ref().map_err(String::as_str).copied(),
        );
    }
}

/// Follows what the owners of a part say of it; `why` says why one doesn't work, or nothing where it does.
pub(in crate::worker) async fn follow<S: Send + Sync>(
    part: Part,
    mut owners: Vec<watch::Receiver<S>>,
    why: impl Fn(&S) -> Option<String> + Send,
    health: Health,
) -> anyhow::Result<()> {
    loop {
        let reasons = owners.iter_mut();
        let reasons = reasons.filter_map(|owner| why(&owner.borrow_and_update()));
        let reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() {
            health.up(part);
        } else {
            health.down(part, &reasons.join("; "));
        }
        let changes = owners.iter_mut().map(|owner| Box::pin(owner.changed()));
        let (changed, ..) = select_all(changes).await;
        if changed.is_err() {
            // Its owner is gone, and the worker with it.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_fails_jobs_where_many_of_their_round_trips_fail() {
        let tally = |answered, failed| Tally {
            answered,
            failed,
            reason: "no answer in time".to_owned(),
        };
        let before = tally(100, 100);
        assert_eq!(judge(&before, &before), Ok(()));
        assert_eq!(judge(&before, &tally(140, 110)), Ok(()));
        assert_eq!(
            judge(&before, &tally(140, 111)),
            Err("round trips fail: no answer in time".to_owned())
        );
        assert_eq!(judge(&before, &Tally::default()), Ok(()), "never backwards");
    }

    #[tokio::test]
    async fn a_part_works_when_each_of_its_owners_says_so() {
        let health = Health::new(Metrics::new());
        let (one, first) = watch::channel(Some("blocked"));
        let (other, second) = watch::channel(None);
        let why = |said: &Option<&str>| said.map(str::to_owned);
        let following = follow(Part::Broker, vec![first, second], why, health.clone());
        let changing = async {
            let works = async |wanted: bool| {
                while health.is_up(Part::Broker) != wanted {
                    tokio::task::yield_now().await;
                }
            };
            works(false).await;
            one.send_replace(None);
            works(true).await;
            other.send_replace(Some("refused"));
            works(false).await;
            other.send_replace(None);
            works(true).await;
        };
        tokio::select! {
            ended = following => ended.expect("it goes on"),
            () = changing => {}
        }
    }
}
