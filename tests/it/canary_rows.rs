//! Nobody's data is in a message: a canary in rows, keys, texts, files and bodies, through errors of every server and reader, is in
//! nothing that reports what went wrong.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::harness::bus::{JOBS, persistent};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::Answer;
use crate::harness::{PATIENCE, eventually, sandbox};

/// As it stands in rows; its parts stand in none of Kiln's own words.
const CANARY: &str = "anna.private@example.org";
const PARTS: [&str; 2] = ["anna", "example.org"];

/// Pages that report what happened; not those that exist to show keys.
const PATHS: [&str; 15] = [
    "/",
    "/metrics",
    "/livez",
    "/readyz",
    "/health",
    "/v1/models",
    "/v1/schedules",
    "/v1/warm/runs",
    "/v1/cache/health",
    "/v1/cache/info",
    "/v1/cache/stats/endpoints",
    "/v1/cache/stats/patterns",
    "/v1/cache/stats/low-performers",
    "/v1/rejections",
    "/v1/log/recent",
];

/// Statements that fail on a row, each with what their message must say all the same.
const STATEMENTS: [(&str, &str, &str); 9] = [
    ("cast", "(mail)::int::float8 AS rate", "22P02"),
    ("json", "((mail)::json ->> 'a')::float8 AS rate", "22P02"),
    (
        "date",
        "extract(epoch FROM mail::date)::float8 AS rate",
        "22007",
    ),
    (
        "divided",
        "(1 / (length(mail) - length(mail)))::float8 AS rate",
        "division by zero",
    ),
    ("raised", "complain(mail)::float8 AS rate", "P0001"),
    ("long", "lengthy(mail)::float8 AS rate", "22001"),
    (
        "quoted",
        "\"anna.private@example.org\" AS \"group\"",
        "42703",
    ),
    ("unknown", "mail AS \"anna.private@example.org\"", "unknown"),
    (
        "typed",
        "mail::bytea AS \"group\"",
        "column `group` is BYTEA",
    ),
];

/// Everything that was said, and by whom.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn note(&mut self, who: &str, what: impl Into<String>) {
        self.0.push((who.to_owned(), what.into()));
    }

    fn expect_silence(&self) {
        let mut told = Vec::new();
        for (who, what) in &self.0 {
            let lines = what.lines();
            let lines = lines.filter(|line| PARTS.iter().any(|part| line.contains(part)));
            told.extend(lines.map(|line| format!("{who}: {line}")));
        }
        assert!(told.is_empty(), "{}", told.join("\n"));
    }
}

fn put(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("the folder is writable");
}

