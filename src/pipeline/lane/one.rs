//! One lane: what it may have in hand, and what is known of it.
//!
//! Promises that a namespace with little in hand is let in whatever others have, up to a hard limit; and that a lane is called expensive by
//! what its inputs were measured to cost.

use super::{failed, slot::Load, state::State, turns};
use crate::{
    clock,
    config::LaneLimits,
    pipeline::{
        arriving::{Arrivals, Arriving},
        budget::Outputs,
        ending::Ending,
        outcome::{LaneQueue, Outcome},
        owned::OwnedJob,
        share::Share,
        source::Urgency,
    },
};
use std::{
    collections::BTreeSet,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// Jobs of a lane's queues that may be on their way to it: what they cost is known once they are there.
const MAX_ARRIVING: usize = 4;
/// Jobs in a row, none of them scored, by which a model has failed: it is not the jobs that are bad.
const FAILED_JOBS: usize = 8;
/// How far namespaces with little in hand may go beyond a lane's limits, all together.
const HARD_FACTOR: f64 = 2.0;
/// Share of the newest batch in a lane's running mean.
const NEWEST: f64 = 0.1;

/// One lane.
pub struct Lane {
    pub name: String,
    pub limits: LaneLimits,
    /// Namespaces with a limit of their own, in order: each has a queue of its own.
    limited: Arc<[String]>,
    state: Mutex<LaneState>,
    /// Whether its queue has jobs that wait for room here: they go before further ones.
    backlogged: AtomicBool,
    /// Whether its queues are declared, so that jobs can be moved there.
    pub has_queues: AtomicBool,
    /// Whether it needs queues, whatever its model costs: for jobs beyond their namespace's limit.
    needs_queues: AtomicBool,
    /// Room for the large outputs of its jobs.
    pub outputs: Outputs,
    /// Jobs of its queues that are on their way to it.
    pub arrivals: Arc<Arrivals>,
    /// Jobs that its model failed on since it last scored one.
    failed_on: Mutex<BTreeSet<[u8; 32]>>,
    /// Mean model seconds of an input, as bits.
    mean: AtomicU64,
    pub moved: AtomicU64,
}

pub struct LaneState {
    pub work: State,
    pub running: usize,
    /// Whether something wakes the lane up when a namespace's limit allows.
    pub has_timer: bool,
}

/// Model seconds that the first open input of a job is expected to take, as its model knows.
fn expected_of(job: &OwnedJob) -> Option<f64> {
    let (_, first) = job.rows.open().next()?;
    job.rows
        .value(first)?
        .expected_seconds(job.rows.model_of(first))
}

/// What is known of a lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LaneFigures {
    pub name: String,
    pub is_expensive: bool,
    /// Whether this worker takes its jobs.
    pub is_served: bool,
    /// Its queues; none before they are declared.
    pub queues: usize,
    /// Jobs that wait for scores.
    pub jobs: usize,
    /// Inputs that wait for their turn, by namespace, and since when the oldest has.
    pub waiting: Vec<turns::Depth>,
    pub batches_in_flight: usize,
    /// Expected model seconds in hand.
    pub seconds_in_hand: f64,
    pub bytes_in_hand: usize,
    /// Jobs that were moved to its queue.
    pub moved: u64,
    /// Mean model seconds of an input, once there was one.
    pub seconds_per_input: Option<f64>,
}

