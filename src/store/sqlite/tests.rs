//! The file, with everything that is stored and found in it.

use super::*;
use crate::clock;
use crate::store::{JobRow, ScoreRow, migrations};
use chrono::Duration;
use rusqlite::types::Value;
use std::panic::AssertUnwindSafe;
use tempfile::TempDir;

async fn store() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("kiln.db")).await;
    (store.expect("a database"), folder)
}

fn hash(number: u32) -> InputHash {
    kiln_contract::key::hash_text(&number.to_string(), None)
}

fn score<'a>(input: InputHash, outputs: &'a [f32], text: Option<&'a str>) -> ScoreRow<'a> {
    ScoreRow {
        input,
        model: "m",
        version: "1",
        namespace: "n",
        key: Some("k"),
        label: None,
        score: outputs.first().copied(),
        outputs,
        text,
        text_pair: None,
        features: None,
    }
}

fn done(ms: i64) -> Finished {
    Finished {
        model: "m".to_owned(),
        version: "1".to_owned(),
        namespace: "n".to_owned(),
        results: "[]".to_owned(),
        hits: 0,
        misses: 1,
        elapsed_ms: 1.0,
        finished_at: clock::now() + Duration::milliseconds(ms),
    }
}

async fn rows_of(store: &SqliteStore, inputs: &[InputHash]) -> Vec<Option<Vec<f32>>> {
    let found = store.find_scores("m", "1", 2, inputs.to_vec()).await;
    let found = found.expect("a look-up");
    let row = |at: usize| found.rows[at * 2..(at + 1) * 2].to_vec();
    found.of.iter().map(|at| at.map(row)).collect()
}

/// Every row of a table or view.
fn table(path: &Path, sql: &str) -> Vec<Vec<Value>> {
    let connection = Connection::open(path).expect("the file");
    let mut statement = connection.prepare(sql).expect("a statement");
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|n| row.get(n)).collect());
    rows.expect("rows").map(|row| row.expect("a row")).collect()
}

#[tokio::test]
async fn jobs_that_finished_apart_are_known_again_when_their_batch_is_written_twice() {
    let (store, _folder) = store().await;
    let (first, second) = (done(0), done(12));
    let row = |job_id, done| JobRow {
        job_id,
        body_sha256: [0; 32],
        done,
    };
    let batch = Batch {
        jobs: vec![row("a", &first), row("b", &second)],
        finished_at: clock::now(),
        ..Batch::default()
    };
    for written in 0..3 {
        let kept = store.insert(&batch).await.expect("a write");
        assert_eq!(kept, [Inserted::New, Inserted::New]);
        if written > 0 {
            store.flush().await.expect("a flush");
        }
    }
    let other = done(40);
    let batch = |body: [u8; 32]| Batch {
        jobs: vec![JobRow {
            job_id: "a",
            body_sha256: body,
            done: &other,
        }],
        ..Batch::default()
    };
    let kept = store.insert(&batch([0; 32])).await.expect("a write");
    assert!(matches!(&kept[..], [Inserted::Same(_)]), "{kept:?}");
    let kept = store.insert(&batch([1; 32])).await.expect("a write");
    assert_eq!(kept, [Inserted::Conflict]);
}

