//! Decides how much of a run may be posted at a time, so that it ends when its budget does, whatever was expected. Pure.
//!
//! Where model time is bounded, nothing more is posted before all that was has told what it took. Portions begin with a single job and grow as
//! much as all before them together: what a run spends beyond its budget is no more than one portion. What is left of the budget is then given
//! out in halves, by what inputs have cost so far, so that the last portions are small. What is only to be renewed may have to be computed after
//! all, where its score is lost or invalidated meanwhile: a portion is no larger than what is left of the budget even then, but for a single job.

use crate::store::{Outlay, Post, Progress};

/// Part of what is left of the budget that one portion is expected to take.
const HALF: f64 = 0.5;

/// What follows for a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Portion {
    /// So many of the next jobs are posted.
    Post(usize),
    /// What was posted is to be done first.
    Wait,
    /// Nothing more is posted, and why.
    Stop(String),
}

/// What follows for a run with these jobs to post next, of which there is at least one.
pub(super) fn next(outlay: &Outlay, progress: &Progress, posts: &[Post]) -> Portion {
    if let Some(why) = is_over(outlay, progress, posts.first()) {
        return Portion::Stop(why);
    }
    let under_way = outlay.posted_pieces - progress.jobs;
    let Some(budget) = outlay.seconds else {
        return unmeasured(outlay, progress, posts);
    };
    if under_way > 0 {
        return Portion::Wait;
    }
    let mut left = (budget - progress.model_seconds) * HALF;
    let factor = factor(outlay, progress);
    // What was to be renewed and was computed after all isn't trusted to go on as planned.
    let as_planned = progress.misses <= outlay.posted_computes;
    let mut renewals = if as_planned {
        outlay.posted_pieces.max(1)
    } else {
        1
    };
    let mut computes = outlay.posted_computes;
    // Should all be computed that is only to be renewed.
    let mut at_worst = (
        outlay.inputs.map_or(i64::MAX, |all| all - progress.misses),
        budget - progress.model_seconds,
    );
    let fits = posts.iter().take_while(|post| {
        at_worst.0 -= i64::from(post.inputs);
        at_worst.1 -= post.full_seconds.max(post.model_seconds) * factor;
        if at_worst.0 < 0 || at_worst.1 < 0.0 {
            return false;
        }
        if post.computes == 0 {
            renewals -= 1;
            return renewals >= 0;
        }
        computes -= i64::from(post.computes);
        left -= post.model_seconds * factor;
        computes >= 0 && left >= 0.0
    });
    Portion::Post(fits.count().max(1))
}

/// Without a bound of model time everything is posted that there is room for, as long as the inputs last that the model may compute.
fn unmeasured(outlay: &Outlay, progress: &Progress, posts: &[Post]) -> Portion {
    let Some(inputs) = outlay.inputs else {
        return Portion::Post(posts.len());
    };
    // Should all be computed that is only to be renewed.
    let under_way = outlay.posted - progress.hits - progress.misses;
    let mut left = inputs - progress.misses - under_way.max(0);
    let fits = posts.iter().take_while(|post| {
        left -= i64::from(post.inputs);
        left >= 0
    });
    match fits.count() {
        0 if outlay.posted_pieces > progress.jobs => Portion::Wait,
        count => Portion::Post(count.max(1)),
    }
}

/// Why a run is to stop before this job; nothing where it isn't.
fn is_over(outlay: &Outlay, progress: &Progress, next: Option<&Post>) -> Option<String> {
    let (computed, spent) = (progress.misses, progress.model_seconds);
    let asks = next.map_or(0, |next| i64::from(next.computes));
    if let Some(inputs) = outlay.inputs
        && (computed > inputs || (asks > 0 && computed + asks > inputs))
    {
        return Some(format!(
            "stopped at its budget: the model computed {computed} of {inputs} inputs"
        ));
    }
    let budget = outlay.seconds?;
    let takes = next.map_or(0.0, |next| next.model_seconds) * factor(outlay, progress);
    // Before anything was computed nobody knows what it takes.
    let is_too_much = asks > 0 && computed > 0 && spent + takes > budget;
    if spent < budget && !is_too_much {
        return None;
    }
    let mut why =
        format!("stopped at its budget: {spent:.3} of {budget:.3} model seconds are spent");
    if spent < budget {
        why += &format!(", and the next {asks} inputs would take {takes:.3}");
    }
    Some(why)
}

