//! Owns the rows of what stands under names although something newer stood there before, which has left the cache.
//!
//! Promises that the history goes on from there, as the cache does: the next word is compared with this one.

use super::{DIFFERS, ServedRow, is_newer, rows};
use crate::store::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, postgres::PgArguments};

/// Where the latest row is newer, a row of no age says before the new one that nothing stood any more.
const INSERT: &str = "\
WITH alone AS MATERIALIZED (
  SELECT new.*, last.model AS last_model, last.version AS last_version, {is_newer} AS is_newer
  FROM ({rows}) AS new CROSS JOIN LATERAL (
    SELECT * FROM served WHERE namespace = new.namespace AND key = new.key ORDER BY id DESC LIMIT 1
  ) AS last WHERE last.job_id <> new.job_id AND (NOT {is_newer} OR {differs})
)
INSERT INTO served (namespace, key, served_from, job_id, model, version, input_sha256, label, score, items, inputs_sha256, is_removed,
  order_kind, order_value, accepted_us)
SELECT namespace, key, served_from, job_id, model, version, input_sha256, label, score, items, inputs_sha256, is_removed,
  order_kind, order_value, accepted_us
FROM (
  SELECT 0 AS part, namespace, key, served_from, '' AS job_id, last_model AS model, last_version AS version, NULL::bytea AS input_sha256,
    NULL::text AS label, NULL::real AS score, NULL::jsonb AS items, NULL::bytea AS inputs_sha256, true AS is_removed,
    't'::\"char\" AS order_kind, 0::int8 AS order_value, 0::int8 AS accepted_us FROM alone WHERE NOT is_newer
  UNION ALL
  SELECT 1, namespace, key, served_from, job_id, model, version, input_sha256, label, score, items::jsonb, inputs_sha256, is_removed,
    order_kind, order_value, accepted_us FROM alone
) AS ends_and_words ORDER BY namespace, key, part";

impl PostgresStore {
    /// Notes what stands under names, by these words, and stood alone when it was written.
    pub(in crate::store) async fn served_alone(
        &self,
        words: &[ServedRow<'_>],
        at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        if words.is_empty() {
            return Ok(());
        }
        let mut arguments = PgArguments::default();
        let words = rows(words, at, &mut arguments);
        let words = words.map_err(|e| self.classify(sqlx::Error::Encode(e)))?;
        let text = INSERT
            .replace("{is_newer}", &is_newer())
            .replace("{differs}", DIFFERS)
            .replace("{rows}", &words);
        // Made of constants; all data is in the arguments.
        let query = sqlx::query_with(AssertSqlSafe(text), arguments);
        self.execute(query).await.map(|_| ())
    }
}
