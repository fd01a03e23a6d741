//! Policies held against each other, their budget and the oracle.

use super::synthetic::{Make, Shape};
use super::*;

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
        ttl: 120.0,
        budget: 0.05,
        costs: vec![0.001; KEYS],
        round_trip: 0.003,
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
    let max = world.budget * 0.001 * trace.requests.len() as f64;
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
        keys: 1,
        length: 1_000.0,
        truth: None,
    };
    let world = World {
        ttl: 100.0,
        budget: 1.0,
        costs: vec![0.01],
        round_trip: 0.0,
    };
    let nothing = replay(&trace, &world, Policy::Nothing, |_| {});
    assert_eq!(nothing.waited, 10);
    assert!((nothing.waiting - 0.1).abs() < 1e-9);
    let heat = replay(&trace, &world, Policy::Heat, |_| {});
    assert_eq!(heat.waited, 1, "only the very first");
    assert!(heat.saved_per_second(&nothing) > 0.8);
}
