//! Commands that are asked to stop: while they open what nobody is at the other end of, and in the middle of what they make.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::files::command;
use super::harness::shell::Shell;
use super::harness::{PATIENCE, eventually, sandbox};

fn fifo(shell: &Shell, name: &str) {
    let made = Command::new("mkfifo").arg(shell.folder.join(name)).status();
    assert!(made.expect("mkfifo").success());
}

/// Whether the process has said that it hears both signals.
fn hears(child: &Child) -> Option<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught?.trim(), 16).ok()?;
    let both = [libc::SIGINT, libc::SIGTERM].map(|signal| 1_u64 << (signal - 1));
    both.iter().all(|bit| caught & bit != 0).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_waits_for_the_other_end_of_a_pipe_is_stopped() {
    let shell = Shell::bare();
    shell.write("in.jsonl", &[json!({"text": "one"}).to_string()]);
    fifo(&shell, "in.fifo");
    fifo(&shell, "out.fifo");
    for (input, output) in [("in.jsonl", "out.fifo"), ("in.fifo", "out.jsonl")] {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let words = ["score", input, "--model", "fault", "--output", output];
            let mut child = command(&shell, &[&words[..], &["--report", "report.json"]].concat())
                .stdin(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary starts");
            eventually("it hears signals", PATIENCE, async || hears(&child)).await;
            if input == "in.jsonl" {
                let report = shell.folder.join("report.json");
                eventually("it has read", PATIENCE, async || {
                    report.exists().then_some(())
                })
                .await;
            }
            sandbox::signal(&[child.id() as i32], signal);
            let ended = eventually("it ends", PATIENCE, async || {
                child.try_wait().expect("our child")
            });
            assert_eq!(ended.await.code(), Some(1), "{input} {output}");
            let said = child.wait_with_output().expect("our child").stderr;
            assert_eq!(String::from_utf8_lossy(&said), "kiln: stopped\n");
            for file in ["report.json", "out.jsonl", "out.jsonl.partial"] {
                assert!(!shell.folder.join(file).exists(), "{file}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_being_made_leaves_nothing_where_its_command_is_stopped() {
    let shell = Shell::bare();
    let models = shell.folder.join("models");
    let shell = shell.set("KILN_MODELS_DIR", models.to_str().expect("a plain path"));
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/parity/models/bert-classifier"
    );
    let import = ["models", "import", fixture, "--name", "bert"];
    let import = [&import[..], &["--version", "1"]].concat();
    shell.kiln(&import).await.with(0);
    let text = "a text that takes its time ".repeat(30);
    shell.write("texts.txt", &vec![text; 10_000]);
    let quantise = ["models", "quantize", "bert@1", "--version", "2"];
    let child = command(&shell, &[&quantise[..], &["--texts", "texts.txt"]].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let names = || {
        let entries = fs::read_dir(models.join("bert")).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    };
    eventually("it hears signals", PATIENCE, async || hears(&child)).await;
    eventually("it writes", PATIENCE, async || {
        names()[0].starts_with(".quantise-2-").then_some(())
    })
    .await;
    sandbox::signal(&[child.id() as i32], libc::SIGINT);
    let ended = tokio::task::block_in_place(|| child.wait_with_output().expect("our child"));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.ends_with("kiln: stopped\n"), "{said}");
    assert_eq!(names(), ["1"]);
}
