//! Owns what became of a job, and what its trace is told of it.

use crate::{
    failure::Rejection,
    result::Finished,
    telemetry::{
        metrics::JobOutcome,
        trace::{Trace, Value},
    },
};
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
    /// Tells a job's trace what became of it.
    pub fn tell(&self, trace: &mut Trace) {
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
