//! Owns what became of each job of a batch, and what its trace records of it.
//!
//! Promises one outcome a job: a job that no stage gave one is abandoned, and that is reported as a bug.

use super::index::{IndexVec, SourceIndex, bug};
use crate::telemetry::{
    metrics::JobOutcome,
    trace::{Trace, Value},
};
use kiln_contract::failure::Rejection;
use kiln_contract::result::Finished;
use std::sync::Arc;

/// What became of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its row is committed.
    Done {
        job_id: String,
        result: Arc<Finished>,
        repeated: bool,
    },
    /// It can't succeed, and its row says so.
    Rejected {
        job_id: Option<String>,
        rejection: Rejection,
    },
    /// It failed for a reason that may pass.
    Retry {
        job_id: Option<String>,
        reason: String,
    },
    /// The process can't go on with it: it must go back unharmed.
    Abandoned,
}

impl Outcome {
    /// Records in a job's trace what became of it.
    pub fn record(&self, trace: &mut Trace) {
        let text = |text: &str| Value::Text(text.to_owned());
        let outcome = match self {
            Self::Done {
                job_id,
                result,
                repeated,
            } => {
                trace.record("kiln.job_id", text(job_id));
                trace.record("kiln.model", text(&result.model));
                trace.record("kiln.version", text(&result.version));
                trace.record("kiln.namespace", text(&result.namespace));
                trace.record("kiln.hits", Value::Number(i64::from(result.hits)));
                trace.record("kiln.misses", Value::Number(i64::from(result.misses)));
                trace.record("kiln.repeated", Value::Truth(*repeated));
                JobOutcome::Ok
            }
            Self::Rejected { job_id, rejection } => {
                if let Some(job_id) = job_id {
                    trace.record("kiln.job_id", text(job_id));
                }
                trace.record("kiln.field", text(&rejection.field));
                trace.failed(rejection.code.as_str());
                JobOutcome::Rejected
            }
            Self::Retry { job_id, .. } => {
                if let Some(job_id) = job_id {
                    trace.record("kiln.job_id", text(job_id));
                }
                trace.failed("it is tried again");
                JobOutcome::Retried
            }
            Self::Abandoned => JobOutcome::Abandoned,
        };
        trace.record("kiln.outcome", text(outcome.as_str()));
    }
}

/// What became of the jobs of a batch, as far as that is known.
pub(super) struct Outcomes {
    known: IndexVec<SourceIndex, Option<Outcome>>,
    /// Jobs that repeat another job of the batch, with that one.
    repeats: Vec<(SourceIndex, SourceIndex)>,
}

impl Outcomes {
    /// Nothing is known of so many jobs yet.
    pub fn new(jobs: usize) -> Self {
        Self {
            known: IndexVec::from_fn(jobs, |_| None),
            repeats: Vec::new(),
        }
    }

    /// The jobs, in order.
    pub fn indices(&self) -> impl Iterator<Item = SourceIndex> + use<> {
        self.known.indices()
    }

    /// Says what became of a job.
    pub fn set(&mut self, index: SourceIndex, outcome: Outcome) {
        if let Some(known) = self.known.get_mut(index) {
            if known.is_some() {
                bug("a job has an outcome already");
            }
            *known = Some(outcome);
        }
    }

    /// Says that a job repeats another job of the batch: it shares that one's outcome.
    pub fn repeats(&mut self, index: SourceIndex, first: SourceIndex) {
        self.repeats.push((index, first));
    }

    /// The outcome of every job, in order.
    pub fn finish(mut self) -> IndexVec<SourceIndex, Outcome> {
        for (index, first) in std::mem::take(&mut self.repeats) {
            let outcome = match self.known.get(first).cloned().flatten() {
                Some(Outcome::Done { job_id, result, .. }) => Some(Outcome::Done {
                    job_id,
                    result,
                    repeated: true,
                }),
                other => other,
            };
            self.set(index, outcome.unwrap_or(Outcome::Abandoned));
        }
        self.known.map_into(|known| {
            known.unwrap_or_else(|| {
                bug("no stage said what became of a job");
                Outcome::Abandoned
            })
        })
    }
}
