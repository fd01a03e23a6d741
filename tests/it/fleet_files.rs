//! `kiln score --fleet`: files scored by workers over the broker into the output that the same command writes without them, through kills of
//! either side, restarts of the broker and cancellation.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::files::{command, rows};
use crate::harness::bus::{DEAD, JOBS};
use crate::harness::shell::Shell;
use crate::harness::stack::{Own, Stack};
use crate::harness::{PATIENCE, eventually};
use crate::split_files::parts;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

/// Distinct lines whose texts the model `fault` takes so many milliseconds for.
fn slow(count: usize, milliseconds: u64) -> Vec<String> {
    let line = |n: usize| {
        json!({"key": format!("r{n}"), "text": format!("sleep:{milliseconds} {n}")}).to_string()
    };
    (0..count).map(line).collect()
}

fn spawn(shell: &Shell, arguments: &[&str]) -> Child {
    let said = fs::File::create(shell.folder.join("said")).expect("a file");
    command(shell, arguments)
        .stdin(Stdio::null())
        .stderr(said)
        .spawn()
        .expect("the binary starts")
}

async fn ended(child: &mut Child) -> i32 {
    let status = eventually("the command ends", 2 * PATIENCE, async || {
        child.try_wait().expect("our child")
    })
    .await;
    status.code().unwrap_or(-1)
}

fn said(shell: &Shell) -> String {
    fs::read_to_string(shell.folder.join("said")).unwrap_or_default()
}

