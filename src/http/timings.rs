//! `/v1/timings`: how long jobs, stages, models, servers and workers took within the last hours, on all workers, and what stands out.
//!
//! Promises that however many pages look, the database is asked once for each range and half a minute, by one at a time.

mod verdict;

use super::{
    Shared,
    auth::Reader,
    extract::Params,
    problem::Problem,
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::{
    clock::{self, rfc3339},
    store::{SLOT_SECONDS, TimingRow},
    telemetry::timings::{Kind, Part, Spread, Timings},
};
use axum::{
    body::Bytes,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};
use verdict::VerdictShown;

/// The ranges that may be asked for, in hours, each with the slots of one of its steps.
const RANGES: [(u32, i64); 3] = [(1, 1), (6, 1), (24, 3)];
/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(30);
/// What counts as recent, in seconds; the step of now is among that, however short it is yet.
const RECENT_SECONDS: i64 = 900;

/// An answer as it is sent, and when it was made; none where it couldn't be.
type Kept = Option<(Instant, Option<Bytes>)>;

/// The last answer for each range.
#[derive(Default)]
pub(super) struct KeptTimings([Arc<Mutex<Kept>>; RANGES.len()]);

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TimingsWanted {
    /// Hours to look back: 1, 6 or 24; default 1.
    hours: Option<u32>,
}

/// How long everything took.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TimingsShown {
    /// When it was read; it is read again after half a minute.
    at: String,
    /// Seconds of a step: 300, or 900 of a day.
    step_seconds: i64,
    /// When each step began, the last one that of now.
    steps: Vec<String>,
    /// False where there are more rows than are read: the earliest are missing.
    is_whole: bool,
    /// What stands out.
    verdict: VerdictShown,
    /// Jobs as a whole, then stages, models, servers and workers, by kind and name.
    parts: Vec<TimedShown>,
}

/// How long one thing took. Percentiles are interpolated within a histogram's buckets (`docs/metrics.md` lists them).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TimedShown {
    /// `job`, `stage` (a batch's time in it), `model` (its passes), `server` (its answers) or `worker` (its jobs).
    kind: &'static str,
    /// Its name; `(others)` stands for what there is no room for.
    name: String,
    calls: u64,
    /// Altogether.
    seconds: f64,
    mean_ms: Option<f64>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// The 99th percentile of the last 10 to 30 minutes, and that of the time before; null where there was nothing.
    recent_p99_ms: Option<f64>,
    before_p99_ms: Option<f64>,
    /// Of each step.
    calls_by_step: Vec<u64>,
    mean_ms_by_step: Vec<Option<f64>>,
    p99_ms_by_step: Vec<Option<f64>>,
}

/// All rows of a range, added up.
struct History {
    from: DateTime<Utc>,
    step_seconds: i64,
    steps: Vec<Timings>,
}

impl History {
    /// An empty one that ends now.
    fn new(hours: u32, slots: i64, now: DateTime<Utc>) -> Self {
        let step_seconds = slots * SLOT_SECONDS;
        let count = i64::from(hours) * 3600 / step_seconds;
        let now = now.timestamp() - now.timestamp().rem_euclid(step_seconds);
        let from = now - (count - 1) * step_seconds;
        Self {
            from: DateTime::from_timestamp(from, 0).unwrap_or_default(),
            step_seconds,
            steps: vec![Timings::default(); usize::try_from(count).unwrap_or_default()],
        }
    }

    /// When a step begins.
    fn at(&self, step: usize) -> DateTime<Utc> {
        let step = i64::try_from(step).unwrap_or_default();
        self.from + TimeDelta::seconds(step * self.step_seconds)
    }

    /// Adds a row; the jobs of a worker are a part as well.
    fn add(&mut self, row: &TimingRow) {
        let step = (row.slot - self.from)
            .num_seconds()
            .div_euclid(self.step_seconds);
        let step = usize::try_from(step).ok();
        let Some(sum) = step.and_then(|step| self.steps.get_mut(step)) else {
            return;
        };
        sum.add_all(&row.timings);
        let jobs = row.timings.iter().find(|(part, _)| part.kind == Kind::Job);
        if let Some((_, spread)) = jobs {
            sum.add(&Part::new(Kind::Worker, row.worker.as_str()), spread);
        }
    }

    /// The newest first: where there are too many names, those that go on keep theirs.
    fn sum(steps: &[Timings]) -> Timings {
        let mut sum = Timings::default();
        steps.iter().rev().for_each(|step| sum.add_all(step));
        sum
    }

    fn shown(&self, is_whole: bool, now: DateTime<Utc>) -> TimingsShown {
        let recent = 1 + (RECENT_SECONDS - 1) / self.step_seconds;
        let recent = usize::try_from(recent).unwrap_or_default().max(2);
        let (before, recent) = self.steps.split_at(self.steps.len().saturating_sub(recent));
        let (before, recent) = (Self::sum(before), Self::sum(recent));
        let mut all = recent.clone();
        all.add_all(&before);
        let all = &all;
        let parts = all.iter().map(|(part, spread)| {
            let of_step = |step: &Timings| step.of(part, all).unwrap_or_default();
            let by_step = |of: fn(&Spread) -> Option<f64>| {
                let steps = self.steps.iter();
                steps.map(|step| rounded(of(&of_step(step)))).collect()
            };
            TimedShown {
                kind: part.kind.as_str(),
                name: part.name.clone(),
                calls: spread.calls,
                seconds: (spread.seconds * 1e3).round() / 1e3,
                mean_ms: rounded(spread.mean_ms()),
                p50_ms: rounded(spread.percentile_ms(0.5)),
                p99_ms: rounded(p99(spread)),
                recent_p99_ms: rounded(recent.of(part, all).as_ref().and_then(p99)),
                before_p99_ms: rounded(before.of(part, all).as_ref().and_then(p99)),
                calls_by_step: self.steps.iter().map(|step| of_step(step).calls).collect(),
                mean_ms_by_step: by_step(Spread::mean_ms),
                p99_ms_by_step: by_step(p99),
            }
        });
        TimingsShown {
            at: rfc3339(now),
            step_seconds: self.step_seconds,
            steps: (0..self.steps.len()).map(|i| rfc3339(self.at(i))).collect(),
            is_whole,
            verdict: verdict::judge(&before, &recent),
            parts: parts.collect(),
        }
    }
}

