//! Commands whose standard output nobody reads any more, as in `kiln … | head -1`: what changes something does all of it, and what only looks ends quietly.

use serde_json::json;

use super::cli_test::three_letters;
use super::harness::shell::Shell;
use super::harness::stack::Stack;
use super::models::{Shelf, settles_on, worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_something_is_done_though_nobody_reads() {
    let stack = Stack::shared().await;
    let serving = stack.worker().start().await;
    let keys: Vec<String> = (1..10).map(|n| format!("k{n}")).collect();
    let inputs: Vec<_> = keys
        .iter()
        .map(|key| json!({"key": key, "text": format!("text of {key}")}))
        .collect();
    let job = json!({"job_id": "nine", "model": "fault", "namespace": "reviews", "inputs": inputs, "named": true});
    assert_eq!(stack.bus.answer(&job).await.body["status"], "ok");
    let shell = Shell::on(&stack);
    let mut forget = vec!["forget", "reviews"];
    forget.extend(keys.iter().map(String::as_str));
    let ended = shell.kiln_unread(&forget).await.with(0);
    assert_eq!(ended.err, "");
    let removed = "SELECT count(*) FROM served WHERE namespace = 'reviews' AND is_removed";
    assert_eq!(stack.count(removed).await, 9);
    serving.stop().await;

    shell.kiln_unread(&["init"]).await.with(0);
    for file in ["kiln.toml", "schedules/example.toml", "compose.yaml"] {
        assert!(shell.folder.join(file).exists(), "{file}");
    }
    // What is there is as good a reason to say something.
    shell.kiln_unread(&["init"]).await.with(3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_switched_to_though_nobody_reads_how_warm_it_is() {
    let stack = Stack::shared().await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let _serving = worker(&stack, &shelf).await;
    let shell = Shell::on(&stack).set("KILN_MODELS_DIR", shelf.path());
    shell
        .kiln(&["models", "activate", "sentiment@1.0.0"])
        .await
        .with(0);
    settles_on(&stack, "1.0.0").await;
    let limits = ["--warm", "0.01", "--max-shift", "0.1"];
    let activate = [&["models", "activate", "sentiment@2.0.0"], &limits[..]].concat();
    shell.kiln_unread(&activate).await.with(0);
    settles_on(&stack, "2.0.0").await;
    let activate = ["models", "activate", "sentiment@1.0.0"];
    let limits = ["--warm", "0.01", "--max-shift", "-1"];
    let refused = shell.kiln_unread(&[&activate[..], &limits].concat()).await;
    assert!(refused.with(4).err.contains("was not made active"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_looks_ends_quietly_where_nobody_reads() {
    let stack = Stack::shared().await;
    three_letters(&stack).await;
    let shell = Shell::on(&stack);
    for look in [
        &["dead", "list"][..],
        &["dead", "list", "--json"],
        &["dead", "show", "feed-1"],
        &["jobs", "find"],
        &["jobs", "find", "--json"],
        &["status"],
        &["status", "--json"],
        &["schedules"],
        &["completions", "bash"],
    ] {
        let ended = shell.kiln_unread(look).await.with(0);
        assert_eq!(ended.err, "", "{look:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_on_a_full_disk_makes_a_command_fail() {
    let stack = Stack::shared().await;
    let _serving = stack.worker().start().await;
    let shell = Shell::on(&stack);
    std::fs::write(
        shell.folder.join("golden.jsonl"),
        "{\"text\": \"a\", \"expect\": [9]}\n",
    )
    .expect("a file");
    std::fs::write(
        shell.folder.join("jobs.jsonl"),
        "{\"text\": \"a\"}\n{\"text\": \"b\"}\n",
    )
    .expect("a file");
    let check = ["models", "check", "fault", "--golden", "golden.jsonl"];
    let submit = ["submit", "jobs.jsonl", "--model", "fault", "--wait"];
    for command in [
        &check[..],
        &submit,
        &["models", "list"],
        &["config", "--json"],
    ] {
        let ended = shell.kiln_without_room(command).await.with(1);
        let lines: Vec<&str> = ended
            .err
            .lines()
            .filter(|l| l.contains("No space left"))
            .collect();
        assert_eq!(lines.len(), 1, "{command:?}: {}", ended.err);
    }
    // A verdict isn't a matter of who reads it.
    shell.kiln_unread(&check).await.with(1);
}
