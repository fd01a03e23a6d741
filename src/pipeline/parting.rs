//! Owns where each job of a batch goes on once it was looked up.
//!
//! Promises that a job goes on as itself. Refuses to send it there: that is the front's.

use super::{
    ending::End,
    index::{SourceIndex, bug},
    input_counts::InputCounts,
    outcome::Outcome,
    owned::JobRows,
    source::AdmittedJob,
    split::{Next, OpenJob},
};
use kiln_contract::job::Job;
use std::time::{Duration, Instant};

/// Where a job of a batch goes on.
pub(super) enum Onward {
    Ends(End, InputCounts),
    Refused(Outcome),
    Waits(JobRows),
    Large(usize),
}

/// Where every job of a batch goes on.
pub(super) struct Parting {
    pub ways: Vec<(SourceIndex, Onward)>,
    pub begun: Instant,
    pub looked_up: Duration,
}

impl Parting {
    pub fn new(
        admitted: Vec<AdmittedJob<'_>>,
        nexts: Vec<(SourceIndex, Next)>,
        begun: Instant,
        looked_up: Duration,
    ) -> Self {
        let ways = admitted
            .into_iter()
            .zip(nexts)
            .map(|(admitted, (index, next))| {
                if admitted.index != index {
                    bug("a job goes on as another one");
                }
                let way = match next {
                    Next::Complete(end, counts) => Onward::Ends(end, counts),
                    Next::Open(open) => Onward::Waits(owned(admitted, open)),
                };
                (index, way)
            });
        Self {
            ways: ways.collect(),
            begun,
            looked_up,
        }
    }

    pub fn set(&mut self, index: SourceIndex, way: Onward) {
        self.ways.push((index, way));
    }
}

/// A job that leaves its batch.
fn owned(admitted: AdmittedJob<'_>, open: OpenJob) -> JobRows {
    let job: Job<'static> = admitted.job.into_owned();
    JobRows {
        job,
        model: admitted.serving.model,
        space: open.space,
        split: open.split,
        body_sha256: admitted.body_sha256,
        ttl_seconds: admitted.ttl_seconds,
        inputs: open.inputs,
        slots: open.slots,
        rows: open.rows,
        stamp: open.stamp,
    }
}
