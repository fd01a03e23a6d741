//! Owns the statements against the file.

use super::{
    schema::begin,
    staged::{Staged, StagedJob, StagedScore, Values, short},
};
use crate::{
    clock,
    store::{RejectedRow, Table},
};
use chrono::{DateTime, Utc};
use kiln_contract::result::Finished;
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, ToSql, Transaction, params,
    types::{ToSqlOutput, ValueRef},
};

const KEEP_JOB: &str = "\
INSERT INTO jobs (job_id, status, model, version, namespace, hits, misses, results, elapsed_ms, body_sha256, finished_at)
VALUES (?1, 'ok', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (job_id) DO UPDATE SET
  status = 'ok', model = excluded.model, version = excluded.version, namespace = excluded.namespace,
  hits = excluded.hits, misses = excluded.misses, results = excluded.results, error = NULL,
  elapsed_ms = excluded.elapsed_ms, body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

const KEEP_OUTPUTS: &str =
    "INSERT OR IGNORE INTO outputs (input, model, outputs) VALUES (?1, ?2, ?3)";

const KEEP_INPUT: &str = "\
INSERT INTO inputs (input_sha256, model, namespace, scored_at, score, key, label, text, text_pair, features)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

pub(super) const FIND_OUTPUTS: &str = "SELECT outputs FROM outputs WHERE input = ?1 AND model = ?2";

const FIND_JOB: &str = "\
SELECT model, version, namespace, hits, misses, results, elapsed_ms, body_sha256, finished_at
FROM jobs WHERE status = 'ok' AND job_id = ?1";

const REJECT: &str = "\
INSERT INTO jobs (job_id, status, model, namespace, error, body_sha256, finished_at)
VALUES (?1, 'rejected', ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (job_id) DO UPDATE SET
  model = excluded.model, namespace = excluded.namespace, error = excluded.error,
  body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

const PRUNE_JOBS: &str =
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE finished_at < ?1 LIMIT ?2)";

/// The log is in the order of time but for clocks that were set back: what is old stands in front.
const OLD_INPUTS: &str = "\
SELECT id, substr(input_sha256, 1, 16), model FROM inputs WHERE scored_at < ?1 ORDER BY id LIMIT ?2";

/// A text as its bytes, which were a string's.
struct Text<'a>(Option<&'a [u8]>);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = self.0.map_or(ValueRef::Null, ValueRef::Text);
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// Writes what is staged, in one transaction. Scores that are there already stay as they are.
pub(super) fn write(connection: &mut Connection, staged: &Staged) -> rusqlite::Result<()> {
    let transaction = begin(connection)?;
    keep_scores(&transaction, staged)?;
    keep_jobs(&transaction, &staged.jobs)?;
    transaction.commit()
}

fn keep_scores(transaction: &Transaction<'_>, staged: &Staged) -> rusqlite::Result<()> {
    let mut is_new = vec![false; staged.scores.len()];
    let mut keep = transaction.prepare_cached(KEEP_OUTPUTS)?;
    for number in staged.in_key_order() {
        let (Some(score), Some(is_new)) = (staged.scores.get(number), is_new.get_mut(number))
        else {
            continue;
        };
        let outputs = staged.values(score).outputs;
        *is_new = keep.execute(params![short(&score.input), score.model, outputs])? > 0;
    }
    let mut keep = transaction.prepare_cached(KEEP_INPUT)?;
    for (score, is_new) in staged.scores.iter().zip(is_new) {
        if is_new {
            keep_input(&mut keep, score, &staged.values(score))?;
        }
    }
    Ok(())
}

fn keep_input(
    keep: &mut CachedStatement<'_>,
    score: &StagedScore,
    values: &Values<'_>,
) -> rusqlite::Result<usize> {
    keep.execute(params![
        score.input,
        score.model,
        score.namespace,
        score.scored_at,
        score.score,
        Text(values.key),
        Text(values.label),
        Text(values.text),
        Text(values.text_pair),
        values.features,
    ])
}

