//! Owns the one statement that writes a batch to Postgres.
//!
//! The rows arrive as one array a column. What a whole batch has in common (its model, as a rule) is sent
//! once, and a column with nothing in it not at all: that is a seventh of the server's time. The statement's
//! text depends on which columns are which, so that a handful of prepared statements serves every batch.

use super::{
    Batch, JobRow, ScoreRow, callbacks,
    columns::{Columns, column},
    float_bytes, posters,
    runs::spent,
    served,
    tables::Tables,
};
use sqlx::{AssertSqlSafe, Postgres, error::BoxDynError, postgres::PgArguments, query::Query};

/// The tail of every insertion of jobs: a finished job's row is never overwritten, a rejection's is.
const OVER_REJECTIONS: &str = "\
ON CONFLICT (job_id) DO UPDATE SET
  status = 'ok', model = excluded.model, version = excluded.version, namespace = excluded.namespace,
  hits = excluded.hits, misses = excluded.misses, results = excluded.results, error = NULL,
  elapsed_ms = excluded.elapsed_ms, body_sha256 = excluded.body_sha256, finished_at = excluded.finished_at
WHERE jobs.status = 'rejected'";

/// The same of ids, where results have tables of their own.
const IDS_OVER_REJECTIONS: &str = "\
ON CONFLICT (job_id) DO UPDATE SET
  status = 'ok', hits = excluded.hits, misses = excluded.misses, elapsed_ms = excluded.elapsed_ms,
  finished_at = excluded.finished_at, body_sha256 = excluded.body_sha256, rejection = NULL
WHERE job_ids.status = 'rejected'";
/// The jobs whose ids were written. As a test of truth it is hashed once, however few rows the server expects.
const WRITTEN: &str = "(job_id IN (SELECT job_id FROM done)) IS TRUE";

/// The statement for a batch with its arguments; the rows that it touches are the jobs written.
pub(super) fn statement<'q>(
    batch: &Batch<'_>,
    tables: Tables,
) -> Result<Query<'q, Postgres, PgArguments>, BoxDynError> {
    let mut arguments = PgArguments::default();
    // All rows in the order of their keys, so that two workers with the same ones wait for each other one
    // after the other, never in a circle.
    let mut finished: Vec<&JobRow<'_>> = batch.jobs.iter().collect();
    finished.sort_unstable_by_key(|j| j.job_id);
    let mut with = Vec::new();
    if !batch.scores.is_empty() {
        let mut rows: Vec<&ScoreRow<'_>> = batch.scores.iter().collect();
        rows.sort_unstable_by_key(|s| (s.input, s.model, s.version));
        let insert = scores(&rows, batch, &mut arguments)?.into_insert("scores");
        with.push(format!("kept AS ({insert} ON CONFLICT DO NOTHING)"));
    }
    if !batch.spent.is_empty() {
        let insert = spent::insert(batch, &mut arguments)?;
        with.push(format!("spent AS ({insert})"));
    }
    if !batch.posters.is_empty() {
        let insert = posters::insert(batch, &mut arguments)?;
        with.push(format!("posted AS ({insert})"));
    }
    let (jobs, last) = match tables {
        Tables::Plain => {
            let insert = jobs(&finished, batch.is_ledger, &mut arguments)?.into_insert("jobs");
            (format!("{insert}\n{OVER_REJECTIONS}"), None)
        }
        Tables::Partitioned => {
            let (ids, job_id, finished_at) = ids(&finished, &mut arguments)?;
            let results = match batch.is_ledger {
                true => None,
                false => Some(results(&finished, job_id, finished_at, &mut arguments)?),
            };
            (format!("{ids}\n{IDS_OVER_REJECTIONS}"), results)
        }
    };
    let follows = !batch.served.is_empty() || !batch.callbacks.is_empty();
    let last = if !follows && last.is_none() {
        jobs
    } else {
        with.push(format!("done AS ({jobs}\nRETURNING job_id)"));
        if !batch.served.is_empty() {
            let served = served::insert(batch, &mut arguments)?;
            with.push(format!("shown AS ({served})"));
        }
        if !batch.callbacks.is_empty() {
            let callbacks = callbacks::insert(batch, &mut arguments)?;
            with.push(format!("called AS ({callbacks})"));
        }
        last.unwrap_or_else(|| "SELECT FROM done".to_owned())
    };
    let text = match with.is_empty() {
        true => last,
        false => format!("WITH {}\n{last}", with.join(",\n")),
    };
    // The text is made of this file's own constants alone; all data is in the arguments.
    Ok(sqlx::query_with(AssertSqlSafe(text), arguments))
}

