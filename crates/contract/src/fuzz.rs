//! Keys, entries, orders and shown errors that nobody thought of.

use crate::{
    entry::{self, Codec, Seal},
    key::{self, EntryPrefix},
    model::Precision,
    name,
    order::{AsOf, Moment, ORDER_CHARS, Order},
    reader, redact, slot,
};
use kiln_fuzz::{Case, Target};

/// A name that is one by the rule.
fn a_name(case: &mut Case<'_>) -> String {
    let letters = b"abz09_-";
    let count = 1 + case.below(4);
    (0..count)
        .map(|_| char::from(*case.pick(letters)))
        .collect()
}

/// A reader's key: any text that a job may give.
fn a_key(case: &mut Case<'_>) -> String {
    let parts = [
        "a",
        ":",
        "{",
        "}",
        "{}",
        "kiln:k:n:",
        "*",
        "é",
        "0",
        " ",
        "\n",
    ];
    let count = 1 + case.below(6);
    (0..count).map(|_| *case.pick(&parts)).collect()
}

/// One of Kiln's keys, and what it stands for.
fn a_redis_key(case: &mut Case<'_>) -> (Vec<u8>, String) {
    let (one, two) = (a_name(case), a_name(case));
    let version = *case.pick(&["1", "1.0", "a-b_c", "1.0.0-RC"]);
    let prefix = EntryPrefix::new(&one, version);
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&case.word().to_le_bytes());
    let reader = a_key(case);
    let text = |kind: &str, key: String, what: String| (key.into_bytes(), format!("{kind} {what}"));
    match case.below(13) {
        0 => (prefix.key(&hash), format!("entry {one} {version} {hash:?}")),
        1 => (
            key::lease(&prefix, &hash),
            format!("lease {one} {version} {hash:?}"),
        ),
        2 => text(
            "named",
            key::named(&one, &reader),
            format!("{one} {reader}"),
        ),
        3 => {
            let entry = key::named(&one, &reader);
            text("removed", key::removed(&entry), format!("{one} {reader}"))
        }
        4 => text("mark", key::mark(&one), one.clone()),
        5 => text("latest", key::latest_mark(), String::new()),
        6 => text("unremoved", key::unremoved(), String::new()),
        7 => text("heat", key::heat(&one, &two), format!("{one} {two}")),
        8 => text("dropped", key::heat_dropped(), String::new()),
        9 => text("reads", key::reads(&one), one.clone()),
        10 => text(
            "accepted",
            String::from_utf8(key::accepted(&reader)).unwrap(),
            reader.clone(),
        ),
        11 => text("index", key::heat_dropped_index(), String::new()),
        _ => text("heat index", key::heat_index(), String::new()),
    }
}

#[test]
fn fuzz_keys() {
    Target::new("keys").memory(1 << 20, 64).run(|case| {
        let (first, is_first) = a_redis_key(case);
        let (second, is_second) = a_redis_key(case);
        assert_eq!(
            first == second,
            is_first == is_second,
            "{is_first}, {is_second}"
        );
        case.saw(is_first.split(' ').next().unwrap_or_default());
        let (namespace, key) = (a_name(case), a_key(case));
        let entry = key::named(&namespace, &key);
        assert_eq!(
            key::read_named(entry.as_bytes()),
            Some((&*namespace, &*key))
        );
        let gone = key::removed(&entry);
        assert_eq!(
            slot::of_key(gone.as_bytes()),
            slot::of_key(entry.as_bytes())
        );
    });
}

