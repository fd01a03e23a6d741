//! What a schedule file may say, and what its errors name.

use super::*;
use kiln_contract::model::{InputKind, PairRule};
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

fn read(text: &str) -> Result<Schedule, Vec<BadSchedule>> {
    parse(Path::new("schedules/x.toml"), text)
}

/// The only mistake of a text.
fn mistake(text: &str) -> BadSchedule {
    let mut found = read(text).expect_err(text);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn how_late_a_run_may_be_has_a_range() {
    for (field, max) in [
        ("jitter_seconds", 86_400u64),
        ("missed_max_age_seconds", 31_622_400),
    ] {
        let with = |seconds: u64| format!("{field} = {seconds}\n{GOOD}");
        assert!(read(&with(max)).is_ok(), "{field}");
        for seconds in [max + 1, 10_000_000_000_000] {
            let found = mistake(&with(seconds));
            assert_eq!(found.field, field);
            assert_eq!(found.message, format!("expected 0 to {max}"));
            assert!(found.at.is_some_and(|at| at.line == 1));
        }
    }
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
            11,
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
        let bad = mistake(&text);
        assert_eq!(bad.field, field, "{bad}");
        let at = bad.at.expect("a position");
        assert_eq!(at.line, line, "{bad}");
        assert!(bad.message.contains(message), "{bad}");
        let column = at.column;
        assert!(
            bad.to_string()
                .starts_with(&format!("schedules/x.toml:{line}:{column}: `{field}`: ")),
            "{bad}"
        );
    }
    let bad = mistake("name = \"x\"\ncron = ");
    assert_eq!(bad.at.map(|at| at.line), Some(2), "{bad}");
    let bad = mistake(&GOOD.replace("cron = ", "# "));
    assert!(bad.to_string().contains("`cron`: missing"), "{bad}");
}

#[test]
fn all_mistakes_of_a_file_are_found_at_once() {
    let text = r#"
name = "Trending!"
cron = "*/5 * * *"
time_zone = "Europe/Berlib"
missed = "sometimes"
limit = 3
limit_seconds = "x"
keep = "rank"
[rank]
top = 0
[budget]
inputs = 0
[source]
kind = "static"
inputs = [
  { key = "a", text = "one", group = "g" },
  { key = 7, text = "two" },
  { key = "c", features = ["x"] },
  { key = "d", txt = "four" },
  { key = "e" },
]
"#;
    let found = read(text).expect_err("many mistakes");
    let found: Vec<(usize, usize, &str)> = found
        .iter()
        .map(|bad| {
            let at = bad.at.expect("a position");
            (at.line, at.column, bad.field.as_str())
        })
        .collect();
    assert_eq!(
        found,
        [
            (1, 1, "model"),
            (2, 8, "name"),
            (3, 8, "cron"),
            (4, 13, "time_zone"),
            (5, 10, "missed"),
            (6, 1, "limit"),
            (7, 17, "limit_seconds"),
            (10, 7, "rank.top"),
            (11, 1, "budget"),
            (17, 11, "source.inputs[1].key"),
            (18, 28, "source.inputs[2].features[0]"),
            (19, 16, "source.inputs[3].txt"),
        ]
    );
    let syntax = "name = \n[source\nkind = \"static\"\ncron = 'a";
    let found = read(syntax).expect_err("no TOML");
    let lines: std::collections::BTreeSet<_> =
        found.iter().filter_map(|bad| Some(bad.at?.line)).collect();
    assert!(lines.len() > 1, "{found:?}");
}

#[test]
fn what_is_never_due_is_refused() {
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 31 2 * *"] {
        let bad = mistake(&GOOD.replacen("*/5 * * * *", never, 1));
        assert!(bad.message.contains("never due"), "{bad}");
    }
    // A leap day, and a day that either rule allows.
    for seldom in ["0 0 29 2 *", "0 0 30 2 1"] {
        read(&GOOD.replacen("*/5 * * * *", seldom, 1)).expect(seldom);
    }
}

#[test]
fn what_can_keep_nothing_is_refused() {
    let named = "name = \"n\"\ncron = \"@hourly\"\nmodel = \"m\"\nKEEP\n[source]\nkind = \"static\"\n\
                 inputs = [{ text = \"one\" }, { text = \"two\" }]\n";
    for (keep, reason) in [
        ("", "the default"),
        ("keep = \"named\"", "`key`"),
        ("keep = \"rank\"", "`key`"),
    ] {
        let bad = mistake(&named.replace("KEEP", keep));
        assert_eq!(bad.field, "keep");
        assert!(bad.message.contains(reason), "{bad}");
    }
    read(&named.replace("KEEP", "keep = \"scores\"")).expect("scores need no key");
    let bad = mistake(&GOOD.replace(", group = \"g\"", ""));
    assert!(bad.message.contains("`group`"), "{bad}");
    assert_eq!(bad.at.map(|at| (at.line, at.column)), Some((6, 8)));
}