fn jobs<'a>(
    rows: &[&JobRow<'_>],
    is_ledger: bool,
    arguments: &'a mut PgArguments,
) -> Result<Columns<'a>, BoxDynError> {
    let mut columns = Columns::new(arguments);
    columns.each("job_id", "text", column(rows, |j| j.job_id))?;
    columns.shared("model", column(rows, |j| j.done.model.as_str()))?;
    columns.shared("version", column(rows, |j| j.done.version.as_str()))?;
    columns.shared("namespace", column(rows, |j| j.done.namespace.as_str()))?;
    columns.each("hits", "int", column(rows, |j| j.done.hits as i32))?;
    columns.each("misses", "int", column(rows, |j| j.done.misses as i32))?;
    if !is_ledger {
        let results = column(rows, |j| j.done.results.as_str());
        columns.each_as("results", "text", "jsonb", results)?;
    }
    columns.each("elapsed_ms", "float8", column(rows, |j| j.done.elapsed_ms))?;
    let bodies = column(rows, |j| j.body_sha256.as_slice());
    columns.each("body_sha256", "bytea", bodies)?;
    let finished = column(rows, |j| j.done.finished_at);
    columns.each("finished_at", "timestamptz", finished)?;
    columns.one("status", "text", "ok")?;
    Ok(columns)
}