/// How many times as long as expected things have taken so far.
fn factor(outlay: &Outlay, progress: &Progress) -> f64 {
    let (spent, expected) = (progress.model_seconds, outlay.posted_seconds);
    if spent > 0.0 && expected > 0.0 {
        spent / expected
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn post(inputs: i32, computes: i32, seconds: f64) -> Post {
        Post {
            piece: 0,
            inputs,
            computes,
            model_seconds: seconds,
            full_seconds: seconds,
            bytes: 0,
        }
    }

    /// What a run of these jobs comes to: inputs posted, inputs computed, model time, the longest portion's, rounds, and why it stopped.
    #[derive(Debug, Default)]
    struct Ran {
        posted: i64,
        computed: i64,
        seconds: f64,
        portion: f64,
        rounds: usize,
        why: Option<String>,
    }

    /// Carries a run to its end where `truly` says of each job how many inputs it computes and how long that takes.
    fn carry(
        (inputs, seconds): (i64, Option<f64>),
        mut posts: Vec<Post>,
        truly: impl Fn(&Post) -> (i64, f64),
    ) -> Ran {
        let mut outlay = Outlay {
            inputs: Some(inputs),
            seconds,
            ..Outlay::default()
        };
        let (mut progress, mut ran) = (Progress::default(), Ran::default());
        while !posts.is_empty() {
            ran.rounds += 1;
            match next(&outlay, &progress, &posts[..posts.len().min(128)]) {
                Portion::Post(count) => {
                    assert!(count > 0, "it goes on");
                    let before = progress.model_seconds;
                    for post in posts.drain(..count) {
                        outlay.posted += i64::from(post.inputs);
                        outlay.posted_pieces += 1;
                        outlay.posted_computes += i64::from(post.computes);
                        outlay.posted_seconds += post.model_seconds;
                        let (computes, seconds) = truly(&post);
                        progress.jobs += 1;
                        progress.misses += computes;
                        progress.hits += i64::from(post.inputs) - computes;
                        progress.model_seconds += seconds;
                    }
                    ran.portion = ran.portion.max(progress.model_seconds - before);
                }
                Portion::Wait => panic!("everything is done"),
                Portion::Stop(why) => {
                    ran.why = Some(why);
                    break;
                }
            }
        }
        ran.posted = outlay.posted;
        ran.computed = progress.misses;
        ran.seconds = progress.model_seconds;
        ran
    }

    #[test]
    fn a_guess_that_is_far_off_costs_no_more_than_one_portion() {
        // Each input is taken for a millisecond, and takes seventy.
        let posts: Vec<Post> = (0..499).map(|_| post(1, 1, 0.001)).collect();
        let ran = carry((100_000, Some(0.5)), posts, |_| (1, 0.07));
        assert!(ran.seconds <= 0.5 && ran.computed >= 5, "{ran:?}");
        let why = ran.why.expect("it stopped");
        assert!(why.contains("of 0.500 model seconds"), "{why}");
    }

    #[test]
    fn a_good_guess_is_spent_in_a_few_portions() {
        let posts: Vec<Post> = (0..30).map(|_| post(10, 10, 0.1)).collect();
        let ran = carry((100_000, Some(2.0)), posts, |post| (10, post.model_seconds));
        assert!(ran.seconds > 1.85 && ran.seconds <= 2.0 + 1e-9, "{ran:?}");
        assert!(ran.rounds < 20, "{ran:?}");
        let few: Vec<Post> = (0..15).map(|_| post(10, 10, 0.1)).collect();
        let ran = carry((100_000, Some(2.0)), few, |post| (10, post.model_seconds));
        assert_eq!((ran.posted, ran.why), (150, None));
    }

    #[test]
    fn renewals_take_few_portions_and_stop_where_they_are_computed_after_all() {
        let posts: Vec<Post> = (0..1_000).map(|_| post(64, 0, 0.0)).collect();
        let ran = carry((10_000, Some(0.5)), posts.clone(), |_| (0, 0.0));
        assert_eq!((ran.posted, ran.why.as_ref()), (64_000, None));
        assert!(ran.rounds < 20, "{ran:?}");
        let ran = carry((100_000, Some(0.5)), posts.clone(), |_| (64, 0.3));
        assert_eq!((ran.posted, ran.why.is_some()), (128, true), "{ran:?}");
        let ran = carry((10, None), posts, |_| (64, 0.3));
        assert_eq!((ran.posted, ran.why.is_some()), (64, true), "{ran:?}");
    }

    #[test]
    fn renewals_that_are_computed_after_all_keep_both_budgets_but_for_one_job() {
        let posts: Vec<Post> = (0..1_000)
            .map(|_| Post {
                full_seconds: 10.0 * 0.07,
                ..post(10, 0, 0.0)
            })
            .collect();
        // However long renewing went well: the scores are lost after so many jobs.
        let lost = |after: i64| {
            let seen = std::cell::Cell::new(0);
            move |post: &Post| {
                seen.set(seen.get() + 1);
                let inputs = i64::from(post.inputs);
                if seen.get() > after {
                    (inputs, 0.07 * inputs as f64)
                } else {
                    (0, 0.0)
                }
            }
        };
        for after in [0, 1, 100, 500] {
            let ran = carry((100_000, Some(5.0)), posts.clone(), lost(after));
            assert!(ran.seconds <= 5.0 + 0.7 && ran.why.is_some(), "{ran:?}");
            let ran = carry((50, Some(1_000.0)), posts.clone(), lost(after));
            assert!(ran.computed <= 50 + 10 && ran.why.is_some(), "{ran:?}");
        }
        let ran = carry((50, Some(5.0)), posts, lost(1_000));
        assert_eq!((ran.posted, ran.why), (10_000, None));
    }

    #[test]
    fn without_a_bound_of_model_time_what_is_under_way_holds_back_nothing() {
        let posts: Vec<Post> = (0..10).map(|_| post(64, 64, 1.0)).collect();
        let outlay = Outlay {
            inputs: Some(100_000),
            posted: 640,
            posted_pieces: 10,
            posted_computes: 640,
            ..Outlay::default()
        };
        let none = Progress::default();
        assert_eq!(next(&outlay, &none, &posts), Portion::Post(10));
        let few = Outlay {
            inputs: Some(700),
            ..outlay
        };
        assert_eq!(next(&few, &none, &posts), Portion::Wait);
        let old = Outlay::default();
        assert_eq!(next(&old, &none, &posts), Portion::Post(10));
        let bounded = Outlay {
            seconds: Some(1.0),
            ..outlay
        };
        assert_eq!(next(&bounded, &none, &posts), Portion::Wait);
    }

    proptest! {
        #[test]
        fn a_run_spends_at_most_its_budget_and_one_portion(
            jobs in prop::collection::vec((1i32..64, any::<bool>(), 0.0f64..0.2, 0.0f64..2.0), 0..200),
            inputs in 1i64..10_000,
            seconds in prop::option::of(0.01f64..5.0),
        ) {
            let truth: Vec<f64> = jobs.iter().map(|(.., truth)| *truth).collect();
            let posts: Vec<Post> = (0..).zip(&jobs).map(|(piece, (inputs, computes, expected, _))| {
                let computes = if *computes { *inputs } else { 0 };
                Post { piece, ..post(*inputs, computes, if computes > 0 { *expected } else { 0.0 }) }
            }).collect();
            let planned: i64 = posts.iter().map(|post| i64::from(post.computes)).sum();
            let ran = carry((inputs, seconds), posts, |post| {
                let took = if post.computes > 0 { truth[post.piece as usize] } else { 0.0 };
                (i64::from(post.computes), took)
            });
            prop_assert!(ran.computed <= inputs);
            if let Some(budget) = seconds {
                prop_assert!(ran.seconds <= budget + ran.portion + 1e-9);
            }
            prop_assert!(ran.why.is_some() || ran.computed == planned);
        }
    }
}
