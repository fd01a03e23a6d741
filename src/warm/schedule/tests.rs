//! What a schedule file may say, and what its errors name.

use super::*;
use std::path::Path;

const GOOD: &str = r#"
name = "trending"
cron = "*/5 * * * *"
time_zone = "Europe/Berlin"
model = "sentiment"
keep = "rank"
[rank]
top = 5
[source]
kind = "static"
inputs = [{ key = "a", text = "one", group = "g" }]
"#;

fn read(text: &str) -> Result<Schedule, BadSchedule> {
    parse(Path::new("schedules/x.toml"), text)
}

#[test]
fn a_file_says_all_of_a_schedule() {
    let schedule = read(GOOD).expect("a schedule");
    assert_eq!(
        (schedule.name.as_str(), schedule.namespace()),
        ("trending", "sentiment")
    );
    assert_eq!(
        schedule.keep,
        Keep::Rank {
            key: None,
            top: Some(5)
        }
    );
    assert_eq!(
        (schedule.missed, schedule.overlap),
        (Missed::Once, Overlap::Skip)
    );
    assert_eq!(schedule.limit, Duration::from_secs(600));
}

#[test]
fn an_error_names_line_field_and_what_was_expected() {
    for (from, to, line, field, message) in [
        ("\"trending\"", "\"Trending!\"", 2, "name", "a-z"),
        ("*/5 * * * *", "*/5 * * *", 3, "cron", "found 4"),
        ("Europe/Berlin", "Europe/Berlib", 4, "time_zone", "IANA"),
        ("model = \"sentiment\"", "model = 7", 5, "model", "string"),
        (
            "keep = \"rank\"",
            "keep = \"ranks\"",
            6,
            "keep",
            "unknown variant",
        ),
        ("keep = \"rank\"", "keep = \"named\"", 7, "rank", "only for"),
        ("top = 5", "top = 0", 8, "rank.top", "1 to 4096"),
        ("top = 5", "topp = 5", 8, "rank.topp", "unknown field"),
        (
            "kind = \"static\"",
            "kind = \"statik\"",
            10,
            "source.kind",
            "statik",
        ),
        (
            "text = \"one\"",
            "text = \"one\", features = [1.0]",
            9,
            "source.inputs[0]",
            "not both",
        ),
        (
            "\nkeep",
            "\nttl_seconds = 0\nkeep",
            6,
            "ttl_seconds",
            "1 to",
        ),
        ("\nkeep", "\nkeeps = 0\nkeep", 6, "keeps", "unknown field"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        let bad = read(&text).expect_err(to);
        assert_eq!(bad.field, field, "{bad}");
        assert_eq!(bad.line, Some(line), "{bad}");
        assert!(bad.message.contains(message), "{bad}");
        assert!(
            bad.to_string()
                .starts_with(&format!("schedules/x.toml:{line}: `{field}`: ")),
            "{bad}"
        );
    }
    let bad = read("name = \"x\"\ncron = ").expect_err("half a file");
    assert_eq!(bad.line, Some(2), "{bad}");
    let bad = read(&GOOD.replace("cron = ", "# ")).expect_err("no cron");
    assert!(bad.message.contains("cron"), "{bad}");
}

#[test]
fn what_follows_a_table_has_no_times_and_no_budget_unless_it_names_one() {
    let text = "name = \"x\"\nmodel = \"m\"\n[source]\nkind = \"changes\"\ndatabase = \"d\"\nstatement = \"SELECT $1\"\n";
    let schedule = read(text).expect("a schedule");
    assert!(schedule.follows() && schedule.budget.inputs == usize::MAX);
    let now = chrono::Utc::now();
    assert_eq!(crate::warm::due::next(&schedule, now), None);
    assert!(crate::warm::due::due(&schedule, None, now, now, true).is_empty());
    for (more, field, line) in [
        ("cron = \"* * * * *\"", "cron", Some(3)),
        ("keep = \"rank\"\nrank = { key = \"k\" }", "keep", Some(5)),
    ] {
        let text = text.replacen("[source]", &format!("{more}\n[source]"), 1);
        let bad = read(&text).expect_err(more);
        assert_eq!((bad.field.as_str(), bad.line), (field, line), "{bad}");
    }
    let bad = read(&text.replace("$1", "1")).expect_err("no position");
    assert_eq!(bad.field, "source.statement");
}
