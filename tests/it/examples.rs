//! The examples of clients in docs/contract.md do what they say, against a real worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::sandbox;
use crate::harness::stack::Stack;

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/clients");

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see scripts/test"))
}

fn run(mut command: Command, variables: &BTreeMap<&str, String>) -> String {
    let output = command.envs(variables).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{errors}");
    said
}

/// An example's program, which cargo builds beside the tests.
pub fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test's program");
    let folder = own.parent().and_then(Path::parent).expect("target/release");
    let program = folder.join("examples").join(name);
    assert!(
        program.exists(),
        "cargo builds the examples with all tests, or alone: cargo build --release --example {name}"
    );
    program
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_python_node_and_rust_post_jobs_and_read_entries() {
    let stack = Stack::shared().await;
    let _worker = stack.worker().models(&["sentiment"]).start().await;
    let variables = BTreeMap::from([
        ("KILN_AMQP_URL", stack.amqp_url()),
        ("KILN_REDIS_URL", stack.redis.url()),
    ]);
    let home = sandbox::folder("clients");
    let python = |file: &str| {
        let mut command = sandbox::clean_command(variable("CLIENTS_PYTHON"), &home);
        command.arg(format!("{CLIENTS}/{file}"));
        command
    };
    let node = |file: &str| {
        // Packages are looked for beside the file.
        std::fs::copy(format!("{CLIENTS}/{file}"), home.join(file)).expect("a copy");
        let link = home.join("node_modules");
        if !link.exists() {
            std::os::unix::fs::symlink(variable("CLIENTS_NODE"), link).expect("a link");
        }
        let mut command = sandbox::clean_command("node", &home);
        command.arg(file);
        command
    };
    let rust = sandbox::clean_command(example("producer"), &home);
    tokio::task::block_in_place(|| {
        assert!(run(python("reader.py"), &variables).starts_with("not there"));
        let said = run(python("producer.py"), &variables);
        assert!(said.starts_with("review:42 positive 0.") && said.contains("review:43 negative"));
        assert_eq!(run(python("reader.py"), &variables), "positive\n");
        let said = run(node("producer.mjs"), &variables);
        assert!(
            said.starts_with("review:42 positive 0.") && said.contains(" cached"),
            "{said}"
        );
        let said = run(rust, &variables);
        assert!(
            said.contains("\"label\":\"positive\"") && said.contains("\"cached\":true"),
            "{said}"
        );
    });
}

/// A small model of LightGBM whose features have a shop's names, imported into a folder of models.
fn ranker(home: &Path) -> String {
    let fixture = "crates/model/src/trees/fixtures/lightgbm-forest.txt";
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
    let model = std::fs::read_to_string(fixture).expect("the fixture");
    let places = "Column_0 Column_1 Column_2 Column_3 Column_4";
    assert!(model.contains(places));
    let model = model.replace(places, "price clicks age_days views returns");
    let file = home.join("model.txt");
    std::fs::write(&file, model).expect("a file");
    let models = home.join("models").display().to_string();
    let mut command = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), home);
    command.args(["models", "import"]).arg(file);
    command.args(["--name", "ranker", "--version", "1"]);
    run(
        command,
        &BTreeMap::from([("KILN_MODELS_DIR", models.clone())]),
    );
    models
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_python_and_node_give_features_by_name() {
    let stack = Stack::shared().await;
    let home = sandbox::folder("features");
    let models = ranker(&home);
    let worker = stack.worker().models(&[]).set("KILN_MODELS_DIR", &models);
    let _worker = worker.start().await;
    let variables = BTreeMap::from([("KILN_AMQP_URL", stack.amqp_url())]);
    let mut python = sandbox::clean_command(variable("CLIENTS_PYTHON"), &home);
    python.arg(format!("{CLIENTS}/features.py"));
    std::fs::copy(format!("{CLIENTS}/features.mjs"), home.join("features.mjs")).expect("a copy");
    let link = home.join("node_modules");
    std::os::unix::fs::symlink(variable("CLIENTS_NODE"), link).expect("a link");
    let mut node = sandbox::clean_command("node", &home);
    node.arg("features.mjs");
    tokio::task::block_in_place(|| {
        let said = run(python, &variables);
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines.len() == 2 && lines[0].starts_with("item:7 0."),
            "{said}"
        );
        assert!(lines[1].ends_with(" scored"), "{said}");
        // The same inputs again.
        let again = run(node, &variables);
        assert_eq!(again, said.replace(" scored", " cached"));
    });
}

#[cfg(feature = "parquet")]
#[test]
fn frames_of_polars_and_pandas_are_scored_through_a_pipe() {
    let kiln = Path::new(env!("CARGO_BIN_EXE_kiln"));
    let path = format!(
        "{}:{}",
        kiln.parent().expect("a folder").display(),
        std::env::var("PATH").expect("a path")
    );
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    let variables = BTreeMap::from([("PATH", path), ("KILN_MODELS_DIR", models.to_owned())]);
    for (file, said) in [
        (
            "with_polars.py",
            "[('1', 5, 'positive'), ('2', 1, 'negative')]\n",
        ),
        (
            "with_pandas.py",
            "[['1', 5, 'positive'], ['2', 1, 'negative']]\n",
        ),
    ] {
        let home = sandbox::folder("frames");
        let mut command = sandbox::clean_command(variable("CLIENTS_PYTHON"), &home);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python");
        command.arg(format!("{script}/{file}"));
        assert_eq!(run(command, &variables), said, "{file}");
    }
}