#[test]
fn what_a_schedule_names_and_gives_is_compared_with_what_there_is() {
    let text = r#"name = "n"
cron = "0 0 0 1 1 * 2020"
model = "price"
[source]
kind = "static"
inputs = [{ key = "a", features = [1.0, 2.0] }, { key = "b", features = [1.0] }, { key = "c", text = "t" }]
"#;
    let schedule = read(text).expect("a schedule");
    let model = |name: &str, input| KnownModel {
        name: name.to_owned(),
        version: "1".to_owned(),
        input,
    };
    let price = InputKind::Features { count: 2 };
    let words = InputKind::Text {
        pair: PairRule::None,
    };
    let shown = |schedule: &Schedule, text: &str, models: &[KnownModel]| {
        let known = Known {
            models,
            databases: ["shop"].into(),
            redis: ["counts"].into(),
            now: "2026-11-26T12:00:00Z".parse().expect("an instant"),
        };
        let found = misfits(schedule, text, &known);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let all_of = |models: &[KnownModel]| shown(&schedule, text, models);
    assert_eq!(
        all_of(&[model("price", price), model("words", words)]),
        [
            "schedules/x.toml:2:8: `cron`: is never due again",
            "schedules/x.toml:6:73: `source.inputs[1].features`: expected 2 numbers, found 1",
            "schedules/x.toml:6:102: `source.inputs[2].text`: the model takes `features` (2 numbers)",
        ]
    );
    let unknown = all_of(&[model("words", words)]);
    assert_eq!(
        unknown.last().map(String::as_str),
        Some("schedules/x.toml:3:9: `model`: unknown model; known: words")
    );
    let sql = "name = \"n\"\ncron = \"@hourly\"\nmodel = \"price@2\"\n[source]\nkind = \"sql\"\ndatabase = \"shp\"\nstatement = \"SELECT 1\"\n";
    let schedule = read(sql).expect("a schedule");
    assert_eq!(
        shown(&schedule, sql, &[model("price", price)]),
        [
            "schedules/x.toml:6:12: `source.database`: unknown database; known: shop, kiln",
            "schedules/x.toml:3:9: `model`: unknown version; known: 1",
        ]
    );
    let redis = "name = \"n\"\ncron = \"@hourly\"\nmodel = \"words\"\n[source]\nkind = \"redis\"\nserver = \"count\"\nsorted_set = \"top\"\n";
    let schedule = read(redis).expect("a schedule");
    assert_eq!(
        shown(&schedule, redis, &[model("words", words)]),
        ["schedules/x.toml:6:10: `source.server`: unknown server; known: counts, kiln"]
    );
    for known in ["counts", "kiln"] {
        let text = redis.replace("\"count\"", &format!("\"{known}\""));
        let schedule = read(&text).expect("a schedule");
        assert!(shown(&schedule, &text, &[model("words", words)]).is_empty());
    }
}

#[test]
fn a_list_of_misfits_is_cut_before_it_is_located() {
    let input = "{ text = \"t\" }, ";
    let text = format!(
        "name = \"n\"\ncron = \"0 0 0 1 1 ? 2099\"\nmodel = \"price\"\nkeep = \"scores\"\n[source]\nkind = \"static\"\ninputs = [{}]\n",
        input.repeat(20_000)
    );
    let schedule = read(&text).expect("a schedule");
    let models = [KnownModel {
        name: "price".to_owned(),
        version: "1".to_owned(),
        input: InputKind::Features { count: 2 },
    }];
    let known = Known {
        models: &models,
        databases: [].into(),
        redis: [].into(),
        now: "2026-11-26T12:00:00Z".parse().expect("an instant"),
    };
    let found = misfits(&schedule, &text, &known);
    assert_eq!(found.len(), 32);
    assert_eq!(
        found.last().map(ToString::to_string).as_deref(),
        Some(
            "schedules/x.toml:7:516: `source.inputs[31].text`: the model takes `features` (2 numbers)"
        )
    );
}

#[test]
fn what_is_due_in_decades_is_due() {
    for (cron, is_due) in [
        ("0 0 0 1 1 ? 2040", true),
        ("0 0 29 2 */7", true),
        ("0 0 0 1 1 ? 2026", false),
        ("0 30 12 26 11 ? 2026", true),
    ] {
        let text = GOOD.replacen("*/5 * * * *", cron, 1);
        let schedule = read(&text).expect(cron);
        let models = [KnownModel {
            name: "sentiment".to_owned(),
            version: "1".to_owned(),
            input: InputKind::Text {
                pair: PairRule::None,
            },
        }];
        let known = Known {
            models: &models,
            databases: [].into(),
            redis: [].into(),
            // Half past twelve in Berlin is half an hour away.
            now: "2026-11-26T11:00:00Z".parse().expect("an instant"),
        };
        let found = misfits(&schedule, &text, &known);
        assert_eq!(found.is_empty(), is_due, "{cron}: {found:?}");
    }
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
        ("keep = \"rank\"\nrank = { key = \"k\" }", "keep", Some(3)),
    ] {
        let text = text.replacen("[source]", &format!("{more}\n[source]"), 1);
        let bad = read(&text).expect_err(more).remove(0);
        let at = bad.at.map(|at| at.line);
        assert_eq!((bad.field.as_str(), at), (field, line), "{bad}");
    }
    let bad = read(&text.replace("$1", "1"))
        .expect_err("no position")
        .remove(0);
    assert_eq!(bad.field, "source.statement");
}
