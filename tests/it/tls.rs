//! Encrypted connections: who is trusted, and what is said where somebody isn't.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::certificates::Certificates;
use crate::harness::sandbox;
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;

/// The parts of the settings that have certificates.
const SERVERS: [&str; 3] = ["AMQP", "REDIS", "DATABASE"];

fn variables(urls: &[String; 3], files: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (server, url) in SERVERS.iter().zip(urls) {
        all.insert(format!("KILN_{server}_URL"), url.clone());
        for (file, path) in files {
            all.insert(format!("KILN_{server}__TLS__{file}_FILE"), path.clone());
        }
    }
    all
}

/// What `kiln doctor` says of the broker, Redis and Postgres.
fn doctor(variables: &BTreeMap<String, String>) -> [String; 3] {
    let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
        .args(["doctor", "--json"])
        .envs(variables)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Value = serde_json::from_str(&text).unwrap_or_default();
    let checks = said["checks"].as_array().cloned().unwrap_or_default();
    ["rabbitmq", "redis", "postgres"].map(|name| {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("nothing of {name}: {text}{said}")
        });
        let status = check["status"].as_str().unwrap_or_default();
        format!("{status}: {}", check["found"].as_str().unwrap_or_default())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_and_who_is_not_trusted_is_told_why() {
    let certificates = Certificates::new();
    let stack = Stack::encrypted(&certificates).await;
    let urls = stack.encrypted_urls("localhost");
    let files = |ca: &str, own: Option<&str>| {
        let mut files = vec![("CA", certificates.text(ca))];
        if let Some(own) = own {
            files.push(("CERT", certificates.text(&format!("{own}.pem"))));
            files.push(("KEY", certificates.text(&format!("{own}.key"))));
        }
        files
    };
    let good = variables(&urls, &files("ca.pem", Some("client")));
    let mut settings = Settings::new(&urls[0], &urls[1], &urls[2]);
    for (name, value) in &good {
        settings = settings.set(name, value);
    }
    let worker = settings.start().await;
    let job = json!({"job_id": "over TLS", "model": "fault", "inputs": [{"text": "a"}]});
    let reply = stack.bus.answer(&job).await;
    assert_eq!(reply.body["misses"], 1, "{reply:?}");
    let encrypted = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name LIKE 'kiln%' AND NOT s.ssl";
    assert_eq!(stack.count(encrypted).await, 0);
    worker.stop().await;

    let look =
        |variables: BTreeMap<String, String>| tokio::task::block_in_place(|| doctor(&variables));
    let each = |said: [String; 3], expected: &str| {
        for (one, server) in said.iter().zip(SERVERS) {
            assert!(
                one.starts_with("fail: ") && one.contains(expected),
                "{server}: {one}"
            );
        }
    };
    for one in look(good.clone()) {
        assert!(
            one.starts_with("ok: ") || one.starts_with("warn: "),
            "{one}"
        );
    }
    // Another authority than the server's.
    let wrong = variables(&urls, &files("other-ca.pem", Some("client")));
    each(look(wrong), "from an authority that isn't trusted");
    // Another name than the certificate's.
    let elsewhere = stack.encrypted_urls("127.0.0.1");
    let wrong = variables(&elsewhere, &files("ca.pem", Some("client")));
    each(look(wrong), "for another name than the URL's");
    // No certificate of its own, or one of an authority that the servers don't know.
    let wrong = variables(&urls, &files("ca.pem", None));
    each(look(wrong), "certificate");
    let wrong = variables(&urls, &files("ca.pem", Some("stranger")));
    each(look(wrong), "certificate");
    // Last year's.
    stack.postgres.show(&certificates, "expired");
    tokio::join!(
        stack.broker.show(&certificates, "expired"),
        stack.redis.show(&certificates, "expired"),
        stack.postgres.reload()
    );
    each(look(good), "the server's certificate has expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_plaintext_is_refused_where_tls_is_asked_for() {
    let certificates = Certificates::new();
    let stack = Stack::shared().await;
    let urls = stack.encrypted_urls("localhost");
    let asked = variables(&urls, &[("CA", certificates.text("ca.pem"))]);
    for (said, server) in tokio::task::block_in_place(|| doctor(&asked))
        .iter()
        .zip(SERVERS)
    {
        assert!(
            said.starts_with("fail: ") && said.contains("the server speaks plaintext there"),
            "{server}: {said}"
        );
    }
}
