//! Carries one claimed run: plans it, posts it, sees it through, and writes its end.
//!
//! Promises that a run cut short goes on where it stopped, on whichever worker takes it over, and that a worker which was taken over
//! from does nothing any more that counts: its jobs have the same ids and bodies, and its writes carry an older token.

use super::{
    depths::Depths, gather::Gatherer, hot_source::open, schedule::Schedule, source::SourceError,
};
use crate::{
    amqp::{
        connection::Broker,
        message::{self, Message},
        publisher::Publisher,
        topology::Topology,
    },
    config::Settings,
    pipeline::Engine,
    store::{Claim, PlanTotals, PostgresStore, Progress, RunState, StoreError},
    telemetry::metrics::{Metrics, WarmOutcome},
};
use kiln_contract::order::Moment;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Jobs of a run that are posted together.
const WINDOW: i64 = 128;
/// Jobs of a plan written in one statement.
const WRITE: usize = 32;
/// How often a paused or waiting run looks again.
const LOOK: Duration = Duration::from_millis(100);
/// What a run is taken to last before one has ended, in seconds.
const USUAL_SECONDS: f64 = 2.0;

/// Why a run wasn't carried on here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The worker was asked to stop.
    #[error("the worker stops")]
    Asked,
    /// It can't be carried on anywhere.
    #[error("{0}")]
    Failed(String),
    /// Another worker has it by now.
    #[error("another worker took it over")]
    Lost,
    /// The database is out of reach; whoever reaches it first goes on.
    #[error("{0}")]
    Later(String),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason)
            | StoreError::Contended(reason)
            | StoreError::TimedOut(reason) => Self::Later(reason),
            StoreError::Refused(reason) => Self::Failed(reason),
        }
    }
}

impl From<SourceError> for Stopped {
    fn from(error: SourceError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What a run is carried with.
#[derive(Clone)]
pub struct Carrier {
    pub store: PostgresStore,
    pub engine: Arc<Engine>,
    pub publisher: Publisher,
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub settings: Arc<Settings>,
    pub metrics: Metrics,
}

impl Carrier {
    /// How long a claim lasts unrenewed.
    pub(super) fn life(&self) -> Duration {
        Duration::from_secs(self.settings.warm.claim_seconds)
    }

    /// Carries a run to its end, until it is another worker's, or until this worker is asked to stop.
    pub(super) async fn carry(
        &self,
        claim: Claim,
        schedule: Option<Arc<Schedule>>,
        state: RunState,
        stop: &CancellationToken,
    ) {
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Stopped::Asked),
            result = self.work(claim, schedule, state) => result,
            stopped = self.renew_claim(claim) => Err(stopped),
        };
        self.end(claim, result).await;
    }

    pub(super) async fn end(&self, claim: Claim, result: Result<Progress, Stopped>) {
        let (state, progress, message) = match result {
            Ok(progress) if progress.rejected == 0 => (RunState::Done, progress, None),
            Ok(progress) => {
                let message = format!(
                    "{} jobs were rejected: see the dead letters",
                    progress.rejected
                );
                (RunState::Done, progress, Some(message))
            }
            Err(Stopped::Failed(reason)) => {
                let progress = self.store.run_progress(claim.id).await.unwrap_or_default();
                (RunState::Failed, progress, Some(reason))
            }
            Err(Stopped::Asked) => return self.release(claim).await,
            Err(stopped @ (Stopped::Lost | Stopped::Later(_))) => {
                tracing::warn!(run = claim.id, reason = %stopped, "a run is given up here; another worker goes on with it");
                return;
            }
        };
        match self
            .store
            .finish_run(claim, state, progress, message.as_deref())
            .await
        {
            Ok(true) if state == RunState::Done => self.metrics.warm_run(WarmOutcome::Done),
            Ok(true) => {
                self.metrics.warm_run(WarmOutcome::Failed);
                tracing::error!(run = claim.id, reason = message, "a warming run failed");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(run = claim.id, %error, "a run's end can't be written; another worker will")
            }
        }
    }

    /// Gives the run up, so that another worker takes it over at once.
    async fn release(&self, claim: Claim) {
        match self.store.release_run(claim).await {
            Ok(()) => tracing::info!(
                run = claim.id,
                "a warming run is released: the worker stops"
            ),
            // Its claim runs out by itself.
            Err(error) => {
                tracing::info!(run = claim.id, %error, "a warming run could not be released")
            }
        }
    }

    /// Renews the claim until that fails.
    pub(super) async fn renew_claim(&self, claim: Claim) -> Stopped {
        let mut missed = 0;
        loop {
            tokio::time::sleep(self.life() / 3).await;
            match self.store.renew_run(claim, self.life()).await {
                Ok(Some(false)) => missed = 0,
                Ok(Some(true)) => return Stopped::Failed(TOO_LONG.to_owned()),
                Ok(None) => return Stopped::Lost,
                Err(error) => {
                    missed += 1;
                    if missed == 3 {
                        return Stopped::Later(error.to_string());
                    }
                }
            }
        }
    }

