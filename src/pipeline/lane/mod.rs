//! Owns the lanes: for each model, or group of models, what waits to be scored and what is being scored.
//!
//! Promises that nothing in one lane waits for another; that a lane's batches are formed across jobs, namespaces in turns; and that a
//! full lane of an expensive model refuses jobs that can wait in its queue. Refuses to move them: their owner does.

mod leases;
mod run;
mod state;
pub(super) mod turns;

use super::{
    completion::Completions,
    context::Context,
    ending::{End, Ending},
    finish,
    outcome::{LaneQueue, Outcome},
    owned::OwnedJob,
    render::LabelCounts,
    verdict,
};
use crate::config::LaneLimits;
use kiln_contract::failure::{Code, Failure, Rejection};
use kiln_model::ModelInfo;
use state::{BatchLimits, Left, State};
use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
pub use turns::Depth;
use turns::Share;

/// Share of the newest batch in a lane's running mean.
const NEWEST: f64 = 0.1;
/// Jobs of a lane's queues that may be on their way to it: what they cost is known once they are there.
const MAX_ARRIVING: usize = 4;
/// How far namespaces with little in hand may go beyond a lane's limits, all together.
const HARD_FACTOR: f64 = 2.0;

/// Every lane of one engine.
pub(super) struct Lanes {
    context: Arc<Context>,
    completions: Arc<Completions>,
    lanes: RwLock<BTreeMap<String, Arc<Lane>>>,
}

/// A job of a lane's queue on its way to its lane; it has arrived, or gone another way, when this is dropped.
pub struct Arriving(Arc<Lane>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }
}

/// One lane.
pub(super) struct Lane {
    pub name: String,
    limits: LaneLimits,
    state: Mutex<LaneState>,
    /// Whether its queue has jobs that wait for room here: they go before further ones.
    backlogged: AtomicBool,
    /// Whether its queues are declared, so that jobs can be moved there.
    has_queues: AtomicBool,
    freed: Notify,
    /// Jobs of its queues that are on their way to it.
    arriving: AtomicUsize,
    /// Mean model seconds of an input, as bits.
    mean: AtomicU64,
    moved: AtomicU64,
}

struct LaneState {
    work: State,
    running: usize,
    bytes: usize,
    /// Whether something wakes the lane up when a namespace's limit allows.
    has_timer: bool,
}

