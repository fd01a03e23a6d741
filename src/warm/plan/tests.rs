//! What is chosen, in which order, within both budgets and the memory.

use super::*;
use proptest::prelude::*;

fn one(rate: Option<f64>, cost: f64) -> Candidate {
    Candidate {
        inputs: 1,
        computes: usize::from(cost > 0.0),
        rate,
        ttl: 300.0,
        cost,
        wait: 0.01,
        bytes: 100.0,
        adds: 0.0,
    }
}

fn chosen(candidates: &[Candidate], budget: &Budget) -> Vec<usize> {
    choose(candidates, budget, MemoryRoom::UNKNOWN).chosen
}

#[test]
fn what_saves_most_for_its_cost_comes_first() {
    let candidates = [
        one(None, 0.001),
        one(Some(0.1), 0.001),
        one(Some(0.001), 0.001),
        one(Some(10.0), 0.1),
        one(None, 0.001),
        one(Some(0.01), 0.0),
    ];
    let all = Budget::default();
    assert_eq!(chosen(&candidates, &all), [5, 1, 2, 3, 0, 4]);
    let few = Budget {
        inputs: 2,
        ..Budget::default()
    };
    let choice = choose(&candidates, &few, MemoryRoom::UNKNOWN);
    assert_eq!(choice.chosen, [5, 1, 2], "a renewal isn't computed");
    assert_eq!((choice.left.compute, choice.left.inputs()), (3, 3));
    let short = Budget {
        inputs: 100,
        model_seconds: Some(0.0031),
        ..Budget::default()
    };
    assert_eq!(chosen(&candidates, &short), [5, 1, 2, 0]);
}

#[test]
fn what_is_known_is_renewed_whatever_may_be_computed() {
    let mut candidates = vec![one(Some(1.0), 0.0); 50];
    candidates.push(one(Some(1.0), 60.0));
    let budget = Budget {
        inputs: 1,
        model_seconds: Some(0.1),
        renewals: 40,
    };
    let choice = choose(&candidates, &budget, MemoryRoom::UNKNOWN);
    assert_eq!(choice.chosen, (0..40).collect::<Vec<_>>());
    let left = LeftOver {
        compute: 1,
        renewals: 10,
        memory: 0,
    };
    assert_eq!(choice.left, left);
}

#[test]
fn memory_goes_to_what_saves_most_per_byte() {
    let large = Candidate {
        bytes: 1_000.0,
        ..one(Some(0.02), 0.0)
    };
    let new = Candidate {
        bytes: 100.0,
        adds: 100.0,
        ..one(Some(0.005), 0.001)
    };
    let candidates = [large, new, one(Some(0.01), 0.0), one(Some(0.0001), 0.0)];
    let room = |keeps, adds| MemoryRoom { keeps, adds };
    let all = Budget::default();
    let chosen = |memory| choose(&candidates, &all, memory).chosen;
    assert_eq!(chosen(room(1_300.0, 100.0)), [2, 0, 3, 1]);
    assert_eq!(chosen(room(300.0, 100.0)), [2, 3, 1]);
    assert_eq!(chosen(room(200.0, 100.0)), [2, 1]);
    assert_eq!(
        chosen(room(300.0, 99.0)),
        [2, 3],
        "what is new finds no room"
    );
    let nothing = choose(&candidates, &all, room(0.0, 0.0));
    assert_eq!((nothing.chosen.len(), nothing.left.memory), (0, 4));
}

#[test]
fn model_time_of_what_finds_no_memory_is_left_to_others() {
    let large = Candidate {
        bytes: 1_000.0,
        ..one(Some(9.0), 0.001)
    };
    let candidates = [large, one(Some(0.001), 0.001)];
    let budget = Budget {
        model_seconds: Some(0.001),
        ..Budget::default()
    };
    let room = MemoryRoom {
        keeps: 500.0,
        adds: 500.0,
    };
    assert_eq!(chosen(&candidates, &budget), [0]);
    assert_eq!(choose(&candidates, &budget, room).chosen, [1]);
}

#[test]
fn memory_that_may_be_filled_follows_what_redis_says() {
    let redis = RedisMemory {
        used: 600.0,
        max: 1_000.0,
        makes_room: true,
        evicts: false,
    };
    assert_eq!(redis.room(0.5, 100.0).keeps, 400.0);
    assert_eq!(redis.room(0.5, 600.0).keeps, 0.0);
    let evicting = RedisMemory {
        evicts: true,
        ..redis
    };
    assert_eq!(evicting.room(0.5, 100.0).keeps, 150.0);
    let full = RedisMemory {
        used: 940.0,
        makes_room: false,
        ..redis
    };
    let room = full.room(0.5, 0.0);
    assert_eq!(
        (room.keeps, room.adds),
        (500.0, 10.0),
        "others' writes go on"
    );
}

#[test]
fn an_entry_that_outlives_the_next_run_waits_for_it() {
    assert!(is_fresh(Some(100.0), 60.0, 5.0, 0.9));
    assert!(!is_fresh(Some(59.0), 60.0, 5.0, 1.0));
    assert!(!is_fresh(Some(60.0), 60.0, 5.0, 1.0), "it ends just then");
    assert!(!is_fresh(None, 60.0, 5.0, 0.5));
}

