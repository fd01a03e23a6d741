//! What waits in a lane: who gets which row, who leaves when, and that nothing is left behind.

use super::*;
use crate::{
    cache::Space,
    pipeline::{
        index::IndexVec,
        lane::take::BatchLimits,
        owned::JobRows,
        retention::Retention,
        source::{Ended, JobOwner, JobSource},
    },
};
use kiln_contract::{entry::Seal, job::Job, key::hash_text};
use kiln_model::{Model, ModelSettings, Registry};
use proptest::prelude::*;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::oneshot::Receiver;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
const LIMITS: BatchLimits = BatchLimits {
    rows: 64,
    tokens: 1 << 20,
    seconds: 1e9,
};

pub(in crate::pipeline::lane) fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(open).clone()
}

fn open() -> Arc<Model> {
    let settings = ModelSettings {
        dir: SHIPPED.into(),
        threads: 1,
        ..ModelSettings::default()
    };
    let registry = Registry::open(&settings).expect("models");
    registry.resolve("sentiment").expect("a model")
}

/// A job of these texts, and who waits for it.
pub(in crate::pipeline::lane) fn job(
    model: &Arc<Model>,
    id: &str,
    texts: &[&str],
) -> (OwnedJob, Receiver<Ended>) {
    let body = body(id, texts);
    let (source, ended) = JobSource::awaited(body.clone(), None);
    (owned(model, source, &body, texts), ended)
}

fn body(id: &str, texts: &[&str]) -> Vec<u8> {
    let inputs: Vec<_> = texts
        .iter()
        .map(|text| serde_json::json!({"text": text}))
        .collect();
    let body =
        serde_json::json!({"job_id": id, "model": "sentiment", "namespace": id, "inputs": inputs});
    body.to_string().into_bytes()
}

fn owned(model: &Arc<Model>, source: JobSource, body: &[u8], texts: &[&str]) -> OwnedJob {
    let mut slots: IndexVec<SlotIndex, JobSlot> = IndexVec::default();
    let mut inputs = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let input = hash_text(&model.normalise(text), None);
        let known = slots.position(|slot| slot.input == input);
        inputs.push(Some(known.unwrap_or_else(|| {
            slots.push(JobSlot {
                input,
                number,
                is_split: false,
                is_first: true,
                found: None,
                keeps: Retention::default(),
                ttl_seconds: 60,
                min_stamp: 0,
                seal: Seal::default(),
            })
        })));
    }
    let width = model.info().output_width;
    OwnedJob {
        source,
        repeats: Vec::new(),
        rows: JobRows {
            job: Job::parse(body, None).expect("a job").into_owned(),
            model: model.clone(),
            space: Arc::new(Space::new(model.info())),
            split: None,
            body_sha256: [0; 32],
            ttl_seconds: 60,
            inputs,
            rows: vec![0.0; width * slots.len()],
            slots,
            stamp: 0,
        },
        begun: Instant::now(),
        looked_up: Duration::ZERO,
    }
}

pub(in crate::pipeline::lane) fn job_of(left: &Left) -> &OwnedJob {
    match left {
        Left::Scored(job) | Left::Failed(job, ..) | Left::Expired(job) | Left::Abandoned(job) => {
            job
        }
    }
}

fn enter(state: &mut State, job: OwnedJob) {
    state.enter(job, Share::default, Instant::now());
}

fn take(state: &mut State, left: &mut Vec<Left>) -> Vec<Taken> {
    let batch = state.take(LIMITS, true, Instant::now(), left);
    batch.map(|batch| batch.taken).unwrap_or_default()
}

fn scored_in_no_time(is_stored: bool) -> How {
    How::Scored {
        is_stored,
        nanos: 0,
    }
}

fn land(state: &mut State, taken: &[Taken], left: &mut Vec<Left>) {
    let how = scored_in_no_time(false);
    for one in taken {
        let row = vec![f32::from(one.input[0]); model().info().output_width];
        state.land(one, &row, how, left);
    }
}

fn assert_empty(state: &State) {
    assert_eq!((state.jobs.len(), state.slots.len()), (0, 0));
    assert!(state.by_key.is_empty() && state.by_namespace.is_empty());
    assert_eq!(
        (state.load(), state.unlimited()),
        (Load::default(), Load::default())
    );
}

#[test]
fn an_input_that_two_jobs_ask_for_is_scored_once_and_counted_for_the_first() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let (one, _one) = job(&model, "one", &["a", "b", "a"]);
    let (two, _two) = job(&model, "two", &["b", "c"]);
    enter(&mut state, one);
    enter(&mut state, two);
    let taken = take(&mut state, &mut left);
    assert_eq!(taken.len(), 3);
    assert_eq!(state.rows(&taken).len(), 3);
    land(&mut state, &taken, &mut left);
    let scored = |id: &str| {
        let job = left
            .iter()
            .map(job_of)
            .find(|job| job.rows.job.job_id == id);
        let slots = job.expect("it left").rows.slots.iter();
        let scored = |slot: &&JobSlot| matches!(slot.found, Some(How::Scored { .. }));
        slots.filter(scored).count()
    };
    assert_eq!((left.len(), scored("one"), scored("two")), (2, 2, 1));
    for job in left.iter().map(job_of) {
        for (index, slot) in job.rows.slots.enumerate() {
            let row = job.rows.row(index).expect("a row");
            assert_eq!(row[0], f32::from(slot.input[0]), "its own row");
        }
    }
    assert_empty(&state);
}

