//! What a name may be refreshed with.

use super::*;

fn past(order: WordOrder) -> ServedPast {
    ServedPast {
        from: DateTime::UNIX_EPOCH,
        job_id: "j1".into(),
        model: "m".into(),
        version: "1".into(),
        input: Some(vec![7; 32]),
        label: None,
        score: None,
        items: None,
        inputs: None,
        is_removed: false,
        order,
    }
}

const PLAIN: WordOrder = WordOrder {
    kind: 't',
    value: 1_000,
    accepted_us: 1_000,
};

#[test]
fn a_word_is_right_after_what_stands_and_there_is_none_where_another_stands() {
    let word = past(PLAIN);
    assert_eq!(after(&word, None), Some(Moment::from_micros(1_001)));
    for (entry, is_own) in [
        (r#"{"job_id":"j1"}"#, true),
        (r#"{"job_id":"warm-7-1"}"#, true),
        (r#"{"job_id":"j2"}"#, false),
        ("rubbish", false),
    ] {
        let found = after(&word, Some(entry.as_bytes()));
        assert_eq!(found, is_own.then(|| Moment::from_micros(1_001)), "{entry}");
    }
}

#[test]
fn a_name_is_refreshed_by_its_own_model_alone_and_as_new_as_its_producer_said() {
    assert_eq!(input_of(&past(PLAIN), "m"), Some([7; 32]));
    assert_eq!(input_of(&past(PLAIN), "other"), None);
    let removed = ServedPast {
        is_removed: true,
        ..past(PLAIN)
    };
    assert_eq!(input_of(&removed, "m"), None);
    assert_eq!(as_of(PLAIN), None);
    let of = |kind, value| {
        as_of(WordOrder {
            kind,
            value,
            ..PLAIN
        })
    };
    assert_eq!(of('s', 8), AsOf::sequence(8));
    let moment = AsOf::moment("1970-01-01T00:00:05.000000Z");
    assert_eq!(of('t', 5_000_000), moment);
}
