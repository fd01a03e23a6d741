//! Owns the statements that write rejected jobs to Postgres.
//!
//! Promises that a finished job's row is never overwritten, and that nothing is written of such a job.

use super::{
    PostgresStore, Rejected, RejectedRow, StoreError, callbacks, kinds::Kinds, tables::Tables,
};
use crate::redact::Redact;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use std::collections::BTreeSet;

/// Around the row of a rejection: who posted it, and where its end is posted to, unless it says again what stands there already.
macro_rules! reject {
    ($again:literal, $row:literal) => {
        concat!(
            "WITH posted AS (
  INSERT INTO job_posters (posted_by, job_id, body_sha256, posted_at) SELECT DISTINCT name, $1::text, $5::bytea, $6::timestamptz FROM unnest($7::text[]) AS name
  ON CONFLICT (posted_by, job_id, body_sha256) DO UPDATE SET posted_at = excluded.posted_at
), done AS (",
            $row,
            " RETURNING job_id
), called AS (
  INSERT INTO callbacks (job_id, body_sha256, url, host) SELECT job_id, $5::bytea, $8::text, $9::text FROM done
  WHERE $8::text IS NOT NULL AND NOT ",
            $again,
            "
  ",
            callbacks::again!(),
            "
) SELECT FROM done"
        )
    };
}

const REJECT: &str = reject!(
    "EXISTS (SELECT FROM jobs WHERE job_id = $1 AND status = 'rejected' AND body_sha256 = $5 AND error = $4::jsonb)",
    "INSERT INTO jobs (job_id, status, model, namespace, error, body_sha256, finished_at)
  VALUES ($1, 'rejected', $2, $3, $4::jsonb, $5, $6)
  ON CONFLICT (job_id) DO UPDATE SET
    model = excluded.model, namespace = excluded.namespace, error = excluded.error,
    body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
  WHERE jobs.status = 'rejected'"
);

/// The same where results have tables of their own.
const REJECT_ID: &str = reject!(
    "EXISTS (SELECT FROM job_ids WHERE job_id = $1 AND status = 'rejected' AND body_sha256 = $5 AND rejection -> 'error' = $4::jsonb)",
    "INSERT INTO job_ids (job_id, status, rejection, body_sha256, finished_at)
  VALUES ($1, 'rejected', jsonb_build_object('model', $2::text, 'namespace', $3::text, 'error', $4::jsonb), $5, $6)
  ON CONFLICT (job_id) DO UPDATE SET
    rejection = excluded.rejection, body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
  WHERE job_ids.status = 'rejected'"
);

/// The statement for a row under one of its ids; the rows that it touches are those written.
pub(super) fn statement<'q>(
    id: &'q str,
    row: &'q RejectedRow<'_>,
    error: &'q str,
    tables: Tables,
) -> Query<'q, Postgres, PgArguments> {
    // An end under another id is nothing to whoever asked by the job's own.
    let callback = row.callback.filter(|_| row.job_id == Some(id));
    let statement = match tables {
        Tables::Plain => REJECT,
        Tables::Partitioned => REJECT_ID,
    };
    sqlx::query(statement)
        .bind(id)
        .bind(row.model)
        .bind(row.namespace)
        .bind(error)
        .bind(row.body_sha256.as_slice())
        .bind(row.finished_at)
        .bind(row.posters.as_slice())
        .bind(callback.map(|to| to.url))
        .bind(callback.map(|to| to.host))
}

impl PostgresStore {
    pub(super) async fn reject(
        &self,
        rows: &[RejectedRow<'_>],
    ) -> Result<Vec<Rejected>, StoreError> {
        let mut rejected = Vec::with_capacity(rows.len());
        'rows: for row in rows {
            let (own, other) = row.ids();
            let error = serde_json::to_string(row.rejection)
                .map_err(|e| StoreError::Refused(e.redacted()))?;
            for id in [&own, &other] {
                let write = |tables| self.execute_write(statement(id, row, &error, tables));
                if self.for_tables(BTreeSet::new, write).await? > 0 {
                    let kinds = Kinds::of_rejections(std::slice::from_ref(row));
                    self.taken.rejections(kinds);
                    break;
                }
                // A finished job's row stands there: this very job's, or another one's under the same id.
                if let Some(first) = self.finished(id, &row.body_sha256).await? {
                    rejected.push(Rejected::Finished(first));
                    continue 'rows;
                }
            }
            rejected.push(Rejected::Noted);
        }
        Ok(rejected)
    }
}
