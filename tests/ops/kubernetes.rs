//! Owns that the files for Kubernetes are what its API takes: built by kubectl as an operator builds them, and checked by the schemas that are published of
//! its own kinds (strictly: no unknown field), of KEDA's and of the Prometheus operator's. Of the kinds in `clusters.yaml` none is published as a package.

use super::{answer, problems, read, root, schemas, yaml};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, process::Command};

const FOLDER: &str = "ops/kubernetes";
const OVERLAYS: [&str; 5] = [
    "base",
    "overlays/keys",
    "overlays/tls",
    "overlays/keda",
    "overlays/production",
];
/// Kinds of operators whose schemas no package carries.
const UNPUBLISHED: [&str; 2] = [
    "rabbitmq.com/v1beta1 RabbitmqCluster",
    "postgresql.cnpg.io/v1 Cluster",
];

/// What an overlay comes to.
fn built(overlay: &str) -> Vec<Value> {
    let mut kubectl = Command::new(schemas("bin/kubectl"));
    let folder = root().join(FOLDER).join(overlay);
    yaml(&answer(kubectl.arg("kustomize").arg(folder), ""))
}

/// Files that are applied as they are.
fn plain() -> Vec<(String, Vec<Value>)> {
    let files = fs::read_dir(root().join(FOLDER)).expect("a folder");
    let paths = files.map(|file| file.expect("an entry").file_name());
    let names = paths.map(|name| name.into_string().expect("a plain name"));
    let names = names.filter(|name| name.ends_with(".yaml"));
    names
        .map(|name| {
            let documents = yaml(&read(&format!("{FOLDER}/{name}")));
            (name, documents)
        })
        .collect()
}