    async fn work(
        &self,
        claim: Claim,
        schedule: Option<Arc<Schedule>>,
        state: RunState,
    ) -> Result<Progress, Stopped> {
        if state == RunState::Planning {
            let Some(schedule) = schedule else {
                return Err(Stopped::Failed("its schedule is gone".to_owned()));
            };
            self.plan(claim, &schedule).await?;
        }
        if state != RunState::Waiting {
            self.post(claim).await?;
        }
        self.wait(claim).await
    }

    async fn plan(&self, claim: Claim, schedule: &Schedule) -> Result<(), Stopped> {
        self.store.clear_posts(claim).await?;
        let now = self.store.clock().await?;
        let gatherer = Gatherer {
            settings: &self.settings,
            registry: self.engine.registry(),
            redis: self.engine.cache().server(),
            now,
            random: rand::random,
        };
        let spread = self.usual_seconds(&schedule.name).await?;
        let source = open(
            schedule,
            &self.settings,
            &self.store,
            self.engine.cache().server(),
        )
        .await?;
        let plan = gatherer.plan(schedule, source.as_ref(), spread).await?;
        let pieces = gatherer.pieces(schedule, &plan);
        for (part, first) in pieces.chunks(WRITE).zip((0i32..).step_by(WRITE)) {
            let numbers: Vec<i32> = (first..).take(part.len()).collect();
            let inputs: Vec<i32> = part.iter().map(|(inputs, _)| *inputs).collect();
            let bodies: Vec<&[u8]> = part.iter().map(|(_, body)| body.as_slice()).collect();
            if !self
                .store
                .add_posts(claim, &numbers, &inputs, &bodies)
                .await?
            {
                return Err(Stopped::Lost);
            }
        }
        let totals = PlanTotals {
            planned: plan.inputs() as i64,
            skipped: (plan.fresh + plan.over_budget) as i64,
            bad: plan.bad as i64,
            pieces: pieces.len() as i64,
            model_seconds: plan.model_seconds(),
            saved_seconds: plan.saved_seconds(),
            message: plan.message(),
        };
        tracing::info!(
            schedule = schedule.name,
            run = claim.id,
            planned = totals.planned,
            skipped = totals.skipped,
            bad = totals.bad,
            "a warming run is planned"
        );
        if self.store.plan_run(claim, &totals).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }

    /// How long the last run of a schedule took, in seconds.
    async fn usual_seconds(&self, schedule: &str) -> Result<f64, Stopped> {
        let runs = self.store.latest_runs(3).await?;
        let ended = runs.iter().find_map(|run| {
            let done = run.schedule == schedule && run.state == RunState::Done;
            let ended = run.finished_at.filter(|_| done)?;
            Some((ended - run.started_at).as_seconds_f64())
        });
        Ok(ended.unwrap_or(USUAL_SECONDS).max(0.1))
    }

    /// Posts what is left of a run, pausing while the queues are full.
    async fn post(&self, claim: Claim) -> Result<(), Stopped> {
        let mut depths = Depths::default();
        // What readers were told since the run began is newer than what its source said.
        let Some(began) = self.store.run_started_at(claim.id).await? else {
            return Err(Stopped::Lost);
        };
        loop {
            let posts = self.store.next_posts(claim.id, WINDOW).await?;
            if posts.is_empty() {
                break;
            }
            while !depths
                .have_room(&self.broker, &self.topology, &self.settings.warm)
                .await
            {
                tokio::time::sleep(LOOK).await;
            }
            let pieces: Vec<i32> = posts.iter().map(|post| post.piece).collect();
            let messages: Vec<Message> = posts
                .into_iter()
                .map(|post| {
                    let id = job_id(claim.id, post.piece);
                    let message = message::job(&self.topology.warm, &id, post.body);
                    message::accepted(message, Moment::of(began))
                })
                .collect();
            let posted = self.publisher.publish(messages).await;
            posted.map_err(|error| Stopped::Failed(format!("{error}; lower warm.piece_inputs")))?;
            if !self.store.note_posted(claim, &pieces).await? {
                return Err(Stopped::Lost);
            }
        }
        if self.store.all_posted(claim).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }

    /// Waits until every posted job has its row.
    async fn wait(&self, claim: Claim) -> Result<Progress, Stopped> {
        loop {
            let Some(run) = self.store.run_pieces(claim.id).await? else {
                return Err(Stopped::Lost);
            };
            let progress = self.store.run_progress(claim.id).await?;
            if progress.jobs >= run {
                return Ok(progress);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What is said of a run that hit its limit.
pub(super) const TOO_LONG: &str = "it ran past its time limit";

/// The id of a run's job: what makes posting it twice harmless.
fn job_id(run: i64, piece: i32) -> String {
    format!("warm-{run}-{piece}")
}
