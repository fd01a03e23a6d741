//! Logs of each form give the same requests, and errors that say where and what, but no value.

use super::*;

fn reading(pattern: Option<&str>) -> Reading {
    Reading {
        pattern: pattern.map(|pattern| Regex::new(pattern).expect("a pattern")),
        ..Reading::default()
    }
}

fn requests(text: &str, reading: &Reading) -> (Vec<(f64, String)>, Vec<Option<u32>>, u64) {
    let log = read(text.as_bytes(), reading).expect(text);
    let named = |(at, key): &(f64, u32)| (*at, log.names[*key as usize].clone());
    let all = log.trace.requests.iter().map(named).collect();
    let sessions = (0..log.trace.requests.len()).map(|n| log.trace.session(n));
    (all, sessions.collect(), log.left_out)
}

fn problem(text: &str, reading: &Reading) -> String {
    read(text.as_bytes(), reading).expect_err(text).to_string()
}

#[test]
fn the_same_requests_are_read_of_every_form() {
    let expected = vec![
        (0.0, "7".to_owned()),
        (1.0, "8".to_owned()),
        (2.5, "7".to_owned()),
    ];
    let items = "/items/(?<key>[^/? \"]+)";
    let who = r"^(?<session>\S+) .*/items/(?<key>[^/? ]+)";
    let apache = r#"a - - [20/Nov/2026:12:00:00 +0000] "GET /items/7?x=1 HTTP/1.1" 200 512
b - - [20/Nov/2026:12:00:01 +0000] "GET /items/8 HTTP/1.1" 200 512
b - - [20/Nov/2026:12:00:01 +0000] "GET /favicon.ico HTTP/1.1" 200 512
a - - [20/Nov/2026:12:00:02.5 +0000] "GET /items/7/ HTTP/1.1" 304 0 "-" "curl [8]"
"#;
    let nginx = "1795176000.000 a \"GET /items/7\"\n1795176001.000 b \"GET /items/8\"\n1795176002.500 a \"GET /items/7\"\n";
    let jsonl = r#"
{"time_iso8601": "2026-11-20T13:00:00+01:00", "request": "GET /items/7 HTTP/1.1", "user": 1}
{"time_iso8601": "2026-11-20T13:00:01+01:00", "request": "GET /items/8 HTTP/1.1", "user": 2}
{"time_iso8601": "2026-11-20T13:00:02.5+01:00", "request": "GET /items/7 HTTP/1.1", "user": 1}"#;
    for (text, pattern, sessions, left_out) in [
        ("10,7\n11,8\n12.5,7\n", None, false, 0),
        ("11,8\n12.5,7\n10,7", None, false, 0),
        ("time,key\n10,7\n11,8\n12.5,7\n", None, false, 0),
        (
            "Key,User,Timestamp\n7,a,2026-11-20 12:00:00\n8,b,2026-11-20 12:00:01\n7,a,\"2026-11-20 12:00:02,5\"\n",
            None,
            true,
            0,
        ),
        ("10,7,a\n11,8,b\n12.5,7,a\n", None, true, 0),
        (
            "ts,path\n1795176000000,/items/7\n1795176001000,/items/8\n1795176001500,/about\n1795176002500,/items/7\n",
            Some(items),
            false,
            1,
        ),
        (jsonl, Some(items), true, 0),
        (apache, Some(who), true, 1),
        (nginx, Some(items), false, 0),
    ] {
        let mut reading = reading(pattern);
        if text.starts_with("ts,") {
            reading.form = Form::Csv;
        }
        let (found, by, others) = requests(text, &reading);
        assert_eq!((found, others), (expected.clone(), left_out), "{text}");
        let known = if sessions {
            vec![Some(0), Some(1), Some(0)]
        } else {
            vec![None; 3]
        };
        if text.starts_with("11") {
            continue;
        }
        assert_eq!(by, known, "{text}");
    }
}

#[test]
fn a_quote_that_is_not_closed_ends_with_its_line() {
    let line = |number: usize| match number {
        101 => "101,\"shoes\n".to_owned(),
        _ => format!("{number},\"item {}\",u\n", number % 7),
    };
    let text: String = (1..=20_000).map(line).collect();
    let (found, _, left_out) = requests(&text, &reading(None));
    assert_eq!((found.len(), left_out), (20_000, 0));
    assert!(found.iter().any(|(at, key)| *at == 100.0 && key == "shoes"));
}