#[test]
fn fuzz_hashes() {
    Target::new("hashes").run(|case| {
        let any = |case: &mut Case<'_>| {
            let (a, b) = (case.text(), case.text());
            let bits = case.word();
            let numbers = [
                f32::from_bits(bits as u32),
                f32::from_bits((bits >> 32) as u32),
            ];
            let numbers = numbers.map(|x| if x.is_nan() { f32::NAN } else { x + 0.0 });
            let count = case.below(3);
            match case.below(3) {
                0 => (key::hash_text(&a, None), format!("{a:?}")),
                1 => (key::hash_text(&a, Some(&b)), format!("{a:?} {b:?}")),
                _ => {
                    let numbers = &numbers[..count];
                    (key::hash_features(numbers), format!("{numbers:?}"))
                }
            }
        };
        let (first, second) = (any(case), any(case));
        assert_eq!(
            first.0 == second.0,
            first.1 == second.1,
            "{} {}",
            first.1,
            second.1
        );
    });
}

#[test]
fn fuzz_entry() {
    Target::new("entry").run(|case| {
        let mut input = [0; 32];
        input[0] = case.byte();
        let width = 1 + case.below(5);
        let precision = *case.pick(&[Precision::Single, Precision::Half]);
        let codec = Codec::new(&EntryPrefix::new("m", "1"), width, precision);
        let stamp = if case.one_in(3) { 0 } else { case.word() };
        let is_pending = case.one_in(2);
        let row: Vec<f32> = (0..width)
            .map(|_| f32::from_bits(case.word() as u32))
            .collect();
        let mut bytes = codec.encode(&input, &row, Seal { stamp, is_pending });
        assert!(bytes.len() <= codec.entry_bytes());
        let garbage = case.rest();
        for change in garbage {
            let at = usize::from(*change) % (bytes.len() + 1);
            match garbage.get(at) {
                Some(byte) if at < bytes.len() => bytes[at] ^= byte,
                _ => bytes.truncate(at),
            }
        }
        let mut out = vec![1.0];
        match case.bounded(bytes.len(), || codec.decode(&input, &bytes, &mut out)) {
            Some(seal) => {
                case.saw("an entry");
                assert_eq!(out.len(), 1 + width);
                assert!(out.iter().all(|x| x.is_finite()));
                assert_eq!(
                    codec.encode(&input, &out[1..], seal),
                    bytes,
                    "written as it was read"
                );
                assert!(entry::is_entry(&bytes));
                assert_eq!(
                    entry::stamp_of(&bytes),
                    Some(seal.stamp).filter(|stamp| *stamp > 0)
                );
            }
            None => assert_eq!(out, [1.0], "nothing is left behind"),
        }
        for bytes in [&bytes[..], garbage] {
            entry::stamp_of(bytes);
            key::read_entry(bytes);
            key::read_named(bytes);
        }
    });
}

#[test]
fn fuzz_order() {
    let seeds: [&[u8]; 3] = [
        b"s0000000000000000007-1700000000123000",
        b"t0001700000000123000-1700000000123000",
        b"2026-11-20T12:00:00.123456Z",
    ];
    Target::new("order")
        .seeds(&seeds)
        .words(&["\"order\":\"", "\"}"])
        .run(|case| {
            let bytes = case.bytes();
            let text = String::from_utf8_lossy(bytes);
            let order = case.bounded(bytes.len(), || Order::decode(&text));
            if let Some(order) = order {
                case.saw("an order");
                assert_eq!(order.encode(), text);
                let mut entry = format!("{{\"order\":\"{text}\"}}").into_bytes();
                assert_eq!(Order::of_entry(&entry), Some(order));
                let before = entry.len();
                Order::rewrite(&mut entry, |order| {
                    order.accepted_by(Moment::from_micros(7))
                });
                assert_eq!(entry.len(), before);
                assert!(Order::of_entry(&entry).is_some_and(|new| !new.is_newer_than(&order)));
            }
            if let Some(as_of) = case.bounded(bytes.len(), || AsOf::parse(&text)) {
                case.saw("a moment");
                let json = serde_json::to_string(&as_of).expect("it is written");
                let order = Order::new(Some(&as_of), Moment::from_micros(5));
                assert_eq!(order.encode().len(), ORDER_CHARS);
                assert_eq!(Order::decode(&order.encode()), Some(order));
                let said: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                let again = match said.as_u64() {
                    Some(number) => AsOf::sequence(number),
                    None => said.as_str().and_then(AsOf::moment),
                };
                assert_eq!(again.as_ref(), Some(&as_of));
            }
            if let Some(moment) = Moment::parse(&text) {
                assert_eq!(Moment::parse(&moment.rfc3339()), Some(moment), "{moment:?}");
            }
            let mut any = bytes.to_vec();
            Order::rewrite(&mut any, |order| order);
            assert_eq!(any, bytes);
            reader::job_of(bytes);
        });
}

