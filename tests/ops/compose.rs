//! Owns that the compose files are what compose takes, of the versions that they name.

use super::{problems, read, schemas, yaml};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf};

/// The schema of compose 1.29, the last one that is written in Python.
fn of_1_29() -> PathBuf {
    schemas("compose/config/compose_spec.json")
}

/// The schema of compose 2.
fn of_2() -> PathBuf {
    schemas("check_jsonschema/builtin_schemas/vendor/compose-spec.json")
}

fn file(path: &str) -> Value {
    let mut documents = yaml(&read(path));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

/// The keys of a service's or the file's table.
fn keys(table: &Value) -> BTreeSet<&str> {
    let keys = table.as_object().into_iter().flatten();
    keys.map(|(key, _)| key.as_str()).collect()
}

#[test]
fn compose_1_29_and_2_take_the_file_that_newcomers_start_with() {
    let document = file("compose.yaml");
    for schema in [of_1_29(), of_2()] {
        let problems = problems(&schema, &document);
        assert!(problems.is_empty(), "{}: {problems:#?}", schema.display());
    }
    // What is asked of the schema is answered: the key that the older one refuses.
    let mut named = document.clone();
    named["name"] = json!("kiln");
    assert_eq!(problems(&of_1_29(), &named).len(), 1);
    assert!(problems(&of_2(), &named).is_empty());
    // Each volume is declared, and each service has what it needs to come back.
    let declared = keys(&document["volumes"]);
    for (name, service) in document["services"].as_object().expect("services") {
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let from = volume.as_str().expect("a volume").split(':').next();
            let from = from.expect("what is mounted");
            let is_there = match from.strip_prefix("./") {
                Some(path) => super::root().join(path).exists(),
                None => declared.contains(from),
            };
            assert!(is_there, "{name}: {from}");
        }
    }
}

#[test]
fn compose_2_takes_the_file_with_clusters() {
    let document = file("compose.cluster.yaml");
    let problems = problems(&of_2(), &document);
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn compose_1_29_and_2_take_what_init_writes() {
    let (document, whole) = (file("src/cli/init/compose.yaml"), file("compose.yaml"));
    for schema in [of_1_29(), of_2()] {
        let problems = problems(&schema, &document);
        assert!(problems.is_empty(), "{}: {problems:#?}", schema.display());
    }
    // The same servers as where the worker is a container, too.
    for (name, service) in document["services"].as_object().expect("services") {
        assert_eq!(*service, whole["services"][name], "{name}");
    }
}
