//! All that a stack's servers hold, kept in a folder as text, and put into the servers of another stack.
//!
//! Promises that what is kept can be read by a newer release of each server: tables as SQL, keys by their types and values, queues with their
//! arguments, messages with their properties. Refuses what no release leaves: keys of other types than texts, hashes and sets.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use ::redis::{Cmd, FromRedisValue, cmd};
use lapin::BasicProperties;
use serde_json::{Value, json};

use super::bus::REPLIES;
use super::postgres::{Postgres, server_program};
use super::redis::Redis;
use super::stack::Stack;

/// Life of a kept key that had one.
const LIFE_MS: &str = "3600000";

/// Writes all that the stack holds, and takes its messages.
pub async fn keep(stack: &Stack, folder: &Path) {
    fs::create_dir_all(folder).expect("the folder is writable");
    let put = |name: &str, text: String| fs::write(folder.join(name), text).expect("it is written");
    put("postgres.sql", dump(&stack.postgres, stack.database()));
    put("redis.jsonl", lines(&keys(&stack.redis).await));
    let defined = definitions(stack, folder).await;
    let queues = defined["queues"].as_array().expect("queues");
    let mut messages = Vec::new();
    for queue in queues {
        let name = queue["name"].as_str().expect("a name");
        for message in stack.bus.take_all(name).await {
            let body = String::from_utf8(message.data.clone()).expect("a text");
            let properties =
                serde_json::to_value(&message.properties).expect("they can be written");
            messages.push(json!({"queue": name, "body": body, "properties": properties}));
        }
    }
    put("queues.json", format!("{defined:#}\n"));
    put("messages.jsonl", lines(&messages));
}

/// Puts it into the servers of this stack, which hold nothing yet.
pub async fn restore(stack: &Stack, folder: &Path) {
    let get = |name: &str| fs::read_to_string(folder.join(name)).expect(name);
    load(
        &stack.postgres,
        stack.database(),
        &folder.join("postgres.sql"),
    );
    let mut connection = stack.redis.connection().await.expect("the server is up");
    for line in get("redis.jsonl").lines() {
        for command in set(&serde_json::from_str(line).expect("a line of JSON")) {
            let set: Result<(), _> = command.query_async(&mut connection).await;
            set.expect("the key is taken");
        }
    }
    let mut defined: Value = serde_json::from_str(&get("queues.json")).expect("JSON");
    for kind in ["queues", "exchanges", "bindings"] {
        for one in defined[kind].as_array_mut().expect("a list") {
            one["vhost"] = json!(stack.vhost());
        }
    }
    let path = super::sandbox::folder("definitions").join("queues.json");
    fs::write(&path, defined.to_string()).expect("the folder is writable");
    let path = path.to_str().expect("a plain path");
    stack.broker.ctl(&["import_definitions", path]).await;
    for line in get("messages.jsonl").lines() {
        let message: Value = serde_json::from_str(line).expect("a line of JSON");
        let properties: BasicProperties =
            serde_json::from_value(message["properties"].clone()).expect("properties");
        let body = message["body"].as_str().expect("a body").as_bytes();
        let queue = message["queue"].as_str().expect("a queue");
        stack
            .bus
            .publish(queue, vec![(body.to_vec(), properties)])
            .await;
    }
}

fn lines(all: &[Value]) -> String {
    all.iter().map(|one| format!("{one}\n")).collect()
}

/// A program on the stack's database.
fn program(name: &str, postgres: &Postgres, database: &str) -> std::process::Command {
    let mut command = server_program(name, postgres.folder());
    let port = postgres.port.to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-U", "kiln", "-d", database]);
    command
}

