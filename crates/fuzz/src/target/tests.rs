//! The loop itself: as many runs as were asked for, what fails made small, memory counted.

use super::*;
use std::cell::RefCell;

/// The inputs of a target's runs.
fn inputs(target: Target) -> Vec<Vec<u8>> {
    let seen = RefCell::new(Vec::new());
    target.run(|case| {
        let bytes = case.bytes();
        case.saw(&format!("{}", bytes.len() / 16));
        seen.borrow_mut().push(bytes.to_vec());
    });
    seen.into_inner()
}

/// What a target says that fails.
fn failure(target: Target, test: impl Fn(&mut Case<'_>)) -> String {
    let failed = catch_unwind(AssertUnwindSafe(|| target.run(test)));
    said(failed.expect_err("it fails").as_ref())
}

#[test]
fn runs_are_as_many_as_said_and_the_same_ones_again() {
    let target = || Target::new("own_runs").runs(5_000).seeds(&[b"{\"a\": 12}"]);
    let first = inputs(target());
    assert_eq!(first, inputs(target()));
    let runs = if cfg!(debug_assertions) { 500 } else { 5_000 };
    assert_eq!(first.len(), runs);
    assert_eq!(first[0], b"{\"a\": 12}");
    assert!(first.iter().all(|input| input.len() <= MAX_BYTES));
}

#[test]
fn what_fails_is_made_small_and_named() {
    let said = failure(Target::new("own_failure").runs(200_000), |case| {
        assert!(!case.bytes().contains(&7), "a seven");
    });
    assert!(
        said.starts_with("fuzz own_failure: a seven\n1 bytes in "),
        "{said}"
    );
    assert!(said.ends_with("\\u{7}"), "{said}");
}

#[test]
fn memory_is_bounded_by_what_is_read() {
    let greedy = |case: &mut Case<'_>| {
        let bytes = case.bytes();
        case.bounded(bytes.len(), || vec![0u8; bytes.len() * 100]);
    };
    Target::new("own_memory").memory(0, 100).run(greedy);
    let said = failure(Target::new("own_greed").memory(0, 99), greedy);
    assert!(said.contains("bytes at once for"), "{said}");
}

#[test]
fn a_refusal_is_fit_to_be_shown() {
    for text in ["", "a\nb", &"x".repeat(2_000)] {
        let said = failure(Target::new("own_refusal"), |case| case.refused(text));
        assert!(said.contains("refus"), "{said}");
    }
}
