//! Owns the order of the stages: jobs come in at the front, those that miss wait in lanes, and all of them end in completions.
//!
//! Promises that a job's owner is told its end once, and that a job is called done or rejected only after its row is committed.
//! Refuses to settle anything: that is the owner's.

use super::{
    admit,
    arriving::Arriving,
    budget::{Budget, Held},
    completion::Completions,
    context::{Context, EngineParts},
    count,
    front::Front,
    input_counts::InputCounts,
    lane::{LaneFigures, LaneQueues, Lanes},
    outcome::Outcome,
    shadow::{self, Shadows},
    source::{Ended, JobSource},
};
use crate::{cache::Cache, config::Settings, health::Part};
use futures_util::future::join_all;
use kiln_contract::failure::Rejection;
use kiln_contract::{key, order::Moment};
use kiln_model::Registry;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How soon it is asked again whether it [reaches readers](Engine::reaches_readers).
pub const READERS_AGAIN: Duration = Duration::from_millis(500);

/// Carries jobs from their bodies to stored results.
pub struct Engine {
    context: Arc<Context>,
    front: Arc<Front>,
    lanes: Arc<Lanes>,
    completions: Arc<Completions>,
}

impl Engine {
    /// An engine over these parts, whose work runs on the runtime that this is called on.
    pub fn new(parts: EngineParts, settings: &Settings) -> Self {
        let context = Arc::new(Context::new(parts, settings));
        let completions = Completions::new(context.clone());
        let lanes = Lanes::new(context.clone(), completions.clone());
        Self {
            front: Front::new(context.clone(), lanes.clone(), completions.clone()),
            context,
            lanes,
            completions,
        }
    }

    /// The models that it serves.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.context.registry
    }

    /// The versions that score beside the active ones, if there are any.
    pub fn shadows(&self) -> Option<&Arc<Shadows>> {
        self.context.shadows.as_ref()
    }

    /// Scores what waits for these versions, for as long as it is polled.
    pub async fn score_shadows(&self) {
        let Some(shadows) = self.shadows() else {
            return;
        };
        let is_busy = || self.lanes.has_waiting();
        let each = shadows
            .all()
            .map(|shadow| shadow::run(shadow.clone(), self.registry(), is_busy));
        join_all(each).await;
    }

    /// Where it looks entries up.
    pub fn cache(&self) -> &Cache {
        &self.context.cache
    }

    /// Whether what is computed ahead would be there for readers: Redis takes it, or none is used. Of a cluster, some server does.
    pub fn reaches_readers(&self) -> bool {
        self.cache().server().is_none_or(|redis| {
            !redis.rests() && (redis.is_cluster() || self.context.health.is_up(Part::Redis))
        })
    }

    /// Seconds that the look-up of one input takes, a running mean; nothing before the first one.
    pub fn look_up_seconds(&self) -> Option<f64> {
        self.context.look_up_cost.seconds()
    }

    /// What jobs hold of the bytes that may be in hand.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.context.budget
    }

    /// What is known of every lane: those of the models that are loaded, and those that have had a job.
    pub fn lanes(&self) -> Vec<LaneFigures> {
        self.lanes.figures()
    }

    /// The lanes that have queues, or are to have some.
    pub fn lanes_with_queues(&self) -> Vec<LaneQueues> {
        self.lanes.with_queues()
    }

    /// The lanes that are served here, whether or not they have queues.
    pub fn served_lanes(&self) -> Vec<LaneQueues> {
        self.lanes.served()
    }

    /// Says whether a lane's queues are there, so that jobs may be moved to them; gives what was the case.
    pub fn set_has_queues(&self, lane: &str, has_queues: bool) -> bool {
        self.lanes.lane(lane).set_has_queues(has_queues)
    }

    /// Says whether jobs of a lane's queues wait for room here.
    pub fn set_backlogged(&self, lane: &str, backlogged: bool) {
        self.lanes.lane(lane).set_backlogged(backlogged);
    }

    /// Waits until a lane takes a job from one of these of its queues, the first that it may; says from which.
    pub async fn lane_room(&self, lane: &str, waiting: &[usize]) -> (usize, Arriving) {
        let lane = self.lanes.lane(lane);
        let number = lane.room(waiting).await;
        (number, lane.arriving())
    }

    /// Whether a lane's queue is that of a namespace with a limit of its own.
    pub fn is_limited_queue(&self, lane: &str, number: usize) -> bool {
        self.lanes.lane(lane).is_limited(number)
    }

    /// Checks a body as a job's is checked, without running it, and gives its id: `or_id` where nothing else names it. An error is
    /// what would be replied.
    pub fn examine(
        &self,
        body: &[u8],
        message_id: Option<&str>,
        or_id: &str,
    ) -> Result<String, Rejection> {
        admit::examine(&self.context, body, message_id, or_id)
    }

    /// Takes jobs in; each one's owner is told its end. Waits for nothing: how much is in hand is the callers' to bound, by
    /// [`Engine::budget`].
    pub fn submit(&self, sources: impl IntoIterator<Item = JobSource>) {
        self.front.submit(sources);
    }

    /// When a worker first accepted a job that has something for readers, where that is known.
    pub async fn first_accepted(&self, job_id: &str) -> Option<Moment> {
        let known = self.context.cache.accepted(&[key::accepted(job_id)]).await;
        known.into_iter().flatten().next()
    }

    /// Counts a job that another process ran through an engine of its own.
    pub fn count(&self, received: Instant, outcome: &Outcome, counts: &InputCounts) {
        count::one(&self.context, received, outcome, counts);
    }

    /// Runs one job and waits for its end; nothing where it was abandoned. The future may be dropped at any point: running the job
    /// again completes whatever was left undone.
    pub async fn run(
        &self,
        body: impl Into<Vec<u8>>,
        message_id: Option<String>,
        with: impl FnOnce(JobSource) -> JobSource,
    ) -> Option<Ended> {
        let (source, ended) = JobSource::awaited(body, message_id);
        let held = self.context.budget.take(source.body().len());
        self.submit([with(source.holding(held))]);
        ended.await.ok()
    }

    /// Whether a job is in hand here, as far as its id was read; where a key is named, one that it posted.
    pub fn has_in_hand(&self, job_id: &str, posted_by: Option<&str>) -> bool {
        let ids = self.context.in_hand.as_ref();
        ids.is_some_and(|ids| ids.has(job_id, posted_by))
    }

    /// Gives jobs back to their owners that wait in lanes and were in hand for too long.
    pub fn sweep(&self) {
        self.lanes.sweep();
    }

    /// What a body of so many bytes holds of the bytes that may be in hand.
    pub fn hold(&self, body_bytes: usize) -> Held {
        self.context.budget.take(body_bytes)
    }

    /// Ends everything at once: what has no end yet goes back to its owners.
    pub async fn cut(&self) {
        self.context.tasks.cut();
        self.front.clear();
        self.lanes.clear();
        self.completions.clear();
        self.context.tasks.wait().await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.context.tasks.cut();
    }
}

/// What became of a job that was awaited; abandoned where nothing was heard of it.
pub fn outcome_of(ended: Option<Ended>) -> Outcome {
    ended.map_or(Outcome::Abandoned, |ended| ended.outcome)
}
