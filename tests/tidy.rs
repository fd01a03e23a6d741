//! The house's rules, held by reading its sources: who may import whom, no circles, a header in every file, nothing too long, and the
//! field's own names.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

#[path = "tidy/source.rs"]
mod source;

use source::{File, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// The rooms of the root package, the lower ones first: a room imports only those before it.
const ROOMS: [&str; 26] = [
    "redact",
    "clock",
    "simulated",
    "backoff",
    "cut",
    "secret",
    "tls",
    "config",
    "outbound",
    "telemetry",
    "health",
    "amqp",
    "store",
    "cache",
    "heat",
    "pipeline",
    "warm",
    "explain",
    "audit",
    "http",
    "parts",
    "conformance",
    "embedded",
    "worker",
    "cli",
    "main",
];

/// Rooms that import fewer than those before them: leaves, which the worker and the commands share.
const LEAVES: [(&str, &[&str]); 4] = [
    (
        "amqp",
        &[
            "redact",
            "backoff",
            "clock",
            "simulated",
            "secret",
            "tls",
            "config",
            "telemetry",
        ],
    ),
    (
        "cache",
        &[
            "redact",
            "backoff",
            "clock",
            "simulated",
            "cut",
            "secret",
            "tls",
            "config",
            "telemetry",
            "store",
        ],
    ),
    ("heat", &["redact", "cache", "clock", "config", "telemetry"]),
    (
        "store",
        &[
            "redact",
            "backoff",
            "clock",
            "simulated",
            "cut",
            "secret",
            "tls",
            "config",
            "telemetry",
            "health",
        ],
    ),
];

/// The crates beside the root package, and the ones of them that each may use.
const CRATES: [(&str, &[&str]); 4] = [
    ("contract", &[]),
    ("fuzz", &[]),
    ("kernels", &[]),
    ("model", &["contract", "kernels"]),
];

/// Longest file, in lines.
const FILE_LINES: usize = 400;
/// Longest function, in lines that aren't empty or a comment.
const FUNCTION_LINES: usize = 70;

/// Tests and declarative tables, which may be longer.
const LONG_FILES: [&str; 0] = [];
const LONG_FUNCTIONS: [(&str, &str); 0] = [];

/// Names that only this project used, and what to say instead.
const BANNED: [(&str, &str); 21] = [
    ("Desk", "ApiState"),
    ("errand", "run_on_worker"),
    ("Errand", "run_on_worker"),
    ("Office", "DeadLetterQueue"),
    ("Hand", "HeldDelivery"),
    ("Workshop", "BatchProcessor"),
    ("Ticket", "AckGuard"),
    ("Yielding", "WarmThrottle"),
    ("renews", "refresh_ttl"),
    ("Keeps", "AccessCounter"),
    ("place", "index, host or capacity"),
    ("seat", "permit"),
    ("told", "reported"),
    ("tell", "record"),
    ("Residence", "LazyNetwork"),
    ("Shelf", "Snapshot"),
    ("Cutter", "Tokenizer"),
    ("Team", "ThreadPool"),
    ("Fate", "PublishOutcome"),
    ("most", "max"),
    ("least", "min"),
];

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn rooms_import_only_what_is_below_them() {
    let tree = Tree::read("src", "kiln");
    let floor = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mut problems = Vec::new();
    for file in &tree.files {
        let room = file.room();
        // The map of the rooms.
        if room == "lib" {
            continue;
        }
        let Some(own) = floor(room) else {
            problems.push(format!("{}: a room that ROOMS doesn't list", file.path));
            continue;
        };
        for used in file.rooms_used() {
            let allowed = LEAVES.iter().find(|(leaf, _)| *leaf == room);
            let fits = match (floor(&used), allowed) {
                (Some(_), Some((_, allowed))) => allowed.contains(&used.as_str()),
                (Some(other), None) => other < own,
                (None, _) => false,
            };
            if used != room && !fits {
                problems.push(format!("{}: `{room}` may not import `{used}`", file.path));
            }
        }
    }
    report(problems);
}

#[test]
fn crates_use_only_what_they_may() {
    let mut problems = Vec::new();
    for (name, allowed) in CRATES {
        let tree = Tree::read(&format!("crates/{name}/src"), &format!("kiln_{name}"));
        for file in &tree.files {
            for used in file.crates_used() {
                let own = used == name || used == "fuzz" && file.is_test();
                if !own && !allowed.contains(&used.as_str()) {
                    problems.push(format!("{}: `{name}` may not use kiln_{used}", file.path));
                }
            }
        }
        let purity = [
            "tokio::net",
            "std::net",
            "std::fs",
            "SystemTime::now",
            "Utc::now",
        ];
        for file in tree
            .files
            .iter()
            .filter(|_| !["fuzz", "model"].contains(&name))
        {
            for banned in purity.iter().filter(|banned| file.code.contains(**banned)) {
                problems.push(format!("{}: no I/O and no clock here: {banned}", file.path));
            }
        }
    }
    report(problems);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        let tree = Tree::read(&folder, &name);
        let edges = tree.imports();
        for circle in circles(&edges) {
            problems.push(format!("a circle: {}", circle.join(" -> ")));
        }
    }
    report(problems);
}