#[test]
fn early_refreshes_grow_likelier_towards_the_end() {
    let early = |left: f64| {
        let draws = 1_000;
        let taken = (0..draws).filter(|i| {
            !is_fresh(
                Some(left),
                60.0,
                5.0,
                (f64::from(*i) + 0.5) / f64::from(draws),
            )
        });
        taken.count()
    };
    let (near, middle, far) = (early(61.0), early(65.0), early(90.0));
    assert!(
        near > 700 && middle > 300 && middle < 450 && far < 10,
        "{near} {middle} {far}"
    );
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let rate = prop::option::of(0.0f64..100.0);
    (
        rate,
        1usize..5,
        0usize..5,
        0.0f64..0.01,
        1.0f64..500.0,
        0.0f64..=1.0,
    )
        .prop_map(|(rate, inputs, computes, cost, bytes, new)| {
            let computes = computes.min(inputs);
            Candidate {
                inputs,
                computes,
                bytes,
                adds: bytes * new,
                ..one(rate, if computes > 0 { cost } else { 0.0 })
            }
        })
}

proptest! {
    #[test]
    fn a_plan_never_goes_over_its_budgets_and_leaves_nothing_out_that_fits(
        candidates in prop::collection::vec(any_candidate(), 0..60),
        (inputs, renewals) in (0usize..60, 0usize..60),
        seconds in prop::option::of(0.0f64..0.1),
        (keeps, adds) in (0.0f64..8_000.0, 0.0f64..8_000.0),
    ) {
        let budget = Budget { inputs, model_seconds: seconds, renewals };
        let choice = choose(&candidates, &budget, MemoryRoom { keeps, adds });
        let mut distinct = choice.chosen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), choice.chosen.len());
        let sum = |of: &dyn Fn(&Candidate) -> f64| choice.chosen.iter().map(|n| of(&candidates[*n])).sum::<f64>();
        let (computed, renewed) = (sum(&|c| c.computes as f64), sum(&|c| (c.inputs - c.computes) as f64));
        let (cost, bytes, new) = (sum(&|c| c.cost), sum(&|c| c.bytes), sum(&|c| c.adds));
        prop_assert!(computed <= inputs as f64 && renewed <= renewals as f64);
        prop_assert!(seconds.is_none_or(|max| cost <= max + 1e-6));
        prop_assert!(bytes <= keeps + 1e-6 && new <= adds + 1e-6);
        let mut left = 0;
        for (n, one) in candidates.iter().enumerate().filter(|(n, _)| !choice.chosen.contains(n)) {
            left += one.inputs;
            let computes = one.computes == 0
                || (computed + one.computes as f64 <= inputs as f64 && seconds.is_none_or(|max| cost + one.cost <= max - 1e-6));
            let fits = computes
                && renewed + (one.inputs - one.computes) as f64 <= renewals as f64
                && bytes + one.bytes <= keeps - 1e-6
                && new + one.adds <= adds - 1e-6;
            prop_assert!(!fits, "candidate {} fits", n);
        }
        prop_assert_eq!(left, choice.left.inputs());
    }

    /// Whoever has more to spend leaves no renewal out for it: computing takes nothing from what is kept but memory.
    #[test]
    fn renewals_do_not_depend_on_model_time(
        candidates in prop::collection::vec(any_candidate(), 0..60),
        seconds in 0.0f64..0.1,
    ) {
        let renewed = |seconds| {
            let budget = Budget { model_seconds: Some(seconds), ..Budget::default() };
            let choice = choose(&candidates, &budget, MemoryRoom::UNKNOWN);
            let only: Vec<usize> = choice.chosen.into_iter().filter(|n| candidates[*n].computes == 0).collect();
            only
        };
        let all = renewed(seconds);
        prop_assert_eq!(all.len(), candidates.iter().filter(|c| c.computes == 0).count());
        prop_assert_eq!(all, renewed(0.0));
    }
}

#[test]
fn what_a_refresh_saves_is_the_waiting_of_those_who_would_miss() {
    // Asked for once in the time that it lives: every second one misses.
    let candidate = Candidate {
        wait: 0.5,
        ..one(Some(1.0 / 300.0), 0.1)
    };
    let near = |value: Option<f64>, expected: f64| {
        assert!(
            value.is_some_and(|value| (value / expected - 1.0).abs() < 1e-9),
            "{value:?}"
        );
    };
    near(candidate.saves(), 0.25);
    near(candidate.worth(), 2.5);
    near(candidate.worth_per_byte(), 0.0025);
    assert_eq!(one(None, 0.1).saves(), None);
}

#[test]
fn what_is_left_out_adds_up() {
    let part = LeftOver {
        compute: 2,
        renewals: 3,
        memory: 5,
    };
    let mut all = part;
    all.add(LeftOver {
        compute: 10,
        renewals: 20,
        memory: 40,
    });
    let sum = LeftOver {
        compute: 12,
        renewals: 23,
        memory: 45,
    };
    assert_eq!((all, all.inputs(), part.inputs()), (sum, 80, 10));
}
