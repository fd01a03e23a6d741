//! What made jobs slow: the stage whose time rose by the most, what works in it, and a worker that is slower than all others.
//!
//! Promises to name a cause only of what is measured. A rule, and no statistics: the table beside it has the figures.

use super::{p99, rounded};
use crate::telemetry::timings::{Kind, OTHERS, Part, Timings};
use serde::Serialize;
use utoipa::ToSchema;

/// By how much a percentile must have risen to be called so: percentiles are no finer than their buckets.
const RISEN: f64 = 1.5;
const RISEN_MS: f64 = 1.0;
/// How much slower than any other a worker is that is named.
const SLOWER: f64 = 2.0;

/// What stands out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct VerdictShown {
    /// Whether the 99th percentile of jobs rose by half and a millisecond at least.
    rose: bool,
    /// Of jobs, recently and before.
    recent_p99_ms: Option<f64>,
    before_p99_ms: Option<f64>,
    /// The stage that rose by the most, or that takes longest where jobs' percentile has not risen.
    stage: Option<CulpritShown>,
    /// What works in that stage and rose, or takes longest, in the same way: a model or a server.
    within: Option<CulpritShown>,
    /// The worker whose jobs take twice as long as on any other.
    worker: Option<CulpritShown>,
}

/// Something that stands out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CulpritShown {
    kind: &'static str,
    name: String,
    recent_p99_ms: Option<f64>,
    before_p99_ms: Option<f64>,
}

/// Compares the recent time with the one before.
pub(super) fn judge(before: &Timings, recent: &Timings) -> VerdictShown {
    let mut all = recent.clone();
    all.add_all(before);
    let both = |part: &Part| {
        let of = |timings: &Timings| timings.get(part).and_then(p99);
        (of(recent), of(before))
    };
    let jobs = all.iter().find(|(part, _)| part.kind == Kind::Job);
    let (now, was) = jobs.map(|(part, _)| both(part)).unwrap_or_default();
    let rose =
        matches!((now, was), (Some(now), Some(was)) if now >= was * RISEN && now - was >= RISEN_MS);
    let largest = |is_meant: &dyn Fn(&Part) -> bool| {
        let meant = all
            .iter()
            .map(|(part, _)| part)
            .filter(|part| is_meant(part));
        let measured = meant.filter_map(|part| {
            let (now, was) = both(part);
            let by = if rose {
                now? - was.unwrap_or_default()
            } else {
                now?
            };
            (by > 0.0).then_some((part, by))
        });
        let largest = measured.max_by(|(_, a), (_, b)| a.total_cmp(b));
        largest.map(|(part, _)| culprit(part, both(part)))
    };
    let stage = largest(&|part| part.kind == Kind::Stage);
    let within = stage.as_ref().and_then(|stage| {
        let within = within(&stage.name);
        largest(&|part| within(part) && part.name != OTHERS)
    });
    VerdictShown {
        rose,
        recent_p99_ms: rounded(now),
        before_p99_ms: rounded(was),
        stage,
        within,
        worker: slowest(recent).map(|part| culprit(part, both(part))),
    }
}

fn culprit(part: &Part, (now, was): (Option<f64>, Option<f64>)) -> CulpritShown {
    CulpritShown {
        kind: part.kind.as_str(),
        name: part.name.clone(),
        recent_p99_ms: rounded(now),
        before_p99_ms: rounded(was),
    }
}

/// What works in a stage.
fn within(stage: &str) -> impl Fn(&Part) -> bool {
    let (kind, beginnings): (Kind, &[&str]) = match stage {
        "look_up" => (Kind::Server, &["redis get"]),
        "score" => (Kind::Model, &[""]),
        "store" => (Kind::Server, &["postgres", "redis set"]),
        "settle" => (Kind::Server, &["broker"]),
        _ => (Kind::Server, &[]),
    };
    move |part| part.kind == kind && beginnings.iter().any(|one| part.name.starts_with(one))
}

/// The worker that is slower than every other one, if one is.
fn slowest(recent: &Timings) -> Option<&Part> {
    let is_one = |part: &Part| part.kind == Kind::Worker && part.name != OTHERS;
    let workers = recent.iter().filter(|(part, _)| is_one(part));
    let mut sorted: Vec<(&Part, f64)> = workers
        .filter_map(|(part, spread)| Some((part, p99(spread)?)))
        .collect();
    sorted.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    match sorted.as_slice() {
        [(slowest, longest), (_, next), ..] if *longest >= next * SLOWER => Some(slowest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::timings::tests::spread;

    fn timings(parts: &[(Kind, &str, f64)]) -> Timings {
        let mut timings = Timings::default();
        for (kind, name, ms) in parts {
            timings.add(&Part::new(*kind, *name), &spread(50, *ms));
        }
        timings
    }

    fn name(culprit: Option<&CulpritShown>) -> Option<&str> {
        culprit.map(|one| one.name.as_str())
    }

    #[test]
    fn what_rose_is_named_with_what_works_in_it() {
        let usual = [
            (Kind::Job, "jobs", 40.0),
            (Kind::Stage, "score", 30.0),
            (Kind::Stage, "store", 3.0),
            (Kind::Model, "ranker", 30.0),
            (Kind::Server, "postgres", 2.0),
            (Kind::Server, "redis set", 0.4),
            (Kind::Worker, "a", 40.0),
            (Kind::Worker, "b", 40.0),
        ];
        let before = timings(&usual);
        let mut slow = usual;
        slow[0].2 = 240.0;
        slow[2].2 = 220.0;
        slow[4].2 = 210.0;
        slow[6].2 = 240.0;
        let verdict = judge(&before, &timings(&slow));
        assert!(verdict.rose, "{verdict:?}");
        assert_eq!(name(verdict.stage.as_ref()), Some("store"));
        assert_eq!(name(verdict.within.as_ref()), Some("postgres"));
        assert_eq!(name(verdict.worker.as_ref()), Some("a"));
        // Nothing has changed: what takes longest is the score, and no worker stands out.
        let verdict = judge(&before, &before);
        assert!(!verdict.rose, "{verdict:?}");
        assert_eq!(name(verdict.stage.as_ref()), Some("score"));
        assert_eq!(name(verdict.within.as_ref()), Some("ranker"));
        assert_eq!(verdict.worker, None);
    }

    #[test]
    fn nothing_and_what_was_never_before_are_no_rise() {
        assert_eq!(
            judge(&Timings::default(), &Timings::default()),
            VerdictShown::default()
        );
        let first = timings(&[(Kind::Job, "jobs", 400.0), (Kind::Stage, "parse", 300.0)]);
        let verdict = judge(&Timings::default(), &first);
        assert!(!verdict.rose, "{verdict:?}");
        assert_eq!(name(verdict.stage.as_ref()), Some("parse"));
        assert_eq!(verdict.within, None);
        // A rise of less than a millisecond is none.
        let verdict = judge(
            &timings(&[(Kind::Job, "jobs", 0.2)]),
            &timings(&[(Kind::Job, "jobs", 0.9)]),
        );
        assert!(!verdict.rose, "{verdict:?}");
    }
}