fn schedules(folder: &Path) {
    let head = |name: &str, keep: &str| {
        format!(
            "name = \"{name}\"\nenabled = false\ncron = \"0 0 1 1 *\"\nmodel = \"sentiment\"\nkeep = \"{keep}\"\n"
        )
    };
    for (name, column, _) in STATEMENTS {
        let statement = format!("SELECT mail AS key, mail AS text, {column} FROM people");
        let text = format!(
            "{}[source]\nkind = \"sql\"\ndatabase = \"kiln\"\nstatement = '''{statement}'''\n",
            head(name, "named")
        );
        put(folder, &format!("{name}.toml"), &text);
    }
    // A followed table of which a row fails.
    let text = "name = \"follows\"\nmodel = \"sentiment\"\n[source]\nkind = \"changes\"\ndatabase = \"kiln\"\nfrom = \"start\"\n\
                statement = \"SELECT 1::bigint AS position, mail AS key, mail::int::text AS text FROM people WHERE 1 > $1::bigint\"\n";
    put(folder, "follows.toml", text);
    // Rows that are bad, in a run that is done.
    let grouped = "SELECT NULL AS key, mail AS text, mail AS \"group\" FROM people";
    let text = format!(
        "{}[source]\nkind = \"sql\"\ndatabase = \"kiln\"\nstatement = '''{grouped}'''\n",
        head("grouped", "rank")
    );
    put(folder, "grouped.toml", &text);
    let lines = [
        r#"{"text": "fine", "key": "k"}"#.to_owned(),
        format!(r#"{{"text": 7, "key": "{CANARY}"}}"#),
        format!(r#"{{"text": "{CANARY}", "key": 7}}"#),
        format!(r#"{{"text": "a", "{CANARY}": "{CANARY}"}}"#),
        format!(r#"{{"features": ["{CANARY}"]}}"#),
        format!(r#"{{"text": "{CANARY}"#),
        format!(r#"{{"text": "a", "key": "{}"}}"#, CANARY.repeat(20)),
        CANARY.to_owned(),
    ];
    put(folder, "rows.jsonl", &lines.join("\n"));
    let text = format!(
        "{}[source]\nkind = \"file\"\npath = \"rows.jsonl\"\n",
        head("lines", "named")
    );
    put(folder, "lines.toml", &text);
    // Schedules that are refused, each for a value.
    let good = format!(
        "{}[source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"t\" }}]\n",
        head("bad", "named")
    );
    for (number, (from, to)) in [
        ("0 0 1 1 *", format!("{CANARY} * * * *")),
        ("0 0 1 1 *", CANARY.to_owned()),
        ("enabled = false", format!("enabled = \"{CANARY}\"")),
        ("enabled = false", format!("time_zone = \"{CANARY}\"")),
        ("enabled = false", format!("missed = \"{CANARY}\"")),
        ("enabled = false", format!("\"{CANARY}\" = 1")),
        ("enabled = false", format!("limit_seconds = \"{CANARY}\n")),
        ("\"bad\"", format!("\"{CANARY}\"")),
        ("\"named\"", format!("\"{CANARY}\"")),
        ("\"static\"", format!("\"{CANARY}\"")),
        ("key = \"k\"", format!("keys = \"{CANARY}\"")),
        ("text = \"t\"", format!("features = [\"{CANARY}\"]")),
        ("text = \"t\"", format!("text = {CANARY}")),
        ("\"sentiment\"", format!("\"{CANARY}\"")),
    ]
    .into_iter()
    .enumerate()
    {
        let text = good.replacen(from, &to, 1);
        let text = text.replacen("\"bad\"", &format!("\"bad-{number}\""), 1);
        put(folder, &format!("bad-{number:02}.toml"), &text);
    }
    let elsewhere = good.replace("sentiment", "sentimant");
    let elsewhere = elsewhere.replace("\"bad\"", "\"elsewhere\"").replace(
        "kind = \"static\"\ninputs = [{ key = \"k\", text = \"t\" }]",
        &format!("kind = \"sql\"\ndatabase = \"{CANARY}\"\nstatement = \"SELECT 1\""),
    );
    put(folder, "elsewhere.toml", &elsewhere);
}

/// Bodies that are no jobs, each because of one value.
fn bad_bodies() -> Vec<String> {
    let text = json!([{"text": "fine"}]);
    let mut bodies: Vec<String> = [
        json!({"on_error": CANARY, "inputs": text}),
        json!({"namespace": CANARY, "inputs": text}),
        json!({"ttl_seconds": CANARY, "inputs": text}),
        json!({"model": CANARY.repeat(20), "inputs": text}),
        json!({"model": CANARY, "inputs": text}),
        json!({"named": CANARY, "inputs": text}),
        json!({"rank": CANARY, "inputs": text}),
        json!({"as_of": CANARY, "inputs": text}),
        json!({CANARY: CANARY, "inputs": text}),
        json!({"inputs": CANARY}),
        json!({"inputs": [CANARY]}),
        json!({"inputs": [{"text": "a", "key": CANARY.repeat(20)}]}),
        json!({"inputs": [{"text": "a", CANARY: 1}]}),
        json!({"inputs": [{"text": [CANARY]}]}),
        json!({"inputs": [{"features": [CANARY]}]}),
        json!({"inputs": [{"text": CANARY, "features": [1.0]}]}),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, mut job)| {
        job["job_id"] = json!(format!("bad-{number}"));
        if job["model"].is_null() {
            job["model"] = json!("sentiment");
        }
        job.to_string()
    })
    .collect();
    bodies.push(format!(r#"{{"job_id": "cut", "model": "{CANARY}"#));
    bodies.push(format!("\"{CANARY}\""));
    bodies.push(CANARY.to_owned());
    bodies
}

/// Jobs whose rows the database refuses.
fn refused_jobs() -> Vec<serde_json::Value> {
    let job = |id: &str, inputs: serde_json::Value| json!({"job_id": id, "model": "sentiment", "inputs": inputs});
    let input = |kind: &str, text: &str| json!({"key": format!("{kind}:{CANARY}"), "text": text});
    vec![
        job("checked", json!([input("check", "some words")])),
        job("triggered", json!([input("trigger", "other words")])),
        job("unique", json!([input("unique", "a few words")])),
    ]
}

const REFUSALS: [&str; 6] = [
    "CREATE TABLE people (mail text PRIMARY KEY)",
    "INSERT INTO people VALUES ('anna.private@example.org')",
    "CREATE FUNCTION complain(mail text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'about %', mail; RAISE EXCEPTION 'no %', mail; END $$",
    "CREATE FUNCTION lengthy(mail text) RETURNS int LANGUAGE plpgsql AS $$ DECLARE short varchar(3); BEGIN short := mail; RETURN 1; END $$",
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no %', NEW.key USING ERRCODE = '22023'; END $$",
    "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO people VALUES (split_part(NEW.key, ':', 2)); RETURN NEW; END $$",
];

async fn refuse_rows(stack: &Stack) {
    for statement in [
        "ALTER TABLE scores ADD CONSTRAINT no_people CHECK (key NOT LIKE 'check:%')",
        "CREATE TRIGGER refusing BEFORE INSERT ON scores FOR EACH ROW WHEN (NEW.key LIKE 'trigger:%') EXECUTE FUNCTION refuse()",
        "CREATE TRIGGER repeating BEFORE INSERT ON scores FOR EACH ROW WHEN (NEW.key LIKE 'unique:%') EXECUTE FUNCTION again()",
    ] {
        stack.execute(statement).await;
    }
}

async fn commands(said: &mut Said, shell: &Shell) {
    let bad = |text: &str| format!("{{\"text\": \"fine\"}}\n{text}\n");
    let files = [
        ("quotes.jsonl", bad(&format!("{{\"text\": \"{CANARY}"))),
        ("bare.jsonl", bad(CANARY)),
        ("string.jsonl", bad(&format!("\"{CANARY}\""))),
        (
            "field.jsonl",
            bad(&format!("{{\"text\": \"a\", \"{CANARY}\": 1}}")),
        ),
        ("typed.jsonl", bad(&format!("{{\"text\": [\"{CANARY}\"]}}"))),
        (
            "job.jsonl",
            bad(&format!(
                "{{\"job_id\": \"{CANARY}\u{7f}\", \"inputs\": []}}"
            )),
        ),
        ("numbers.csv", format!("a,b\n1,2\n{CANARY},1\n1\n")),
        ("headless.csv", format!("{CANARY},anna\n{CANARY},1\n")),
    ];
    for (name, text) in &files {
        put(&shell.folder, name, text);
    }
    let utf8 = [b"text\n".as_slice(), CANARY.as_bytes(), b"\xff\n"].concat();
    fs::write(shell.folder.join("bytes.csv"), utf8).expect("the folder is writable");
    let names = files.iter().map(|(name, _)| *name).chain(["bytes.csv"]);
    for name in names {
        let more: &[&str] = match name {
            "headless.csv" => &["--text-column", "review"],
            _ => &[],
        };
        for command in ["score", "submit"] {
            let arguments = [&[command, name, "--model", "sentiment"], more].concat();
            let ended = shell.kiln(&arguments).await;
            said.note(&format!("kiln {command} {name}"), ended.err);
        }
    }
    put(&shell.folder, "trace.csv", &format!("1,a\n{CANARY},b\n"));
    put(
        &shell.folder,
        "kiln.toml",
        &format!("[log]\nfilter = \"{CANARY}\n"),
    );
    for arguments in [
        ["warm", "simulate", "trace.csv"].as_slice(),
        &["schedules", "check"],
        &["schedules", "check", "--json"],
        &["--config", "kiln.toml", "schedules"],
    ] {
        let ended = shell.kiln(arguments).await;
        assert_ne!(ended.code, 0, "{arguments:?}");
        said.note(&format!("kiln {arguments:?}"), ended.out + &ended.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobodys_data_is_in_a_message() {
    let stack = Stack::shared().await;
    for statement in REFUSALS {
        stack.execute(statement).await;
    }
    let folder = sandbox::folder("schedules");
    schedules(&folder);
    let worker = stack
        .worker()
        .models(&["sentiment"])
        .set("KILN_WARM__DIR", &folder.display().to_string())
        .set("KILN_RETRY__MAX_TRIES", "1")
        .set("KILN_LOG", "trace")
        .expect_trouble()
        .start()
        .await;
    refuse_rows(&stack).await;
    let mut said = Said::default();

    // Redis refuses: the name is another kind of key.
    let name = format!("kiln:k:sentiment:{CANARY}");
    let _: i64 = stack.redis.command(&["RPUSH", &name, CANARY]).await;
    let named = json!({"job_id": "named", "model": "sentiment", "named": true, "inputs": [{"key": CANARY, "text": CANARY}]});
    let bodies = bad_bodies();
    let count = bodies.len() + refused_jobs().len() + 1;
    stack.bus.publish_jobs(&refused_jobs()).await;
    stack.bus.publish_job(&named).await;
    let bad = bodies.into_iter();
    let bad = bad.map(|body| (body.into_bytes(), persistent()));
    stack.bus.publish(JOBS, bad.collect()).await;
    stack.wait_for_rows(count).await;

    let shell = Shell::on(&stack)
        .set("KILN_WARM__DIR", &folder.display().to_string())
        .set(
            "KILN_MODELS_DIR",
            concat!(env!("CARGO_MANIFEST_DIR"), "/models"),
        );
    let names = STATEMENTS.iter().map(|(name, _, _)| *name);
    for name in names.chain(["grouped", "lines"]) {
        let ended = shell.kiln(&["warm", name, "--wait", "--json"]).await;
        said.note(&format!("kiln warm {name}"), ended.out + &ended.err);
    }
    for (name, _, told) in STATEMENTS {
        let message = format!("SELECT message FROM warm_runs WHERE schedule = '{name}'");
        let message = stack.text(&message).await;
        assert!(message.contains(told), "{name}: {message}");
    }
    eventually("it is said why a table isn't followed", PATIENCE, || async {
        let told = "SELECT count(*) FROM warm_runs WHERE schedule = 'follows' AND message LIKE '%22P02%'";
        (stack.count(told).await > 0).then_some(())
    })
    .await;
    let quoted = "SELECT message FROM warm_runs WHERE schedule = 'quoted'";
    let quoted = stack.text(quoted).await;
    let told = "quoted.toml:9:50: `source.statement`: database `kiln`: there is no such column (SQLSTATE 42703";
    assert!(quoted.contains(told), "{quoted}");
    let lines = "SELECT message FROM warm_runs WHERE schedule = 'lines'";
    let lines = stack.text(lines).await;
    assert!(lines.contains("line 2: invalid type: integer"), "{lines}");
    let messages = "SELECT coalesce(string_agg(message, E'\\n'), '') FROM warm_runs";
    said.note("warm_runs", stack.text(messages).await);
    let errors = "SELECT string_agg(error::text, E'\\n') FROM jobs WHERE status = 'rejected'";
    let errors = stack.text(errors).await;
    for told in ["no_people", "22023", "people_pkey"] {
        assert!(errors.contains(told), "{told}: {errors}");
    }
    said.note("jobs", errors);

    commands(&mut said, &shell).await;
    for path in PATHS {
        let answer = worker.ask("GET", path, &[], b"").await;
        let Answer { head, body, .. } = answer.unwrap_or_else(|| panic!("no answer: {path}"));
        said.note(path, head + &body);
    }
    stack.redis.kill();
    eventually("Redis is missed", PATIENCE, || async {
        let (_, body) = worker.get("/readyz").await?;
        body.contains("redis: ").then_some(())
    })
    .await;
    stack.bus.publish_job(&json!({"job_id": "later", "model": "sentiment", "named": true, "inputs": [{"key": CANARY, "text": CANARY}]})).await;
    stack.row("later").await;
    let lines = worker.lines();
    for told in ["unknown database", "unknown model"] {
        let is_one = |line: &&String| line.contains("a schedule can't run") && line.contains(told);
        assert_eq!(lines.iter().filter(is_one).count(), 1, "{told}");
    }
    said.note("the worker", lines.join("\n"));
    worker.terminate();
    worker.wait_exit(PATIENCE).await;
    said.note("the stopped worker", worker.lines().join("\n"));
    said.expect_silence();
}