/// The queues of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneQueues {
    pub lane: String,
    /// How many there are.
    pub queues: usize,
    /// Whether this worker takes jobs from them.
    pub is_served: bool,
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
    pub waiting: Vec<Depth>,
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
    fn new(name: &str, limits: LaneLimits) -> Self {
        let turn = limits.turn_ms as f64 / 1e3;
        Self {
            name: name.to_owned(),
            state: Mutex::new(LaneState {
                // Several turns make a batch, so that it holds inputs of several namespaces.
                work: State::new(turn / 4.0),
                running: 0,
                bytes: 0,
                has_timer: false,
            }),
            limits,
            backlogged: AtomicBool::new(false),
            has_queues: AtomicBool::new(false),
            freed: Notify::new(),
            arriving: AtomicUsize::new(0),
            mean: AtomicU64::new(0),
            moved: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, LaneState> {
        // What panics under the lock is a bug that the pipeline's tests stop at; production goes on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mean model seconds of an input, once there was one.
    fn mean(&self) -> Option<f64> {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        (mean > 0.0).then_some(mean)
    }

    fn note_cost(&self, inputs: usize, seconds: f64) {
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

    /// Whether its model costs so much that its jobs are moved rather than held.
    pub fn is_expensive(&self) -> bool {
        self.mean()
            .is_some_and(|mean| mean * 1e3 >= self.limits.expensive_from_ms)
    }

    /// The same, for a job whose model tells what an input is expected to cost before any was scored here.
    fn is_expensive_for(&self, job: &OwnedJob) -> bool {
        let expected = || {
            let (_, first) = job.rows.open().next()?;
            job.rows.value(first)?.expected_seconds(&job.rows.model)
        };
        let seconds = self.mean().or_else(expected);
        seconds.is_some_and(|seconds| seconds * 1e3 >= self.limits.expensive_from_ms)
    }

    /// Whether it takes more from its queue.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        self.arriving.load(Ordering::Relaxed) < MAX_ARRIVING
            && state.work.seconds() < self.limits.max_seconds_in_hand
            && state.bytes < self.limits.max_bytes_in_hand
    }

    /// Waits until it takes more from its queue.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Counts a job of its queues that is on its way to it.
    pub fn arriving(self: &Arc<Self>) -> Arriving {
        self.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// Says that its queues are declared.
    pub fn set_has_queues(&self) {
        self.has_queues.store(true, Ordering::Relaxed);
    }

    /// Says whether jobs of its queue are here that it has no room for.
    pub fn set_backlogged(&self, backlogged: bool) {
        self.backlogged.store(backlogged, Ordering::Relaxed);
    }

    /// Whether a job of `seconds` and `bytes` is to wait in the lane's queue rather than here. A namespace that has less than a turn in
    /// hand is let in, whatever others have: its job is not to wait for their backlog.
    fn is_full_for(&self, state: &LaneState, namespace: &str, seconds: f64, bytes: usize) -> bool {
        if state.work.jobs() == 0 {
            return false;
        }
        let (max, max_bytes) = (
            self.limits.max_seconds_in_hand,
            self.limits.max_bytes_in_hand,
        );
        let all = state.work.seconds() + seconds;
        let in_bytes = state.bytes + bytes;
        if all > max * HARD_FACTOR || in_bytes > 2 * max_bytes {
            return true;
        }
        let turn = self.limits.turn_ms as f64 / 1e3;
        let few = state.work.seconds_of(namespace) < turn;
        let full = all > max || in_bytes > max_bytes;
        !few && (full || self.backlogged.load(Ordering::Relaxed))
    }

    /// The queue in which jobs of a namespace wait: another for each of some.
    fn queue(&self, namespace: &str) -> LaneQueue {
        let fixed = ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut hasher = fixed.build_hasher();
        hasher.write(namespace.as_bytes());
        let queues = self.limits.queues.max(1) as u64;
        LaneQueue {
            lane: self.name.clone(),
            number: (hasher.finish() % queues) as usize,
        }
    }

    /// What is known of it.
    fn figures(&self, is_served: bool) -> LaneFigures {
        let has_queues = self.has_queues.load(Ordering::Relaxed);
        let state = self.state();
        LaneFigures {
            name: self.name.clone(),
            is_expensive: self.is_expensive(),
            is_served,
            queues: if has_queues { self.limits.queues } else { 0 },
            jobs: state.work.jobs(),
            waiting: state.work.depths(),
            batches_in_flight: state.running,
            seconds_in_hand: state.work.seconds(),
            bytes_in_hand: state.bytes,
            moved: self.moved.load(Ordering::Relaxed),
            seconds_per_input: self.mean(),
        }
    }
}

impl Lanes {
    /// No lane is there before its first job.
    pub fn new(context: Arc<Context>, completions: Arc<Completions>) -> Arc<Self> {
        Arc::new(Self {
            context,
            completions,
            lanes: RwLock::default(),
        })
    }

    /// The name of the lane of a model.
    fn name<'a>(&'a self, model: &'a str) -> &'a str {
        let named = self.context.settings.lane_of_model.get(model);
        named.map_or(model, String::as_str)
    }

    /// Whether this worker serves a lane.
    fn serves(&self, lane: &str) -> bool {
        let served = &self.context.settings.served_lanes;
        served.is_empty() || served.iter().any(|one| one == lane)
    }

    /// A lane by name. There are as many as models that were ever loaded, and those that the settings name.
    pub fn lane(&self, name: &str) -> Arc<Lane> {
        if let Some(lane) = self.by_name().get(name) {
            return lane.clone();
        }
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let limits = || self.context.settings.lane_limits(name);
        lanes
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Lane::new(name, limits())))
            .clone()
    }

    fn by_name(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<Lane>>> {
        self.lanes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of every lane: those of the models that are loaded, and those that have had a job.
    pub fn figures(&self) -> Vec<LaneFigures> {
        for model in self.context.registry.list() {
            self.lane(self.name(&model.info.name));
        }
        let all = self.all();
        let figures = all.iter().map(|lane| lane.figures(self.serves(&lane.name)));
        figures.collect()
    }

    /// Every lane that is known.
    pub fn all(&self) -> Vec<Arc<Lane>> {
        self.by_name().values().cloned().collect()
    }

    /// What becomes of a job of a model that isn't served here.
    pub fn elsewhere(&self, info: &ModelInfo, namespace: &str) -> Option<Outcome> {
        let name = self.name(&info.name);
        if self.serves(name) {
            return None;
        }
        let lane = self.lane(name);
        if !lane.has_queues.load(Ordering::Relaxed) {
            let reason = format!("lane `{name}` isn't served here, and has no queue yet");
            let job_id = None;
            return Some(Outcome::Retry { job_id, reason });
        }
        lane.moved.fetch_add(1, Ordering::Relaxed);
        Some(Outcome::Moved(lane.queue(namespace)))
    }

    /// The lanes that have queues, or are to have some: those that the settings name, those that are expensive, and those that aren't
    /// served here.
    pub fn with_queues(&self) -> Vec<LaneQueues> {
        let named = self.context.settings.named_lanes();
        for name in named {
            self.lane(name);
        }
        for model in self.context.registry.list() {
            let name = self.name(&model.info.name);
            if !self.serves(name) {
                self.lane(name);
            }
        }
        let settings = &self.context.settings;
        let wanted = |lane: &Arc<Lane>| {
            let is_served = self.serves(&lane.name);
            let is_named = settings.named_lanes().any(|name| name == lane.name);
            (is_named || !is_served || lane.is_expensive()).then(|| LaneQueues {
                lane: lane.name.clone(),
                queues: lane.limits.queues,
                is_served,
            })
        };
        self.all().iter().filter_map(wanted).collect()
    }

    /// The lanes of the models that are loaded, that are served here and may have queues that other workers have declared.
    pub fn served(&self) -> Vec<LaneQueues> {
        let models = self.context.registry.list();
        let mut names: Vec<String> = models
            .iter()
            .map(|model| self.name(&model.info.name).to_owned())
            .filter(|name| self.serves(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        let queues = |lane: String| LaneQueues {
            queues: self.context.settings.lane_limits(&lane).queues,
            lane,
            is_served: true,
        };
        names.into_iter().map(queues).collect()
    }

    /// Takes jobs in that wait for scores; those that are to wait in their lane's queue end as moved.
    pub fn enter(self: &Arc<Self>, jobs: Vec<OwnedJob>) {
        let mut by_lane: Vec<(Arc<Lane>, Vec<OwnedJob>)> = Vec::new();
        for job in jobs {
            let name = self.name(&job.rows.model.info().name);
            match by_lane.iter_mut().find(|(lane, _)| lane.name == name) {
                Some((_, jobs)) => jobs.push(job),
                None => by_lane.push((self.lane(name), vec![job])),
            }
        }
        let mut moved = Vec::new();
        for (lane, jobs) in by_lane {
            self.enter_lane(&lane, jobs, &mut moved);
            self.pump(&lane);
        }
        if !moved.is_empty() {
            self.completions.submit(moved);
        }
    }

    fn enter_lane(&self, lane: &Arc<Lane>, jobs: Vec<OwnedJob>, moved: &mut Vec<Ending>) {
        let now = Instant::now();
        let mut arrived = Vec::new();
        let mut state = lane.state();
        for mut job in jobs {
            arrived.extend(job.source.arriving.take());
            let namespace = job.rows.job.namespace();
            if may_move(lane, &job) && lane.is_expensive_for(&job) {
                let open = job.rows.open().count() as f64;
                let seconds = open * lane.mean().unwrap_or_default();
                let bytes = job.source.held.bytes();
                if lane.is_full_for(&state, namespace, seconds, bytes) {
                    lane.moved.fetch_add(1, Ordering::Relaxed);
                    let queue = lane.queue(namespace);
                    moved.push(failed(job, Outcome::Moved(queue)));
                    continue;
                }
            }
            state.bytes += job.source.held.bytes();
            let settings = &self.context.settings;
            let share: Share = settings.shares.get(namespace).copied().unwrap_or_default();
            state.work.enter(job, || share, now);
        }
        drop(state);
        drop(arrived);
    }

    /// Begins as many batches as there should be.
    fn pump(self: &Arc<Self>, lane: &Arc<Lane>) {
        let now = Instant::now();
        let mut left = Vec::new();
        let mut state = lane.state();
        let max = if lane.is_expensive() {
            lane.limits.batches_in_flight
        } else {
            self.context.settings.batches_in_flight
        };
        while state.running < max && !state.work.is_idle() {
            // Warming has no more than what is left over.
            let may_warm = state.running == 0;
            let limits = BatchLimits {
                rows: self.context.settings.batch_rows,
                tokens: self.context.settings.batch_tokens,
                seconds: lane.limits.turn_ms as f64 / 1e3,
            };
            let Some(batch) = state.work.take(limits, may_warm, now, &mut left) else {
                break;
            };
            let rows = state.work.rows(&batch.taken);
            state.running += 1;
            let work = run::run(self.clone(), lane.clone(), batch, rows);
            self.context.tasks.spawn(work);
        }
        if state.running == 0
            && !state.has_timer
            && let Some(wait) = state.work.wait(now)
        {
            state.has_timer = true;
            self.wake_later(lane, wait);
        }
        drop(state);
        self.complete(lane, left);
    }

    /// Looks again when a namespace's limit allows.
    fn wake_later(self: &Arc<Self>, lane: &Arc<Lane>, wait: Duration) {
        let (lanes, lane) = (self.clone(), lane.clone());
        self.context.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            lane.state().has_timer = false;
            lanes.pump(&lane);
        });
    }

    /// Sends jobs that leave a lane to their end.
    fn complete(&self, lane: &Lane, left: Vec<Left>) {
        if left.is_empty() {
            return;
        }
        let mut labels = LabelCounts::default();
        let mut bytes = 0;
        let mut end = |left: Left| {
            bytes += left.job().source.held.bytes();
            match left {
                Left::Scored(job) => Some(finish::owned(&self.context, job, &mut labels)),
                Left::Failed(job, error) => {
                    let failure = Failure::from(error);
                    let id = job.rows.job.job_id.clone();
                    let outcome = verdict::outcome(&self.context, failure, &job.source, &id);
                    Some(failed(job, outcome))
                }
                Left::Expired(job) => {
                    let job_id = Some(job.rows.job.job_id.to_string());
                    let rejection = expired();
                    Some(failed(job, Outcome::Rejected { job_id, rejection }))
                }
                Left::Abandoned(_) => None,
            }
        };
        let endings: Vec<Ending> = left.into_iter().filter_map(&mut end).collect();
        {
            let mut state = lane.state();
            state.bytes = state.bytes.saturating_sub(bytes);
            if state.work.jobs() == 0 {
                state.bytes = 0;
            }
        }
        lane.freed.notify_waiters();
        labels.count(&self.context.metrics);
        self.completions.submit(endings);
    }

    /// Forgets everything: jobs go back to their owners.
    pub fn clear(&self) {
        for lane in self.all() {
            lane.state().work.clear();
        }
    }
}

fn may_move(lane: &Lane, job: &OwnedJob) -> bool {
    job.source.may_move && lane.has_queues.load(Ordering::Relaxed)
}

/// A job that ends without a result.
fn failed(job: OwnedJob, outcome: Outcome) -> Ending {
    let info: &ModelInfo = job.rows.model.info();
    Ending {
        end: End::Failed {
            outcome,
            model: Some(info.name.clone()),
            namespace: Some(job.rows.job.namespace().to_owned()),
        },
        source: job.source,
        repeats: job.repeats,
        counts: super::count::InputCounts::default(),
        begun: job.begun,
    }
}

/// The rejection of a job whose time passed while it waited.
fn expired() -> Rejection {
    let message = "the message's expiration passed before its turn";
    Rejection::new(Code::Expired, "", message)
}
