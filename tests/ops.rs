//! Owns that what Kiln is deployed and watched with holds together: compose files, Kubernetes, dashboards and alerts, by the schemas that are published
//! for them and by the house's own rules. No server runs here; `tests/it` has workers and Prometheus run with the same files.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

#[path = "ops/compose.rs"]
mod compose;
#[path = "ops/dashboards.rs"]
mod dashboards;
#[path = "ops/kubernetes.rs"]
mod kubernetes;

use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see scripts/test"))
}

/// A file of the packages that carry published schemas.
fn schemas(path: &str) -> PathBuf {
    Path::new(&variable("SCHEMAS")).join(path)
}

/// What a program prints that is given `input`.
fn answer(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The documents of a YAML text.
fn yaml(text: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut python = Command::new(variable("CLIENTS_PYTHON"));
    let printed = answer(python.args(["-c", script]), text);
    serde_json::from_str(&printed).expect("JSON")
}

/// What a JSON schema's file says against a document; what it refers to lies beside it.
fn problems(schema: &Path, document: &Value) -> Vec<String> {
    let script = "import json, os, sys, jsonschema_rs
folder, schema = os.path.dirname(sys.argv[1]), json.load(open(sys.argv[1]))
beside = lambda uri: json.load(open(os.path.join(folder, os.path.basename(uri))))
check = jsonschema_rs.validator_for(schema, retriever=beside)
found = check.iter_errors(json.load(sys.stdin))
print(json.dumps(['/'.join(map(str, e.instance_path)) + ': ' + e.message for e in found]))";
    let mut python = Command::new(variable("CLIENTS_PYTHON"));
    let printed = answer(
        python.args(["-c", script]).arg(schema),
        &document.to_string(),
    );
    serde_json::from_str(&printed).expect("JSON")
}
