//! Owns the lanes: for each model, or group of models, what waits to be scored and what is being scored.
//!
//! Promises that nothing in one lane waits for another; that a lane's batches are formed across jobs, namespaces in turns; and that a
//! full lane of an expensive model refuses jobs that can wait in its queue. Refuses to move them: their owner does.

mod flight;
mod leases;
mod one;
mod reserve;
mod run;
mod slot;
mod state;
mod take;
mod turns;

pub use one::LaneFigures;
pub use turns::Depth;

use super::{
    completion::Completions,
    context::Context,
    ending::{End, Ending},
    finish,
    outcome::Outcome,
    owned::OwnedJob,
    render::LabelCounts,
    split_metrics, verdict,
};
use crate::clock;
use flight::{InFlight, Surroundings};
use kiln_contract::failure::{Code, Failure, Rejection, Verdict};
use kiln_model::ModelInfo;
use one::Lane;
use slot::Left;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};
use take::BatchLimits;

/// Every lane of one engine.
pub(super) struct Lanes {
    context: Arc<Context>,
    completions: Arc<Completions>,
    lanes: RwLock<BTreeMap<String, Arc<Lane>>>,
}

/// The queues of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneQueues {
    pub lane: String,
    /// How many there are, and how many of them are for all namespaces: the first ones. Each of the others is that of one with a limit.
    pub queues: usize,
    pub shared: usize,
    /// Bytes of its jobs that may be in hand.
    pub max_bytes: usize,
    /// Whether this worker takes jobs from them.
    pub is_served: bool,
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
        let limited = || self.context.settings.limited.clone();
        let outputs = || self.context.budget.lane_outputs();
        lanes
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Lane::new(name, limits(), limited(), outputs())))
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

    /// Whether inputs wait somewhere for a batch, and not for their namespace's limit.
    pub fn has_waiting(&self) -> bool {
        self.by_name().values().any(|lane| {
            let state = lane.state();
            !state.work.is_idle() && !state.has_timer
        })
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
            return Some(Outcome::Postponed { reason });
        }
        lane.moved.fetch_add(1, Ordering::Relaxed);
        Some(Outcome::Moved(lane.queue(namespace)))
    }

    /// What becomes of a job that can't be moved, of a model that isn't served here.
    pub fn not_served(&self, info: &ModelInfo) -> Option<Outcome> {
        let name = self.name(&info.name);
        (!self.serves(name)).then(|| Outcome::Postponed {
            reason: format!("lane `{name}` isn't served by this worker"),
        })
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
            (is_named || !is_served || lane.wants_queues()).then(|| LaneQueues {
                lane: lane.name.clone(),
                queues: lane.queue_count(),
                shared: lane.limits.queues,
                max_bytes: lane.limits.max_bytes_in_hand,
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
        let settings = &self.context.settings;
        let queues = |lane: String| {
            let limits = settings.lane_limits(&lane);
            LaneQueues {
                queues: limits.queues + settings.limited.len(),
                shared: limits.queues,
                max_bytes: limits.max_bytes_in_hand,
                lane,
                is_served: true,
            }
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
            moved.extend(lane.enter(jobs, |namespace| {
                let share = self.context.settings.shares.get(namespace);
                share.copied().unwrap_or_default()
            }));
            self.pump(&lane);
        }
        if !moved.is_empty() {
            self.completions.submit(moved);
        }
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

    /// Gives jobs back that were in hand for too long, and forgets those that nobody waits for any more.
    pub fn sweep(self: &Arc<Self>) {
        for lane in self.all() {
            let abandoned = lane.change(|state| state.work.abandoned());
            self.complete(&lane, abandoned);
        }
        let Some(moment) = clock::instant().checked_sub(self.context.settings.max_hold) else {
            return;
        };
        for lane in self.all() {
            let old = lane.change(|state| state.work.older_than(moment));
            if old.is_empty() {
                continue;
            }
            tracing::warn!(
                lane = lane.name,
                jobs = old.len(),
                "jobs were in hand for too long; they go back to their queue"
            );
            let left = old.into_iter().map(Left::Abandoned).collect();
            self.complete(&lane, left);
        }
    }

    /// Forgets everything: jobs go back to their owners.
    pub fn clear(&self) {
        for lane in self.all() {
            // Dropped once the state is free again: owners hear of it.
            let _jobs = lane.change(|state| state.work.clear());
        }
    }
}

impl Surroundings for Arc<Lanes> {
    fn complete(&self, lane: &Lane, left: Vec<Left>) {
        if left.is_empty() {
            return;
        }
        let mut labels = LabelCounts::default();
        let mut end = |left: Left| match left {
            Left::Scored(job) => Some(finish::owned(&self.context, job, &mut labels)),
            Left::Failed(job, error, slot) => {
                split_metrics::failed(&self.context.metrics, &job.rows, slot);
                // What is rejected for what it says is no fault of the model.
                let may_pass = matches!(Failure::from(error.clone()).verdict(), Verdict::Retry(_));
                if may_pass && lane.note_failure(job.rows.body_sha256) {
                    let reason = format!("its model fails on every job: {error}");
                    self.context.health.lane_failed(&lane.name, &reason);
                }
                let failure = Failure::from(error);
                let id = job.rows.job.job_id.clone();
                let outcome = verdict::outcome(&self.context, failure, &job.source, &id);
                Some(failed(job, outcome))
            }
            Left::Expired(job) => Some(rejected(job)),
            Left::Abandoned(job) => {
                drop(job);
                None
            }
        };
        let endings: Vec<Ending> = left.into_iter().filter_map(&mut end).collect();
        labels.count(&self.context.metrics);
        self.completions.submit(endings);
    }

    fn pump(&self, lane: &Arc<Lane>) {
        let settings = &self.context.settings;
        let max = if lane.is_expensive() {
            lane.limits.batches_in_flight
        } else {
            settings.batches_in_flight
        };
        let limits = BatchLimits {
            rows: settings.batch_rows,
            tokens: settings.batch_tokens,
            seconds: lane.limits.turn_ms as f64 / 1e3,
        };
        let due = lane.due(max, limits, clock::instant());
        for (batch, rows) in due.batches {
            let flight = InFlight::new(self.clone(), lane.clone(), batch.taken.clone());
            self.context.tasks.spawn(run::run(flight, batch, rows));
        }
        if let Some(wait) = due.wait {
            self.wake_later(lane, wait);
        }
        self.complete(lane, due.left);
    }
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
        counts: super::input_counts::InputCounts::default(),
        begun: job.begun,
    }
}

/// A job whose time passed while it waited.
fn rejected(job: OwnedJob) -> Ending {
    let job_id = Some(job.rows.job.job_id.to_string());
    let message = "the message's expiration passed before its turn";
    let rejection = Rejection::new(Code::Expired, "", message);
    failed(job, Outcome::Rejected { job_id, rejection })
}
