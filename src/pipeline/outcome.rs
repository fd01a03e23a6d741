//! Owns what became of a job, and what its trace records of it.

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
        job_id: Arc<str>,
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
    /// What it needs to be handed on isn't there yet, which is no fault of its own: it comes again, and that is no try.
    Postponed { reason: String },
    /// Its lane is full here, or not served: it is to wait in the lane's queue.
    Moved(LaneQueue),
    /// The process can't go on with it: it must go back unharmed.
    Abandoned,
}

/// A queue of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneQueue {
    pub lane: String,
    /// Which of the lane's queues.
    pub number: usize,
}

impl Outcome {
    /// The outcome of the same job asked again at the same time.
    pub(super) fn repeated(&self) -> Self {
        match self {
            Self::Done { job_id, result, .. } => Self::Done {
                job_id: job_id.clone(),
                result: result.clone(),
                repeated: true,
            },
            other => other.clone(),
        }
    }

    /// What metrics and traces call it.
    pub(super) fn kind(&self) -> JobOutcome {
        match self {
            Self::Done {
                repeated: false, ..
            } => JobOutcome::Ok,
            Self::Done { repeated: true, .. } => JobOutcome::Repeated,
            Self::Rejected { .. } => JobOutcome::Rejected,
            Self::Retry { .. } => JobOutcome::Retried,
            Self::Postponed { .. } => JobOutcome::Postponed,
            Self::Moved(_) => JobOutcome::Moved,
            Self::Abandoned => JobOutcome::Abandoned,
        }
    }

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
            Self::Postponed { .. } => JobOutcome::Postponed,
            Self::Moved(queue) => {
                trace.record("kiln.lane", text(&queue.lane));
                JobOutcome::Moved
            }
            Self::Abandoned => JobOutcome::Abandoned,
        };
        trace.record("kiln.outcome", text(outcome.as_str()));
    }
}
