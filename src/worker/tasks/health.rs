//! Keeps health informed: asks Redis and Postgres how they are, and follows what others say of their parts.
//!
//! Promises to ask for what jobs need, and not only for an answer: a server that answers and takes no writes is of no use to them.

use crate::{
    amqp::publisher::{PublisherState, PublisherStatus},
    cache::Tally,
    health::{Health, Part},
    pipeline::Engine,
    store::PostgresStore,
    telemetry::metrics::{Metrics, Server},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior},
};

/// How often servers are asked how they are.
const CHECK: Duration = Duration::from_secs(1);
/// Longest wait for Postgres's answer to a check: an outage is to be known before a statement's own limit has passed.
const POSTGRES_LIMIT: Duration = Duration::from_secs(3);
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

pub(in crate::worker) async fn check_redis(
    engine: Arc<Engine>,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = every(CHECK);
    let mut before = Tally::default();
    loop {
        tick.tick().await;
        let Some(redis) = engine.cache().server() else {
            health.up(Part::Redis);
            continue;
        };
        let begun = Instant::now();
        let probed = redis.probe().await;
        let tally = redis.tally();
        let judged = probed.and_then(|()| judge(&before, &tally));
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
    if failed > answered {
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
        let answered = store.ping().await;
        metrics.server(Server::Postgres, answered.is_ok());
        let works = match answered {
            Ok(()) if health.is_up(Part::Migrations) => store.probe_write().await,
            other => other,
        };
        let works = works.map_err(|error| error.to_string());
        health.checked(
            Part::Postgres,
            begun,
            works.as_ref().map_err(String::as_str).copied(),
        );
    }
}

/// Follows what the publishers say of themselves: jobs end only where both of them work.
pub(in crate::worker) async fn follow_publishers(
    mut jobs: watch::Receiver<PublisherStatus>,
    mut replies: watch::Receiver<PublisherStatus>,
    health: Health,
) -> anyhow::Result<()> {
    loop {
        let troubles = [
            trouble(&jobs.borrow_and_update().state),
            trouble(&replies.borrow_and_update().state),
        ];
        match troubles.into_iter().flatten().next() {
            Some(reason) => health.down(Part::Publisher, &reason),
            None => health.up(Part::Publisher),
        }
        let changed = tokio::select! {
            changed = jobs.changed() => changed,
            changed = replies.changed() => changed,
        };
        if changed.is_err() {
            // Its owner is gone, and the worker with it.
            std::future::pending::<()>().await;
        }
    }
}

/// Why nothing is published at the moment.
fn trouble(state: &PublisherState) -> Option<String> {
    match state {
        PublisherState::Up => None,
        PublisherState::Down(reason) => Some(reason.clone()),
        PublisherState::Blocked(reason) => Some(format!("the broker blocks publishers: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_fails_jobs_where_most_of_their_round_trips_fail() {
        let tally = |answered, failed| Tally {
            answered,
            failed,
            reason: "no answer in time".to_owned(),
        };
        let before = tally(100, 100);
        assert_eq!(judge(&before, &before), Ok(()));
        assert_eq!(judge(&before, &tally(110, 110)), Ok(()));
        assert_eq!(
            judge(&before, &tally(110, 111)),
            Err("round trips fail: no answer in time".to_owned())
        );
        assert_eq!(judge(&before, &Tally::default()), Ok(()), "never backwards");
    }
}
