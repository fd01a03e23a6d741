//! Owns the rows of rejected jobs.
//!
//! Promises to wait for a database that is out of reach. A rejection that the database refuses, or doesn't store in time while it stores others,
//! is logged: its dead letter still says why.

use super::{
    context::Context,
    ending::{End, Ending},
    outcome::Outcome,
};
use crate::{
    clock,
    store::{self, RejectedRow},
};
use kiln_contract::key;
use std::ops::Range;

/// Writes the rows of these jobs, in the order of their ids, so that no two writers wait for each other's.
pub(super) async fn batch(context: &Context, rejected: &[(Ending, Outcome)]) {
    let mut rows: Vec<RejectedRow<'_>> = rejected.iter().filter_map(row).collect();
    rows.sort_by(|one, other| one.job_id.cmp(&other.job_id));
    let stored = || context.store.stored();
    let reject = |part: Range<usize>| {
        let rows = rows.get(part).unwrap_or_default();
        async move {
            let rejected = context.write_in_time(|| context.store.reject(rows)).await;
            rejected.map(|()| vec![(); rows.len()])
        }
    };
    let bytes = vec![0; rows.len()];
    let written = store::in_parts(bytes, context.write_backoff(), stored, reject).await;
    for (row, written) in rows.iter().zip(written) {
        if let Err(reason) = written {
            tracing::error!(
                reason,
                code = row.rejection.code.as_str(),
                "the database refuses a rejection's row"
            );
        }
    }
}

fn row((ending, outcome): &(Ending, Outcome)) -> Option<RejectedRow<'_>> {
    let Outcome::Rejected { job_id, rejection } = outcome else {
        return None;
    };
    let (model, namespace) = match &ending.end {
        End::Finished(job) => (
            Some(job.result.model.as_str()),
            Some(job.result.namespace.as_str()),
        ),
        End::Failed {
            model, namespace, ..
        } => (model.as_deref(), namespace.as_deref()),
    };
    Some(RejectedRow {
        job_id: job_id.as_deref(),
        body_sha256: key::hash_body(ending.source.body()),
        model,
        namespace,
        rejection,
        finished_at: clock::now(),
    })
}