fn keep_jobs(transaction: &Transaction<'_>, jobs: &[StagedJob]) -> rusqlite::Result<()> {
    let mut keep = transaction.prepare_cached(KEEP_JOB)?;
    for StagedJob {
        job_id,
        body_sha256,
        done,
    } in jobs
    {
        keep.execute(params![
            job_id,
            done.model,
            done.version,
            done.namespace,
            done.hits,
            done.misses,
            done.results,
            done.elapsed_ms,
            hex::encode(body_sha256),
            clock::rfc3339(done.finished_at),
        ])?;
    }
    Ok(())
}

/// A job that has its `ok` row, with its body's hash.
pub(super) fn find_job(
    connection: &Connection,
    id: &str,
) -> rusqlite::Result<Option<(String, Finished)>> {
    let mut find = connection.prepare_cached(FIND_JOB)?;
    let job = find.query_row([id], |row| {
        let text = |number: usize| {
            row.get::<_, Option<String>>(number)
                .map(Option::unwrap_or_default)
        };
        let at = text(8)?;
        let done = Finished {
            model: text(0)?,
            version: text(1)?,
            namespace: text(2)?,
            hits: row.get(3)?,
            misses: row.get(4)?,
            results: text(5)?,
            elapsed_ms: row.get::<_, Option<f64>>(6)?.unwrap_or_default(),
            finished_at: DateTime::parse_from_rfc3339(&at)
                .map(|t| t.to_utc())
                .unwrap_or_default(),
        };
        Ok((text(7)?, done))
    });
    job.optional()
}

/// A rejected job on its way to the thread that writes.
pub(super) struct RejectedJob {
    ids: (String, String),
    body_sha256: String,
    model: Option<String>,
    namespace: Option<String>,
    rejection: String,
    finished_at: String,
}

impl From<&RejectedRow<'_>> for RejectedJob {
    fn from(row: &RejectedRow<'_>) -> Self {
        Self {
            ids: row.ids(),
            body_sha256: hex::encode(row.body_sha256),
            model: row.model.map(str::to_owned),
            namespace: row.namespace.map(str::to_owned),
            rejection: serde_json::json!(row.rejection).to_string(),
            finished_at: clock::rfc3339(row.finished_at),
        }
    }
}

/// Writes the row of a rejected job under the first of these ids that is no finished job's; says whether there was one. A job that is
/// finished under one of them, with this body, ends the search.
pub(super) fn reject(
    connection: &Connection,
    row: &RejectedJob,
) -> rusqlite::Result<Option<Finished>> {
    let (own, other) = &row.ids;
    for id in [own, other] {
        let written = connection.prepare_cached(REJECT)?.execute(params![
            id,
            row.model,
            row.namespace,
            row.rejection,
            row.body_sha256,
            row.finished_at,
        ])?;
        if written > 0 {
            break;
        }
        if let Some((first, done)) = find_job(connection, id)?
            && first == row.body_sha256
        {
            return Ok(Some(done));
        }
    }
    Ok(None)
}

/// Deletes rows of a table that are older; says how many.
pub(super) fn prune(
    connection: &mut Connection,
    table: Table,
    before: DateTime<Utc>,
    batch: u32,
) -> rusqlite::Result<usize> {
    match table {
        Table::Jobs => connection.execute(PRUNE_JOBS, params![clock::rfc3339(before), batch]),
        Table::Scores => prune_scores(connection, before, batch),
        // Without servers nobody reads names, and nothing is warmed.
        Table::Runs => Ok(0),
    }
}

fn prune_scores(
    connection: &mut Connection,
    before: DateTime<Utc>,
    batch: u32,
) -> rusqlite::Result<usize> {
    let transaction = begin(connection)?;
    let rows: Vec<(i64, Vec<u8>, i64)> = transaction
        .prepare_cached(OLD_INPUTS)?
        .query_map(params![before.timestamp_millis(), batch], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (id, input, model) in &rows {
        transaction
            .prepare_cached("DELETE FROM outputs WHERE input = ?1 AND model = ?2")?
            .execute(params![input, model])?;
        transaction
            .prepare_cached("DELETE FROM inputs WHERE id = ?1")?
            .execute([id])?;
    }
    transaction.commit()?;
    Ok(rows.len())
}
