//! Policies held against each other, their budget and the oracle.

use super::synthetic::{Make, Shape};
use super::*;
use crate::warm::schedule::Budget;

const KEYS: usize = 5_000;

fn made(shape: Shape) -> RequestTrace {
    Make {
        shape,
        keys: KEYS,
        rate: 50.0,
        length: 7_200.0,
        crowd: 20,
        seed: 1,
    }
    .draw()
}

fn world() -> World {
    World {
        renewals: Renewals::None,
        ..World::new(120.0, vec![0.001; KEYS])
    }
}

#[test]
fn heat_comes_close_to_the_oracle_and_beats_a_fixed_list_wherever_things_change() {
    for shape in [Shape::Steady, Shape::Trends, Shape::Flash] {
        let (trace, world) = (made(shape), world());
        let waited = |policy| replay(&trace, &world, policy, |_| {}).waited as f64;
        let nothing = waited(Policy::Nothing);
        let avoided = |policy| nothing - waited(policy);
        let (heat, oracle) = (avoided(Policy::Heat), avoided(Policy::Oracle));
        assert!(heat > 0.9 * oracle, "{shape:?}: {heat} of {oracle}");
        assert!(oracle < avoided(Policy::Clairvoyant), "{shape:?}");
        assert!(heat > avoided(Policy::Fixed), "{shape:?}: {heat}");
        assert!(heat > avoided(Policy::Everything), "{shape:?}: {heat}");
    }
}

#[test]
fn no_policy_spends_more_than_its_budget() {
    let (trace, world) = (made(Shape::Trends), world());
    let max = 0.05 * 0.001 * trace.requests.len() as f64;
    for policy in Policy::ALL {
        let outcome = replay(&trace, &world, policy, |_| {});
        assert!(
            outcome.warming <= max + 1e-9,
            "{policy:?}: {}",
            outcome.warming
        );
        assert_eq!(outcome.requests, trace.requests.len() as u64);
        let warmed = outcome.warmed as f64 * 0.001;
        assert!((outcome.warming - warmed).abs() < 1e-6, "{policy:?}");
        assert_eq!(
            outcome,
            replay(&trace, &world, policy, |_| {}),
            "the same again"
        );
    }
}

#[test]
fn without_warming_a_key_waits_once_in_every_life() {
    let requests = (0..1_000).map(|n| (f64::from(n), 0)).collect();
    let trace = RequestTrace {
        requests,
        sessions: Vec::new(),
        keys: 1,
        length: 1_000.0,
        truth: None,
    };
    let world = World {
        allowed: Allowed::Share(1.0),
        round_trip: 0.0,
        renewals: Renewals::None,
        ..World::new(100.0, vec![0.01])
    };
    let nothing = replay(&trace, &world, Policy::Nothing, |_| {});
    assert_eq!(nothing.waited, 10);
    assert!((nothing.waiting - 0.1).abs() < 1e-9);
    let heat = replay(&trace, &world, Policy::Heat, |_| {});
    assert_eq!(heat.waited, 1, "only the very first");
    assert!(heat.saved_per_second(&nothing) > 0.8);
}

/// Five keys, each asked for every ten seconds, for two hours.
fn regular() -> RequestTrace {
    RequestTrace {
        requests: (0..3_600)
            .map(|n| (f64::from(n) * 2.0, (n % 5) as u32))
            .collect(),
        sessions: Vec::new(),
        keys: 5,
        length: 7_200.0,
        truth: None,
    }
}

#[test]
fn what_is_known_is_renewed_for_nothing_and_only_first_requests_wait() {
    let trace = regular();
    let mut world = World {
        allowed: Allowed::Run(Budget {
            inputs: 0,
            model_seconds: None,
            renewals: usize::MAX,
        }),
        ..World::new(100.0, vec![0.01; 5])
    };
    for policy in [Policy::Everything, Policy::Heat, Policy::Clairvoyant] {
        let outcome = replay(&trace, &world, policy, |_| {});
        assert_eq!((outcome.waited, outcome.warmed), (5, 0), "{policy:?}");
        assert!(outcome.renewed > 300, "{policy:?}");
    }
    let bounded = |world: &World| replay(&trace, world, Policy::Heat, |_| {}).waited;
    world.max_entries = Some(5);
    assert_eq!(bounded(&world), 5);
    world.max_entries = Some(3);
    assert!(bounded(&world) > 100, "what readers fill leaves no room");
    // Without memory of scores, a run that comes too late must compute them.
    world.max_entries = None;
    world.renewals = Renewals::Cached;
    let world = world.every(150.0);
    let late = replay(&trace, &world, Policy::Heat, |_| {});
    let nothing = replay(&trace, &world, Policy::Nothing, |_| {});
    assert!(
        late.waited > 100 && late.waited < nothing.waited,
        "{} of {}",
        late.waited,
        nothing.waited
    );
}