fn dump(postgres: &Postgres, database: &str) -> String {
    let mut command = program("pg_dump", postgres, database);
    command.args(["--no-owner", "--no-privileges"]);
    let output = command.output().expect("pg_dump runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("a text");
    // An older psql doesn't know what a newer one guards its input with.
    let is_kept = |line: &&str| {
        !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict") && !line.is_empty()
    };
    let kept = text.lines().filter(is_kept);
    let kept = kept.filter(|line| !line.starts_with("--"));
    kept.map(|line| format!("{line}\n")).collect()
}

fn load(postgres: &Postgres, database: &str, path: &Path) {
    let mut command = program("psql", postgres, database);
    command.args(["-q", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
    command.stdin(File::open(path).expect("the tables"));
    let output = command.stdout(Stdio::null()).output().expect("psql runs");
    assert!(output.status.success(), "{output:?}");
}

/// The queues, exchanges and bindings of the stack's virtual host, but for that of the tests' own replies.
async fn definitions(stack: &Stack, folder: &Path) -> Value {
    let path = folder.join("queues.json");
    let file = path.to_str().expect("a plain path");
    stack.broker.ctl(&["export_definitions", file]).await;
    let all: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
    let of = |kind: &str| -> Vec<Value> {
        let list = all[kind].as_array().expect("a list").iter();
        let mut own: Vec<Value> = list
            .filter(|one| one["vhost"] == stack.vhost() && one["name"] != REPLIES)
            .cloned()
            .collect();
        own.sort_by_key(|one| one["name"].to_string());
        own
    };
    json!({"queues": of("queues"), "exchanges": of("exchanges"), "bindings": of("bindings")})
}

/// Bytes as a text where they are one, else as `{"hex": …}`.
fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"hex": hex::encode(bytes)}),
    }
}

fn bytes(shown: &Value) -> Vec<u8> {
    match shown.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => hex::decode(shown["hex"].as_str().expect("hex")).expect("hex"),
    }
}

async fn keys(redis: &Redis) -> Vec<Value> {
    let mut all = Vec::new();
    for key in redis.keys("*").await {
        let kind: String = redis.at("TYPE", &key, &[]).await;
        let words: &[&str] = match kind.as_str() {
            "string" => &["GET"],
            "hash" => &["HGETALL"],
            "set" => &["SMEMBERS"],
            "zset" => &["ZRANGE", "0", "-1", "WITHSCORES"],
            other => panic!("a key of the type {other}"),
        };
        let values = match kind.as_str() {
            "string" => vec![redis.at::<Vec<u8>>("GET", &key, &[]).await],
            _ => list(redis, words[0], &key, &words[1..]).await,
        };
        let values: Vec<Value> = values.iter().map(|one| shown(one)).collect();
        let life: i64 = redis.at("PTTL", &key, &[]).await;
        all.push(json!({"key": shown(&key), "type": kind, "expires": life >= 0, "values": values}));
    }
    all
}

async fn list(redis: &Redis, verb: &str, key: &[u8], more: &[&str]) -> Vec<Vec<u8>> {
    let answer: ::redis::Value = redis.at(verb, key, more).await;
    // Pairs come as a flat list, or as a map.
    match answer {
        ::redis::Value::Map(pairs) => {
            let flat = pairs.into_iter().flat_map(|(one, other)| [one, other]);
            flat.map(|one| Vec::from_redis_value(one).expect("bytes"))
                .collect()
        }
        other => Vec::from_redis_value(other).expect("a list of bytes"),
    }
}

/// The commands that make a kept key.
fn set(kept: &Value) -> Vec<Cmd> {
    let key = bytes(&kept["key"]);
    let values = kept["values"].as_array().expect("values").iter().map(bytes);
    let mut values: Vec<Vec<u8>> = values.collect();
    let verb = match kept["type"].as_str().expect("a type") {
        "string" => "SET",
        "hash" => "HSET",
        "set" => "SADD",
        "zset" => "ZADD",
        other => panic!("a key of the type {other}"),
    };
    if verb == "ZADD" {
        // It takes the score first.
        for pair in values.chunks_mut(2) {
            pair.swap(0, 1);
        }
    }
    let mut make = cmd(verb);
    make.arg(&key).arg(&values);
    let mut expire = cmd("PEXPIRE");
    expire.arg(&key).arg(LIFE_MS);
    let expires = kept["expires"] == true;
    [make]
        .into_iter()
        .chain(expires.then_some(expire))
        .collect()
}
