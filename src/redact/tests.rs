//! That nothing of a row is in what is said of an error, and that what helps an operator is.

use super::*;
use std::io::ErrorKind;

const CANARY: &str = "anna.private@example.org";

fn redis_says(line: &str) -> String {
    let value = ::redis::parse_redis_value(line.as_bytes());
    let error = value.and_then(::redis::Value::extract_error);
    error.expect_err("an error").redacted()
}

#[test]
fn redis_keeps_its_code_and_what_is_its_own() {
    for (line, said) in [
        (
            "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
            "OOM: command not allowed when used memory > 'maxmemory'.",
        ),
        (
            "-MOVED 3999 127.0.0.1:6381\r\n",
            "MOVED: 3999 127.0.0.1:6381",
        ),
        (
            "-ERR unknown command 'foo', with args beginning with: 'anna.private@example.org' \r\n",
            "ERR: unknown command 'foo'",
        ),
        (
            "-ERR user_script:1: bad key anna.private@example.org\r\n",
            "ERR: its text isn't shown",
        ),
        (
            "-NOGROUP No such key 'anna' or consumer group 'g'\r\n",
            "NOGROUP: its text isn't shown",
        ),
        (
            "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            "WRONGTYPE: Operation against a key holding the wrong kind of value",
        ),
    ] {
        assert_eq!(redis_says(line), said);
    }
    let wrong: Result<u64, _> =
        ::redis::from_redis_value(::redis::Value::BulkString(CANARY.into()));
    let wrong = wrong
        .map_err(::redis::RedisError::from)
        .expect_err("no number");
    assert!(!wrong.redacted().contains("anna"), "{}", wrong.redacted());
}

#[test]
fn the_broker_keeps_its_code_and_names_of_queues() {
    for (text, said) in [
        (
            "NOT_FOUND - no queue 'kiln.jobs' in vhost '/'",
            "NOT_FOUND - no queue 'kiln.jobs' in vhost '/'",
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'kiln.jobs' in vhost '/': received 'quorum' but current is 'classic'",
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'kiln.jobs' in vhost '/': received 'quorum' but current is 'classic'",
        ),
        (
            "NOT_FOUND - home node 'rabbit@host' of durable queue 'q' in vhost '/' is down or inaccessible",
            "NOT_FOUND - home node … is down or inaccessible",
        ),
        (
            "PRECONDITION_FAILED - invalid expiration 'anna.private@example.org'",
            "PRECONDITION_FAILED - its text isn't shown",
        ),
        ("FRAME_ERROR", "FRAME_ERROR"),
        ("anna.private@example.org", "its text isn't shown"),
        ("", ""),
    ] {
        assert_eq!(reply(text), said);
    }
}

#[test]
fn csv_says_line_and_field() {
    let read = |text: &str| {
        let mut reader = ::csv::ReaderBuilder::new().from_reader(text.as_bytes());
        let row: Result<(String, f64), ::csv::Error> =
            reader.deserialize().next().expect("a record");
        row.expect_err("no number").redacted()
    };
    assert_eq!(
        read("a,b\nx,anna.private@example.org\n"),
        "line 2, record 1: field 2: invalid float literal"
    );
    assert_eq!(
        read("a,b\nx,1,anna.private@example.org\n"),
        "line 2, record 1: 3 fields, expected 2 as in the record before"
    );
}

#[test]
fn toml_says_line_and_column() {
    let text = "name = \"x\"\npassword = \"anna.private@example.org\n";
    let error = text.parse::<::toml::Table>().expect_err("half a string");
    let said = toml(&error, text);
    assert!(said.starts_with("line 2, column "), "{said}");
    assert!(!said.contains("anna"), "{said}");
    let text = "rate = \"anna.private@example.org\"";
    let error = ::toml::from_str::<std::collections::BTreeMap<String, f64>>(text);
    let said = toml(&error.expect_err("no number"), text);
    assert_eq!(said, "line 1, column 8: invalid type: string, expected f64");
}

#[test]
fn a_chain_ends_with_what_is_said_of_the_library_s_error() {
    let json = serde_json::from_str::<u64>("\"anna.private@example.org\"").expect_err("a string");
    let error = anyhow::Error::from(json).context("the head can't be read");
    assert_eq!(
        error.redacted(),
        "the head can't be read: invalid type: string, expected u64 at line 1 column 26"
    );
    let json = serde_json::from_str::<u64>("\"anna.private@example.org\"").expect_err("a string");
    let wrapped = io::Error::new(ErrorKind::InvalidData, json);
    assert!(!wrapped.redacted().contains("anna"));
    let own = anyhow::anyhow!("one").context("two").context("three");
    assert_eq!(own.redacted(), "three: two: one");
    let system = io::Error::from(ErrorKind::PermissionDenied);
    assert_eq!(system.redacted(), "permission denied");
}

#[test]
fn a_constraint_of_a_file_is_named_by_its_column() {
    let said = |code, text| sqlite::said(Some(code), text);
    assert_eq!(
        said("1555", "UNIQUE constraint failed: jobs.job_id"),
        "a constraint refuses the row: jobs.job_id (SQLite 1555)"
    );
    assert_eq!(
        said(
            "275",
            "CHECK constraint failed: mail <> 'anna.private@example.org'"
        ),
        "a constraint refuses the row (SQLite 275)"
    );
    assert_eq!(
        said("5", "database is locked"),
        "the database is locked (SQLite 5)"
    );
    assert_eq!(sqlite::said(None, CANARY), "SQLite refuses the statement");
}