#[tokio::test]
async fn a_score_is_found_while_it_waits_and_once_it_is_written_and_stands_in_the_view() {
    let (store, folder) = store().await;
    let outputs = [0.25, 0.75];
    let batch = Batch {
        scores: vec![score(hash(1), &outputs, Some("a\0b"))],
        finished_at: clock::now(),
        ..Batch::default()
    };
    assert_eq!(rows_of(&store, &[hash(1)]).await, [None]);
    for _again in 0..2 {
        store.insert(&batch).await.expect("a write");
        let found = rows_of(&store, &[hash(2), hash(1), hash(1)]).await;
        let row = Some(outputs.to_vec());
        assert_eq!(found, [None, row.clone(), row]);
        store.flush().await.expect("a flush");
    }
    let wider = store.find_scores("m", "1", 3, vec![hash(1)]).await;
    assert_eq!(wider.expect("a look-up").of, [None], "another width");
    let other = store.find_scores("m", "2", 2, vec![hash(1)]).await;
    assert_eq!(other.expect("a look-up").of, [None], "another version");
    let path = folder.path().join("kiln.db");
    let seen = table(
        &path,
        "SELECT input_sha256, model, version, namespace, key, score, text, scored_at FROM scores",
    );
    let [row] = &seen[..] else {
        panic!("{seen:?}");
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let at = clock::rfc3339(batch.finished_at);
    assert_eq!(
        row[..],
        [
            Value::Blob(hash(1).to_vec()),
            text("m"),
            text("1"),
            text("n"),
            text("k"),
            Value::Real(0.25),
            text("a\0b"),
            text(&at)
        ]
    );
}

#[tokio::test]
async fn old_scores_are_pruned_from_the_log_and_the_look_up() {
    let (store, _folder) = store().await;
    let outputs = [0.0, 1.0];
    let now = clock::now();
    for (number, age) in [(1, 50), (2, 3)] {
        let batch = Batch {
            scores: vec![score(hash(number), &outputs, None)],
            finished_at: now - Duration::hours(age),
            ..Batch::default()
        };
        store.insert(&batch).await.expect("a write");
    }
    let before = now - Duration::hours(10);
    let pruned = store.prune(Table::Scores, before, 100).await;
    assert_eq!(pruned.expect("a deletion"), Some(1));
    let again = store.prune(Table::Scores, before, 100).await;
    assert_eq!(again.expect("nothing"), None);
    let found = rows_of(&store, &[hash(1), hash(2)]).await;
    assert_eq!(found, [None, Some(outputs.to_vec())]);
}

#[tokio::test]
async fn a_write_that_the_file_refuses_is_heard_of_by_whoever_stores_next() {
    let (store, folder) = store().await;
    store.flush().await.expect("a flush");
    let other = Connection::open(folder.path().join("kiln.db")).expect("the file");
    other
        .execute_batch("DROP VIEW scores; DROP TABLE inputs")
        .expect("a broken file");
    let outputs = [0.0, 1.0];
    let batch = Batch {
        scores: vec![score(hash(1), &outputs, None)],
        ..Batch::default()
    };
    store.insert(&batch).await.expect("it is staged");
    let problem = store.flush().await.expect_err("the file is broken");
    assert!(problem.to_string().contains("inputs"), "{problem}");
    assert!(store.insert(&batch).await.is_err());
}

#[tokio::test]
async fn a_file_that_is_full_is_known_to_be_whatever_was_asked_of_it() {
    let (store, _folder) = store().await;
    let queue = &store.inner.queue;
    let full = queue.run(|file| file.execute_batch("PRAGMA max_page_count = 1; CREATE TABLE more AS WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 99999) SELECT randomblob(64) FROM n"));
    full.await.expect_err("it is full");
    let problem = store.check().expect_err("it is known");
    assert!(problem.to_string().contains("full"), "{problem}");
    assert!(store.flush().await.is_err());
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused() {
    let (store, folder) = store().await;
    store.flush().await.expect("a flush");
    drop(store);
    let path = folder.path().join("kiln.db");
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'x', true, 'x', 0)";
    let other = Connection::open(&path).expect("the file");
    other.execute(newer, []).expect("a note");
    let refused = SqliteStore::open(&path).await.expect_err("it is newer");
    assert!(refused.to_string().contains("newer release"), "{refused}");
}

#[test]
fn several_that_open_a_file_of_an_earlier_release_move_it_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiln.db");
    earlier(&path, 220_000);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                schema::open(&path, &mut |_, _| {}).expect("the file");
            });
        }
    });
    let rows = table(&path, "SELECT count(*) FROM scores");
    assert_eq!(rows, [[Value::Integer(220_000)]]);
}