#[test]
fn fields_of_other_names_and_one_namespace_are_read_on_request() {
    let text = "{\"when\": 10, \"http\": {\"item\": \"a\"}, \"namespace\": \"feed\"}\n{\"when\": 11, \"http\": {\"item\": \"a\"}, \"namespace\": \"ads\"}";
    let mut reading = Reading {
        time_field: Some("when".to_owned()),
        key_field: Some("/http/item".to_owned()),
        ..Reading::default()
    };
    let log = read(text.as_bytes(), &reading).expect("a log");
    assert_eq!(
        (log.trace.keys, log.names),
        (2, vec!["a".to_owned(), "a".to_owned()])
    );
    reading.namespace = Some("feed".to_owned());
    let log = read(text.as_bytes(), &reading).expect("a log");
    assert_eq!((log.trace.keys, log.left_out), (1, 1));
}

#[test]
fn errors_say_where_and_what_was_expected_and_no_value() {
    let plain = reading(None);
    for (text, said) in [
        (
            "1,a\nanna@example.org,b",
            "line 2: `time`: expected seconds",
        ),
        ("1,a\n2", "line 2: expected time,key"),
        (
            "when,key\n1,a",
            "line 1: expected a line of time,key or a header with `time`",
        ),
        ("time,key", "no request"),
        ("", "no request"),
        (
            "{\"time\": 1, \"key\": \"a\"}\nanna@example.org",
            "line 2: expected a JSON object",
        ),
        (
            "{\"time\": 1, \"key\": [1]}",
            "line 1: `key`: expected a text",
        ),
        (
            "{\"time\": \"anna@example.org\", \"key\": 1}",
            "line 1: `time`: expected seconds",
        ),
    ] {
        let found = problem(text, &plain);
        assert!(found.contains(said), "{text}: {found}");
        assert!(!found.contains("anna"), "{found}");
    }
    let no_group = problem("x", &reading(Some("items/(.+)")));
    assert!(no_group.contains("expected a group `key`"), "{no_group}");
    let none = problem("GET /other\n", &reading(Some("items/(?<key>.+)")));
    assert!(none.contains("1 lines don't fit the pattern"), "{none}");
    let lines = Reading {
        form: Form::Lines,
        ..Reading::default()
    };
    assert!(problem("x", &lines).contains("expected a pattern"));
    let long = format!("1,a\n{}", "x".repeat(2 << 20));
    let lines = Reading {
        form: Form::Jsonl,
        ..Reading::default()
    };
    assert!(problem(&long, &lines).starts_with("line 1"));
}

mod anything {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_log_makes_it_panic(text in "\\PC{0,200}", form in prop::sample::select(vec![Form::Auto, Form::Csv, Form::Jsonl, Form::Lines])) {
            let mut reading = reading(Some("(?<key>[a-z]+)"));
            reading.form = form;
            let _either = read(text.as_bytes(), &reading);
        }
    }
}

#[test]
fn fields_are_separated_by_commas_tabs_or_semicolons() {
    let keys = |text: &str| {
        let log = read(text.as_bytes(), &reading(None)).expect(text);
        (log.names, log.trace.requests)
    };
    let expected = keys("1,a b\n2,b");
    for text in ["1;a b\n2;b", "1\ta b\n2\tb", "x;key;time\n;a b;1\n;\"b\";2"] {
        assert_eq!(keys(text), expected, "{text}");
    }
    let line = "10.0.0.1 - - [21/Nov/2026:10:00:00 +0000] \"GET /items/a HTTP/1.1\" 200 12";
    let error = read(line.as_bytes(), &reading(None)).expect_err("no key");
    assert!(error.to_string().contains("--pattern"), "{error}");
}

#[test]
fn a_mark_before_the_text_is_no_part_of_it() {
    for log in [
        "time,key\n1,a\n2,b\n",
        "{\"time\":1,\"key\":\"a\"}\n{\"time\":2,\"key\":\"b\"}\n",
    ] {
        let log = format!("\u{feff}{log}");
        let read = read(log.as_bytes(), &Reading::default()).expect("a log");
        assert_eq!(read.names, ["a", "b"]);
    }
}
