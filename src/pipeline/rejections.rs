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

/// Writes the rows of those jobs that were rejected.
pub(super) async fn batch(context: &Context, ended: &[(Ending, Outcome)]) {
    for (ending, outcome) in ended {
        let Outcome::Rejected { job_id, rejection } = outcome else {
            continue;
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
        let row = RejectedRow {
            job_id: job_id.as_deref(),
            body_sha256: key::hash_body(ending.source.body()),
            model,
            namespace,
            rejection,
            finished_at: clock::now(),
        };
        write(context, &row).await;
    }
}

async fn write(context: &Context, row: &RejectedRow<'_>) {
    let one = std::slice::from_ref(row);
    let stored = || context.store.stored();
    let reject = |_| async {
        let rejected = context.write_in_time(|| context.store.reject(one)).await;
        rejected.map(|()| vec![()])
    };
    let written = store::in_parts(vec![0], context.write_backoff(), stored, reject);
    if let [Err(reason)] = written.await.as_slice() {
        tracing::error!(
            reason,
            code = row.rejection.code.as_str(),
            "the database refuses a rejection's row"
        );
    }
}
