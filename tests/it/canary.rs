//! Secrets stay secret: a canary in every credential appears in nothing that anybody can read.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::harness::sandbox;
use crate::harness::stack::{Own, Stack};
use crate::harness::worker::{Answer, Settings, Worker};
use crate::harness::{PATIENCE, eventually};

/// As they are, and as a URL has to write them.
const SECRETS: [(&str, &str); 4] = [
    ("amqp@canary:1/x", "amqp%40canary%3A1%2Fx"),
    ("redis@canary:2/x", "redis%40canary%3A2%2Fx"),
    ("postgres@canary:3/x", "postgres%40canary%3A3%2Fx"),
    ("shop@canary:4/x", "shop%40canary%3A4%2Fx"),
];
const API_KEY: &str = "an-api-key-that-is-a-canary";
const TOKEN: &str = "a-web-token-that-is-a-canary";
const PAYLOAD: &str = "a payload that is a canary";
const COMMANDS: [&[&str]; 19] = [
    &["config"],
    &["config", "--json"],
    &["doctor"],
    &["doctor", "--json"],
    &["migrate"],
    &["models", "list"],
    &["schedules"],
    &["warm", "rows", "--dry-run"],
    &["warm", "web", "--dry-run"],
    &["warm", "counts", "--dry-run"],
    &["warm", "table", "--dry-run"],
    &["hot"],
    &["dead", "list"],
    &["jobs", "find"],
    &["jobs", "wait", "good", "--timeout", "1s"],
    &["pause"],
    &["resume"],
    &["invalidate", "nobody"],
    &["--help"],
];
const PATHS: [&str; 24] = [
    "/",
    "/metrics",
    "/livez",
    "/readyz",
    "/health",
    "/version",
    "/openapi.json",
    "/v1/models",
    "/v1/schedules",
    "/v1/warm/runs",
    "/v1/cache/health",
    "/v1/cache/info",
    "/v1/cache/stats/endpoints",
    "/v1/cache/stats/patterns",
    "/v1/cache/stats/low-performers",
    "/v1/rejections",
    "/v1/log",
    "/v1/log/recent",
    "/v1/log/actions",
    "/v1/timings",
    "/v1/key",
    "/v1/jobs",
    "/v1/jobs/good/wait",
    "/v1/dead",
];

/// Everything that was said, and by whom.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn note(&mut self, who: &str, what: String) {
        self.0.push((who.to_owned(), what));
    }

    fn expect_silence(&self) {
        let both = SECRETS
            .iter()
            .flat_map(|(plain, encoded)| [*plain, *encoded]);
        let all: Vec<&str> = both.chain([API_KEY, PAYLOAD, TOKEN]).collect();
        for (who, what) in &self.0 {
            for secret in &all {
                let at = what.find(secret);
                let around = at.map(|at| {
                    what.chars()
                        .skip(at.saturating_sub(80))
                        .take(200)
                        .collect::<String>()
                });
                assert!(at.is_none(), "{who} tells {secret}: {around:?}");
            }
        }
    }
}

/// Runs every command that talks to a server.
fn commands(said: &mut Said, variables: &BTreeMap<&str, String>) {
    for arguments in COMMANDS {
        let output = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &sandbox::folder("cli"))
            .args(arguments)
            .envs(variables)
            .env("RUST_BACKTRACE", "1")
            .output()
            .expect("the binary runs");
        for text in [&output.stdout, &output.stderr] {
            said.note(
                &format!("kiln {arguments:?}"),
                String::from_utf8_lossy(text).into_owned(),
            );
        }
    }
}