impl Lane {
    pub fn new(name: &str, limits: LaneLimits, limited: Arc<[String]>, outputs: Outputs) -> Self {
        let turn = limits.turn_ms as f64 / 1e3;
        Self {
            name: name.to_owned(),
            state: Mutex::new(LaneState {
                // Several turns make a batch, so that it holds inputs of several namespaces.
                work: State::new(turn / 4.0),
                running: 0,
                has_timer: false,
            }),
            limits,
            limited,
            backlogged: AtomicBool::new(false),
            has_queues: AtomicBool::new(false),
            needs_queues: AtomicBool::new(false),
            outputs,
            arrivals: Arc::default(),
            failed_on: Mutex::default(),
            mean: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, LaneState> {
        // What panics under the lock is a bug that the pipeline's tests stop at; production goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is in the lane. Jobs may leave by that: those who wait for room look again.
    pub fn change<T>(&self, change: impl FnOnce(&mut LaneState) -> T) -> T {
        let changed = change(&mut self.state());
        self.arrivals.freed.notify_waiters();
        changed
    }

    /// Mean model seconds of an input, once there was one.
    pub fn mean(&self) -> Option<f64> {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        (mean > 0.0).then_some(mean)
    }

    pub fn note_cost(&self, inputs: usize, seconds: f64) {
        if inputs == 0 || !seconds.is_finite() {
            return;
        }
        let newest = seconds / inputs as f64;
        let mean = self
            .mean()
            .map_or(newest, |mean| mean + NEWEST * (newest - mean));
        // Two at once may lose one of their records: the mean is as good.
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
    }

    /// Notes a job that its model failed on; says whether the model has failed: on several jobs, and scored none meanwhile.
    pub fn note_failure(&self, body_sha256: [u8; 32]) -> bool {
        let mut failed_on = self.failed_on();
        if failed_on.len() < FAILED_JOBS {
            failed_on.insert(body_sha256);
        }
        failed_on.len() == FAILED_JOBS
    }

    /// Notes that its model scores; says whether it had failed.
    pub fn note_success(&self) -> bool {
        let mut failed_on = self.failed_on();
        let had_failed = failed_on.len() == FAILED_JOBS;
        failed_on.clear();
        had_failed
    }

    fn failed_on(&self) -> MutexGuard<'_, BTreeSet<[u8; 32]>> {
        self.failed_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its model costs so much that its jobs are moved rather than held.
    pub fn is_expensive(&self) -> bool {
        self.costs_much(self.mean())
    }

    /// The same, for a job whose model tells what an input is expected to cost before any was scored here.
    fn is_expensive_for(&self, job: &OwnedJob) -> bool {
        self.costs_much(self.mean().or_else(|| expected_of(job)))
    }

    fn costs_much(&self, seconds: Option<f64>) -> bool {
        let from_ms = self.limits.expensive_from_ms;
        from_ms <= 0.0 || seconds.is_some_and(|seconds| seconds * 1e3 >= from_ms)
    }

    /// Model seconds that a job is expected to take; a quarter of a turn for each input of which nothing is known.
    fn seconds_for(&self, job: &OwnedJob) -> f64 {
        let of_one = self.mean().or_else(|| expected_of(job));
        let of_one = of_one.unwrap_or(self.limits.turn_ms as f64 / 4e3);
        of_one * job.rows.open().count() as f64
    }

    /// Which of these of its queues it takes the next job from, the first that it may.
    fn open_queue(&self, waiting: &[usize]) -> Option<usize> {
        let state = self.state();
        let load = state.work.unlimited();
        let has_room = self.arrivals.under_way() < MAX_ARRIVING
            && load.seconds < self.limits.max_seconds_in_hand
            && load.bytes < self.limits.max_bytes_in_hand;
        let is_open = |number: &usize| match self.limited_of(*number) {
            Some(namespace) => !state.work.is_over(namespace),
            None => has_room,
        };
        waiting.iter().copied().find(is_open)
    }

    /// Waits until it takes a job from one of these of its queues, and says from which.
    pub async fn room(&self, waiting: &[usize]) -> usize {
        loop {
            let freed = self.arrivals.freed.notified();
            if let Some(number) = self.open_queue(waiting) {
                return number;
            }
            freed.await;
        }
    }

    /// How many queues it has: those of all, and one for each namespace with a limit of its own.
    pub fn queue_count(&self) -> usize {
        self.limits.queues + self.limited.len()
    }

    /// The namespace whose own queue this is.
    fn limited_of(&self, queue: usize) -> Option<&str> {
        let number = queue.checked_sub(self.limits.queues)?;
        self.limited.get(number).map(String::as_str)
    }

    /// Whether one of its queues is that of a namespace with a limit of its own.
    pub fn is_limited(&self, queue: usize) -> bool {
        self.limited_of(queue).is_some()
    }

    /// Says that it needs queues for jobs beyond their namespace's limit.
    pub fn need_queues(&self) {
        self.needs_queues.store(true, Ordering::Relaxed);
    }

    /// Whether it is to have queues that the settings don't name.
    pub fn wants_queues(&self) -> bool {
        self.needs_queues.load(Ordering::Relaxed) || self.is_expensive()
    }

    /// Counts a job of its queues that is on its way to it.
    pub fn arriving(&self) -> Arriving {
        self.arrivals.add()
    }

    /// Says whether its queues are there; gives what was the case.
    pub fn set_has_queues(&self, has_queues: bool) -> bool {
        self.has_queues.swap(has_queues, Ordering::Relaxed)
    }

    /// Says whether jobs of its queue are here that it has no room for.
    pub fn set_backlogged(&self, backlogged: bool) {
        self.backlogged.store(backlogged, Ordering::Relaxed);
    }

    /// Whether a job of this load is to wait in the lane's queue rather than here. A namespace that has less than a turn in hand is let
    /// in, whatever others have: its job is not to wait for their backlog.
    fn is_full_for(&self, state: &LaneState, namespace: &str, job: Load) -> bool {
        if state.work.jobs() == 0 {
            return false;
        }
        let (max, max_bytes) = (
            self.limits.max_seconds_in_hand,
            self.limits.max_bytes_in_hand,
        );
        let load = state.work.unlimited();
        let all = load.seconds + job.seconds;
        let in_bytes = load.bytes + job.bytes;
        if all > max * HARD_FACTOR || in_bytes > 2 * max_bytes {
            return true;
        }
        let turn = self.limits.turn_ms as f64 / 1e3;
        let few = state.work.seconds_of(namespace) < turn;
        let full = all > max || in_bytes > max_bytes;
        !few && (full || self.backlogged.load(Ordering::Relaxed))
    }

    /// Takes jobs in. Gives the ends of those that are to wait in the lane's queue, or to come again.
    pub fn enter(&self, jobs: Vec<OwnedJob>, share: impl Fn(&str) -> Share) -> Vec<Ending> {
        let now = clock::instant();
        let (mut arrived, mut ended) = (Vec::new(), Vec::new());
        let mut state = self.state();
        for mut job in jobs {
            arrived.extend(job.source.arriving.take());
            let namespace = job.rows.job.namespace();
            if self.must_wait(&state, &job) {
                self.moved.fetch_add(1, Ordering::Relaxed);
                let queue = self.queue(namespace);
                ended.push(failed(job, Outcome::Moved(queue)));
                continue;
            }
            if let Some(reason) = self.refuses(&state, &job) {
                ended.push(failed(job, Outcome::Postponed { reason }));
                continue;
            }
            let share = share(namespace);
            state.work.enter(job, || share, now);
        }
        drop(state);
        // Until now each counted as on its way: whoever waits for room sees it in one place or the other.
        drop(arrived);
        ended
    }

    /// Whether a job is to wait in the lane's queue.
    fn must_wait(&self, state: &LaneState, job: &OwnedJob) -> bool {
        if !job.source.may_move {
            return false;
        }
        let namespace = job.rows.job.namespace();
        let is_over = state.work.is_over(namespace);
        if is_over {
            self.need_queues();
        }
        if !self.has_queues.load(Ordering::Relaxed) {
            return false;
        }
        let load = || Load {
            seconds: self.seconds_for(job),
            bytes: job.source.held.bytes(),
        };
        is_over || (self.is_expensive_for(job) && self.is_full_for(state, namespace, load()))
    }

    /// Why a job that may come again isn't let in, if it isn't: a request, where more is in hand than may be; warming, where jobs wait for
    /// longer than a turn, and it would only wait behind them.
    fn refuses(&self, state: &LaneState, job: &OwnedJob) -> Option<String> {
        if !job.source.may_postpone || state.work.jobs() == 0 {
            return None;
        }
        if job.source.urgency == Urgency::Warming {
            let waiting: f64 = state.work.depths().iter().map(|depth| depth.seconds).sum();
            let turn = self.limits.turn_ms as f64 / 1e3;
            return (waiting > turn).then(|| format!("jobs wait in lane `{}`", self.name));
        }
        let load = state.work.unlimited();
        let seconds = load.seconds + self.seconds_for(job);
        let bytes = load.bytes + job.source.held.bytes();
        let is_full = seconds > self.limits.max_seconds_in_hand * HARD_FACTOR
            || bytes > 2 * self.limits.max_bytes_in_hand;
        is_full.then(|| format!("lane `{}` is full", self.name))
    }

    /// The queue in which jobs of a namespace wait: another for each of some, and one of its own for a namespace with a limit.
    pub fn queue(&self, namespace: &str) -> LaneQueue {
        let fixed = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut hasher = fixed.build_hasher();
        hasher.write(namespace.as_bytes());
        let queues = self.limits.queues.max(1) as u64;
        let shared = (hasher.finish() % queues) as usize;
        let own = self.limited.iter().position(|one| one == namespace);
        LaneQueue {
            lane: self.name.clone(),
            number: own.map_or(shared, |own| self.limits.queues + own),
        }
    }

    /// What is known of it.
    pub fn figures(&self, is_served: bool) -> LaneFigures {
        let has_queues = self.has_queues.load(Ordering::Relaxed);
        let state = self.state();
        LaneFigures {
            name: self.name.clone(),
            is_expensive: self.is_expensive(),
            is_served,
            queues: if has_queues { self.queue_count() } else { 0 },
            jobs: state.work.jobs(),
            waiting: state.work.depths(),
            batches_in_flight: state.running,
            seconds_in_hand: state.work.load().seconds,
            bytes_in_hand: state.work.load().bytes,
            moved: self.moved.load(Ordering::Relaxed),
            seconds_per_input: self.mean(),
        }
    }
}
