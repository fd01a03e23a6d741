//! `kiln score --split-rows` and `--split-bytes`: an output in parts, each whole, through kills, and beside no other run's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::files::{PATIENCE, command, hold_until_a_mark_is_due};
use crate::harness::shell::Shell;

/// A run is let go on to its end after so many.
const MAX_KILLS: usize = 2;

fn texts(count: usize) -> Vec<String> {
    let line =
        |n: usize| json!({"key": format!("r{n}"), "text": format!("text \"{n}\"\nand more")});
    (0..count).map(|n| line(n).to_string()).collect()
}

/// The parts of an output, by their names.
pub fn parts(folder: &Path, stem: &str, end: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let own = names.filter(|name| name.starts_with(&format!("{stem}-")) && name.ends_with(end));
    own.map(|name| {
        let bytes = fs::read(folder.join(&name)).expect("a part");
        (name, bytes)
    })
    .collect()
}

/// Nothing but whole parts is left of a run.
pub fn expect_clean(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_left = [".partial", ".manifest", ".posted"];
        assert!(!is_left.iter().any(|end| name.ends_with(end)), "{name}");
    }
}

fn unpacked(path: &Path, packer: &str) -> Vec<u8> {
    let ended = Command::new(packer).arg("-dc").arg(path).output();
    let ended = ended.expect("the packer");
    assert!(ended.status.success());
    ended.stdout
}

#[tokio::test]
async fn parts_hold_the_rows_of_the_whole_output() {
    let shell = Shell::bare();
    let folder = shell.folder.as_path();
    let mut lines = texts(10_500);
    lines[3] = "nope".to_owned();
    shell.write("in.jsonl", &lines);
    let run = async |words: &[&str]| {
        let score = ["score", "in.jsonl", "--keep-columns=text", "--json"];
        let said = shell.kiln(&[&score, words].concat()).await.with(3);
        let last = said.err.lines().last().expect("a summary").to_owned();
        serde_json::from_str::<Value>(&last).expect("JSON")
    };
    run(&["-o", "first.jsonl"]).await;
    run(&["-o", "whole.jsonl"]).await;
    let whole = fs::read(folder.join("whole.jsonl")).expect("an output");

    let said = run(&["-o", "rows.jsonl", "--split-rows", "1000"]).await;
    let rows = parts(folder, "rows", ".jsonl");
    assert_eq!((rows.len(), &said["parts"]), (11, &json!(11)));
    assert!(
        rows.keys()
            .next()
            .is_some_and(|name| name == "rows-00001.jsonl")
    );
    let counts: Vec<usize> = rows
        .values()
        .map(|part| part.iter().filter(|byte| **byte == b'\n').count())
        .collect();
    assert_eq!((counts[..10].iter().min(), counts[10]), (Some(&1_000), 499));
    assert!(rows.into_values().flatten().eq(whole.iter().copied()));

    run(&["-o", "bytes.jsonl", "--split-bytes", "100KB"]).await;
    let bytes = parts(folder, "bytes", ".jsonl");
    let lengths: Vec<usize> = bytes.values().map(Vec::len).collect();
    let (last, full) = lengths.split_last().expect("parts");
    assert!(
        full.iter()
            .all(|length| (99_000..=100_000).contains(length)),
        "{lengths:?}"
    );
    assert!(*last <= 100_000);
    assert!(bytes.into_values().flatten().eq(whole.iter().copied()));

    // Each part of a format with a header has it, and line ends within quotes end no row.
    run(&["-o", "whole.csv"]).await;
    run(&["-o", "rows.csv.gz", "--split-rows", "4000"]).await;
    let whole = fs::read_to_string(folder.join("whole.csv")).expect("an output");
    let (header, records) = whole.split_once('\n').expect("a header");
    let mut all = String::new();
    for name in parts(folder, "rows", ".csv.gz").keys() {
        let part = String::from_utf8(unpacked(&folder.join(name), "gzip")).expect("text");
        let (own, rest) = part.split_once('\n').expect("a header");
        assert_eq!(own, header);
        assert!(rest.starts_with("\"text \"\""), "{name} begins with a row");
        all.push_str(rest);
    }
    assert!(all == records);

    run(&["-o", "packed.jsonl.zst", "--split-bytes", "20K"]).await;
    let packed = parts(folder, "packed", ".jsonl.zst");
    assert!(packed.len() > 1);
    // An output without rows is a part without rows.
    shell.write("empty.jsonl", &[]);
    let empty = [
        "score",
        "empty.jsonl",
        "-o",
        "empty.csv",
        "--split-rows",
        "1",
    ];
    shell.kiln(&empty).await.with(0);
    let empty = parts(folder, "empty", ".csv");
    assert!(empty.len() == 1 && empty.values().all(|part| part.starts_with(b"key,")));
    expect_clean(folder);
}