#[test]
fn a_job_that_joins_while_its_input_is_scored_gets_the_row() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let (one, _one) = job(&model, "one", &["a"]);
    let (two, _two) = job(&model, "two", &["a"]);
    enter(&mut state, one);
    let taken = take(&mut state, &mut left);
    enter(&mut state, two);
    assert!(
        take(&mut state, &mut left).is_empty(),
        "nothing is scored twice"
    );
    land(&mut state, &taken, &mut left);
    assert_eq!(left.len(), 2);
    assert_empty(&state);
}

#[test]
fn those_who_went_away_leave_at_once_and_what_others_wait_for_stays() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let (gone, ended) = job(&model, "gone", &["a", "b"]);
    let (other, _other) = job(&model, "other", &["b"]);
    enter(&mut state, gone);
    enter(&mut state, other);
    assert!(state.abandoned().is_empty());
    drop(ended);
    assert!(matches!(state.abandoned()[..], [Left::Abandoned(_)]));
    assert_eq!((state.jobs.len(), state.slots.len()), (1, 1));
    let taken = take(&mut state, &mut left);
    land(&mut state, &taken, &mut left);
    assert!(matches!(left[..], [Left::Scored(_)]));
    assert_empty(&state);
}

#[test]
fn what_nobody_waits_for_is_not_scored_but_what_another_waits_for_is() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let (gone, waits) = job(&model, "gone", &["a", "b"]);
    let (stays, _stays) = job(&model, "stays", &["b"]);
    enter(&mut state, gone);
    enter(&mut state, stays);
    drop(waits);
    let taken = take(&mut state, &mut left);
    assert_eq!(taken.len(), 1);
    land(&mut state, &taken, &mut left);
    let names: Vec<&str> = left
        .iter()
        .map(|left| &*job_of(left).rows.job.job_id)
        .collect();
    assert_eq!(names, ["gone", "stays"]);
    assert!(matches!(left[0], Left::Abandoned(_)) && matches!(left[1], Left::Scored(_)));
    assert_empty(&state);
}

/// Who goes away while a batch is being cut.
struct Leaving {
    body: Vec<u8>,
    asked: AtomicUsize,
}

impl JobOwner for Leaving {
    fn body(&self) -> &[u8] {
        &self.body
    }

    fn is_abandoned(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) > 0
    }

    fn ended(self: Box<Self>, _: Ended) {}
}

#[test]
fn who_leaves_while_a_batch_is_cut_gives_nobody_another_ones_row() {
    let model = model();
    let (mut state, mut left) = (State::new(10.0), Vec::new());
    let texts = ["a", "b"];
    let leaving = JobSource::new(Leaving {
        body: body("leaving", &texts),
        asked: AtomicUsize::new(0),
    });
    let leaving = owned(&model, leaving, &body("leaving", &texts), &texts);
    let (stays, _stays) = job(&model, "stays", &["c"]);
    enter(&mut state, leaving);
    enter(&mut state, stays);
    let taken = take(&mut state, &mut left);
    let Rows::Texts(rows) = state.rows(&taken) else {
        panic!("texts");
    };
    let rows: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    assert_eq!((rows, taken.len()), (vec!["c"], 1));
    land(&mut state, &taken, &mut left);
    assert_eq!(left.len(), 2);
    assert_empty(&state);
}

#[test]
fn what_waits_for_its_namespaces_limit_takes_nothing_of_what_others_may_have() {
    let model = model();
    let mut state = State::new(0.1);
    let limited = || Share {
        max_jobs_per_second: Some(1.5),
        ..Share::default()
    };
    let mut waits = Vec::new();
    for n in 0..3 {
        let (job, waiting) = job(&model, "limited", &[&format!("text {n}")]);
        assert_eq!(state.is_over("limited"), n == 2);
        state.enter(job, limited, Instant::now());
        waits.push(waiting);
    }
    assert_eq!(state.unlimited(), Load::default());
    assert!(state.load().seconds > 0.0);
    let mut left = Vec::new();
    let taken = take(&mut state, &mut left);
    assert_eq!(taken.len(), 2);
    assert!(
        state.wait(Instant::now()).is_some(),
        "the third one's turn comes"
    );
    land(&mut state, &taken, &mut left);
    state.clear();
    assert_empty(&state);
}

