//! A worker runs with exactly the environment that compose and Kubernetes give it: it is read from their files and the image's, and only addresses of servers and
//! places of files are this machine's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::examples::variable;
use crate::harness::certificates::Certificates;
use crate::harness::sandbox;
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::retrain::yaml;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// The hash of the key `kiln`.
const HASH: &str = "cdfe9ad58b46226d63eb322dacd35f4f7ac38096180c87258c142e4bca9a3cf5";

/// What the image itself sets.
fn image() -> BTreeMap<String, String> {
    let file = fs::read_to_string(Path::new(REPOSITORY).join("Dockerfile")).expect("a file");
    let lines = file.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = lines.flat_map(str::split_whitespace).map(|pair| {
        let (name, value) = pair.split_once('=').expect("a pair");
        (name.to_owned(), value.to_owned())
    });
    let found: BTreeMap<_, _> = pairs.collect();
    assert_eq!(found["KILN_HTTP_ADDR"], "0.0.0.0:9464");
    found
}

/// Ready, closed to those without the key, and scoring for who has it.
async fn serves(settings: Settings) {
    let worker = settings.models(&["sentiment"]).start().await;
    let body = json!({"model": "sentiment", "text": "I love this"}).to_string();
    let json = ("content-type", "application/json");
    let post = async |headers: &[(&str, &str)]| {
        let answer = worker.ask("POST", "/v1/score", headers, body.as_bytes());
        answer.await.expect("an answer")
    };
    assert_eq!(post(&[json]).await.status, 401);
    let scored = post(&[json, ("authorization", "Bearer kiln")]).await;
    assert_eq!(scored.status, 200, "{}", scored.body);
    assert_eq!(scored.json()["results"][0]["label"], "positive");
    worker.expect_clean_log();
}

/// The host of a URL.
fn host(url: &str) -> &str {
    let from = url.rsplit('@').next().unwrap_or(url);
    let from = from.split("://").last().unwrap_or(from);
    from.split([':', '/']).next().unwrap_or(from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_just_what_compose_gives_it_serves() {
    let stack = Stack::shared().await;
    let file = yaml("compose.yaml").remove(0);
    let given = file["services"]["kiln"]["environment"].as_object();
    let mut variables = image();
    for (name, value) in given.expect("an environment") {
        let value = value.as_str().expect("a text").to_owned();
        variables.insert(name.clone(), value);
    }
    let here = [
        ("KILN_AMQP_URL", stack.amqp_url()),
        ("KILN_REDIS_URL", stack.redis.url()),
        ("KILN_DATABASE_URL", stack.database_url()),
    ];
    for (name, url) in here {
        let there = variables.insert(name.to_owned(), url).expect(name);
        let service = &file["services"][host(&there)];
        assert!(service["image"].is_string(), "{name}: {there}");
    }
    serves(Settings::only(variables)).await;
}

/// The worker's container, as the overlay with everything has it.
fn container() -> Value {
    let folder = Path::new(REPOSITORY).join("ops/kubernetes/overlays/production");
    let built = Command::new(Path::new(&variable("SCHEMAS")).join("bin/kubectl"))
        .arg("kustomize")
        .arg(folder)
        .output()
        .expect("kubectl runs");
    assert!(built.status.success());
    let file = sandbox::folder("kustomize").join("built.yaml");
    fs::write(&file, built.stdout).expect("a file");
    let documents = yaml(file.to_str().expect("a plain path"));
    let found = documents.iter().find(|one| one["kind"] == "Deployment");
    found.expect("a Deployment")["spec"]["template"]["spec"]["containers"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_just_what_kubernetes_gives_it_serves() {
    let certificates = Certificates::new();
    let stack = Stack::encrypted(&certificates).await;
    let container = container();
    assert_eq!(container["args"], json!(["run"]));
    let secrets = sandbox::folder("secrets");
    let urls = stack.encrypted_urls("localhost");
    for (key, url) in ["amqp", "redis", "database"].iter().zip(urls) {
        fs::write(secrets.join(key), url).expect("a file");
    }
    for (key, file) in [
        ("ca.crt", "ca.pem"),
        ("tls.crt", "client.pem"),
        ("tls.key", "client.key"),
    ] {
        fs::copy(certificates.path(file), secrets.join(key)).expect("a copy");
    }
    let mut variables = image();
    // What the Secret `kiln-keys` holds, as its comment says how to make it.
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], "kiln-keys");
    variables.insert("KILN_HTTP__KEYS__SHOP__SHA256".into(), HASH.into());
    variables.insert(
        "KILN_HTTP__KEYS__SHOP__SCOPES".into(),
        "[read, score]".into(),
    );
    let mounts = ["/run/secrets/kiln/", "/run/secrets/kiln-tls/"];
    for one in container["env"].as_array().expect("variables") {
        let text = |key: &str| one[key].as_str().expect("a text").to_owned();
        let (name, mut value) = (text("name"), text("value"));
        if let Some(key) = mounts.iter().find_map(|mount| value.strip_prefix(mount)) {
            let path = secrets.join(key);
            assert!(path.exists(), "{name}: {value}");
            value = path.display().to_string();
        }
        variables.insert(name, value);
    }
    serves(Settings::only(variables)).await;
}
