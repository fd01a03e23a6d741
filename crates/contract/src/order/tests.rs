//! Orders compare as the contract says, and what is written of one is read again.

use super::*;
use proptest::prelude::*;

fn sequence(number: u64, accepted: i64) -> Order {
    Order::new(Some(&AsOf::Sequence(number)), Moment::from_micros(accepted))
}

fn moment(at: i64, accepted: i64) -> Order {
    let at = Moment::from_micros(at);
    let text = Cow::Owned(at.rfc3339());
    let as_of = AsOf::Moment { at, text };
    Order::new(Some(&as_of), Moment::from_micros(accepted))
}

fn plain(accepted: i64) -> Order {
    Order::new(None, Moment::from_micros(accepted))
}

fn orders() -> impl Strategy<Value = Order> {
    // Few values, so that equal ones come together.
    (0..3, 0u64..4, 0i64..4).prop_map(|(kind, value, accepted)| match kind {
        0 => sequence(value, accepted),
        1 => moment(value as i64, accepted),
        _ => plain(accepted),
    })
}

#[test]
fn an_as_of_is_a_time_or_a_whole_number() {
    assert_eq!(AsOf::parse("7"), Some(AsOf::Sequence(7)));
    assert_eq!(
        AsOf::parse("9223372036854775807"),
        Some(AsOf::Sequence(MAX_SEQUENCE))
    );
    let same = [
        "2026-11-20T12:00:00.000001Z",
        "2026-11-20T13:00:00.0000019+01:00",
    ];
    for text in same {
        let Some(AsOf::Moment { at, text: kept }) = AsOf::parse(text) else {
            panic!("{text}");
        };
        assert_eq!(
            (at.micros(), kept.as_ref()),
            (1_795_176_000_000_001, text),
            "{text}"
        );
        assert_eq!(at.rfc3339(), same[0]);
    }
    for text in [
        "",
        "-1",
        "1.5",
        "9223372036854775808",
        "yesterday",
        "2026-11-20",
        "2026-11-20T12:00:00",
        "1969-12-31T23:59:59Z",
        "2290-01-01T00:00:00Z",
    ] {
        assert_eq!(AsOf::parse(text), None, "{text}");
    }
}

#[test]
fn a_moment_has_no_more_digits_than_an_entry_has_room_for() {
    let text = |digits: usize| format!("2026-11-20T12:00:00.{}Z", "0".repeat(digits));
    assert_eq!(text(19).len(), 40);
    assert!(AsOf::moment(text(19)).is_some());
    assert_eq!(AsOf::moment(text(20)), None);
}

#[test]
fn an_order_keeps_when_its_job_was_accepted() {
    let said = sequence(2, 5);
    let accepted = Moment::from_micros(5);
    assert_eq!((said.value(), said.accepted()), (2, accepted));
    assert_eq!((plain(5).value(), plain(5).accepted()), (5, accepted));
}

#[test]
fn words_compare_by_what_both_say_and_else_by_their_acceptance() {
    let newer = |a: Order, b: Order| (a.is_newer_than(&b), b.is_newer_than(&a));
    assert_eq!(newer(sequence(2, 1), sequence(1, 9)), (true, false));
    assert_eq!(newer(sequence(2, 2), sequence(2, 1)), (true, false));
    assert_eq!(newer(moment(5, 1), moment(4, 9)), (true, false));
    // A warming job says nothing: it is no newer than what its producer said meanwhile.
    assert_eq!(newer(moment(3, 6), plain(5)), (true, false));
    assert_eq!(newer(sequence(3, 6), plain(5)), (true, false));
    assert_eq!(newer(plain(6), moment(9, 5)), (true, false));
    assert_eq!(newer(plain(6), plain(5)), (true, false));
    assert_eq!(newer(sequence(1, 5), moment(900, 4)), (true, false));
    assert_eq!(newer(plain(3), plain(3)), (false, false));
}

