//! How often names are read, by hints and by what Redis says, in bounded memory.

use super::*;
use rand::seq::IndexedRandom;

fn hottest(readers: &Readers) -> Vec<(String, Vec<NamedRate>)> {
    let namespaces = readers.namespaces().into_iter();
    let hot = namespaces.map(|namespace| {
        let hot = readers.hottest_at(&namespace, 10, readers.now(), 0);
        (namespace, hot)
    });
    hot.collect()
}

#[test]
fn hints_are_counted_and_names_that_nobody_reads_make_room() {
    let readers = Readers::default();
    // No more than is usual, since a half is left to others.
    readers.with(|inner| inner.max_bytes = 2 * USUAL_NAMES * NAME_BYTES);
    for n in 0..100 {
        readers.hinted("feed", (0..n).map(|_| "page:1").chain(["page:2"]));
        let written: Vec<String> = (0..200).map(|w| format!("{n}-{w}")).collect();
        readers.written(
            "feed",
            written.iter().map(|name| (name.as_str(), None)),
            true,
        );
    }
    let hot = hottest(&readers);
    let [(namespace, names)] = hot.as_slice() else {
        panic!("one namespace: {hot:?}")
    };
    let read: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(
        (namespace.as_str(), read),
        ("feed", vec!["page:1", "page:2"])
    );
    assert!(names.iter().all(|name| name.counted));
    assert_eq!(readers.next(100_000).len(), USUAL_NAMES - 2);
    for n in 0..100 {
        readers.hinted(&format!("space{n}"), ["a"].into_iter());
    }
    assert_eq!(readers.namespaces().len(), 101);
}

#[test]
fn what_there_is_no_room_for_is_counted_and_idle_namespaces_make_room() {
    let readers = Readers::default();
    readers.with(|inner| inner.max_bytes = 10 * bytes_of("a"));
    for n in 0..20 {
        readers.hinted(&format!("space{n:02}"), ["a"].into_iter());
    }
    assert_eq!(readers.namespaces().len(), 10);
    assert_eq!((readers.take_dropped(), readers.take_dropped()), (10, 0));
    // A namespace that is known has its least read name make room.
    readers.hinted("space01", ["b"].into_iter());
    readers.with(|inner| {
        assert!(inner.name("new", "a", 10_000.0).is_some());
        assert_eq!(inner.namespaces.len(), 10);
        assert_eq!(inner.bytes, 10 * bytes_of("a"));
    });
}

/// Looks every five seconds, for two hours, at a key that is read `rate` times a second.
fn idle(rate: f64, rng: &mut SmallRng) -> f64 {
    let mut name = Name::new("a", 0.0);
    let mut last = 0.0;
    let mut next = -(1.0 - rng.random::<f64>()).ln() / rate;
    for look in 1..=1_440 {
        let now = f64::from(look) * 5.0;
        while next < now {
            last = next;
            next -= (1.0 - rng.random::<f64>()).ln() / rate;
        }
        name.note(Access::Idle((now - last).floor()), now);
    }
    name.rate(&Now::new(7_200.0), &Trust::default())
}

#[test]
fn idle_times_tell_rates_within_a_factor_of_two() {
    let mut rng = SmallRng::seed_from_u64(7);
    for rate in [0.01, 0.05, 0.2, 0.5] {
        let rates: Vec<f64> = (0..100).map(|_| idle(rate, &mut rng)).collect();
        let mean = rates.iter().sum::<f64>() / 100.0;
        assert!((0.6..1.7).contains(&(mean / rate)), "{rate}: {mean}");
    }
    assert_eq!(
        Name::new("never read", 0.0).rate(&Now::new(10.0), &Trust::default()),
        0.0
    );
}

#[test]
fn every_name_has_its_turn() {
    let readers = Readers::default();
    let names: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    readers.written("a", names.iter().map(|name| (name.as_str(), None)), true);
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..5 {
        seen.extend(readers.next(4).into_iter().map(|(_, name)| name));
    }
    for name in &names {
        assert_eq!(seen.iter().filter(|one| *one == name).count(), 2);
    }
    let drawn = names.choose(&mut rand::rng()).expect("a name").clone();
    readers.found(&[("a".into(), drawn.clone())], &[Some(Access::Rate(3.0))]);
    let hot = hottest(&readers);
    assert_eq!(
        (hot[0].1[0].name.as_str(), hot[0].1[0].rate),
        (drawn.as_str(), 3.0)
    );
}

#[test]
fn what_warming_writes_again_is_no_news() {
    let readers = Readers::default();
    let write = |input: u8, is_news: bool| {
        let name = ("a", Some([input; 32]));
        readers.written("feed", [name].into_iter(), is_news);
    };
    readers.hinted("feed", ["a"].into_iter());
    let known = || {
        let hot = hottest(&readers);
        (hot[0].1[0].input, hot[0].1[0].written_ms)
    };
    write(1, false);
    assert_eq!(known().0, Some([1; 32]));
    write(2, true);
    readers.with(|inner| {
        let names = inner.namespaces.get_mut("feed").expect("a namespace");
        names.all[0].written = -60.0;
    });
    write(1, false);
    let (input, written_ms) = known();
    assert_eq!(input, Some([2; 32]));
    assert!(written_ms <= -60_000);
}

#[test]
fn the_hottest_are_those_that_all_of_them_would_begin_with() {
    let readers = Readers::default();
    let names: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
    readers.written("a", names.iter().map(|name| (name.as_str(), None)), true);
    // Some are read as often as others, and some by nobody.
    for (n, name) in names.iter().enumerate().skip(10) {
        let rate = (n / 4) as f64;
        readers.found(&[("a".into(), name.clone())], &[Some(Access::Rate(rate))]);
    }
    let now = readers.now();
    let all = readers.hottest_at("a", usize::MAX, now, 0);
    assert_eq!(all.len(), 30);
    assert_eq!((all[0].name.as_str(), all[1].name.as_str()), ("36", "37"));
    for top in [0, 1, 7, 29, 30, 31] {
        let hot = readers.hottest_at("a", top, now, 0);
        assert_eq!(hot[..], all[..top.min(30)], "{top}");
    }
    let rates: Vec<f64> = all.iter().map(|name| name.rate).collect();
    assert_eq!(readers.rates("a"), rates);
    assert!(readers.hottest_at("b", 10, now, 0).is_empty());
}
