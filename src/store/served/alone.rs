//! Owns the rows of what stands under names although something newer stood there before, which has left the cache.
//!
//! Promises that the history goes on from there, as the cache does: the next word is compared with this one.

use super::{DIFFERS, ServedRow, is_newer, rows};
use crate::{
    redact::Redact,
    store::{PostgresStore, StoreError},
};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Row, postgres::PgArguments};

/// Words that were seen to stand in the cache.
#[derive(Debug)]
pub struct Standing<'a> {
    pub rows: Vec<ServedRow<'a>>,
    /// Whether their jobs were finished before.
    pub is_repeat: bool,
    /// When they were seen.
    pub at: DateTime<Utc>,
}

/// A name whose history doesn't say what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsaidName {
    pub namespace: String,
    pub key: String,
    /// Whether it has a newer word since a minute or less: that may not have come to the cache yet.
    pub is_after_news: bool,
}

/// What stands, where the history says something else.
const ALONE: &str = "\
WITH alone AS MATERIALIZED (
  SELECT new.*, last.model AS last_model, last.version AS last_version, {is_newer} AS is_newer,
    NOT {is_newer} AND last.served_from > new.served_from - interval '1 minute' AS is_after_news
  FROM ({rows}) AS new CROSS JOIN LATERAL (
    SELECT * FROM served WHERE namespace = new.namespace AND key = new.key ORDER BY id DESC LIMIT 1
  ) AS last WHERE last.job_id <> new.job_id AND last.served_from <= new.served_from
    AND ({is_newer} AND {differs} OR NOT {is_newer} AND {is_missing})
)
";

/// Whether a word has no row. That of another job which is written at the same time may stand behind it.
const IS_MISSING: &str = "\
NOT EXISTS (SELECT FROM (
  SELECT job_id FROM served WHERE namespace = new.namespace AND key = new.key ORDER BY id DESC LIMIT 64
) AS past WHERE past.job_id = new.job_id)";

const UNSAID: &str = "SELECT namespace, key, is_after_news FROM alone";

/// Where the latest row is newer, a row of no age says before the new one that nothing stood any more.
const INSERT: &str = "\
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
    /// The names of these words whose history says that something else stands.
    pub(in crate::store) async fn unsaid(
        &self,
        standing: &Standing<'_>,
    ) -> Result<Vec<UnsaidName>, StoreError> {
        if standing.rows.is_empty() {
            return Ok(Vec::new());
        }
        let (text, arguments) = self.alone(standing, UNSAID)?;
        let mut lease = self.lease().await?;
        // Made of constants; all data is in the arguments.
        let query = sqlx::query_with(AssertSqlSafe(text), arguments);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let names = rows.iter().map(|row| {
            Ok(UnsaidName {
                namespace: row.try_get("namespace")?,
                key: row.try_get("key")?,
                is_after_news: row.try_get("is_after_news")?,
            })
        });
        let names: Result<Vec<UnsaidName>, sqlx::Error> = names.collect();
        names.map_err(|e| StoreError::Refused(e.redacted()))
    }

    /// Notes what stands under names, by these words.
    pub(in crate::store) async fn served_alone(
        &self,
        standing: &Standing<'_>,
    ) -> Result<(), StoreError> {
        if standing.rows.is_empty() {
            return Ok(());
        }
        let (text, arguments) = self.alone(standing, INSERT)?;
        // Made of constants; all data is in the arguments.
        let query = sqlx::query_with(AssertSqlSafe(text), arguments);
        self.execute(query).await.map(|_| ())
    }

    fn alone(
        &self,
        standing: &Standing<'_>,
        and_then: &str,
    ) -> Result<(String, PgArguments), StoreError> {
        let mut arguments = PgArguments::default();
        let rows = rows(&standing.rows, standing.at, &mut arguments);
        let rows = rows.map_err(|e| self.classify(sqlx::Error::Encode(e)))?;
        let is_missing = match standing.is_repeat {
            true => "true",
            false => IS_MISSING,
        };
        let alone = ALONE
            .replace("{is_newer}", &is_newer())
            .replace("{differs}", DIFFERS)
            .replace("{is_missing}", is_missing)
            .replace("{rows}", &rows);
        Ok((format!("{alone}{and_then}"), arguments))
    }
}
