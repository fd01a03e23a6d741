//! Keeps how long jobs, stages, models and servers took on this worker where it survives a restart, for all to see.
//!
//! Promises one small statement a minute that nobody waits for, and that is left out where the database doesn't answer: what is missed within
//! a slot is in the slot's next one. Refuses to measure anything: it reads what the metrics say.

use crate::{
    clock,
    health::{Health, Part},
    store::{PostgresStore, SLOT_SECONDS},
    telemetry::{metrics, timings::Timings, worker_name},
    worker::supervisor::{Stage, Supervisor},
};
use chrono::{DateTime, Utc};
use metrics_exporter_prometheus::PrometheusHandle;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often it is written.
const EVERY: Duration = Duration::from_secs(60);
/// How often old rows are forgotten, in writes.
const FORGET_EVERY: u32 = 60;
/// Models, and parts of any other kind, that are told apart.
const MAX_PARTS: usize = 24;
/// Largest row, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Longest wait for the last row.
const GOODBYE: Duration = Duration::from_secs(1);

/// Adds the task.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    recorder: PrometheusHandle,
    store: &PostgresStore,
    health: &Health,
) {
    let (store, health) = (store.clone(), health.clone());
    let started_at = clock::now();
    tasks.add(Stage::Background, "timings", move |stop| {
        let (recorder, store) = (recorder.clone(), store.clone());
        keep(recorder, store, health.clone(), started_at, stop)
    });
}

async fn keep(
    recorder: PrometheusHandle,
    store: PostgresStore,
    health: Health,
    started_at: DateTime<Utc>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let worker = worker_name();
    let mut slots = Slots::default();
    let mut tick = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for turn in 0u32.. {
        let is_stopping = stop.run_until_cancelled(tick.tick()).await.is_none();
        let now = metrics::timings(&recorder.render());
        let (slot, timings) = slots.next(clock::now(), now);
        if is_stopping && !health.is_up(Part::Migrations) {
            return Ok(());
        }
        if health.is_up(Part::Migrations) && !timings.is_empty() {
            let write = async {
                // That the database is out of reach is told by its own check.
                if timings.to_json().len() <= MAX_BYTES {
                    let _left_out = store
                        .record_timings(slot, (&worker, started_at), &timings)
                        .await;
                }
                if turn.is_multiple_of(FORGET_EVERY) {
                    let _later = store.forget_timings().await;
                }
            };
            // Cut short, it is one that is left out.
            let patience = async {
                stop.cancelled().await;
                tokio::time::sleep(GOODBYE).await;
            };
            tokio::select! {
                () = write => {}
                () = patience => {}
            }
        }
        if is_stopping {
            return Ok(());
        }
    }
    Ok(())
}

/// What belongs to the slot of now.
#[derive(Default)]
struct Slots {
    slot: Option<DateTime<Utc>>,
    /// What was known when the slot began, and last.
    base: Timings,
    last: Timings,
}

impl Slots {
    /// Takes what is known now, and gives the slot with what it has so far. What came since the last time belongs to the slot of now.
    fn next(&mut self, at: DateTime<Utc>, now: Timings) -> (DateTime<Utc>, Timings) {
        let slot = slot(at);
        if self.slot != Some(slot) {
            self.slot = Some(slot);
            self.base = std::mem::take(&mut self.last);
        }
        let timings = now.since(&self.base).longest(MAX_PARTS);
        self.last = now;
        (slot, timings)
    }
}

/// When the slot of a moment began.
fn slot(at: DateTime<Utc>) -> DateTime<Utc> {
    let seconds = at.timestamp() - at.timestamp().rem_euclid(SLOT_SECONDS);
    DateTime::from_timestamp(seconds, 0).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::timings::{Kind, Part, tests::spread};

    fn known(calls: u64) -> Timings {
        let mut timings = Timings::default();
        timings.add(&Part::new(Kind::Stage, "store"), &spread(calls, 3.0));
        timings
    }

    #[test]
    fn a_slot_has_all_since_its_beginning_and_the_next_one_none_of_that() {
        let mut slots = Slots::default();
        let at = |second: i64| DateTime::from_timestamp(900 + second, 5).expect("a moment");
        let mut next = |second: i64, calls| {
            let (slot, timings) = slots.next(at(second), known(calls));
            let calls = timings.iter().map(|(_, spread)| spread.calls).sum::<u64>();
            (slot.timestamp(), calls)
        };
        assert_eq!(next(10, 4), (900, 4));
        assert_eq!(next(70, 9), (900, 9));
        // One that was left out is made up for by the slot's next.
        assert_eq!(next(250, 20), (900, 20));
        assert_eq!(next(310, 22), (1200, 2));
        assert_eq!(next(370, 22), (1200, 2));
        assert_eq!(next(900, 23), (1800, 1));
    }
}
