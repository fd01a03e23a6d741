//! Owns jobs that are suspected of killing workers: they were redelivered more often than chance explains.
//!
//! Promises that each runs with nothing else in flight, and that its run is counted durably before it begins: if the worker dies now, it
//! was this one, and the next worker knows.

use super::process::{BatchProcessor, in_flight, note_panic};
use crate::{
    amqp::delivery::Delivery,
    backoff::Backoff,
    store::{self, StoreError},
    telemetry::metrics::CloseReason,
};
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::key;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Suspected jobs in hand. Bounded by the prefetch.
#[derive(Default)]
pub(super) struct Suspects(VecDeque<Delivery>);

impl Suspects {
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.0.push_back(delivery);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands over those that haven't run.
    pub(super) fn take(&mut self) -> VecDeque<Delivery> {
        std::mem::take(&mut self.0)
    }

    /// Runs them, one after the other, until it is asked to stop; one that runs by then is left in `batches`. `slots` are those of all
    /// batches: a suspect holds every one.
    pub(super) async fn run(
        &mut self,
        processor: &BatchProcessor,
        slots: &Arc<Semaphore>,
        batches: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        while let Some(delivery) = self.0.pop_front() {
            let beginning = begin(processor, slots, &delivery);
            let Some(Some((permits, given_up))) = stop.run_until_cancelled(beginning).await else {
                self.0.push_front(delivery);
                return;
            };
            let work = run_alone(processor.clone(), delivery, given_up, permits);
            let running = batches.spawn(processor.batches.track_future(work));
            // Whatever else was in flight has ended: the slots were all free.
            while !running.is_finished() {
                match stop.run_until_cancelled(batches.join_next()).await {
                    None => return,
                    Some(None) => break,
                    Some(Some(ended)) => note_panic(ended),
                }
            }
        }
    }
}

/// Waits until nothing else is in flight and counts the run, durably. Gives the slots, and a verdict on a job that has killed too many.
async fn begin(
    processor: &BatchProcessor,
    slots: &Arc<Semaphore>,
    delivery: &Delivery,
) -> Option<(OwnedSemaphorePermit, Option<Rejection>)> {
    let intake = &processor.settings.intake;
    let all = u32::try_from(intake.batches_in_flight).unwrap_or(1);
    // The slots close with the session only.
    let permits = slots.clone().acquire_many_owned(all).await.ok()?;
    let body = key::hash_body(&delivery.body);
    let runs = patiently(|| processor.store.suspect_started(&body)).await;
    let given_up = (runs > intake.suspect_runs).then(|| give_up(runs - 1));
    Some((permits, given_up))
}

/// One suspect's run. It is cleared of the suspicion unless it panics, or kills the worker.
async fn run_alone(
    processor: BatchProcessor,
    delivery: Delivery,
    given_up: Option<Rejection>,
    permits: OwnedSemaphorePermit,
) {
    processor.metrics.batch(CloseReason::Alone, 1);
    let body = key::hash_body(&delivery.body);
    in_flight(processor.clone(), vec![delivery], given_up, ()).await;
    patiently(|| processor.store.suspect_cleared(&body)).await;
    drop(permits);
}

/// The rejection of a job that killed every worker that ran it alone.
fn give_up(runs: u32) -> Rejection {
    tracing::warn!(
        runs,
        "a job is given up: workers died each time it ran alone"
    );
    let message = format!("workers died each of the {runs} times that this job ran alone");
    Rejection::new(Code::Exhausted, "", message)
}

/// Repeats a small write until the database has answered.
async fn patiently<T: Default, W: Future<Output = Result<T, StoreError>>>(
    write: impl Fn() -> W,
) -> T {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    match store::until_answered(backoff, write, |error, _| error.may_pass()).await {
        Ok(value) => value,
        Err(error) => {
            tracing::error!(%error, "the database refuses the mark of a suspected job");
            T::default()
        }
    }
}
