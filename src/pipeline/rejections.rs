//! Owns the rows of rejected jobs.
//!
//! Promises to wait for a database that is out of reach. A rejection that the database refuses is logged: its dead letter
//! still says why.

use super::{
    context::Context,
    index::{IndexVec, SourceIndex},
    outcome::Outcome,
    source::{AdmittedJob, JobSource},
};
use crate::{clock, store::RejectedRow};
use kiln_contract::key;

/// Writes the rows of the batch's rejected jobs.
pub(super) async fn batch(
    context: &Context,
    sources: &[JobSource<'_>],
    admitted: &[AdmittedJob<'_>],
    outcomes: &IndexVec<SourceIndex, Outcome>,
) {
    let mut rows = Vec::new();
    for (source, (index, outcome)) in sources.iter().zip(outcomes.enumerate()) {
        let Outcome::Rejected { job_id, rejection } = outcome else {
            continue;
        };
        let job = admitted.iter().find(|one| one.index == index);
        let job = job.map(|one| &one.job);
        rows.push(RejectedRow {
            job_id: job_id.as_deref(),
            body_sha256: key::hash_body(source.body),
            model: job.map(|job| job.model_name()),
            namespace: job.map(|job| job.namespace()),
            rejection,
            finished_at: clock::now(),
        });
    }
    for row in &rows {
        write(context, row).await;
    }
}

async fn write(context: &Context, row: &RejectedRow<'_>) {
    let one = std::slice::from_ref(row);
    if let Err(reason) = context.write(|| context.store.reject(one)).await {
        tracing::error!(
            reason,
            code = row.rejection.code.as_str(),
            "the database refuses a rejection's row"
        );
    }
}