/// A file as an earlier release has left it, with so many scores.
fn earlier(path: &Path, scores: u32) {
    let connection = Connection::open(path).expect("a file");
    let first = migrations::SQLITE.iter().next().expect("a migration");
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = WAL; {};
             CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
               installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
               checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);",
            first.sql.as_str()
        ))
        .expect("the earlier form");
    connection
        .execute(
            "INSERT INTO _sqlx_migrations VALUES (1, 'jobs and scores', '2026-01-01', true, ?1, 1)",
            [&*first.checksum],
        )
        .expect("a note");
    connection
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
             INSERT INTO scores
             SELECT randomblob(32), 'm' || n % 3, '1.' || n % 2, 'space' || n % 5, CASE WHEN n % 4 THEN 'key ' || n END,
                    'label', n * 0.5, randomblob(8), 'text ' || n, CASE n % 7 WHEN 0 THEN 'pair' END,
                    CASE n % 9 WHEN 0 THEN randomblob(8) END,
                    strftime('%Y-%m-%dT%H:%M:%fZ', 1700000000.123 + n, 'unixepoch')
             FROM n",
            [scores],
        )
        .expect("scores");
    connection
        .execute("INSERT INTO jobs (job_id, status, body_sha256, finished_at) VALUES ('j', 'ok', 'x', 'y')", [])
        .expect("a job");
}

#[tokio::test]
async fn a_file_of_an_earlier_release_keeps_every_row_though_its_move_is_cut_short() {
    const ALL: &str = "SELECT * FROM scores ORDER BY input_sha256, model, version";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiln.db");
    earlier(&path, 120_000);
    let before = table(&path, ALL);
    // The process dies after the first part.
    let cut = std::panic::catch_unwind(AssertUnwindSafe(|| {
        schema::open(&path, &mut |_, _| panic!("killed"))
    }));
    assert!(cut.is_err());
    let parts = table(&path, "SELECT count(*) FROM inputs");
    assert_eq!(parts, [[Value::Integer(50_000)]]);
    let mut moved = Vec::new();
    drop(schema::open(&path, &mut |now, all| moved.push((now, all))).expect("the file"));
    assert_eq!(moved, [(100_000, 120_000), (120_000, 120_000)]);
    let after = table(&path, ALL);
    assert!(before == after, "a row was lost, doubled or changed");
    let left = "SELECT count(*) FROM sqlite_schema WHERE name = 'scores_before'";
    assert_eq!(table(&path, left), [[Value::Integer(0)]]);
    assert_eq!(
        table(&path, "SELECT job_id FROM jobs"),
        [[Value::Text("j".to_owned())]]
    );

    let store = SqliteStore::open(&path).await.expect("the file");
    let Value::Blob(input) = &before[0][0] else {
        panic!("{:?}", before[0]);
    };
    let (Value::Text(model), Value::Text(version)) = (&before[0][1], &before[0][2]) else {
        panic!("{:?}", before[0]);
    };
    let input = InputHash::try_from(&input[..]).expect("a hash");
    let found = store.find_scores(model, version, 2, vec![input]).await;
    assert_eq!(found.expect("a look-up").of, [Some(0)]);
}

#[tokio::test]
async fn more_than_may_wait_is_written_in_between_and_all_of_it_is_there() {
    let (store, folder) = store().await;
    let text = "x".repeat(4_000);
    let outputs = [0.5, 0.5];
    for part in 0..100u32 {
        let rows = (0..200).map(|n| score(hash(part * 200 + n), &outputs, Some(&text)));
        let batch = Batch {
            scores: rows.collect(),
            ..Batch::default()
        };
        store.insert(&batch).await.expect("a write");
    }
    let wanted: Vec<InputHash> = (0..20_000).map(hash).collect();
    let found = rows_of(&store, &wanted).await;
    assert!(found.iter().all(Option::is_some), "each is found at once");
    store.flush().await.expect("a flush");
    let path = folder.path().join("kiln.db");
    let count = table(
        &path,
        "SELECT count(*), count(DISTINCT input_sha256) FROM inputs",
    );
    assert_eq!(count, [[Value::Integer(20_000), Value::Integer(20_000)]]);
}