async fn paths(said: &mut Said, worker: &Worker) {
    let bearer = format!("Bearer {API_KEY}");
    for path in PATHS {
        for key in [bearer.as_str(), "Bearer wrong-an-api-key-that-is-a-canary"] {
            let answer = worker
                .ask("GET", path, &[("authorization", key)], b"")
                .await;
            if let Some(Answer { head, body, .. }) = answer {
                said.note(path, head + &body);
            }
        }
    }
    let body = json!({"model": "sentiment", "text": PAYLOAD, "unknown": PAYLOAD}).to_string();
    let headers = [("authorization", bearer.as_str())];
    let answer = worker
        .ask("POST", "/v1/score", &headers, body.as_bytes())
        .await;
    said.note("a bad request", answer.map_or_else(String::new, |a| a.body));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_ever_told() {
    let stack = Stack::with(Own {
        postgres: true,
        ..Own::default()
    })
    .await;
    let [amqp, redis, postgres, shop] = SECRETS;
    stack.broker.ctl(&["add_user", "canary", amqp.0]).await;
    let url = stack.amqp_url();
    let vhost = url.rsplit('/').next().expect("a virtual host");
    let all = ["set_permissions", "-p", vhost, "canary", ".*", ".*", ".*"];
    stack.broker.ctl(&all).await;
    let password = format!(">{}", redis.0);
    let user = [
        "ACL", "SETUSER", "canary", "on", &password, "~*", "&*", "+@all",
    ];
    stack.redis.command::<String>(&user).await;

    let schedules = sandbox::folder("schedules");
    let schedule = "name = \"rows\"\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\n[source]\nkind = \"sql\"\ndatabase = \"shop\"\nstatement = \"SELECT 'a' AS key, 'b' AS text, nothing FROM nowhere\"\n";
    std::fs::write(schedules.join("rows.toml"), schedule).expect("a schedule");
    std::fs::write(schedules.join("token"), TOKEN).expect("a secret");
    let head = "model = \"sentiment\"\n";
    let cron = "cron = \"0 0 1 1 *\"\n";
    for (name, text) in [
        (
            "web",
            format!(
                "{cron}{head}[source]\nkind = \"http\"\nurl = \"http://127.0.0.1:1/list?token={TOKEN}\"\n[source.headers]\nauthorization = {{ file = \"token\", prefix = \"Bearer \" }}\n"
            ),
        ),
        (
            "counts",
            format!(
                "{cron}{head}[source]\nkind = \"redis\"\nserver = \"shop\"\nsorted_set = \"nothing\"\nmember = \"json\"\n"
            ),
        ),
        (
            "table",
            format!(
                "{head}[source]\nkind = \"changes\"\ndatabase = \"shop\"\ntable = \"nowhere\"\nposition = \"at\"\nkey = \"id\"\ntext = \"said\"\n"
            ),
        ),
    ] {
        let file = schedules.join(format!("{name}.toml"));
        std::fs::write(file, format!("name = \"{name}\"\n{text}")).expect("a schedule");
    }
    let member = serde_json::json!({"text": 3, "what": PAYLOAD}).to_string();
    let _: i64 = stack
        .redis
        .command(&["ZADD", "nothing", "1", &member])
        .await;
    let database = stack.database_url();
    let named = |secret: &str| database.replace("kiln@", &format!("kiln:{secret}@"));
    let with = |suffix: &str| {
        BTreeMap::from([
            (
                "KILN_AMQP_URL",
                url.replace("guest:guest@", &format!("canary:{}{suffix}@", amqp.1)),
            ),
            (
                "KILN_REDIS_URL",
                stack
                    .redis
                    .url()
                    .replace("://", &format!("://canary:{}{suffix}@", redis.1)),
            ),
            ("KILN_DATABASE_URL", named(postgres.1)),
            ("KILN_DATABASES__SHOP__URL", named(shop.1)),
            (
                "KILN_HTTP__KEYS__OPS__SHA256",
                hex::encode(Sha256::digest(API_KEY)),
            ),
            (
                "KILN_HTTP__KEYS__OPS__SCOPES",
                "[\"read:all\", score, admin]".to_owned(),
            ),
            (
                "KILN_REDIS_SOURCES__SHOP__URL",
                stack
                    .redis
                    .url()
                    .replace("://", &format!("://canary:{}{suffix}@", redis.1)),
            ),
            (
                "KILN_WARM__PRIVATE_NETWORKS",
                "[\"127.0.0.0/8\"]".to_owned(),
            ),
            ("KILN_WARM__DIR", schedules.display().to_string()),
            (
                "KILN_MODELS_DIR",
                concat!(env!("CARGO_MANIFEST_DIR"), "/models").to_owned(),
            ),
            ("KILN_LOG", "trace".to_owned()),
        ])
    };
    let start = |variables: &BTreeMap<&str, String>| {
        let empty = Settings::new("", "", "")
            .models(&["sentiment"])
            .expect_trouble();
        // The harness gives the worker a folder of models of its own.
        let of = variables
            .iter()
            .filter(|(name, _)| **name != "KILN_MODELS_DIR");
        of.fold(empty, |settings, (name, value)| settings.set(name, value))
    };
    let mut said = Said::default();
    let good = with("");
    let worker = start(&good).start().await;
    let job = |id: &str, more: serde_json::Value| {
        let mut job = json!({"job_id": id, "model": "sentiment", "inputs": [{"text": PAYLOAD}], "named": true});
        job.as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        job
    };
    stack
        .bus
        .publish_jobs(&[
            job("good", json!({})),
            job("bad", json!({"on_error": PAYLOAD})),
        ])
        .await;
    stack.wait_for_rows(2).await;
    paths(&mut said, &worker).await;
    tokio::task::block_in_place(|| commands(&mut said, &good));

    // Everything breaks, and says so.
    stack.redis.kill();
    stack.postgres.kill();
    eventually(
        "the worker has seen that its servers are gone",
        PATIENCE,
        || async {
            let (_, body) = worker.get("/readyz").await?;
            (body.contains("redis: ") && body.contains("postgres: ")).then_some(())
        },
    )
    .await;
    paths(&mut said, &worker).await;
    tokio::task::block_in_place(|| commands(&mut said, &good));
    said.note("the worker", worker.lines().join("\n"));
    worker.terminate();
    worker.wait_exit(PATIENCE).await;
    said.note("the stopped worker", worker.lines().join("\n"));

    // The wrong passwords, and URLs that are none.
    stack.redis.start().await;
    stack.postgres.start().await;
    let wrong = with("-and-wrong");
    tokio::task::block_in_place(|| commands(&mut said, &wrong));
    let refused = start(&wrong).spawn();
    refused
        .wait_for_line("the broker's refusal", |line| line.contains("broker"))
        .await;
    said.note("a worker with wrong passwords", refused.lines().join("\n"));
    let broken = with(":port/@[");
    tokio::task::block_in_place(|| commands(&mut said, &broken));

    let owned = good
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    let loaded = kiln::config::load(None, owned).expect("settings");
    said.note("debug output", format!("{loaded:?}"));
    said.expect_silence();
    assert!(said.0.len() > 100);
}