/// The insertion of the jobs' ids, and which arguments are their ids and their ends.
fn ids(
    rows: &[&JobRow<'_>],
    arguments: &mut PgArguments,
) -> Result<(String, usize, usize), BoxDynError> {
    let mut ids = Columns::new(arguments);
    let job_id = ids.each("job_id", "text", column(rows, |j| j.job_id))?;
    ids.each("hits", "int", column(rows, |j| j.done.hits as i32))?;
    ids.each("misses", "int", column(rows, |j| j.done.misses as i32))?;
    ids.each("elapsed_ms", "float8", column(rows, |j| j.done.elapsed_ms))?;
    let bodies = column(rows, |j| j.body_sha256.as_slice());
    ids.each("body_sha256", "bytea", bodies)?;
    let finished = column(rows, |j| j.done.finished_at);
    let finished_at = ids.each("finished_at", "timestamptz", finished)?;
    ids.one("status", "text", "ok")?;
    Ok((ids.into_insert("job_ids"), job_id, finished_at))
}

/// The insertion of the results of those whose ids were written.
fn results(
    rows: &[&JobRow<'_>],
    job_id: usize,
    finished_at: usize,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    let mut results = Columns::new(arguments);
    results.again("job_id", "text", job_id);
    results.shared("model", column(rows, |j| j.done.model.as_str()))?;
    results.shared("version", column(rows, |j| j.done.version.as_str()))?;
    results.shared("namespace", column(rows, |j| j.done.namespace.as_str()))?;
    let values = column(rows, |j| j.done.results.as_str());
    results.each_as("results", "text", "jsonb", values)?;
    results.again("finished_at", "timestamptz", finished_at);
    Ok(results.into_insert_where("job_results", WRITTEN))
}

fn scores<'a>(
    rows: &[&ScoreRow<'_>],
    batch: &Batch<'_>,
    arguments: &'a mut PgArguments,
) -> Result<Columns<'a>, BoxDynError> {
    let mut columns = Columns::new(arguments);
    let inputs = column(rows, |s| s.input.as_slice());
    columns.each("input_sha256", "bytea", inputs)?;
    columns.shared("model", column(rows, |s| s.model))?;
    columns.shared("version", column(rows, |s| s.version))?;
    columns.shared("namespace", column(rows, |s| s.namespace))?;
    columns.some("key", "text", column(rows, |s| s.key))?;
    columns.some("label", "text", column(rows, |s| s.label))?;
    columns.some("score", "real", column(rows, |s| s.score))?;
    let outputs = column(rows, |s| {
        (s.outputs.len() > 1).then(|| float_bytes(s.outputs))
    });
    columns.some("outputs", "bytea", outputs)?;
    columns.some("text", "text", column(rows, |s| s.text))?;
    columns.some("text_pair", "text", column(rows, |s| s.text_pair))?;
    let features = column(rows, |s| s.features.map(float_bytes));
    columns.some("features", "bytea", features)?;
    columns.one("scored_at", "timestamptz", batch.finished_at)?;
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CallbackRow, CallbackTo, ServedRow, WordOrder};
    use kiln_contract::result::Finished;
    use sqlx::{Arguments, Execute};

    fn done(model: &str) -> Finished {
        Finished {
            model: model.to_owned(),
            version: "1".to_owned(),
            namespace: "n".to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: crate::clock::now(),
        }
    }

    fn text_of(models: &[&str], with_key: bool, tables: Tables, is_ledger: bool) -> String {
        let finished: Vec<Finished> = models.iter().map(|m| done(m)).collect();
        let batch = Batch {
            jobs: finished
                .iter()
                .map(|done| JobRow {
                    job_id: "j",
                    body_sha256: [0; 32],
                    done,
                })
                .collect(),
            scores: models
                .iter()
                .map(|model| ScoreRow {
                    input: [0; 32],
                    model,
                    version: "1",
                    namespace: "n",
                    key: with_key.then_some("k"),
                    label: None,
                    score: Some(0.5),
                    outputs: &[0.5],
                    text: None,
                    text_pair: None,
                    features: Some(&[1.0]),
                })
                .collect(),
            served: Vec::new(),
            spent: Vec::new(),
            posters: Vec::new(),
            callbacks: Vec::new(),
            finished_at: crate::clock::now(),
            is_ledger,
        };
        let mut query = statement(&batch, tables).expect("arguments that encode");
        let arguments = query.take_arguments().expect("encoded").expect("some");
        let text = query.sql().as_str().to_owned();
        assert!(text.contains(&format!("${}", arguments.len())));
        assert!(!text.contains(&format!("${}", arguments.len() + 1)));
        text
    }

    #[test]
    fn what_names_are_served_is_written_with_the_jobs_that_are_new() {
        let finished = done("m");
        let row = |key, label| ServedRow {
            namespace: "n",
            key,
            job_id: "j",
            model: "m",
            version: "1",
            input: Some(&[1; 32]),
            label,
            score: Some(0.5),
            items: None,
            inputs: None,
            is_removed: false,
            order: WordOrder {
                kind: 't',
                value: 1,
                accepted_us: 1,
            },
        };
        let batch = Batch {
            jobs: vec![JobRow {
                job_id: "j",
                body_sha256: [0; 32],
                done: &finished,
            }],
            served: vec![row("b", None), row("a", None)],
            ..Batch::default()
        };
        let mut query = statement(&batch, Tables::Plain).expect("arguments that encode");
        let arguments = query.take_arguments().expect("encoded").expect("some");
        let text = query.sql().as_str().to_owned();
        assert!(text.starts_with("WITH done AS (INSERT INTO jobs"), "{text}");
        assert!(text.ends_with("SELECT FROM done") && text.contains("JOIN done"));
        assert!(text.contains("NULL::text AS label"), "{text}");
        assert!(text.contains(&format!("${}::", arguments.len())));
        assert!(!text.contains(&format!("${}", arguments.len() + 1)));
    }

    #[test]
    fn where_ends_are_posted_to_is_written_with_the_jobs_that_are_new() {
        let finished = done("m");
        let row = |job_id| JobRow {
            job_id,
            body_sha256: [0; 32],
            done: &finished,
        };
        let to = CallbackTo {
            url: "https://a/",
            host: "a",
        };
        let batch = Batch {
            jobs: vec![row("j"), row("k")],
            callbacks: vec![CallbackRow {
                job_id: "k",
                body_sha256: [0; 32],
                to,
            }],
            ..Batch::default()
        };
        for (tables, last) in [
            (Tables::Plain, "SELECT FROM done"),
            (Tables::Partitioned, WRITTEN),
        ] {
            let mut query = statement(&batch, tables).expect("arguments that encode");
            let arguments = query.take_arguments().expect("encoded").expect("some");
            let text = query.sql().as_str().to_owned();
            assert!(text.starts_with("WITH done AS (INSERT INTO job"), "{text}");
            assert!(text.contains("called AS (INSERT INTO callbacks"), "{text}");
            assert!(text.contains("JOIN done") && text.ends_with(last), "{text}");
            assert!(text.contains(&format!("${}::", arguments.len())));
        }
    }

    #[test]
    fn what_a_batch_has_in_common_is_sent_once_and_what_is_empty_not_at_all() {
        let same = text_of(&["m", "m"], true, Tables::Plain, false);
        assert!(
            same.contains("$2::text, $3::text, $4::text, unnest($5::text[])"),
            "{same}"
        );
        assert!(
            !same.contains("label") && !same.contains("text_pair"),
            "{same}"
        );
        assert_eq!(
            same,
            text_of(&["other"], true, Tables::Plain, false),
            "one statement for batches alike"
        );
        assert!(
            text_of(&["m", "n"], true, Tables::Plain, false)
                .contains("unnest($2::text[]), $3::text")
        );
        assert!(!text_of(&["m"], false, Tables::Plain, false).contains("key"));
    }
    #[test]
    fn results_in_partitions_are_written_of_the_jobs_whose_ids_are_new() {
        let text = text_of(&["m", "m"], false, Tables::Partitioned, false);
        assert!(
            text.starts_with("WITH kept AS (INSERT INTO scores"),
            "{text}"
        );
        assert!(text.contains("done AS (INSERT INTO job_ids"), "{text}");
        assert!(
            text.contains("INSERT INTO job_results (job_id, model"),
            "{text}"
        );
        assert!(text.ends_with(WRITTEN), "{text}");
        assert_eq!(text, text_of(&["other"], false, Tables::Partitioned, false));
    }
    #[test]
    fn a_ledger_has_no_results() {
        let plain = text_of(&["m"], true, Tables::Plain, true);
        assert!(!plain.contains("jsonb"), "{plain}");
        let partitioned = text_of(&["m"], true, Tables::Partitioned, true);
        assert!(!partitioned.contains("job_results"), "{partitioned}");
        assert!(partitioned.contains("INSERT INTO job_ids"), "{partitioned}");
    }
}