#[test]
fn a_job_lives_as_long_as_one_of_its_repeats_does() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let now = Instant::now();
    let (mut first, _first) = job(&model, "twice", &["a"]);
    first.source.expires = Some(now);
    let (repeat, _repeat) = JobSource::awaited(body("twice", &["a"]), None);
    first.repeats.push(repeat);
    enter(&mut state, first);
    let taken = take(&mut state, &mut left);
    assert_eq!((taken.len(), left.len()), (1, 0));
    land(&mut state, &taken, &mut left);
    assert!(matches!(left[0], Left::Scored(_)));
}

#[test]
fn warming_over_its_limit_has_its_turn_later() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let limited = || Share {
        max_jobs_per_second: Some(0.5),
        ..Share::default()
    };
    let mut waits = Vec::new();
    for text in ["a", "b"] {
        let (mut job, waiting) = job(&model, "warm", &[text]);
        job.source.urgency = Urgency::Warming;
        state.enter(job, limited, Instant::now());
        waits.push(waiting);
    }
    assert_eq!(take(&mut state, &mut left).len(), 1);
    assert!(state.wait(Instant::now()).is_some());
}

#[test]
fn a_failed_input_ends_those_who_wait_for_it_and_nobody_else() {
    let model = model();
    let (mut state, mut left) = (State::new(0.1), Vec::new());
    let (bad, _bad) = job(&model, "bad", &["x", "shared"]);
    let (good, _good) = job(&model, "good", &["shared"]);
    enter(&mut state, bad);
    enter(&mut state, good);
    let taken = take(&mut state, &mut left);
    let (x, rest): (Vec<_>, Vec<_>) = taken
        .into_iter()
        .partition(|one| one.input == hash_text("x", None));
    state.fail(&x[0], &ModelError::Stopped, &mut left);
    assert!(matches!(&left[..], [Left::Failed(job, ..)] if job.rows.job.job_id == "bad"));
    land(&mut state, &rest, &mut left);
    assert_eq!(left.len(), 2);
    assert_empty(&state);
}

proptest! {
    /// Whatever jobs come, are taken, land, fail or are given up, in whatever order: each leaves once, and nothing stays behind.
    #[test]
    fn every_job_leaves_once_and_nothing_stays_behind(
        jobs in prop::collection::vec(prop::collection::vec(0u8..6, 1..5), 1..12),
        gone in prop::collection::vec(any::<bool>(), 12),
        fails in prop::collection::vec(0u8..5, 64),
        pauses in prop::collection::vec(any::<bool>(), 12),
    ) {
        let model = model();
        let (mut state, mut left, mut waits) = (State::new(0.1), Vec::new(), Vec::new());
        let mut flying: Vec<Taken> = Vec::new();
        let mut fails = fails.into_iter().cycle();
        let count = jobs.len();
        let mut finish = |state: &mut State, flying: &mut Vec<Taken>, left: &mut Vec<Left>| {
            for one in flying.drain(..) {
                if fails.next() == Some(0) {
                    state.fail(&one, &ModelError::Stopped, left);
                } else {
                    land(state, &[one], left);
                }
            }
        };
        for (number, inputs) in jobs.into_iter().enumerate() {
            let texts: Vec<String> = inputs.iter().map(|n| format!("text {n}")).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (owned, waiting) = job(&model, &format!("job-{number}"), &texts);
            enter(&mut state, owned);
            if !gone[number] {
                waits.push(waiting);
            }
            if pauses[number] {
                finish(&mut state, &mut flying, &mut left);
            }
            flying.extend(take(&mut state, &mut left));
        }
        while state.jobs() > 0 {
            finish(&mut state, &mut flying, &mut left);
            flying.extend(take(&mut state, &mut left));
        }
        finish(&mut state, &mut flying, &mut left);
        let mut names: Vec<String> = left.iter().map(|left| job_of(left).rows.job.job_id.to_string()).collect();
        names.sort();
        names.dedup();
        prop_assert_eq!((left.len(), names.len()), (count, count));
        prop_assert!(state.take(LIMITS, true, Instant::now(), &mut left).is_none());
        assert_empty(&state);
    }
}

#[test]
fn an_entry_lives_as_long_as_the_longest_of_those_who_wait_for_it() {
    let model = model();
    for is_stored in [false, true] {
        let (mut state, mut left) = (State::new(0.1), Vec::new());
        let (one, _one) = job(&model, "one", &["a"]);
        let (mut two, _two) = job(&model, "two", &["a"]);
        let slot = two.rows.slots.iter_mut().next().expect("a slot");
        slot.ttl_seconds = 7_000;
        enter(&mut state, one);
        let taken = take(&mut state, &mut left);
        // It comes while the input is being scored.
        enter(&mut state, two);
        let row = vec![0.5; model.info().output_width];
        state.land(&taken[0], &row, scored_in_no_time(is_stored), &mut left);
        let first = &job_of(&left[0]).rows;
        let slot = first.slots.iter().next().expect("a slot");
        assert_eq!(slot.ttl_seconds, 7_000);
        assert_eq!(slot.found, Some(scored_in_no_time(false)));
        // What its own entries for readers live by is another matter.
        assert_eq!(first.ttl_seconds, 60);
    }
}