fn kind(documents: &[Value], kind: &str) -> Value {
    let found: Vec<&Value> = documents.iter().filter(|one| one["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn names(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().into_iter().flatten();
    list.map(|one| text(&one["name"])).collect()
}

/// What Kubernetes' own schema says against a document.
fn of_kubernetes(document: &Value) -> Vec<String> {
    let version = text(&document["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let group = group.split('.').next().unwrap_or_default();
    let mut name = text(&document["kind"]).to_lowercase();
    for part in [group, version].iter().filter(|part| !part.is_empty()) {
        name = format!("{name}-{part}");
    }
    let folder = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict";
    problems(&schemas(&format!("{folder}/{name}.json")), document)
}

/// What the schema of another API's kind says against a document.
fn of_another(package: &str, document: &Value) -> String {
    let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
    let script = format!(
        "import {{ {kind} }} from '@kubernetes-models/{package}/{version}/{kind}';
let given = '';
for await (const part of process.stdin) given += part;
try {{ new {kind}(JSON.parse(given)).validate(); }} catch (error) {{ console.log(error.message); }}"
    );
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval", &script])
        .current_dir(schemas("node"));
    answer(&mut node, &document.to_string())
}

/// The fields that KEDA knows of a kind; its schema lets others pass.
fn known_to_keda(kind: &str) -> BTreeSet<String> {
    let path = format!("node/node_modules/@kubernetes-models/keda/keda.sh/v1alpha1/{kind}.d.ts");
    let declared = fs::read_to_string(schemas(&path)).expect("declarations");
    let fields = declared.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("    \"")?.split_once('"')?;
        Some(name.to_owned())
    });
    fields.collect()
}

fn check(from: &str, document: &Value) {
    let of = format!(
        "{} {}",
        text(&document["apiVersion"]),
        text(&document["kind"])
    );
    let package = match text(&document["apiVersion"]) {
        "keda.sh/v1alpha1" => Some("keda"),
        "monitoring.coreos.com/v1" => Some("prometheus-operator"),
        _ => None,
    };
    match package {
        _ if UNPUBLISHED.contains(&of.as_str()) => {}
        Some(package) => assert_eq!(of_another(package, document), "", "{from}: {of}"),
        None => {
            let problems = of_kubernetes(document);
            assert!(problems.is_empty(), "{from}: {of}: {problems:#?}");
        }
    }
    if document["kind"] != "ScaledObject" {
        return;
    }
    let spec = document["spec"].as_object().expect("a table");
    let triggers = spec["triggers"].as_array().expect("a list");
    let tables = triggers.iter().filter_map(Value::as_object);
    for (kind, table) in [("ScaledObjectSpec", spec)]
        .into_iter()
        .chain(tables.map(|table| ("ScaleTriggers", table)))
    {
        let known = known_to_keda(kind);
        assert!(known.len() > 3, "{kind}: {known:?}");
        for field in table.keys() {
            assert!(known.contains(field), "{from}: {of}: {field}");
        }
    }
}

#[test]
fn kubernetes_takes_what_the_overlays_and_files_come_to() {
    for overlay in OVERLAYS {
        let documents = built(overlay);
        assert!(documents.len() >= 3, "{overlay}");
        for document in &documents {
            check(overlay, document);
        }
    }
    let plain = plain();
    assert!(plain.len() > 3);
    for (file, documents) in &plain {
        for document in documents {
            check(file, document);
        }
    }
    // What is asked of the schemas is answered.
    let mut bad = kind(&built("base"), "Deployment");
    bad["spec"]["template"]["spec"]["containers"][0]["enviroment"] = json!([]);
    assert!(!of_kubernetes(&bad).is_empty());
    let mut bad = kind(&built("overlays/keda"), "ScaledObject");
    bad["spec"]["minReplicaCount"] = json!("two");
    assert!(of_another("keda", &bad).contains("minReplicaCount"));
}

#[test]
fn each_overlay_adds_what_it_is_for_and_nothing_is_missing() {
    let deployments = OVERLAYS.map(|overlay| kind(&built(overlay), "Deployment"));
    for (overlay, deployment) in OVERLAYS.iter().zip(&deployments) {
        let pod = &deployment["spec"]["template"]["spec"];
        let worker = &pod["containers"][0];
        assert_eq!(
            names(&worker["volumeMounts"]),
            names(&pod["volumes"]),
            "{overlay}"
        );
        // Every file that a setting names is mounted.
        let mounts = worker["volumeMounts"].as_array().expect("mounts");
        for variable in worker["env"].as_array().expect("variables") {
            let value = text(&variable["value"]);
            let below =
                |mount: &Value| value.starts_with(&format!("{}/", text(&mount["mountPath"])));
            assert!(
                !value.starts_with('/') || mounts.iter().any(below),
                "{overlay}: {variable}"
            );
        }
        assert_eq!(worker["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        let scaled = ["overlays/keda", "overlays/production"].contains(overlay);
        let replicas = &deployment["spec"]["replicas"];
        assert_eq!(replicas.is_null(), scaled, "{overlay}: {replicas}");
        let open = ["overlays/keys", "overlays/production"].contains(overlay);
        let from = &worker["envFrom"][0]["secretRef"]["name"];
        assert_eq!(from == "kiln-keys", open, "{overlay}");
        assert_eq!(names(&worker["env"]).contains("KILN_HTTP__API"), open);
        let encrypted = ["overlays/tls", "overlays/production"].contains(overlay);
        let mounted = names(&worker["volumeMounts"]).contains("tls");
        assert_eq!(mounted, encrypted, "{overlay}");
    }
    // What scales finds what it scales, and its broker's URL; it never goes below what the disruption budget wants.
    for overlay in ["overlays/keda", "overlays/production"] {
        let documents = built(overlay);
        let scaled = &kind(&documents, "ScaledObject")["spec"];
        let deployment = kind(&documents, "Deployment");
        assert_eq!(
            scaled["scaleTargetRef"]["name"],
            deployment["metadata"]["name"]
        );
        let budget = kind(&documents, "PodDisruptionBudget");
        let min = scaled["minReplicaCount"].as_u64().expect("a number");
        assert!(min > budget["spec"]["minAvailable"].as_u64().expect("a number"));
        let asked = kind(&documents, "TriggerAuthentication");
        let trigger = &scaled["triggers"][0];
        assert_eq!(
            trigger["authenticationRef"]["name"],
            asked["metadata"]["name"]
        );
        assert_eq!(trigger["metadata"]["queueName"], "kiln.jobs");
        let given = asked["spec"]["secretTargetRef"].as_array().expect("a list");
        let given: Vec<&str> = given.iter().map(|one| text(&one["parameter"])).collect();
        let speaks_tls = ["host", "tls", "ca", "cert", "key"];
        let wanted = if overlay == "overlays/keda" {
            &speaks_tls[..1]
        } else {
            &speaks_tls
        };
        assert_eq!(given, wanted, "{overlay}");
    }
}

#[test]
fn every_folder_of_files_for_kubernetes_is_built_by_an_overlay() {
    let said = read(&format!("{FOLDER}/overlays/production/kustomization.yaml"));
    for component in fs::read_dir(root().join(FOLDER).join("components")).expect("a folder") {
        let name = component.expect("an entry").file_name();
        let name = name.to_string_lossy();
        assert!(
            said.contains(&format!("../../components/{name}\n")),
            "{name}"
        );
    }
}