#[test]
fn what_says_nothing_continues_what_it_replaces() {
    let refreshed = plain(9).over(Some(&sequence(7, 3)));
    assert_eq!(refreshed, Some(sequence(7, 9)));
    let refreshed = refreshed.expect("it is newer");
    assert_eq!(sequence(6, 12).over(Some(&refreshed)), None);
    assert_eq!(
        sequence(8, 4).over(Some(&refreshed)),
        Some(sequence(8, 4)),
        "the next of the sequence is newer, whenever it was accepted"
    );
    assert_eq!(plain(2).over(Some(&sequence(7, 3))), None);
    let refreshed = plain(9).over(Some(&moment(7, 3)));
    assert_eq!(refreshed, Some(moment(7, 9)));
    assert_eq!(moment(8, 4).over(refreshed.as_ref()), Some(moment(8, 4)));
    assert_eq!(moment(6, 12).over(refreshed.as_ref()), None);
    assert_eq!(plain(8).over(refreshed.as_ref()), None);
    assert_eq!(moment(5, 9).over(Some(&sequence(7, 3))), Some(moment(5, 9)));
    assert_eq!(plain(1).over(None), Some(plain(1)));
}

#[test]
fn an_order_stands_at_the_end_of_an_entry_in_as_many_bytes_whatever_it_says() {
    assert_eq!(
        sequence(5, 1_764_131_865_000_000).encode(),
        "s0000000000000000005-1764131865000000"
    );
    let max = sequence(u64::MAX, i64::MAX).encode();
    assert_eq!(max, "s9223372036854775807-9999999999999999");
    assert_eq!(max.len(), ORDER_CHARS);
    let mut entry = format!("{{\"score\":0.5,\"order\":\"{max}\"}}").into_bytes();
    assert_eq!(Order::of_entry(&entry), Some(sequence(u64::MAX, i64::MAX)));
    Order::rewrite(&mut entry, |_| plain(7));
    assert_eq!(Order::of_entry(&entry), Some(plain(7)));
    let old = br#"{"score":0.5,"model":"m","version":"1","scored_at":"2026-11-20T12:00:00.000Z"}"#;
    assert_eq!(Order::of_entry(old), None);
    let mut same = old.to_vec();
    Order::rewrite(&mut same, |_| plain(7));
    assert_eq!(same, old);
    for text in [
        "",
        "t",
        "s+000000000000000005-1764131865000000",
        "s0000000000000000005-176413186500000",
        "s0000000000000000005-17641318650000000",
        "x0000000000000000005-1764131865000000",
    ] {
        assert_eq!(Order::decode(text), None, "{text}");
    }
}

#[test]
fn a_word_that_was_accepted_before_keeps_what_its_producer_said() {
    let by = Moment::from_micros(3);
    assert_eq!(plain(9).accepted_by(by), plain(3));
    assert_eq!(plain(2).accepted_by(by), plain(2));
    assert_eq!(sequence(8, 9).accepted_by(by), sequence(8, 3));
    assert_eq!(moment(8, 9).accepted_by(by), moment(8, 3));
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in 0..=MAX_SEQUENCE, accepted in 0..=MAX_MICROS as i64, sequenced: bool) {
        let order = if sequenced { sequence(value, accepted) } else { moment(accepted, (value % MAX_MICROS) as i64) };
        let text = order.encode();
        prop_assert_eq!(text.len(), ORDER_CHARS);
        prop_assert_eq!(Order::decode(&text), Some(order));
    }

    #[test]
    fn texts_of_one_kind_compare_as_orders_do(a in orders(), b in orders()) {
        if a.kind() == b.kind() && a.is_plain() == b.is_plain() {
            prop_assert_eq!(a.is_newer_than(&b), a.encode() > b.encode());
        }
    }

    #[test]
    fn of_two_words_one_at_the_utmost_is_newer_and_none_than_itself(a in orders(), b in orders()) {
        prop_assert!(!(a.is_newer_than(&b) && b.is_newer_than(&a)));
        prop_assert!(!a.is_newer_than(&a));
        prop_assert_eq!(a.over(Some(&b)).is_some(), a.is_newer_than(&b));
    }

    #[test]
    fn words_of_one_kind_end_alike_in_any_order(mut words in prop::collection::vec((0u64..6, 0i64..6), 1..8), swaps in prop::collection::vec(any::<prop::sample::Index>(), 8)) {
        let end = |words: &[(u64, i64)]| words.iter().fold(None, |stands: Option<Order>, (value, accepted)| {
            sequence(*value, *accepted).over(stands.as_ref()).or(stands)
        });
        let first = end(&words);
        for swap in swaps {
            let with = swap.index(words.len());
            words.swap(0, with);
        }
        prop_assert_eq!(end(&words), first);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,40}") {
        let _order = Order::of_entry(&bytes);
        let _order = Order::decode(&text);
        let _as_of = AsOf::parse(&text);
    }
}