fn manifest(shell: &Shell, output: &str) -> Value {
    let bytes = fs::read(shell.folder.join(format!("{output}.manifest"))).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// The run's name, once the command has one.
async fn run_name(shell: &Shell, output: &str) -> String {
    eventually("a run", PATIENCE, async || {
        let manifest = manifest(shell, output);
        manifest["fleet"]["name"].as_str().map(str::to_owned)
    })
    .await
}

/// Waits until the manifest says that rows are written.
async fn has_begun(shell: &Shell, output: &str) {
    eventually("rows are written", PATIENCE, async || {
        let lines = manifest(shell, output)["end"]["lines"].as_u64();
        (lines.unwrap_or_default() > 0).then_some(())
    })
    .await;
}

/// An output's bytes; where they are packed, a slow run has more members than a quick one, of the same rows.
fn unpacked(folder: &Path, output: &str) -> Vec<u8> {
    let path = folder.join(output);
    if !output.ends_with(".gz") {
        return fs::read(path).expect("an output");
    }
    let ended = Command::new("gzip").arg("-dc").arg(path).output();
    let ended = ended.expect("gzip");
    assert!(ended.status.success());
    ended.stdout
}

fn expect_clean(folder: &Path, output: &str) {
    for end in [".partial", ".manifest", ".posted"] {
        let path = folder.join(format!("{output}{end}"));
        assert!(!path.exists(), "{} is left", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_writes_the_bytes_that_one_machine_writes() {
    let stack = Stack::shared().await;
    let models = ["fault", "sentiment"];
    let _one = stack.worker().models(&models).start().await;
    let _other = stack.worker().models(&models).start().await;
    let shell = Shell::on(&stack).set("KILN_MODELS_DIR", MODELS);
    let jsonl = |name: &str| {
        let line = |n: usize| json!({"key": format!("r{n}"), "text": format!("nice {name} {n}"), "stars": n % 5});
        let mut lines: Vec<String> = (0..9_000).map(|n| line(n).to_string()).collect();
        lines[7] = "nope".to_owned();
        // It reads at first sight alone.
        lines[5_001] = r#"{"text":"a","key":1e999}"#.to_owned();
        // Without kept columns, a field that isn't known: one in b.jsonl, many in a row that fill whole jobs.
        if name == "b.jsonl" {
            let plain = |n: usize| json!({"key": format!("r{n}"), "text": format!("nice {n}")});
            for n in (8..2_000).chain(6_000..9_000) {
                lines[n] = plain(n).to_string();
            }
        }
        shell.write(name, &lines);
    };
    jsonl("a.jsonl");
    jsonl("b.jsonl");
    let csv: Vec<String> = std::iter::once("key,text,stars".to_owned())
        .chain((0..3_000).map(|n| format!("c{n},\"good, and {n}\",{n}")))
        .collect();
    shell.write("in.csv", &csv);
    for (input, output, code) in [
        ("a.jsonl", "out.jsonl", 3),
        ("b.jsonl", "detail.jsonl", 3),
        ("in.csv", "out.csv.gz", 0),
    ] {
        let mut words = vec!["score", input, "--model", "sentiment", "--on-error", "skip"];
        if output == "detail.jsonl" {
            words.push("--detail");
        } else {
            words.push("--keep-columns");
        }
        let fleet = [words.as_slice(), &["--fleet", "--output", output]].concat();
        let over_fleet = shell.kiln(&fleet).await.with(code);
        let first = unpacked(&shell.folder, output);
        expect_clean(&shell.folder, output);
        let _ = fs::remove_file(shell.folder.join("kiln.db"));
        let here = [words.as_slice(), &["--output", output]].concat();
        let alone = shell.kiln(&here).await.with(code);
        let second = unpacked(&shell.folder, output);
        assert!(first == second, "{input} to {output} differs");
        // The same is said of the same bad rows.
        let bad = |err: &str| -> Vec<String> {
            let lines = err.lines().filter(|line| line.starts_with("line "));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(bad(&over_fleet.err), bad(&alone.err));
        let run = over_fleet.err.split(['`', ':', ' ']).nth(1);
        let run = run.expect("its name").to_owned();
        assert_eq!(stack.bus.waiting(&format!("kiln.run.{run}")).await, None);
    }
    // What its lines alone show to be no job was never posted.
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));

    let submit = [
        "submit",
        "in.csv",
        "--model",
        "sentiment",
        "--output",
        "by.csv",
        "--json",
    ];
    let summary = shell.kiln(&submit).await.with(0);
    let last = summary.err.lines().last().unwrap_or_default();
    let last: Value = serde_json::from_str(last).expect("a summary");
    assert_eq!(last["inputs"], 3_000, "{last}");
    let usage = shell
        .kiln(&["submit", "in.csv", "--text-column", "a"])
        .await
        .with(2);
    assert!(
        usage.err.contains("--text-column goes with --output"),
        "{}",
        usage.err
    );
}

#[cfg(feature = "parquet")]
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_writes_the_tables_that_one_machine_writes() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["sentiment"]).start().await;
    let shell = Shell::on(&stack).set("KILN_MODELS_DIR", MODELS);
    let lines: Vec<String> = (0..5_000)
        .map(|n| json!({"key": format!("r{n}"), "text": format!("good {n}"), "n": n}).to_string())
        .collect();
    shell.write("in.jsonl", &lines);
    let words = [
        "score",
        "in.jsonl",
        "--model",
        "sentiment",
        "--detail",
        "--keep-columns=n",
        "--output",
        "out.parquet",
    ];
    shell
        .kiln(&[&words[..], &["--fleet"]].concat())
        .await
        .with(0);
    let first = fs::read(shell.folder.join("out.parquet")).expect("an output");
    shell.kiln(&words).await.with(0);
    let second = fs::read(shell.folder.join("out.parquet")).expect("an output");
    assert!(first == second);
    // Without the model here, nothing is posted.
    let back = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "nobody",
        "--output",
        "none.parquet",
    ];
    let said = shell.kiln(&back).await.with(1);
    assert!(
        said.err
            .contains("the columns of a table follow from its model"),
        "{}",
        said.err
    );
    expect_clean(&shell.folder, "none.parquet");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_killed_in_the_middle_leave_the_output_whole() {
    let stack = Stack::shared().await;
    let one = stack.worker().start().await;
    let other = stack.worker().start().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(1_200, 8));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--inputs-per-job",
        "20",
        "--model",
        "fault",
        "--output",
    ];
    let mut child = spawn(&shell, &[&words[..], &["out.jsonl"]].concat());
    stack.wait_for_rows(10).await;
    one.kill();
    other.kill();
    let _third = stack.worker().start().await;
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    let out = rows(&shell.folder.join("out.jsonl"));
    let keys: Vec<&str> = out.iter().filter_map(|row| row["key"].as_str()).collect();
    let expected: Vec<String> = (0..1_200).map(|n| format!("r{n}")).collect();
    assert_eq!(keys, expected);
    // The same file again, by workers that nobody kills.
    let again = [&words[..], &["again.jsonl"]].concat();
    shell.kiln(&again).await.with(0);
    let read = |name: &str| {
        let text = fs::read_to_string(shell.folder.join(name)).expect("an output");
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.replace("\"cached\":true", "\"cached\":false"))
            .collect();
        lines.sort();
        lines
    };
    assert!(read("out.jsonl") == read("again.jsonl"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_killed_in_the_middle_goes_on_and_posts_nothing_twice_that_is_done() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(1_600, 5));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "20",
        "--in-flight",
        "6",
        "--output",
        "out.jsonl",
    ];
    let mut kills = 0;
    let mut name: Option<String> = None;
    loop {
        let mut child = spawn(&shell, &words);
        let before = stack.row_count().await;
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait().expect("our child") {
                break status.code();
            }
            if kills < 3 && stack.row_count().await >= before + 12 {
                child.kill().expect("our child");
                child.wait().expect("our child");
                kills += 1;
                let run = run_name(&shell, "out.jsonl").await;
                assert_eq!(*name.get_or_insert(run.clone()), run, "it is one run");
                break None;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "{}", said(&shell));
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if let Some(code) = code {
            assert_eq!(code, 0, "{}", said(&shell));
            break;
        }
    }
    assert_eq!(kills, 3);
    let out = rows(&shell.folder.join("out.jsonl"));
    let keys: Vec<&str> = out.iter().filter_map(|row| row["key"].as_str()).collect();
    let expected: Vec<String> = (0..1_600).map(|n| format!("r{n}")).collect();
    assert_eq!(keys, expected, "each row once, in order");
    expect_clean(&shell.folder, "out.jsonl");
    // As many jobs as the file makes, each with one row; none was scored anew, which the cache would say.
    assert_eq!(stack.row_count().await, 80);
    assert!(out.iter().all(|row| row["cached"] == false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_writes_parts_and_goes_on_with_them() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(1_600, 4));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "20",
        "--in-flight",
        "6",
        "--split-rows",
        "150",
        "--output",
        "out.jsonl",
    ];
    let mut child = spawn(&shell, &words);
    eventually("a part is whole", 2 * PATIENCE, async || {
        let is_there = shell.folder.join("out-00002.jsonl").exists();
        is_there.then_some(())
    })
    .await;
    child.kill().expect("our child");
    child.wait().expect("our child");
    let first = parts(&shell.folder, "out", ".jsonl");
    let mut child = spawn(&shell, &words);
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    let all = parts(&shell.folder, "out", ".jsonl");
    assert_eq!(all.len(), 11);
    assert!(first.iter().all(|(name, part)| all.get(name) == Some(part)));
    let keys: Vec<String> = all
        .values()
        .flat_map(|part| part.split(|byte| *byte == b'\n'))
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .map(|row| row["key"].as_str().unwrap_or("-").to_owned())
        .collect();
    let expected: Vec<String> = (0..1_600).map(|n| format!("r{n}")).collect();
    assert_eq!(keys, expected, "each row once, in order");
    assert_eq!(stack.row_count().await, 80);
    crate::split_files::expect_clean(&shell.folder);
    #[cfg(feature = "parquet")]
    {
        let words: Vec<&str> = words
            .into_iter()
            .map(|word| {
                if word == "out.jsonl" {
                    "out.parquet"
                } else {
                    word
                }
            })
            .collect();
        shell.kiln(&words).await.with(0);
        assert_eq!(parts(&shell.folder, "out", ".parquet").len(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_jobs_wait_than_may() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(2_000, 0));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "10",
        "--in-flight",
        "7",
        "--output",
        "out.jsonl",
    ];
    let mut child = spawn(&shell, &words);
    eventually("seven jobs wait", PATIENCE, async || {
        (stack.bus.waiting(JOBS).await == Some(7)).then_some(())
    })
    .await;
    eventually("it is said that nobody takes them", PATIENCE, async || {
        said(&shell).contains("no worker takes jobs").then_some(())
    })
    .await;
    assert_eq!(stack.bus.waiting(JOBS).await, Some(7));
    let _worker = stack.worker().start().await;
    let mut max = 0;
    while child.try_wait().expect("our child").is_none() {
        max = max.max(stack.bus.waiting(JOBS).await.unwrap_or_default());
    }
    assert!(max <= 7, "{max} jobs waited");
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    assert_eq!(rows(&shell.folder.join("out.jsonl")).len(), 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_is_dropped_on_arrival_and_can_be_gone_on_with() {
    let stack = Stack::shared().await;
    let _worker = stack
        .worker()
        .set("KILN_INTAKE__PREFETCH", "4")
        .start()
        .await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(900, 30));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "10",
        "--in-flight",
        "30",
        "--output",
        "out.jsonl",
    ];
    let mut child = spawn(&shell, &words);
    has_begun(&shell, "out.jsonl").await;
    let run = run_name(&shell, "out.jsonl").await;
    let state = shell.kiln(&["jobs", "run", &run, "--json"]).await.with(0);
    assert!(state.lines()[0]["is_collected"] == true, "{}", state.out);
    shell.kiln(&["jobs", "cancel", "--run", &run]).await.with(0);
    assert_eq!(ended(&mut child).await, 1);
    let last = said(&shell);
    assert!(
        last.contains(&format!("run {run} was cancelled after line")),
        "{last}"
    );
    stack.wait_for_empty(JOBS).await;
    let dropped =
        "SELECT count(*) FROM jobs WHERE status = 'rejected' AND error->>'code' = 'cancelled'";
    assert!(stack.count(dropped).await > 0);
    assert_eq!(
        stack.bus.waiting(DEAD).await,
        Some(0),
        "none is a dead letter"
    );
    let again = shell.kiln(&["jobs", "cancel", "--run", &run]).await.with(0);
    assert!(again.out.contains("was cancelled already"), "{}", again.out);
    // Jobs of no run, and of others, go on.
    let mut child = spawn(&shell, &words);
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    assert!(
        said(&shell).contains("goes on after line"),
        "{}",
        said(&shell)
    );
    let out = rows(&shell.folder.join("out.jsonl"));
    let keys: Vec<&str> = out.iter().filter_map(|row| row["key"].as_str()).collect();
    let expected: Vec<String> = (0..900).map(|n| format!("r{n}")).collect();
    assert_eq!(keys, expected);
    expect_clean(&shell.folder, "out.jsonl");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_to_stop_says_how_to_go_on() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(900, 30));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "10",
        "--output",
        "out.jsonl",
    ];
    let mut child = spawn(&shell, &words);
    has_begun(&shell, "out.jsonl").await;
    crate::harness::sandbox::signal(&[child.id() as i32], libc::SIGTERM);
    assert_eq!(ended(&mut child).await, 1);
    let last = said(&shell);
    assert!(
        last.contains("the same command goes on from there"),
        "{last}"
    );
    let mut child = spawn(&shell, &words);
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    assert_eq!(rows(&shell.folder.join("out.jsonl")).len(), 900);
    assert_eq!(
        stack.row_count().await,
        90,
        "nothing was posted as another job"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_end_are_skipped_or_put_aside_as_it_is_said() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().start().await;
    let shell = Shell::on(&stack);
    let mut lines = slow(600, 0);
    lines[299] = r#"{"key":"bad","features":[1,2]}"#.to_owned();
    shell.write("in.jsonl", &lines);
    let words = |how: &[&'static str]| -> Vec<&'static str> {
        let first = ["score", "in.jsonl", "--fleet", "--model", "fault"];
        [&first[..], how].concat()
    };
    let fail = words(&["--on-error", "fail", "--output", "fail.jsonl"]);
    let failed = shell.kiln(&fail).await.with(1);
    assert!(failed.err.contains("line 300: "), "{}", failed.err);
    assert!(!shell.folder.join("fail.jsonl").exists());
    expect_clean(&shell.folder, "fail.jsonl");
    let skip = words(&["--output", "skip.jsonl"]);
    shell.kiln(&skip).await.with(3);
    let out = rows(&shell.folder.join("skip.jsonl"));
    assert_eq!(out.len(), 600);
    assert!(out[299]["error"].is_object(), "{}", out[299]);
    let aside = words(&["--quarantine", "bad.jsonl", "--output", "rest.jsonl"]);
    shell.kiln(&aside).await.with(3);
    let bad = rows(&shell.folder.join("bad.jsonl"));
    assert_eq!((bad.len(), &bad[0]["line"]), (1, &json!(300)));
    assert_eq!(rows(&shell.folder.join("rest.jsonl")).len(), 599);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_restarted_in_the_middle_costs_time_alone() {
    let own = Own {
        broker: true,
        postgres: false,
    };
    let stack = Stack::with(own).await;
    let _worker = stack.worker().expect_trouble().start().await;
    let shell = Shell::on(&stack);
    shell.write("in.jsonl", &slow(1_200, 5));
    let words = [
        "score",
        "in.jsonl",
        "--fleet",
        "--model",
        "fault",
        "--inputs-per-job",
        "10",
        "--output",
        "out.jsonl",
    ];
    let mut child = spawn(&shell, &words);
    stack.wait_for_rows(20).await;
    stack.broker.stop().await;
    eventually("the loss is said", PATIENCE, async || {
        let is_said = said(&shell).contains("the connection to the broker was lost");
        is_said.then_some(())
    })
    .await;
    stack.broker.start().await;
    assert_eq!(ended(&mut child).await, 0, "{}", said(&shell));
    let out = rows(&shell.folder.join("out.jsonl"));
    let keys: Vec<&str> = out.iter().filter_map(|row| row["key"].as_str()).collect();
    let expected: Vec<String> = (0..1_200).map(|n| format!("r{n}")).collect();
    assert_eq!(keys, expected);
}
