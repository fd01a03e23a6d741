//! Seeds: a fixed number of them, one that is named, or as many as there is time for; and each promise broken on purpose.

use super::{Run, node::Shared, run};
use crate::simulated::Mutation;
use std::time::{Duration, Instant};

/// Seeds of an ordinary run of the tests.
const SEEDS: u64 = 600;
/// Seeds among which one must notice what is broken.
const SEEDS_FOR_A_MUTATION: u64 = 400;
/// Seeds that found a fault, which is mended.
const FOUND: [u64; 2] = [
    // The runtime ended while jobs waited: what was to take them was dropped with their queue's lock held, and wanted that.
    1,
    // A job was delivered twice at once, and Redis heard of the later delivery first: its two words had two ages.
    5_003_852,
];
/// A seed to be run alone, with all that happens.
const SEED: &str = "KILN_SIMULATION_SEED";
/// The first seed, and for how long further ones are run.
const FROM: &str = "KILN_SIMULATION_FROM";
const SECONDS: &str = "KILN_SIMULATION_SECONDS";

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a whole number"))
}

fn fail(seed: u64, run: &Run) -> ! {
    let last = run.lines.len().saturating_sub(60);
    panic!(
        "seed {seed}:\n{}\n\n{}\n\nall of it: {SEED}={seed} cargo test --release --features faults --lib simulation::tests::seeds -- --nocapture",
        run.problems.join("\n"),
        run.lines[last..].join("\n")
    );
}

#[test]
fn seeds() {
    let shared = Shared::open();
    if let Some(seed) = setting(SEED) {
        let run = run(&shared, seed, None);
        eprintln!("{}", run.lines.join("\n"));
        assert!(run.problems.is_empty(), "{:#?}", run.problems);
        return;
    }
    for seed in FOUND {
        let run = run(&shared, seed, None);
        if !run.problems.is_empty() {
            fail(seed, &run);
        }
    }
    let (from, begun) = (setting(FROM).unwrap_or_default(), Instant::now());
    let time = setting(SECONDS).map(Duration::from_secs);
    let is_over = |count| match time {
        Some(time) => begun.elapsed() >= time,
        None => count >= SEEDS,
    };
    let mut count = 0;
    while !is_over(count) {
        let run = run(&shared, from + count, None);
        if !run.problems.is_empty() {
            fail(from + count, &run);
        }
        count += 1;
    }
    let a_minute = count as f64 * 60.0 / begun.elapsed().as_secs_f64();
    eprintln!("simulation: {count} seeds from {from}, {a_minute:.0} a minute");
}

#[test]
fn a_seed_goes_the_same_way_again() {
    let shared = Shared::open();
    for seed in 0..60 {
        let (first, second) = (run(&shared, seed, None), run(&shared, seed, None));
        let differ = first
            .lines
            .iter()
            .zip(&second.lines)
            .position(|(a, b)| a != b);
        let at = differ.map(|at| (&first.lines[at], &second.lines[at]));
        assert_eq!(first.digest, second.digest, "seed {seed}: {at:?}");
    }
}

/// Whether a seed notices what is broken, in words that say what.
fn notices(mutation: Mutation, words: &[&str]) {
    let shared = Shared::open();
    for seed in 0..SEEDS_FOR_A_MUTATION {
        let problems = run(&shared, seed, Some(mutation)).problems;
        let is_it = |problem: &String| words.iter().any(|word| problem.contains(word));
        if problems.iter().any(is_it) {
            eprintln!("{mutation:?} is noticed by seed {seed}");
            return;
        }
    }
    panic!("no seed notices {mutation:?}");
}

#[test]
fn a_frame_that_is_sent_twice_is_noticed() {
    notices(Mutation::SettlesTwice, &["or settled already"]);
}

#[test]
fn an_acknowledgement_beside_what_follows_is_noticed() {
    notices(Mutation::AcknowledgesFirst, &["acknowledged, done"]);
}

#[test]
fn a_job_without_its_row_is_noticed() {
    notices(Mutation::SkipsRows, &["no row of it"]);
}

#[test]
fn an_older_word_over_a_newer_one_is_noticed() {
    notices(Mutation::ForgetsAcceptance, &["which is newer"]);
}

#[test]
fn a_repeat_with_a_result_of_its_own_is_noticed() {
    notices(Mutation::AnswersAnew, &["isn't its row"]);
}

#[test]
fn bytes_that_stay_in_hand_are_noticed() {
    notices(Mutation::LeaksBytes, &["bytes are in hand"]);
}

#[test]
fn a_waiter_that_nobody_wakes_is_noticed() {
    notices(
        Mutation::LosesWaiters,
        &["not everything ended", "nobody wakes"],
    );
}

#[test]
fn the_result_of_another_input_is_noticed() {
    notices(Mutation::SwapsRows, &[" of Input"]);
}