/// Which of three words stands in the end depends on the words, not on when they come.
#[test]
fn fuzz_words_of_readers() {
    Target::new("words_of_readers").run(|case| {
        let words: Vec<Order> = (0..3)
            .map(|_| {
                let accepted = Moment::from_micros(1 + case.below(4) as i64);
                let at = Moment::from_micros(1 + case.below(4) as i64);
                let text = at.rfc3339();
                let as_of = match case.below(3) {
                    0 => None,
                    1 => AsOf::moment(text.as_str()),
                    _ => AsOf::sequence(case.below(4) as u64),
                };
                Order::new(as_of.as_ref(), accepted)
            })
            .collect();
        for order in &words {
            assert!(!order.is_newer_than(order));
            assert_eq!(order.over(None), Some(*order));
            for other in &words {
                let both = order.is_newer_than(other) && other.is_newer_than(order);
                assert!(!both, "{order:?} {other:?}");
                if let Some(stands) = order.over(Some(other)) {
                    assert_eq!(order.over(Some(&stands)), None, "a repeat changes nothing");
                }
            }
        }
    });
}

#[test]
fn fuzz_names() {
    Target::new("names")
        .seeds(&[b"feed-ranker_2", b"1.0.0-RC_1"])
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes());
            if name::is_name(&text) {
                case.saw("a name");
                assert!(name::is_version(&text) || text.len() > name::MAX_VERSION_BYTES);
                let key = key::named(&text, "k:1");
                assert_eq!(key::read_named(key.as_bytes()), Some((&*text, "k:1")));
            }
            if name::is_version(&text) {
                case.saw("a version");
                let prefix = EntryPrefix::new("m", &text);
                let key = prefix.key(&[7; 32]);
                assert_eq!(key::read_entry(&key), Some(("m", &*text, [7; 32])));
            }
        });
}

/// A value never shows in an error, whatever stands around it.
#[test]
fn fuzz_redact() {
    let seeds: [&[u8]; 4] = [
        b"invalid type: string \"secret\", expected a map at line 3 column 4",
        b"unknown field `secret`, expected one of `a`, `b`",
        b"duplicate key value violates unique constraint \"jobs_pkey\"",
        b"missing field `text` at line 1 column 2",
    ];
    Target::new("redact")
        .seeds(&seeds)
        .words(&["\"", "'", "`", "\u{ab}", ", expected "])
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes()).into_owned();
            let shown = case.bounded(text.len(), || {
                (redact::serde(&text), redact::names_only(&text))
            });
            assert!(
                shown.1.len() <= 2 * text.len() + redact::HIDDEN.len(),
                "{}",
                shown.1
            );
            assert_eq!(
                redact::names_only(&shown.1),
                shown.1,
                "nothing is left to hide"
            );
            case.saw(shown.0.split(' ').next().unwrap_or_default());
            // Two words are no name: as a JSON value, they are hidden by whoever reads it.
            #[derive(serde::Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Wanted {
                #[serde(rename = "a")]
                _a: u8,
            }
            let secret = format!("{text} canary canary");
            for json in [
                serde_json::json!({ "a": secret }).to_string(),
                serde_json::json!({ (secret.clone()): 1 }).to_string(),
                serde_json::json!(secret).to_string(),
            ] {
                let error = serde_json::from_str::<Wanted>(&json)
                    .err()
                    .expect("it is no such thing");
                let said = redact::json(&error);
                assert!(!said.contains("canary"), "{said}");
            }
        });
}
