//! The cases of the database: what becomes of a job's row, whatever stands there already.

use crate::store::{Batch, Inserted, JobRow, Rejected, RejectedRow, ScoreRow, Store, StoreError};
use chrono::{DateTime, Utc};
use kiln_contract::{
    failure::{Code, Rejection},
    key::hash_text,
    result::Finished,
};
use std::fmt::Write;

/// A moment for each run: the first one is in 2026, and each is a second after the one before.
fn at(run: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + run, 0).unwrap_or_default()
}

fn done(run: i64) -> Finished {
    Finished {
        model: "m".to_owned(),
        version: "1".to_owned(),
        namespace: "n".to_owned(),
        results: format!("[{{\"key\":\"k\",\"score\":0.{run}}}]"),
        hits: 1,
        misses: 2,
        elapsed_ms: 1.5,
        finished_at: at(run),
    }
}

fn shown(done: &Finished) -> String {
    let results: serde_json::Value = serde_json::from_str(&done.results).unwrap_or_default();
    let at = done.finished_at.timestamp() - at(0).timestamp();
    format!(
        "run {at}, {results}, {} hits, {} ms",
        done.hits, done.elapsed_ms
    )
}

/// What is written down.
struct Lines<'a> {
    store: &'a Store,
    text: String,
}

impl Lines<'_> {
    fn note<T>(&mut self, what: &str, answer: Result<T, StoreError>, show: impl Fn(T) -> String) {
        let answer = answer.map_or_else(|_failed| "an error".to_owned(), show);
        // Writing to a text doesn't fail.
        let _written = writeln!(self.text, "{what}: {answer}");
    }

    /// Jobs as id, body and run.
    async fn insert(&mut self, jobs: &[(&str, u8, i64)]) {
        let runs: Vec<Finished> = jobs.iter().map(|(.., run)| done(*run)).collect();
        let rows = jobs
            .iter()
            .zip(&runs)
            .map(|((job_id, body, _), done)| JobRow {
                job_id,
                body_sha256: [*body; 32],
                done,
            });
        let scores = ["a", "b"].map(|text| ScoreRow {
            input: hash_text(text, None),
            model: "m",
            version: "1",
            namespace: "n",
            key: None,
            label: None,
            score: Some(0.5),
            outputs: &[0.5],
            text: None,
            text_pair: None,
            features: None,
        });
        let batch = Batch {
            jobs: rows.collect(),
            scores: scores.into(),
            finished_at: at(0),
            ..Batch::default()
        };
        let answer = self.store.insert(&batch).await;
        self.note(&format!("insert {jobs:?}"), answer, |all| {
            let all = all.iter().map(|one| match one {
                Inserted::New => "new".to_owned(),
                Inserted::Same(first) => format!("same ({})", shown(first)),
                Inserted::Conflict => "conflict".to_owned(),
            });
            all.collect::<Vec<String>>().join("; ")
        });
    }

    async fn reject(&mut self, jobs: &[(Option<&str>, u8)]) {
        let rejection = Rejection::new(Code::Invalid, "inputs", "expected something else");
        let rows = jobs.iter().map(|(job_id, body)| RejectedRow {
            job_id: *job_id,
            body_sha256: [*body; 32],
            model: Some("m"),
            namespace: None,
            rejection: &rejection,
            posters: Vec::new(),
            callback: None,
            finished_at: at(0),
        });
        let rows: Vec<RejectedRow<'_>> = rows.collect();
        let answer = self.store.reject(&rows).await;
        self.note(&format!("reject {jobs:?}"), answer, |all| {
            let all = all.iter().map(|one| match one {
                Rejected::Noted => "noted".to_owned(),
                Rejected::Finished(first) => format!("finished ({})", shown(first)),
            });
            all.collect::<Vec<String>>().join("; ")
        });
    }

    async fn find(&mut self, job_id: &str, body: u8) {
        let answer = self.store.finished(job_id, &[body; 32]).await;
        self.note(&format!("find {job_id}, {body}"), answer, |found| {
            found.map_or_else(|| "nothing".to_owned(), |done| shown(&done))
        });
    }
}

/// Runs every case on a database without rows, and gives what came of it.
pub async fn postgres(store: &Store) -> String {
    let text = String::new();
    let mut lines = Lines { store, text };
    lines.find("a", 1).await;
    lines.insert(&[]).await;
    lines.insert(&[("a", 1, 1), ("b", 2, 1)]).await;
    lines.find("a", 1).await;
    lines.find("a", 2).await;
    // Its answer was lost; another run; another body.
    lines.insert(&[("a", 1, 1)]).await;
    lines.insert(&[("a", 1, 2)]).await;
    lines.insert(&[("a", 9, 2)]).await;
    lines.insert(&[("b", 9, 3), ("a", 1, 3), ("c", 3, 3)]).await;
    lines.find("c", 3).await;
    // A rejection gives way to a result, and never the other way round.
    lines.reject(&[(Some("d"), 4)]).await;
    lines
        .reject(&[(Some("d"), 4), (Some("d"), 5), (None, 6), (None, 6)])
        .await;
    lines.find("d", 4).await;
    lines.insert(&[("d", 4, 4)]).await;
    lines.find("d", 4).await;
    lines.reject(&[(Some("d"), 4)]).await;
    lines
        .reject(&[(Some("d"), 5), (Some("a"), 1), (Some("e"), 7)])
        .await;
    lines.find("d", 4).await;
    lines
        .insert(&[("e", 8, 5), ("d", 4, 5), ("d~0505050505050505", 5, 5)])
        .await;
    lines.reject(&[(Some("d"), 5)]).await;
    lines.find("e", 7).await;
    lines.find("e", 8).await;
    lines.text
}
