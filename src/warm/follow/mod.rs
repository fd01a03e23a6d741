//! Follows one table under the claim of a run: reads what changes, posts it, sees it served, and notes how far it is.
//!
//! Promises that a change is never lost: the position that is noted is one up to which everything has been served, so that whoever follows next
//! posts the rest again, and so does the next run where jobs are lost. Promises that one worker at a time follows a table, that reading doesn't run
//! ahead of the queues, and that a table which can't be read is tried again, which is said once.

mod batch;
mod behind;
mod followers;
mod lost;
mod outlay;
mod reading;
mod waiting;
mod window;

use behind::Behind;
pub(super) use followers::Followers;

use super::{
    carry::{Carrier, Stopped},
    schedule::Schedule,
    source::{ChangesSpec, SourceSpec},
};
use crate::{
    backoff::Backoff,
    store::{Claim, Progress},
};
use reading::Reading;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether what was posted is served.
const LOOK: Duration = Duration::from_millis(100);
/// How often the position is noted.
const NOTE: Duration = Duration::from_secs(1);
/// Shortest time between two readings, however much the database tells.
const FLOOR: Duration = Duration::from_millis(50);
/// Waits before a table is tried again that can't be read.
const FIRST_REST: Duration = Duration::from_millis(500);
const MAX_REST: Duration = Duration::from_secs(5);
/// How long the end of a schedule waits for what it posted.
const GOODBYE: Duration = Duration::from_secs(2);

/// What follows one schedule's table.
pub(super) struct Follower {
    pub carrier: Carrier,
    pub schedule: Arc<Schedule>,
    /// Names this worker in the rows of its runs.
    pub worker: String,
    pub behind: Behind,
}

impl Follower {
    /// Follows, run after run, until the worker stops, the schedule ends, or the claim is another worker's. Says whether a run failed.
    pub(super) async fn follow(
        self,
        mut claim: Claim,
        stop: &CancellationToken,
        end: &CancellationToken,
    ) -> bool {
        let SourceSpec::Changes(spec) = &self.schedule.source else {
            return true;
        };
        let mut reading = None;
        let failed = loop {
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => Err(Stopped::Asked),
                result = self.run(claim, spec, &mut reading, end) => result,
                stopped = self.carrier.renew_claim(claim) => Err(stopped),
            };
            let (is_good, failed) = (result.is_ok(), matches!(result, Err(Stopped::Failed(_))));
            self.carrier.end(claim, &self.schedule.name, result).await;
            // What was lost is read again from where everything before it is served.
            if let Some(mut reading) = reading.take_if(|reading| reading.lost.is_found) {
                reading.close().await;
            }
            if !is_good || end.is_cancelled() {
                break failed;
            }
            let life = self.carrier.life();
            let next = self.carrier.store.claim_following(
                &self.schedule.name,
                &self.worker,
                life,
                self.limit(),
            );
            match next.await {
                Ok(Some(next)) => claim = next,
                // Another worker may, and so may this one a little later.
                Ok(None) | Err(_) => break false,
            }
        };
        if let Some(reading) = &mut reading {
            reading.close().await;
        }
        self.behind
            .forget(&self.schedule.name, &self.carrier.metrics);
        failed
    }

    /// How long a run may take: what it reads until the schedule's limit may take as long again to be served.
    pub(super) fn limit(&self) -> Duration {
        self.schedule.limit * 2
    }

    /// One run.
    async fn run(
        &self,
        claim: Claim,
        spec: &ChangesSpec,
        reading: &mut Option<Reading>,
        end: &CancellationToken,
    ) -> Result<Progress, Stopped> {
        let until = Instant::now() + self.schedule.limit;
        let reading = match reading {
            Some(reading) => reading,
            None => {
                warn_without_overlap(spec, &self.schedule.name);
                reading.insert(Reading::new(self, spec)?)
            }
        };
        reading.start(claim, self).await?;
        let mut rests = Backoff::new(FIRST_REST, MAX_REST);
        let mut poll = Instant::now();
        while !end.is_cancelled() && !reading.lost.is_found && Instant::now() < until {
            let is_whole = Instant::now() >= poll;
            let rest = match reading.read(self, spec, is_whole, until, end).await? {
                Ok(()) if !reading.is_in_trouble() => {
                    rests.reset();
                    spec.poll()
                }
                // The whole is tried again when it was to be.
                Ok(()) => poll.saturating_duration_since(Instant::now()),
                Err(_) => rests.next_wait(),
            };
            // What is remembered is read once more before there is room again.
            let rest = match reading.is_full() {
                true => rest.max(spec.overlap() / 8),
                false => rest,
            };
            if is_whole || rests.attempts() > 0 {
                poll = Instant::now() + rest;
            }
            reading.tend(self).await?;
            let now = Instant::now();
            let early = reading.comes(now).map(|at| at.max(now + FLOOR));
            let next = early.map_or(poll, |at| at.min(poll));
            self.wait(reading, next.min(until), end).await?;
        }
        self.finish(claim, reading, end).await
    }

    /// Waits until the table is to be read again, and sees meanwhile what is served.
    async fn wait(
        &self,
        reading: &mut Reading,
        poll: Instant,
        end: &CancellationToken,
    ) -> Result<(), Stopped> {
        let early = Instant::now() + FLOOR;
        loop {
            let look = reading.is_waiting() || reading.has_news(self);
            tokio::select! {
                () = end.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(poll) => return Ok(()),
                () = reading.changed() => {
                    // What changes meanwhile is in the same answer.
                    tokio::time::sleep_until(early.min(poll)).await;
                    return Ok(());
                }
                () = tokio::time::sleep(LOOK), if look => {}
            }
            reading.tend(self).await?;
            if reading.lost.is_found {
                return Ok(());
            }
        }
    }

    /// Sees to its end what was posted.
    async fn finish(
        &self,
        claim: Claim,
        reading: &mut Reading,
        end: &CancellationToken,
    ) -> Result<Progress, Stopped> {
        let begun = Instant::now();
        let is_over = || end.is_cancelled() && begun.elapsed() >= GOODBYE;
        while reading.is_waiting() && !reading.lost.is_found && !is_over() {
            tokio::time::sleep(LOOK).await;
            reading.tend(self).await?;
        }
        let progress = self.carrier.store.run_progress(claim.id).await?;
        reading.note(self, Some(&progress)).await?;
        Ok(progress)
    }
}

/// Says what is passed over where nothing is read again.
fn warn_without_overlap(spec: &ChangesSpec, schedule: &str) {
    if spec.overlap().is_zero() {
        tracing::warn!(
            schedule,
            "a table is followed without an overlap: rows that commit after a later position, or at one that was read, are passed over"
        );
    }
}