#[tokio::test]
async fn parts_of_two_runs_do_not_stand_side_by_side() {
    let shell = Shell::bare();
    let folder = shell.folder.as_path();
    shell.write("in.jsonl", &texts(30));
    let words = |more: &[&'static str]| -> Vec<&'static str> {
        let first = ["score", "in.jsonl", "--split-rows", "10"];
        [&first, more].concat()
    };
    for (more, said) in [
        (vec![], "--split-rows needs --output FILE"),
        (vec!["-o", "-"], "--split-rows needs --output FILE"),
        (vec!["-o", "/dev/null"], "/dev/null is no file"),
        (
            vec!["-o", "x.jsonl", "--report", "x-00002.jsonl"],
            "--report x-00002.jsonl is named as a part of --output",
        ),
        (
            vec!["-o", "x.jsonl", "--split-bytes", "0"],
            "expected a size such as 500MB",
        ),
    ] {
        let ended = shell.kiln(&words(&more)).await.with(2);
        assert!(ended.err.contains(said), "{}", ended.err);
    }
    let score = words(&["-o", "out.jsonl"]);
    shell.kiln(&score).await.with(0);
    let first = parts(folder, "out", ".jsonl");
    assert_eq!(first.len(), 3);
    let ended = shell.kiln(&score).await.with(1);
    assert_eq!(
        ended.err,
        "kiln: out-00001.jsonl and 2 more parts are there already, of another run: remove them or name another --output, so that two runs' parts don't stand side by side\n"
    );
    fs::remove_file(folder.join("out-00001.jsonl")).expect("a part");
    fs::remove_file(folder.join("out-00002.jsonl")).expect("a part");
    let ended = shell.kiln(&score).await.with(1);
    assert!(
        ended.err.contains("out-00003.jsonl is there already"),
        "{}",
        ended.err
    );
    assert_eq!(parts(folder, "out", ".jsonl").len(), 1);

    // A bad row that ends the run leaves no part, though some were whole.
    let mut lines = texts(30);
    lines[29] = "nope".to_owned();
    shell.write("in.jsonl", &lines);
    shell
        .kiln(&words(&["-o", "fail.jsonl", "--on-error", "fail"]))
        .await
        .with(1);
    assert!(parts(folder, "fail", "").is_empty());
    shell.write("in.jsonl", &texts(30));
    shell
        .kiln(&words(&["-o", "fail.jsonl", "--on-error", "fail"]))
        .await
        .with(0);
    assert_eq!(parts(folder, "fail", ".jsonl").len(), 3);

    // What comes through a pipe has its parts once they are whole, and they stay whoever ends the run.
    let score = ["score", "-", "-o", "pipe.jsonl", "--split-rows", "10"];
    let mut child = command(&shell, &score)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let (begun, mut count) = (Instant::now(), 0);
    while parts(folder, "pipe", ".jsonl").is_empty() {
        // Rows are worked on block by block.
        std::io::Write::write_all(&mut pipe, texts(5_000).join("\n").as_bytes()).expect("it reads");
        std::io::Write::write_all(&mut pipe, b"\n").expect("it reads");
        count += 1;
        assert!(begun.elapsed() < PATIENCE && count < 1_000);
    }
    crate::harness::sandbox::signal(&[child.id() as i32], libc::SIGTERM);
    let status = child.wait().expect("our child");
    assert_eq!(status.code(), Some(1));
    assert!(!parts(folder, "pipe", ".jsonl").is_empty());
    expect_clean(folder);
}

fn begins_a_part(folder: &Path, stem: &str) -> bool {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.any(|name| name.starts_with(&format!("{stem}-")))
}

/// Kills a run that splits its output again and again until it ends. A part that has its name is never written again.
fn killed(shell: &Shell, words: &[&str], (stem, end): (&str, &str)) {
    let manifest = shell.folder.join(format!("{stem}{end}.manifest"));
    let whole = |name: &String| {
        let about = fs::metadata(shell.folder.join(name)).expect("a part");
        (about.ino(), about.len(), about.mtime_nsec())
    };
    let (mut kills, mut known) = (0, BTreeMap::new());
    loop {
        let mut child = command(shell, words)
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let before = fs::read(&manifest).ok();
        if kills == 0 {
            hold_until_a_mark_is_due(&child, || begins_a_part(&shell.folder, stem));
        }
        let begun = Instant::now();
        let ended = loop {
            if let Some(ended) = child.try_wait().expect("our child") {
                assert!(matches!(ended.code(), Some(0 | 3)), "{ended}");
                break true;
            }
            let now = fs::read(&manifest).ok();
            if kills < MAX_KILLS && now.is_some() && now != before {
                break false;
            }
            assert!(
                begun.elapsed() < 3 * PATIENCE,
                "it neither ends nor comes on"
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        child.kill().expect("our child");
        child.wait().expect("our child");
        for name in parts(&shell.folder, stem, end).into_keys() {
            let now = whole(&name);
            assert_eq!(*known.entry(name.clone()).or_insert(now), now, "{name}");
        }
        if ended {
            break;
        }
        kills += 1;
    }
    assert!(kills > 0, "it was too quick to be killed");
    expect_clean(&shell.folder);
}

#[tokio::test]
async fn a_run_in_parts_that_is_killed_goes_on_and_writes_each_row_once() {
    let count = 200_000;
    for (end, packer) in [(".jsonl", None), (".jsonl.zst", Some("zstd"))] {
        let shell = Shell::bare();
        shell.write("in.jsonl", &texts(count));
        let output = format!("out{end}");
        let words = ["score", "in.jsonl", "-o", &output, "--split-rows", "7001"];
        killed(&shell, &words, ("out", end));
        let mut keys = Vec::new();
        for (name, bytes) in parts(&shell.folder, "out", end) {
            let bytes = match packer {
                Some(packer) => unpacked(&shell.folder.join(&name), packer),
                None => bytes,
            };
            let text = String::from_utf8(bytes).expect("text");
            let before = keys.len();
            keys.extend(
                text.lines()
                    .map(|line| line.split('"').nth(3).unwrap_or("-").to_owned()),
            );
            assert!(
                keys.len() == before + 7_001 || keys.len() == count,
                "{name}"
            );
        }
        let expected = (0..count).map(|n| format!("r{n}"));
        assert!(
            keys.into_iter().eq(expected),
            "a row is missing, double or elsewhere"
        );
    }
}

#[cfg(feature = "parquet")]
#[tokio::test]
async fn tables_in_parts_are_whole_and_go_on_after_the_last_one() {
    use arrow_array::{RecordBatch, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let shell = Shell::bare();
    let count = 200_000;
    let mut lines = texts(count);
    // Bad rows that are put aside are put aside once.
    for at in (0..count).step_by(10_000) {
        lines[at] = format!("nope {at}");
    }
    shell.write("in.jsonl", &lines);
    let words = [
        "score",
        "in.jsonl",
        "-o",
        "out.parquet",
        "--split-rows",
        "7001",
        "--quarantine",
        "bad.jsonl",
    ];
    killed(&shell, &words, ("out", ".parquet"));
    let mut keys: Vec<String> = Vec::new();
    let all = parts(&shell.folder, "out", ".parquet");
    for (name, bytes) in &all {
        let before = keys.len();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes.clone()));
        for batch in reader.expect("a part").build().expect("a reader") {
            let batch: RecordBatch = batch.expect("rows");
            let column = batch.column_by_name("key").expect("a column");
            let column = column
                .as_any()
                .downcast_ref::<StringArray>()
                .expect("texts");
            keys.extend(column.iter().map(|key| key.unwrap_or("-").to_owned()));
        }
        assert!(
            keys.len() == before + 7_001 || keys.len() == count - 20,
            "{name}"
        );
    }
    let expected = (0..count)
        .filter(|n| n % 10_000 != 0)
        .map(|n| format!("r{n}"));
    assert!(
        keys.into_iter().eq(expected),
        "a row is missing, double or elsewhere"
    );
    let bad = crate::files::rows(&shell.folder.join("bad.jsonl"));
    let bad: Vec<&Value> = bad.iter().map(|bad| &bad["line"]).collect();
    let expected: Vec<Value> = (0..count).step_by(10_000).map(|at| json!(at + 1)).collect();
    assert!(bad.into_iter().eq(expected.iter()));

    let words = [
        "score",
        "in.jsonl",
        "-o",
        "size.arrow",
        "--split-bytes",
        "1MB",
    ];
    shell.kiln(&words).await.with(3);
    let sizes: Vec<usize> = parts(&shell.folder, "size", ".arrow")
        .values()
        .map(Vec::len)
        .collect();
    let (_, full) = sizes.split_last().expect("parts");
    assert!(
        full.len() > 1
            && full
                .iter()
                .all(|size| (1_000_000..1_500_000).contains(size)),
        "{sizes:?}"
    );
}
