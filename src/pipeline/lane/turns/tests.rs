//! Turns: shares, limits, order.

use super::*;
use proptest::prelude::*;

fn cost(seconds: f64) -> Cost {
    Cost { seconds, jobs: 1.0 }
}

fn push(turns: &mut Turns<u32>, namespace: &str, item: u32, seconds: f64, now: Instant) {
    turns.push(namespace, Share::default, item, cost(seconds), false, now);
}

fn order(turns: &mut Turns<u32>, now: Instant) -> Vec<u32> {
    std::iter::from_fn(|| turns.take(now, |_| true).map(|(_, item, _)| item)).collect()
}

#[test]
fn a_backlog_delays_another_namespace_by_a_turn() {
    let (mut turns, now) = (Turns::new(0.1), Instant::now());
    for n in 0..10_000 {
        push(&mut turns, "greedy", n, 0.01, now);
    }
    for _ in 0..55 {
        turns.take(now, |_| true);
    }
    push(&mut turns, "small", 77_777, 0.01, now);
    let order = order(&mut turns, now);
    let at = order.iter().position(|item| *item == 77_777);
    assert!(at.is_some_and(|at| at <= 10), "{at:?}");
    assert_eq!(order.len(), 10_000 - 55 + 1);
    assert!(turns.is_empty() && turns.queues.is_empty());
}

#[test]
fn what_is_first_goes_before_the_rest_of_its_namespace_only() {
    let (mut turns, now) = (Turns::new(1.0), Instant::now());
    push(&mut turns, "a", 1, 0.1, now);
    push(&mut turns, "a", 2, 0.1, now);
    turns.push("a", Share::default, 3, cost(0.1), true, now);
    assert_eq!(order(&mut turns, now), [3, 1, 2]);
}

#[test]
fn a_limit_holds_one_namespace_back_and_no_other() {
    let (mut turns, now) = (Turns::new(1.0), Instant::now());
    let limited = || Share {
        max_jobs_per_second: Some(2.0),
        ..Share::default()
    };
    for n in 0..4 {
        turns.push("limited", limited, n, cost(0.1), false, now);
        push(&mut turns, "free", 10 + n, 0.1, now);
    }
    let at_once = order(&mut turns, now);
    assert_eq!(at_once.iter().filter(|item| **item < 10).count(), 2);
    assert_eq!(at_once.len(), 6);
    let wait = turns.wait(now).expect("over its limit");
    assert!(wait <= Duration::from_secs(1));
    assert_eq!(order(&mut turns, now + Duration::from_secs(1)).len(), 2);
    // What it had of its limit isn't forgotten when nothing of it waits.
    turns.push(
        "limited",
        limited,
        5,
        cost(0.1),
        false,
        now + Duration::from_secs(1),
    );
    assert!(order(&mut turns, now + Duration::from_secs(1)).is_empty());
}

#[test]
fn what_does_not_fit_is_passed_over() {
    let (mut turns, now) = (Turns::new(1.0), Instant::now());
    push(&mut turns, "a", 1, 0.1, now);
    push(&mut turns, "b", 2, 0.1, now);
    let taken = turns.take(now, |item| *item == 2);
    assert_eq!(taken.map(|(_, item, _)| item), Some(2));
    assert!(turns.take(now, |item| *item == 2).is_none());
    assert_eq!(order(&mut turns, now), [1]);
}

#[test]
fn one_over_its_limit_never_hides_another_in_debt() {
    let (mut turns, now) = (Turns::new(0.1), Instant::now());
    let limited = || Share {
        max_jobs_per_second: Some(1.0),
        ..Share::default()
    };
    for n in 0..3 {
        turns.push("limited", limited, n, cost(0.01), false, now);
        push(&mut turns, "dear", 10 + n, 5.0, now);
        push(&mut turns, "dearer", 20 + n, 9.0, now);
    }
    let mut order = order(&mut turns, now);
    order.sort_unstable();
    assert_eq!(order, [0, 10, 11, 12, 20, 21, 22]);
    assert!(turns.is_over("limited") && !turns.is_over("dear"));
    assert!(turns.wait(now).is_some());
}

#[test]
fn what_was_taken_for_nothing_is_given_back_to_every_limit() {
    let (mut turns, now) = (Turns::new(0.1), Instant::now());
    let limited = || Share {
        max_jobs_per_second: Some(1.0),
        max_seconds_per_second: Some(1.0),
        ..Share::default()
    };
    for n in 0..3 {
        turns.push("limited", limited, n, cost(1.0), false, now);
    }
    let (name, _, cost) = turns.take(now, |_| true).expect("within its limits");
    assert!(turns.take(now, |_| true).is_none());
    let back = Cost {
        seconds: -cost.seconds,
        jobs: -cost.jobs,
    };
    turns.charge(&name, back);
    assert!(turns.take(now, |_| true).is_some());
}

proptest! {
    /// While all have work waiting, shares follow the weights, whatever the pieces cost; and nothing is lost.
    #[test]
    fn shares_follow_the_weights(
        weights in prop::collection::vec(1u8..=4, 2..5),
        seconds in prop::collection::vec(1u8..=20, 4),
        wrong in -5i8..=5,
    ) {
        let (mut turns, now) = (Turns::new(0.1), Instant::now());
        let names: Vec<String> = (0..weights.len()).map(|n| format!("n{n}")).collect();
        for item in 0..400u32 {
            for ((name, weight), seconds) in names.iter().zip(&weights).zip(seconds.iter().cycle()) {
                let share = || Share { weight: f64::from(*weight), ..Share::default() };
                turns.push(name, share, item, cost(f64::from(*seconds) / 1e3), false, now);
            }
        }
        let mut spent: HashMap<String, f64> = HashMap::new();
        let mut total = 0.0;
        // Until the first could run out: 400 pieces of at least a millisecond.
        while total < 0.3 {
            let (name, _, cost) = turns.take(now, |_| true).expect("plenty waits");
            let truly = cost.seconds * (1.0 + f64::from(wrong) / 10.0);
            turns.charge(&name, Cost { seconds: truly - cost.seconds, jobs: 0.0 });
            total += cost.seconds.max(truly);
            *spent.entry(name.to_string()).or_default() += truly;
        }
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        let all: f64 = spent.values().sum();
        for (name, weight) in names.iter().zip(&weights) {
            let due = all * f64::from(*weight) / sum;
            let had = spent.get(name).copied().unwrap_or_default();
            // A turn of its own and one of everybody else's, and a piece.
            let slack = 0.1 * (f64::from(*weight) + 1.0) + 0.04;
            prop_assert!((had - due).abs() <= slack * f64::from(*weight).max(1.0), "{name}: {had} of {due}");
        }
        let mut left = 0;
        while turns.take(now, |_| true).is_some() {
            left += 1;
        }
        prop_assert!(left > 0);
        prop_assert!(turns.is_empty());
    }
}