fn p99(spread: &Spread) -> Option<f64> {
    spread.percentile_ms(0.99)
}

/// To a thousandth of a millisecond.
fn rounded(ms: Option<f64>) -> Option<f64> {
    ms.map(|ms| (ms * 1e3).round() / 1e3)
}

/// Shows how long jobs, stages, models, servers and workers took on all workers, by steps of five minutes (of a quarter of an hour, of a day), and
/// which of them stands out. Workers note it once a minute; it is kept for a day.
#[utoipa::path(get, path = "/v1/timings", tag = "worker", security(("key" = [])), params(TimingsWanted),
    responses((status = 200, body = TimingsShown), Guarded, BadRequest, Unavailable))]
pub(super) async fn timings(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(wanted): Params<TimingsWanted>,
) -> Result<Response, Problem> {
    let hours = wanted.hours.unwrap_or(1);
    let range = RANGES.iter().zip(&shared.timings.0);
    let range = range.into_iter().find(|((known, _), _)| *known == hours);
    let Some((&(_, slots), kept)) = range else {
        return Err(Problem::invalid("hours", "expected 1, 6 or 24"));
    };
    let state = shared.state()?;
    let mut kept = kept.clone().lock_owned().await;
    if let Some((at, shown)) = &*kept
        && at.elapsed() < FRESH
    {
        // A reading that failed isn't tried again by everybody who waited for it.
        let failed = || Problem::unavailable("the database didn't tell a moment ago");
        return shown.clone().map(json).ok_or_else(failed);
    }
    let now = clock::now();
    let store = state.store.clone();
    let read = state.look(async move {
        let mut history = History::new(hours, slots, now);
        let (from, to) = (history.from, history.at(history.steps.len()));
        let read = store.read_timings(from, to, |row| history.add(&row)).await;
        let shown = read.map(|is_whole| {
            let shown = serde_json::to_vec(&history.shown(is_whole, now));
            // Numbers and texts are always JSON.
            Bytes::from(shown.unwrap_or_default())
        });
        // It is kept whoever still waits for it.
        *kept = Some((Instant::now(), shown.as_ref().ok().cloned()));
        shown
    });
    let shown = read.await?;
    shown
        .map(json)
        .map_err(|error| Problem::unavailable(format!("postgres: {error}")))
}

fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::timings::tests::spread;

    fn row(slot: DateTime<Utc>, worker: &str, calls: u64, ms: f64) -> TimingRow {
        let mut timings = Timings::default();
        timings.add(&Part::new(Kind::Job, "jobs"), &spread(calls, ms));
        timings.add(&Part::new(Kind::Stage, "store"), &spread(calls, ms / 2.0));
        TimingRow {
            slot,
            worker: worker.to_owned(),
            timings,
        }
    }

    #[test]
    fn a_range_ends_now_and_rows_of_all_workers_are_added_where_they_belong() {
        let now = DateTime::from_timestamp(1_000_000_123, 0).expect("a moment");
        for ((hours, slots), (count, step)) in
            RANGES.into_iter().zip([(12, 300), (72, 300), (96, 900)])
        {
            let mut history = History::new(hours, slots, now);
            assert_eq!((history.steps.len(), history.step_seconds), (count, step));
            let (first, last) = (history.from, history.at(count - 1));
            assert!(last <= now && now < history.at(count), "{last}");
            history.add(&row(first, "a", 5, 4.0));
            history.add(&row(last, "a", 3, 4.0));
            history.add(&row(last, "b", 2, 90.0));
            history.add(&row(first - TimeDelta::seconds(1), "a", 100, 4.0));
            history.add(&row(history.at(count), "a", 100, 4.0));
            let shown = history.shown(true, now);
            let named: Vec<_> = shown
                .parts
                .iter()
                .map(|p| (p.kind, p.name.as_str(), p.calls))
                .collect();
            let expected = [
                ("job", "jobs", 10),
                ("stage", "store", 10),
                ("worker", "a", 8),
                ("worker", "b", 2),
            ];
            assert_eq!(named, expected);
            let jobs = shown.parts.first().expect("jobs");
            assert_eq!(jobs.calls_by_step.first(), Some(&5));
            assert_eq!(jobs.calls_by_step.last(), Some(&5));
            assert_eq!(jobs.p99_ms_by_step.get(1), Some(&None));
            assert!(
                jobs.before_p99_ms < Some(5.0) && jobs.recent_p99_ms > Some(50.0),
                "{jobs:?}"
            );
        }
    }

    #[test]
    fn a_flood_of_workers_is_bounded() {
        let now = DateTime::from_timestamp(1_000_000_123, 0).expect("a moment");
        let mut history = History::new(1, 1, now);
        for n in 0..20_000 {
            history.add(&row(history.from, &format!("w{n}"), 1, 4.0));
        }
        let shown = history.shown(true, now);
        assert!(shown.parts.len() < 70, "{}", shown.parts.len());
        assert_eq!(shown.parts.first().map(|part| part.calls), Some(20_000));
    }
}
