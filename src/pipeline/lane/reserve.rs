//! Owns waiting for room for a job's large outputs, in its lane.
//!
//! Promises that who waits holds its body alone, that a lane which has all that it may have leaves room for others, and that whom nobody
//! waits for any more doesn't wait.

use super::{Lanes, failed, rejected};
use crate::clock;
use crate::pipeline::{ending::Ending, outcome::Outcome, owned::OwnedJob, source::JobSource};
use std::{sync::atomic::Ordering, time::Duration};

/// How often it is looked whether somebody still waits for a job that waits.
const LOOK: Duration = Duration::from_millis(500);

impl Lanes {
    /// Has a job whose outputs are large wait for room for them in its lane, holding its body alone; then it is to be looked up again.
    /// Otherwise gives its end: nothing where it goes back to its owner.
    pub async fn reserve(&self, mut job: OwnedJob) -> Result<JobSource, Option<Ending>> {
        let reserved = job.source.reserved.take();
        let bytes = reserved.map_or(0, |reserved| reserved.bytes);
        job.rows.rows = Vec::new();
        let lane = self.lane(self.name(&job.rows.model.info().name));
        let budget = &self.context.budget;
        let has_queues = lane.has_queues.load(Ordering::Relaxed);
        job.source.reserved = budget.try_reserve_in(&lane.outputs, bytes);
        if job.source.reserved.is_some() {
            return Ok(job.source);
        }
        if job.source.may_move && has_queues {
            lane.moved.fetch_add(1, Ordering::Relaxed);
            let queue = lane.queue(job.rows.job.namespace());
            return Err(Some(failed(job, Outcome::Moved(queue))));
        }
        let room = budget.reserve_in(&lane.outputs, bytes);
        tokio::pin!(room);
        loop {
            tokio::select! {
                reserved = &mut room => {
                    job.source.reserved = Some(reserved);
                    return Ok(job.source);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let is_old = clock::since(job.source.received) > self.context.settings.max_hold;
            if is_old || job.is_abandoned() {
                return Err(None);
            }
            if job.is_expired(clock::instant()) {
                return Err(Some(rejected(job)));
            }
        }
    }
}
