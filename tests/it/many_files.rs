//! `kiln score` of many files: patterns and folders, in order, into one output, through kills.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::files::{a_run_is_killed, rows};
use crate::harness::shell::Shell;

fn put(folder: &Path, name: &str, lines: &[String]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, lines.join("\n")).expect("a file");
}

fn texts(key: &str, count: usize) -> Vec<String> {
    let line = |n: usize| json!({"key": format!("{key}{n}"), "text": format!("text {n}")});
    (0..count).map(|n| line(n).to_string()).collect()
}

fn keys(path: &Path) -> Vec<String> {
    let text = |row: &serde_json::Value| row["key"].as_str().unwrap_or("-").to_owned();
    rows(path).iter().map(text).collect()
}

#[tokio::test]
async fn patterns_and_folders_make_one_output_in_the_order_of_names() {
    let shell = Shell::bare();
    let folder = shell.folder.as_path();
    put(folder, "in/b.jsonl", &texts("b", 3));
    put(folder, "in/a.jsonl", &texts("a", 2));
    put(folder, "in/deep/c.ndjson", &texts("c", 2));
    put(folder, "in/.hidden.jsonl", &texts("h", 1));
    put(folder, "in/notes.txt", &["no rows".to_owned()]);
    put(
        folder,
        "z.jsonl",
        &["nope".to_owned(), texts("z", 1)[0].clone()],
    );
    let output = folder.join("in/out.jsonl");
    let score = [
        "score",
        "z.jsonl",
        "in",
        "--recursive",
        "-o",
        "in/out.jsonl",
    ];
    for _ in 0..2 {
        // What it wrote the first time is no input the second time.
        let said = shell.kiln(&score).await.with(3);
        assert!(
            said.err.starts_with("z.jsonl: line 1: not JSON"),
            "{}",
            said.err
        );
        assert_eq!(
            keys(&output),
            ["z0", "a0", "a1", "b0", "b1", "b2", "c0", "c1"]
        );
    }
    fs::remove_file(&output).expect("it was there");
    let said = shell
        .kiln(&[
            "score",
            "in/b.jsonl",
            "in/*.jsonl",
            "-o",
            "x.jsonl",
            "--report",
            "report.json",
        ])
        .await
        .with(0);
    assert!(said.err.contains("inputs"), "{}", said.err);
    assert_eq!(
        keys(&folder.join("x.jsonl")),
        ["b0", "b1", "b2", "a0", "a1"]
    );
    let report = fs::read(folder.join("report.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!((&report["files"], &report["rows"]), (&json!(2), &json!(5)));
    assert!(report["slowest_inputs"][0]["file"].is_string(), "{report}");

    put(folder, "one.csv", &["text,a".to_owned(), "x,1".to_owned()]);
    put(folder, "two.csv", &["text,b".to_owned(), "x,1".to_owned()]);
    for (words, line) in [
        (vec!["none*.jsonl"], "none*.jsonl matches no file"),
        (
            vec!["in"],
            "in is a folder, not a file: give --recursive for all files in it",
        ),
        (
            vec!["in/a.jsonl", "one.csv"],
            "in/a.jsonl and one.csv are of two formats",
        ),
        (vec!["in/a.jsonl", "-"], "standard input is read alone"),
        (
            vec!["one.csv", "two.csv", "--keep-columns", "-o", "y.csv"],
            "two.csv: its columns to keep aren't those of the first file",
        ),
    ] {
        let words = [vec!["score"], words].concat();
        let said = shell.kiln(&words).await.with(1);
        assert!(
            said.err.contains(line) && said.err.lines().count() == 1,
            "{}",
            said.err
        );
    }
    assert!(!folder.join("y.csv").exists() && !folder.join("y.csv.partial").exists());
}

#[tokio::test]
async fn a_pattern_takes_folders_where_these_are_asked_for_and_no_link_that_leads_nowhere() {
    let shell = Shell::bare();
    let folder = shell.folder.as_path();
    put(folder, "fold/a.jsonl", &texts("a", 1));
    put(folder, "fold/deep/b.jsonl", &texts("b", 1));
    put(folder, "fold/deep/more/c.jsonl", &texts("c", 1));
    put(folder, "fold/deep/notes.txt", &["no rows".to_owned()]);
    std::os::unix::fs::symlink("gone.jsonl", folder.join("fold/link.jsonl")).expect("a link");
    let output = folder.join("out.jsonl");
    let words = ["score", "fold/*", "-o", "out.jsonl"];
    shell.kiln(&words).await.with(0);
    assert_eq!(keys(&output), ["a0"]);
    let words = [&words[..], &["--recursive"][..]].concat();
    shell.kiln(&words).await.with(0);
    assert_eq!(keys(&output), ["a0", "b0", "c0"]);
}

#[tokio::test]
async fn a_run_over_many_files_that_is_killed_goes_on_in_the_file_where_it_stopped() {
    let shell = Shell::bare();
    let mut expected = Vec::new();
    for part in 0..8 {
        let key = format!("p{part}-");
        put(
            &shell.folder,
            &format!("in/{part}.jsonl"),
            &texts(&key, 50_000),
        );
        expected.extend((0..50_000).map(|n| format!("{key}{n}")));
    }
    a_run_is_killed(&shell, "in/*.jsonl", "out.jsonl");
    let found = keys(&shell.folder.join("out.jsonl"));
    assert!(found == expected, "a row is missing, double or elsewhere");
}
