//! `kiln score`: whole files, in order, in bounded memory, through kills, and whatever a file may be.

use std::collections::HashSet;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::eventually;
use crate::harness::sandbox;
use crate::harness::shell::Shell;

pub const PATIENCE: Duration = Duration::from_secs(60);
/// More than what is in hand, staged and cached takes, and far less than the files of these tests hold.
const MAX_MIB: u64 = 286;

fn texts(count: usize) -> Vec<String> {
    let line = |n: usize| json!({"key": format!("r{n}"), "text": format!("text {n}")}).to_string();
    (0..count).map(line).collect()
}

pub fn command(shell: &Shell, arguments: &[&str]) -> Command {
    let mut command = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &shell.folder);
    command.args(arguments).envs(&shell.variables);
    command
}

pub fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("an output");
    let parse = |line: &str| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(parse).collect()
}

/// The most memory that a process has had, in MiB.
pub fn peak_mib(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

#[tokio::test]
async fn results_stand_in_the_files_order_and_are_all_found_the_second_time() {
    let shell = Shell::bare();
    let mut lines = texts(30_000);
    lines[7] = "nope".to_owned();
    lines[20_000] = r#"{"features":[1]}"#.to_owned();
    // Reads at first sight, and not when it is looked at closely: it costs itself alone.
    lines[20_001] = r#"{"text":"a","key":1e999}"#.to_owned();
    lines[25_000] = r#"{"job_id":"whole","model":"fault","inputs":[{"text":"text 1"}]}"#.to_owned();
    shell.write("in.jsonl", &lines);
    let score = ["score", "in.jsonl", "--output", "out.jsonl", "--json"];
    let first = shell.kiln(&score).await.with(3);
    let out = rows(&shell.folder.join("out.jsonl"));
    let names: Vec<String> = out
        .iter()
        .map(|row| row["key"].as_str().unwrap_or("-").to_owned())
        .collect();
    let expected: Vec<String> = (0..30_000)
        .filter(|n| *n != 7)
        .map(|n| {
            if [20_000, 20_001, 25_000].contains(&n) {
                "-".to_owned()
            } else {
                format!("r{n}")
            }
        })
        .collect();
    assert!(
        names == expected,
        "an output row is missing, double or elsewhere"
    );
    assert!(out[19_999]["error"].is_object(), "{}", out[19_999]);
    assert!(out[20_000]["error"].is_object(), "{}", out[20_000]);
    assert_eq!(out[24_999]["job_id"], "whole");
    for line in ["line 8: not JSON", "line 20001: ", "line 20002: "] {
        assert!(first.err.contains(line), "{line}: {}", first.err);
    }
    let summary = |err: &str| -> Value {
        serde_json::from_str(err.lines().last().expect("a summary")).expect("JSON")
    };
    let counted = summary(&first.err);
    assert_eq!(
        (&counted["bad_lines"], &counted["inputs"]),
        (&json!(3), &json!(29_997))
    );
    let again = shell.kiln(&score).await.with(3);
    let counted = summary(&again.err);
    assert_eq!(counted["misses"], 0, "{counted}");
    let cached = rows(&shell.folder.join("out.jsonl"));
    let scores = |rows: &[Value]| {
        rows.iter()
            .map(|row| row["score"].clone())
            .collect::<Vec<_>>()
    };
    assert!(scores(&out) == scores(&cached));
}

#[tokio::test]
async fn memory_does_not_follow_what_comes_through_a_pipe() {
    let shell = Shell::bare();
    let mut child = command(&shell, &["score", "-", "--output", "/dev/null"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut pipe = BufWriter::new(child.stdin.take().expect("a pipe"));
    let filling = "abcdefg ".repeat(512);
    for n in 0..150_000 {
        writeln!(pipe, r#"{{"text":"{n} {filling}"}}"#).expect("it is read");
    }
    let peak = peak_mib(&child);
    drop(pipe);
    assert!(child.wait().expect("our child").success());
    assert!((20..MAX_MIB).contains(&peak), "{peak} MiB");
}

/// How far apart a run keeps how far it has come.
const BETWEEN_MARKS: Duration = Duration::from_secs(1);

/// Holds a run with its first rows until a mark is due, so that most of it is still to come then, however quick the machine is.
pub fn hold_until_a_mark_is_due(child: &Child, has_rows: impl Fn() -> bool) {
    let begun = Instant::now();
    while !has_rows() {
        assert!(begun.elapsed() < PATIENCE, "it writes nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    sandbox::signal(&[child.id() as i32], libc::SIGSTOP);
    std::thread::sleep(BETWEEN_MARKS);
    sandbox::signal(&[child.id() as i32], libc::SIGCONT);
}

/// Kills a run again and again until it ends; gives its output's path.
pub fn a_run_is_killed(shell: &Shell, input: &str, output: &str) -> PathBuf {
    let score = ["score", input, "--output", output, "--keep-columns"];
    let [whole, manifest, partial] =
        ["", ".manifest", ".partial"].map(|end| shell.folder.join(format!("{output}{end}")));
    let mut kills = 0;
    loop {
        let mut child = command(shell, &score)
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let before = fs::read(&manifest).ok();
        if kills == 0 {
            let written = || fs::metadata(&partial).map_or(0, |about| about.len());
            hold_until_a_mark_is_due(&child, || written() > 0);
        }
        let begun = Instant::now();
        let ended = loop {
            if child.try_wait().expect("our child").is_some() {
                break true;
            }
            let now = fs::read(&manifest).ok();
            if now.is_some() && now != before {
                break false;
            }
            assert!(begun.elapsed() < PATIENCE, "it neither ends nor comes on");
            std::thread::sleep(Duration::from_millis(2));
        };
        if ended {
            break;
        }
        assert!(!whole.exists(), "an output appears once it is whole");
        child.kill().expect("our child");
        child.wait().expect("our child");
        kills += 1;
    }
    assert!(kills > 0, "it was too quick to be killed");
    assert!(!manifest.exists());
    whole
}

#[tokio::test]
async fn a_run_that_is_killed_goes_on_where_it_stopped_and_writes_each_row_once() {
    for (input, output) in [("in.jsonl", "out.jsonl"), ("in.csv", "out.csv.gz")] {
        let shell = Shell::bare();
        let count = 400_000;
        if input == "in.csv" {
            let line = |n: usize| format!("r{n},\"text\n{n}\",more {n}");
            let lines = std::iter::once("key,text,other".to_owned()).chain((0..count).map(line));
            shell.write(input, &lines.collect::<Vec<_>>());
        } else {
            shell.write(input, &texts(count));
        }
        let whole = a_run_is_killed(&shell, input, output);
        let text = if output.ends_with(".gz") {
            let unpacked = Command::new("gzip")
                .args(["-dc"])
                .arg(&whole)
                .output()
                .expect("gzip");
            assert!(unpacked.status.success());
            String::from_utf8(unpacked.stdout).expect("text")
        } else {
            fs::read_to_string(&whole).expect("an output")
        };
        let keys: Vec<&str> = match input {
            "in.csv" => text
                .lines()
                .skip(1)
                .map(|line| line.split(',').nth(1).expect("a key"))
                .collect(),
            _ => text
                .lines()
                .map(|line| line.split('"').nth(3).expect("a key"))
                .collect(),
        };
        let expected: Vec<String> = (0..count).map(|n| format!("r{n}")).collect();
        assert!(keys == expected, "a row is missing, double or elsewhere");
    }
}

#[tokio::test]
async fn a_run_that_begins_anew_leaves_nothing_of_another_to_go_on_from() {
    let shell = Shell::bare();
    let count = 400_000;
    shell.write("in.jsonl", &texts(count));
    let (output, manifest) = (
        shell.folder.join("out.jsonl"),
        shell.folder.join("out.jsonl.manifest"),
    );
    let score = ["score", "in.jsonl", "--output", "out.jsonl"];
    let start = |words: &[&str]| {
        command(&shell, words)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts")
    };
    let until = async |what: &str, is_so: &dyn Fn() -> bool| {
        eventually(what, PATIENCE, async || is_so().then_some(())).await;
    };
    let mut first = start(&score);
    until("a manifest", &|| manifest.exists()).await;
    first.kill().expect("our child");
    first.wait().expect("our child");
    // Another run writes the same file, and is killed as well.
    let mut other = start(&["score", "-", "--output", "out.jsonl"]);
    until("the other begins", &|| !manifest.exists()).await;
    other.kill().expect("our child");
    other.wait().expect("our child");
    shell.kiln(&score).await.with(0);
    let text = fs::read_to_string(&output).expect("an output");
    let keys = text
        .lines()
        .map(|line| line.split('"').nth(3).expect("a key"));
    let expected: Vec<String> = (0..count).map(|n| format!("r{n}")).collect();
    assert!(keys.eq(expected.iter().map(String::as_str)));
}

#[tokio::test]
async fn a_column_that_is_no_text_is_told_and_not_emptied() {
    let shell = Shell::bare();
    let latin = b"key,text,name\nk1,hi,M\xfcller\nk2,ho,Meier\n";
    fs::write(shell.folder.join("in.csv"), latin).expect("a file");
    let said = shell
        .kiln(&["score", "in.csv", "--keep-columns", "--format", "jsonl"])
        .await
        .with(3);
    assert_eq!(said.lines().len(), 1, "{}", said.out);
    assert!(
        said.err.contains("line 2: column `name` is not UTF-8"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn hostile_files_get_one_clear_line_in_bounded_memory() {
    let shell = Shell::bare();
    fs::create_dir(shell.folder.join("folder")).expect("a folder");
    let said = shell.kiln(&["score", "folder"]).await.with(1);
    assert_eq!(
        said.err,
        "kiln: folder is a folder, not a file: give --recursive for all files in it\n"
    );
    let said = shell.kiln(&["score", "gone.jsonl"]).await.with(1);
    assert!(
        said.err.starts_with("kiln: gone.jsonl can't be opened") && said.err.lines().count() == 1,
        "{}",
        said.err
    );
    shell.write("in.jsonl", &texts(3));
    let said = shell
        .kiln(&["score", "in.jsonl", "--output", "folder"])
        .await
        .with(1);
    assert!(
        said.err.ends_with("folder is a folder, not a file\n") && said.err.lines().count() == 1,
        "{}",
        said.err
    );

    // A disk that is full.
    let said = shell
        .kiln(&["score", "in.jsonl", "--output", "/dev/full"])
        .await
        .with(1);
    assert!(
        said.err.starts_with("kiln: /dev/full can't be written") && said.err.lines().count() == 1,
        "{}",
        said.err
    );

    // A line of 100 MB costs itself alone; NUL is no JSON by itself, and a character in a text.
    let mut file = fs::File::create(shell.folder.join("long.jsonl")).expect("a file");
    let long = "x".repeat(100 << 20);
    write!(
        file,
        "{{\"text\":\"a\"}}\n{{\"text\":\"{long}\"}}\n\0\0\n{{\"text\":\"a\\u0000b\"}}\n"
    )
    .expect("a file");
    let said = shell.kiln(&["score", "long.jsonl"]).await.with(3);
    assert_eq!(said.lines().len(), 2, "{}", said.out);
    assert!(
        said.err.contains("line 2: longer than 16777216 bytes"),
        "{}",
        said.err
    );
    assert!(said.err.contains("line 3: not JSON"), "{}", said.err);
    // A quote that nobody closes.
    fs::write(
        shell.folder.join("open.csv"),
        format!("key,text\na,b\nc,\"{long}"),
    )
    .expect("a file");
    let said = shell.kiln(&["score", "open.csv"]).await.with(1);
    assert!(
        said.err
            .contains("line 3 can't be read: a quote is left open"),
        "{}",
        said.err
    );
    // A long record that has an end costs itself, and a file that ends within quotes its last one.
    fs::write(
        shell.folder.join("long.csv"),
        format!("key,text\na,b\nc,\"{long}\n\"\nd,e\nf,\"g\nh,i\n"),
    )
    .expect("a file");
    let said = shell
        .kiln(&["score", "long.csv", "--quarantine", "long.bad"])
        .await
        .with(3);
    assert_eq!(said.lines().len(), 2, "{}", said.out);
    let bad = rows(&shell.folder.join("long.bad"));
    let told: Vec<_> = bad.iter().map(|bad| (&bad["line"], &bad["row"])).collect();
    assert_eq!(
        told,
        [
            (&json!(3), &Value::Null),
            (&json!(6), &json!({"key": "f", "text": "g\nh,i\n"})),
        ]
    );
    assert_eq!(bad[0]["problem"], "longer than 16777216 bytes");

    // A packed file that was cut, and one that unpacks to far more than it is.
    let packed = |name: &str, bytes: &[u8]| {
        fs::write(shell.folder.join(name), bytes).expect("a file");
        let packed = Command::new("gzip")
            .arg("-9")
            .arg(shell.folder.join(name))
            .status();
        assert!(packed.expect("gzip").success());
        shell.folder.join(format!("{name}.gz"))
    };
    let cut = packed("cut.jsonl", texts(20_000).join("\n").as_bytes());
    let bytes = fs::read(&cut).expect("a file");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    let said = shell
        .kiln(&["score", "cut.jsonl.gz", "--output", "cut.out"])
        .await
        .with(1);
    assert!(
        said.err.contains("cut.jsonl.gz: line ") && said.err.contains("can't be read"),
        "{}",
        said.err
    );
    assert!(!shell.folder.join("cut.out").exists());
    let bomb = packed("bomb.jsonl", &vec![b' '; 400 << 20]);
    let bomb = bomb.to_str().expect("a path").to_owned();
    let mut child = command(&shell, &["score", &bomb])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut peak = 0;
    let ended = loop {
        peak = peak.max(peak_mib(&child));
        if let Some(ended) = child.try_wait().expect("our child") {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(ended.code(), Some(3), "its one line is too long");
    assert!((1..MAX_MIB).contains(&peak), "{peak} MiB");
}

#[tokio::test]
async fn who_stops_reading_ends_the_command_quietly() {
    let shell = Shell::bare();
    shell.write("in.jsonl", &texts(100_000));
    let kiln = env!("CARGO_BIN_EXE_kiln");
    for piped in [
        format!("{kiln} score in.jsonl | head -n 1"),
        format!("sleep 0.2; ({kiln} models list; echo code $? >&2) | true"),
    ] {
        let ended = sandbox::clean_command("bash", &shell.folder)
            .args(["-c", &piped])
            .envs(&shell.variables)
            .output()
            .expect("bash");
        let err = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(["", "code 0\n"].contains(&err.as_str()), "{piped}: {err}");
    }
}

#[tokio::test]
async fn bad_rows_end_the_run_or_go_to_a_file_of_their_own() {
    let shell = Shell::bare();
    let mut lines = texts(6_000);
    lines[10] = "{nope".to_owned();
    lines[5_000] = r#"{"key":"bad","text":7}"#.to_owned();
    shell.write("in.jsonl", &lines);
    let said = shell
        .kiln(&["score", "in.jsonl", "-o", "out.jsonl", "--on-error", "fail"])
        .await
        .with(1);
    assert!(
        said.err.starts_with("kiln: in.jsonl: line 11: not JSON"),
        "{}",
        said.err
    );
    for left in ["out.jsonl", "out.jsonl.partial", "out.jsonl.manifest"] {
        assert!(!shell.folder.join(left).exists(), "{left}");
    }
    shell
        .kiln(&["score", "in.jsonl", "--on-error", "quarantine"])
        .await
        .with(2);
    shell
        .kiln(&[
            "score",
            "in.jsonl",
            "--on-error",
            "skip",
            "--quarantine",
            "bad",
        ])
        .await
        .with(2);
    // The run that ended at the first bad row has stored some of what comes next.
    for stored in ["kiln.db", "kiln.db-wal", "kiln.db-shm"] {
        let _absent = fs::remove_file(shell.folder.join(stored));
    }
    let score = [
        "score",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--quarantine",
        "bad.jsonl",
        "--report",
        "report.json",
    ];
    shell.kiln(&score).await.with(3);
    assert_eq!(rows(&shell.folder.join("out.jsonl")).len(), 5_998);
    let bad = rows(&shell.folder.join("bad.jsonl"));
    let said: Vec<_> = bad
        .iter()
        .map(|bad| (&bad["file"], &bad["line"], &bad["column"], &bad["row"]))
        .collect();
    assert_eq!(
        said,
        [
            (&json!("in.jsonl"), &json!(11), &json!("2"), &json!("{nope")),
            (
                &json!("in.jsonl"),
                &json!(5_001),
                &json!("text"),
                &json!(lines[5_000])
            ),
        ]
    );
    let report = fs::read(shell.folder.join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(
        (&report["rows"], &report["bad_rows"]),
        (&json!(5_998), &json!(2))
    );
    assert_eq!(report["misses"], 5_998, "{report}");
    assert_eq!(report["scores"]["count"], 5_998);
    assert_eq!(report["slowest_inputs"].as_array().map(Vec::len), Some(10));
    assert!(report["cost"]["seconds_per_input"].is_number(), "{report}");
}

#[tokio::test]
async fn tables_are_read_and_written_packed_and_keep_their_columns() {
    let shell = Shell::bare();
    shell.write(
        "in.tsv",
        &[
            "id\tbody\tscore".to_owned(),
            "1\tone \"a\"\tx".to_owned(),
            "2\ttwo\ty".to_owned(),
        ],
    );
    let pick = [
        "--text-column",
        "body",
        "--key-column",
        "id",
        "--keep-columns",
    ];
    let run = async |input: &str, output: &str, more: &[&str]| {
        let mut score = vec!["score", input, "--output", output];
        score.extend(more);
        shell.kiln(&score).await.with(0);
        fs::read(shell.folder.join(output)).expect("an output")
    };
    let plain = run("in.tsv", "out.jsonl", &pick).await;
    let plain = String::from_utf8(plain).expect("text");
    assert!(
        plain.starts_with(r#"{"input_score":"x","key":"1","score":0."#),
        "{plain}"
    );
    for (packer, end) in [("gzip", "gz"), ("zstd", "zst")] {
        let packed = format!("out.jsonl.{end}");
        let bytes = run("in.tsv", &packed, &pick).await;
        assert_ne!(bytes.first(), Some(&b'{'));
        // Read again as what it is, whatever it is called.
        fs::rename(shell.folder.join(&packed), shell.folder.join("any.jsonl")).expect("a file");
        let again = run(
            "any.jsonl",
            &format!("{packer}.csv"),
            &["--text-column", "key", "--keep-columns=input_score"],
        )
        .await;
        let again = String::from_utf8(again).expect("text");
        assert!(again.starts_with("input_score,key,label,score"), "{again}");
        let kept: HashSet<&str> = again
            .lines()
            .skip(1)
            .filter_map(|line| line.split(',').next())
            .collect();
        assert_eq!(kept, HashSet::from(["x", "y"]));
    }
    let said = shell
        .kiln(&["score", "out.jsonl", "-o", "x.csv", "--keep-columns"])
        .await
        .with(1);
    assert!(said.err.contains("--keep-columns=a,b"), "{}", said.err);
}

#[tokio::test]
async fn no_run_writes_what_it_reads_nor_one_file_twice() {
    let shell = Shell::bare();
    fs::create_dir(shell.folder.join("deep")).expect("a folder");
    shell.write("a.jsonl", &texts(2));
    shell.write("b.jsonl", &texts(3));
    let before = fs::read(shell.folder.join("b.jsonl")).expect("a file");
    std::os::unix::fs::symlink("b.jsonl", shell.folder.join("link.jsonl")).expect("a link");
    fs::hard_link(
        shell.folder.join("b.jsonl"),
        shell.folder.join("other.jsonl"),
    )
    .expect("a link");
    for (words, one, other) in [
        ("a.jsonl b.jsonl -o b.jsonl", "b.jsonl", "--output"),
        ("b.jsonl -o deep/../b.jsonl", "b.jsonl", "--output"),
        ("b.jsonl -o link.jsonl", "b.jsonl", "--output"),
        ("b.jsonl --report other.jsonl", "b.jsonl", "--report"),
        ("b.jsonl --report b.jsonl", "b.jsonl", "--report"),
        ("b.jsonl --quarantine b.jsonl", "b.jsonl", "--quarantine"),
        ("a.jsonl -o kiln.db", "--output", "embedded.path"),
        ("a.jsonl -o x --report x", "--output", "--report"),
        ("a.jsonl -o x --quarantine x", "--output", "--quarantine"),
        (
            "a.jsonl -o x --quarantine x.partial",
            "the .partial of --output",
            "--quarantine",
        ),
        (
            "a.jsonl -o x --report ./x.manifest",
            "the .manifest of --output",
            "--report",
        ),
        (
            "a.jsonl --quarantine y --report deep/../y",
            "--quarantine",
            "--report",
        ),
        ("a.jsonl --quarantine -", "--quarantine", "./-"),
    ] {
        let mut all = vec!["score"];
        all.extend(words.split(' '));
        let said = shell.kiln(&all).await.with(2);
        assert!(
            said.err.contains(one) && said.err.contains(other) && said.err.lines().count() == 1,
            "{words}: {}",
            said.err
        );
    }
    let mut names: Vec<String> = fs::read_dir(&shell.folder)
        .expect("the folder")
        .map(|one| {
            one.expect("a file")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["a.jsonl", "b.jsonl", "deep", "link.jsonl", "other.jsonl"]
    );
    assert_eq!(
        fs::read(shell.folder.join("b.jsonl")).expect("a file"),
        before
    );
    // What a pattern brings is left out where the run writes it, and - is standard output.
    shell
        .kiln(&["score", "[ab].jsonl", "-o", "b.jsonl"])
        .await
        .with(0);
    assert_eq!(rows(&shell.folder.join("b.jsonl")).len(), 2);
    let said = shell.kiln(&["score", "a.jsonl", "-o", "-"]).await.with(0);
    assert_eq!(said.lines().len(), 2, "{}", said.out);
    assert!(!shell.folder.join("-").exists());
    // A device takes all of it.
    shell
        .kiln(&[
            "score",
            "a.jsonl",
            "-o",
            "/dev/null",
            "--quarantine",
            "/dev/null",
        ])
        .await
        .with(0);
}

#[tokio::test]
async fn a_record_with_more_cells_than_the_header_is_bad_and_not_cut_off() {
    let shell = Shell::bare();
    for (name, between, hint) in [
        ("in.csv", ",", "is a comma unquoted?"),
        ("in.tsv", "\t", "is a tab in a cell?"),
    ] {
        let lines = ["key,text", "a,hello, this part is lost", "b,fine"];
        let lines = lines.map(|line| line.replace(',', between));
        shell.write(name, &lines);
        let said = shell
            .kiln(&["score", name, "--quarantine", "bad.jsonl"])
            .await
            .with(3);
        let expected = format!("line 2: has 3 cells, the header 2: {hint}");
        assert!(said.err.contains(&expected), "{}", said.err);
        assert_eq!(said.lines().len(), 1, "{}", said.out);
        let bad = rows(&shell.folder.join("bad.jsonl"));
        assert_eq!(bad[0]["row"], json!(["a", "hello", " this part is lost"]));
        assert_eq!(bad[0]["column"], Value::Null);
    }
}

#[tokio::test]
async fn a_model_that_there_isnt_ends_the_run_before_anything_is_replaced() {
    let shell = Shell::bare();
    shell.write("in.jsonl", &texts(3));
    fs::write(shell.folder.join("out.jsonl"), "the results of yesterday").expect("a file");
    let words = [
        "score",
        "in.jsonl",
        "--model",
        "sentimnt",
        "-o",
        "out.jsonl",
        "--quarantine",
        "bad.jsonl",
        "--report",
        "report.json",
    ];
    let said = shell.kiln(&words).await.with(1);
    assert!(
        said.err.contains("sentimnt") && said.err.contains("known models: "),
        "{}",
        said.err
    );
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    let kept = fs::read_to_string(shell.folder.join("out.jsonl")).expect("a file");
    assert_eq!(kept, "the results of yesterday");
    for left in [
        "out.jsonl.partial",
        "bad.jsonl",
        "bad.jsonl.partial",
        "report.json",
    ] {
        assert!(!shell.folder.join(left).exists(), "{left}");
    }
}

#[tokio::test]
async fn a_quarantine_holds_lines_as_they_stand_and_can_be_scored_again() {
    let shell = Shell::bare();
    let lines = [
        r#"{"id": 1, "review": "fine", "stars": 4}"#,
        r#"{"id": 2,  "review": 7, "stars": 1}"#,
        r#"{"id": 3, "review": "a", "stars": 1e999}"#,
        r#"{"id": 4, "stars": 1}"#,
    ]
    .map(str::to_owned);
    shell.write("in.jsonl", &lines);
    let picked = [
        "--text-column",
        "review",
        "--key-column",
        "id",
        "--keep-columns",
    ];
    let mut words = vec!["score", "in.jsonl", "-o", "out.jsonl"];
    words.extend(["--quarantine", "bad.jsonl"]);
    words.extend(picked);
    shell.kiln(&words).await.with(3);
    let bad = rows(&shell.folder.join("bad.jsonl"));
    let again: Vec<String> = bad
        .iter()
        .map(|bad| bad["row"].as_str().expect("a line").to_owned())
        .collect();
    assert!(again.contains(&lines[1]) && again.contains(&lines[3]));
    assert!(again.iter().all(|line| lines.contains(line)), "{again:?}");
    // Mended, they are scored with the same options.
    let mended = again.iter().map(|line| line.replace(" 7,", r#" "7","#));
    let mended: Vec<String> = mended.filter(|line| line.contains("review")).collect();
    shell.write("again.jsonl", &mended);
    let mut words = vec!["score", "again.jsonl"];
    words.extend(picked);
    let said = shell.kiln(&words).await;
    let first = said.lines();
    assert_eq!(first[0]["key"], "2", "{}", said.out);
    assert_eq!(first[0]["stars"], 1, "{}", said.out);
}

#[tokio::test]
async fn a_mark_before_the_text_is_no_part_of_the_first_line() {
    let shell = Shell::bare();
    let marked = |name: &str, text: &str| {
        let bytes = [&[0xef, 0xbb, 0xbf][..], text.as_bytes()].concat();
        fs::write(shell.folder.join(name), bytes).expect("a file");
    };
    let text = texts(2).join("\n");
    marked("a.jsonl", &text);
    marked("b.jsonl", &text);
    marked("c.csv", "key,text\na,one\nb,two\n");
    let said = shell.kiln(&["score", "a.jsonl", "b.jsonl"]).await.with(0);
    assert_eq!(said.lines().len(), 4, "{}", said.out);
    let said = shell.kiln(&["score", "c.csv"]).await.with(0);
    assert_eq!(said.lines()[0]["key"], "a", "{}", said.out);
    let utf_16: Vec<u8> = "\u{feff}{\"text\":\"a\"}\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for name in ["wide.jsonl", "wide.csv"] {
        fs::write(shell.folder.join(name), &utf_16).expect("a file");
        let said = shell.kiln(&["score", name]).await.with(1);
        assert_eq!(
            said.err,
            format!("kiln: {name} is UTF-16: make it UTF-8, as by `iconv -f UTF-16 -t UTF-8`\n")
        );
    }
    // A run that is killed goes on at the right byte behind the mark.
    marked("long.jsonl", &texts(400_000).join("\n"));
    let whole = a_run_is_killed(&shell, "long.jsonl", "out.jsonl");
    let text = fs::read_to_string(whole).expect("an output");
    let keys = text
        .lines()
        .map(|line| line.split('"').nth(3).expect("a key"));
    let expected: Vec<String> = (0..400_000).map(|n| format!("r{n}")).collect();
    assert!(keys.eq(expected.iter().map(String::as_str)));
}

#[tokio::test]
async fn who_stops_reading_leaves_bad_rows_and_the_report() {
    let shell = Shell::bare();
    let mut lines = texts(100_000);
    lines[0] = "nope".to_owned();
    shell.write("in.jsonl", &lines);
    let kiln = env!("CARGO_BIN_EXE_kiln");
    let piped = format!(
        "{kiln} score in.jsonl --quarantine bad.jsonl --report report.json | head -n 1; echo ${{PIPESTATUS[0]}}"
    );
    let ended = sandbox::clean_command("bash", &shell.folder)
        .args(["-c", &piped])
        .envs(&shell.variables)
        .output()
        .expect("bash");
    let out = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(out.lines().last(), Some("3"), "{out}");
    let bad = rows(&shell.folder.join("bad.jsonl"));
    assert_eq!(bad[0]["row"], "nope");
    assert!(!shell.folder.join("bad.jsonl.partial").exists());
    let report = fs::read(shell.folder.join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["bad_rows"], 1, "{report}");
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_leaves_only_what_it_goes_on_from() {
    let shell = Shell::bare();
    let mut lines = texts(400_000);
    lines[0] = "nope".to_owned();
    shell.write("in.jsonl", &lines);
    let start = |words: &[&str]| {
        command(&shell, words)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts")
    };
    let there = |name: &str| shell.folder.join(name).exists();
    let stop = |mut child: Child| {
        let asked = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(asked.expect("kill").success());
        // Whoever waits for a line keeps its pipe open meanwhile.
        let _pipe = child.stdin.take();
        let ended = child.wait_with_output().expect("our child");
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8_lossy(&ended.stderr).into_owned()
    };
    let until = async |name: &str| {
        eventually(name, PATIENCE, async || there(name).then_some(())).await;
    };
    // What is packed as one can't be gone on from.
    let child = start(&[
        "score",
        "-",
        "-o",
        "out.jsonl.zst",
        "--quarantine",
        "bad.jsonl",
        "--report",
        "report.json",
    ]);
    until("bad.jsonl.partial").await;
    let said = stop(child);
    assert!(said.ends_with("kiln: stopped\n"), "{said}");
    for left in [
        "out.jsonl.zst",
        "out.jsonl.zst.partial",
        "bad.jsonl",
        "bad.jsonl.partial",
        "report.json",
    ] {
        assert!(!there(left), "{left}");
    }
    // And what can is gone on from.
    let score = [
        "score",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--quarantine",
        "bad.jsonl",
        "--report",
        "report.json",
    ];
    let child = start(&score);
    until("out.jsonl.manifest").await;
    let said = stop(child);
    assert!(said.ends_with("goes on from there\n"), "{said}");
    assert!(there("out.jsonl.partial") && there("bad.jsonl.partial"));
    assert!(!there("report.json"));
    let said = shell.kiln(&score).await.with(3);
    assert!(said.err.contains("goes on after line "), "{}", said.err);
    assert_eq!(rows(&shell.folder.join("out.jsonl")).len(), 399_999);
    assert_eq!(rows(&shell.folder.join("bad.jsonl")).len(), 1);
    let report = fs::read(shell.folder.join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["resumed_in_file"], "in.jsonl", "{report}");
}

#[tokio::test]
async fn the_figures_of_a_report_add_up() {
    let shell = Shell::bare().set("KILN_CACHE__MODE", "auto").set(
        "KILN_MODELS_DIR",
        concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
    );
    let mut lines = texts(6_000);
    lines[10] = "{nope".to_owned();
    lines[20] = r#"{"key":"bad","text":7}"#.to_owned();
    shell.write("in.jsonl", &lines);
    let words = [
        "score",
        "in.jsonl",
        "-o",
        "out.jsonl",
        "--model",
        "sentiment",
    ];
    let words = [&words[..], &["--report", "report.json"][..]].concat();
    shell.kiln(&words).await.with(3);
    let report = fs::read(shell.folder.join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let number = |name: &str| report[name].as_u64().expect("a number");
    let found = ["hits", "misses", "uncached", "coalesced"].map(number);
    assert_eq!(found.iter().sum::<u64>(), number("inputs"), "{report}");
    assert_eq!((number("rows"), number("bad_rows")), (5_999, 2), "{report}");
    assert_eq!(number("rows_with_error"), 1, "{report}");
    assert_eq!(
        number("rows") - number("rows_with_error") + number("bad_rows"),
        6_000
    );
}