#[test]
fn every_file_says_what_it_owns_and_none_is_too_long() {
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        for file in Tree::read(&folder, &name).files {
            if !file.text.starts_with("//! ") {
                problems.push(format!("{}: no header", file.path));
            }
            let lines = file.text.lines().count();
            let listed = LONG_FILES.contains(&file.path.as_str());
            if lines > FILE_LINES && !listed && !file.is_test() {
                problems.push(format!("{}: {lines} lines", file.path));
            }
            if listed && lines <= FILE_LINES {
                problems.push(format!("{}: no longer long: LONG_FILES", file.path));
            }
        }
    }
    report(problems);
}

#[test]
fn no_function_is_too_long() {
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        for file in Tree::read(&folder, &name).files {
            for function in file.functions() {
                let listed = LONG_FUNCTIONS.contains(&(file.path.as_str(), &function.name));
                if function.lines > FUNCTION_LINES && !listed && !file.is_test() {
                    problems.push(format!(
                        "{}:{}: `{}` has {} lines",
                        file.path, function.at, function.name, function.lines
                    ));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn names_are_the_fields_own() {
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        for file in Tree::read(&folder, &name).files {
            for (number, line) in file.code.lines().enumerate() {
                for word in words(line) {
                    if let Some((_, say)) = BANNED.iter().find(|(banned, _)| *banned == word) {
                        let at = number + 1;
                        problems.push(format!("{}:{at}: `{word}`: say {say}", file.path));
                    }
                }
            }
        }
    }
    report(problems);
}

#[test]
fn only_its_owner_names_a_key_a_metric_or_settles() {
    let owners = [
        ("\"kiln:k", "crates/contract/src/key.rs"),
        ("\"kiln:s", "crates/contract/src/key.rs"),
        ("\"kiln:i", "crates/contract/src/key.rs"),
        ("\"kiln_", "src/telemetry/metrics"),
        (".basic_ack(", "src/amqp/ack.rs"),
        (".basic_reject(", "src/amqp/ack.rs"),
        (".basic_nack(", "src/amqp/ack.rs"),
    ];
    // Reads the names that the metrics room gave.
    let readers = ["src/http/live.rs", "src/cli/key.rs"];
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        for file in Tree::read(&folder, &name).files {
            for (what, owner) in owners {
                let exempt = readers.contains(&file.path.as_str()) || file.is_test();
                if !exempt && !file.path.starts_with(owner) && file.without_tests().contains(what) {
                    problems.push(format!("{}: {what} belongs to {owner}", file.path));
                }
            }
        }
    }
    report(problems);
}

/// What a file names that handles errors of servers and libraries.
const FOREIGN: [&str; 15] = [
    "rusqlite::",
    "sqlx::",
    "RedisError",
    "lapin::",
    "hyper::",
    "csv::",
    "toml::de",
    "toml::from_str",
    "serde_json::from_",
    "serde_json::Error",
    "serde_path_to_error",
    "safetensors::",
    "tokenizers::",
    "parquet::",
    "arrow_ipc::",
];

/// How an error is shown by its own text.
const SHOWN: [&str; 15] = [
    "e.to_string()",
    "err.to_string()",
    "error.to_string()",
    "failed.to_string()",
    "other.to_string()",
    "{e}",
    "{err}",
    "{error}",
    "{error:?",
    "{error:#",
    "{e:?",
    "{e:#",
    "%e,",
    "%error",
    "ToString::to_string)",
];

/// Files that handle such errors beside Kiln's own, and how often they show one of Kiln's own.
const OWN: [(&str, usize); 37] = [
    ("crates/contract/src/job/parse/blame.rs", 2),
    ("crates/model/src/import/error.rs", 1),
    ("crates/model/src/import/source.rs", 1),
    ("crates/model/src/import/tensors.rs", 2),
    ("crates/model/src/quantise.rs", 3),
    ("crates/model/src/tokens.rs", 1),
    ("crates/model/src/weights.rs", 1),
    ("src/amqp/connection.rs", 3),
    ("src/amqp/publisher/task.rs", 2),
    ("src/amqp/letter.rs", 1),
    ("src/cache/redis.rs", 1),
    ("src/cache/redis/open.rs", 1),
    ("src/cli/dead/list.rs", 1),
    ("src/cli/doctor/broker.rs", 3),
    ("src/cli/doctor/postgres.rs", 1),
    ("src/cli/doctor/queue.rs", 2),
    ("src/cli/doctor/shards.rs", 3),
    ("src/cli/explain.rs", 2),
    ("src/cli/jobs/show.rs", 1),
    ("src/cli/post.rs", 1),
    ("src/cli/score/output.rs", 1),
    ("src/cli/submit/mod.rs", 1),
    ("src/embedded.rs", 1),
    ("src/http/dead/look.rs", 1),
    ("src/http/versions.rs", 3),
    ("src/store/sqlite.rs", 1),
    ("src/telemetry/logs.rs", 5),
    ("src/tls.rs", 1),
    ("src/warm/source/http/fetch.rs", 1),
    ("src/warm/source/http/headers.rs", 1),
    ("src/worker/intake.rs", 5),
    ("src/worker/lane_intake.rs", 3),
    ("src/worker/lane_session.rs", 1),
    ("src/worker/optional.rs", 3),
    ("src/worker/shard_keeper.rs", 6),
    ("src/worker/tasks/callbacks/post.rs", 1),
    ("src/worker/tasks/hints.rs", 2),
];

/// The text of a server's or a library's error may quote anybody's data: `redact` says what may be said of it. A file that handles
/// such errors shows no other error by its own text than those that are counted here: whoever adds one looks whose it is.
#[test]
fn errors_of_servers_and_libraries_are_shown_by_redact_alone() {
    let mut problems = Vec::new();
    for (folder, name) in roots() {
        for file in Tree::read(&folder, &name).files {
            let is_redact =
                file.path.starts_with("src/redact/") || file.path.ends_with("/redact.rs");
            if is_redact || file.is_test() {
                continue;
            }
            let code = file.without_tests();
            if code.contains("#[from] ") {
                for library in FOREIGN {
                    if code.contains(&format!("#[from] {library}")) {
                        problems.push(format!("{}: shows an error of {library}", file.path));
                    }
                }
            }
            if !FOREIGN.iter().any(|library| code.contains(library)) {
                continue;
            }
            let text = before_tests(&file.text);
            let shown: usize = SHOWN.iter().map(|how| times(text, how)).sum();
            let own = OWN.iter().find(|(path, _)| *path == file.path);
            let own = own.map_or(0, |(_, own)| *own);
            if shown > own {
                problems.push(format!(
                    "{}: {shown} errors are shown by their own text, {own} are known to be Kiln's own: see redact",
                    file.path
                ));
            }
        }
    }
    report(problems);
}

/// How often `text` has `how`, which isn't the end of a longer name.
fn times(text: &str, how: &str) -> usize {
    let is_whole = |at: usize| {
        let before = text.get(..at).unwrap_or_default();
        !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    text.match_indices(how)
        .filter(|(at, _)| is_whole(*at))
        .count()
}

fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn roots() -> Vec<(String, String)> {
    let crates = CRATES.iter().map(|(name, _)| {
        let folder = format!("crates/{name}/src");
        (folder, format!("kiln_{name}"))
    });
    crates
        .chain([("src".to_owned(), "kiln".to_owned())])
        .collect()
}

/// The words of a line that are identifiers.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// The circles among files, each once, as the paths along it (after Tarjan's strongly connected components, by reachability).
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = open.pop() {
            for next in edges.get(&at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        edges.keys().map(|file| (file, reach(file))).collect();
    let mut done: BTreeSet<&String> = BTreeSet::new();
    let mut circles = Vec::new();
    for (file, reaches) in &reached {
        if !reaches.contains(*file) || done.contains(file) {
            continue;
        }
        let members: Vec<&&String> = reached
            .iter()
            .filter(|(other, back)| reaches.contains(**other) && back.contains(*file))
            .map(|(other, _)| other)
            .collect();
        done.extend(members.iter().map(|member| **member));
        circles.push(
            members
                .into_iter()
                .map(|member| (*member).clone())
                .collect(),
        );
    }
    circles
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let file = File::of(
        "src/warm/gather/pieces.rs",
        "//! Head.\nuse super::plan::{self, Plan};\nuse crate::{\n    amqp::{message, topology::Topology},\n    job,\n};\n\
         fn long() {\n    // a comment\n    let text = \"use crate::http::x\"; // crate::cli\n    crate::store::go();\n}\n",
    );
    let used: Vec<String> = file.rooms_used().into_iter().collect();
    assert_eq!(used, ["amqp", "job", "store", "warm"]);
    let functions = file.functions();
    assert_eq!(
        (functions[0].name.as_str(), functions[0].lines),
        ("long", 4)
    );
    let edges = BTreeMap::from([
        ("a".to_owned(), BTreeSet::from(["b".to_owned()])),
        ("b".to_owned(), BTreeSet::from(["c".to_owned()])),
        ("c".to_owned(), BTreeSet::from(["b".to_owned()])),
    ]);
    assert_eq!(circles(&edges), [["b", "c"]]);
}