#[test]
fn each_run_has_its_own_budget() {
    let trace = regular();
    let world = World {
        renewals: Renewals::None,
        allowed: Allowed::Run(Budget {
            inputs: 2,
            model_seconds: Some(0.011),
            renewals: usize::MAX,
        }),
        ..World::new(60.0, vec![0.01; 5]).every(50.0)
    };
    let outcome = replay(&trace, &world, Policy::Heat, |_| {});
    // 0.011 s are enough for one.
    assert_eq!(outcome.warmed, 143);
    // What is known is renewed as far as that budget goes.
    let waited = |renewals| {
        let budget = Budget {
            inputs: 0,
            model_seconds: None,
            renewals,
        };
        let world = World {
            allowed: Allowed::Run(budget),
            ..World::new(60.0, vec![0.01; 5]).every(50.0)
        };
        let outcome = replay(&trace, &world, Policy::Heat, |_| {});
        (outcome.waited, outcome.renewed)
    };
    let (none, some, all) = (waited(0), waited(2), waited(5));
    assert!(
        none.0 > some.0 && some.0 > all.0,
        "{none:?} {some:?} {all:?}"
    );
    assert_eq!(none.1, 0);
}

#[test]
fn an_outage_stops_runs_and_forgets_what_was_counted() {
    let trace = regular();
    let mut world = World::new(100.0, vec![0.01; 5]).every(20.0);
    let waited = |world: &World| replay(&trace, world, Policy::Heat, |_| {}).waited;
    let without = waited(&world);
    world.outage = Some((3_600.0, 4_200.0));
    let with = waited(&world);
    // Nobody scores meanwhile, and then each is missing once.
    assert!((245..320).contains(&(with - without)), "{}", with - without);
    for missed in [Missed::Skip, Missed::All] {
        world.missed = missed;
        assert!(waited(&world) >= with.saturating_sub(5));
    }
}

#[test]
fn what_readers_do_not_say_is_not_known() {
    let trace = regular();
    let waited = |seen: Seen| {
        let world = World {
            seen,
            run_seconds: 1.0,
            ..World::new(100.0, vec![0.01; 5])
        };
        replay(&trace, &world, Policy::Heat, |_| {}).waited
    };
    let (jobs, hints, misses) = (
        waited(Seen::Jobs),
        waited(Seen::Hints),
        waited(Seen::Misses),
    );
    assert!(jobs <= 20 && hints <= 20, "{jobs} {hints}");
    assert!(misses >= hints, "{misses}");
}

#[test]
fn a_log_that_is_too_short_for_a_fixed_list_is_said_to_be() {
    let mut trace = regular();
    assert_eq!(Policy::Fixed.caveat(&trace), None);
    trace.length = 1_800.0;
    let caveat = Policy::Fixed.caveat(&trace).expect("too short");
    assert!(caveat.contains("has 0.5 h"), "{caveat}");
    assert_eq!(Policy::Heat.caveat(&trace), None);
}

#[test]
fn settings_are_found_for_a_wish_and_keep_it() {
    let trace = Make {
        shape: Shape::Steady,
        keys: 300,
        rate: 5.0,
        length: 3_600.0,
        crowd: 20,
        seed: 1,
    }
    .draw();
    let world = World {
        renewals: Renewals::None,
        every: 60.0,
        ..World::new(120.0, vec![0.001; 300])
    };
    let nothing = replay(&trace, &world, Policy::Nothing, |_| {}).waited_share();
    let advice = wish::advise(&trace, &world, nothing * 0.8, |_| {});
    let own = advice
        .fits
        .iter()
        .find(|one| one.ttl == 120.0)
        .expect("its own TTL can do");
    assert!(own.budget > 0.0 && own.outcome.waited_share() <= nothing * 0.8);
    // As a schedule has it, for each run of a minute.
    let requests = own.budget * trace.requests.len() as f64 / 60.0;
    let each_run = (requests * own.every.unwrap_or_default() / 60.0).ceil();
    assert_eq!(own.inputs, each_run as usize);
    assert!((own.model_seconds - own.inputs as f64 * 0.001).abs() < 0.001);
    assert!(advice.untried.is_empty(), "{:?}", advice.untried);
    let said = |ttl: f64, every: f64| {
        let world = World {
            ttl,
            every,
            ..world.clone()
        };
        wish::advise(&trace, &world, 1.0, |_| {}).untried.join("; ")
    };
    assert!(said(120.0, 90.0).contains("--ttl 120 wasn't tried with --every 90"));
    assert!(said(86_400.0, 60.0).contains("--ttl 86400 wasn't tried"));
    assert!(said(120.0, 5_000.0).contains("--every 5000 wasn't tried"));
    assert!(
        advice
            .fits
            .iter()
            .any(|one| one.ttl > 120.0 && one.every.is_none()),
        "a longer TTL needs no warming"
    );
    let none = wish::advise(&trace, &world, 0.0, |_| {});
    assert!(none.fits.is_empty() && none.best > 0.0 && none.first > 0.0);
}

#[test]
fn what_is_had_ready_between_two_runs_the_later_one_has_less() {
    let trace = regular();
    let world = World {
        renewals: Renewals::None,
        allowed: Allowed::Run(Budget {
            inputs: 1,
            model_seconds: None,
            renewals: usize::MAX,
        }),
        ..World::new(10.0, vec![0.01; 5])
    };
    let warmed = |is_ahead: bool| {
        let mut state = State::new(&trace, &world, Policy::Everything);
        state.write(0, 0.0, 0.0);
        assert!(!is_ahead || state.refresh(1, 1.0), "as in a run before it");
        state.run(9.0);
        let after = state.refresh(2, 9.5);
        assert!(after, "what comes after the run is the next one's");
        state.outcome.warmed
    };
    assert_eq!((warmed(false), warmed(true)), (2, 2));
}
