//! Carries one claimed run: plans it, posts it, sees it through, and writes its end.
//!
//! Promises that a run cut short goes on where it stopped, on whichever worker takes it over, and that a worker which was taken over
//! from does nothing any more that counts: its jobs have the same ids and bodies, and its writes carry an older token.

use super::{
    gather::{Gatherer, PlanError},
    hot_source::open,
    schedule::Schedule,
    source::SourceError,
};
use crate::{
    amqp::{connection::Broker, publisher::Publisher, topology::Topology},
    config::Settings,
    pipeline::{Engine, READERS_AGAIN},
    store::{Claim, PostgresStore, Progress, RunState, StoreError},
    telemetry::metrics::{Metrics, WarmInput, WarmOutcome},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Jobs of a plan written in one statement.
const WRITE: usize = 32;

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
            | StoreError::TimedOut(reason)
            | StoreError::Objected(reason) => Self::Later(reason),
            StoreError::Refused(reason) => Self::Failed(reason),
        }
    }
}

impl From<SourceError> for Stopped {
    fn from(error: SourceError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<PlanError> for Stopped {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Source(error) => error.into(),
            PlanError::Store(error) => error.into(),
            PlanError::Lost => Self::Lost,
        }
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
        name: &str,
        schedule: Option<Arc<Schedule>>,
        state: RunState,
        stop: &CancellationToken,
    ) {
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => Err(Stopped::Asked),
            result = self.work(claim, name, schedule, state) => result,
            stopped = self.renew_claim(claim) => Err(stopped),
        };
        self.end(claim, name, result).await;
    }

    /// Writes the end of a run of the schedule `name`.
    pub(super) async fn end(&self, claim: Claim, name: &str, result: Result<Progress, Stopped>) {
        let (state, progress, message) = match result {
            Ok(progress) => {
                let (state, message) = outcome(&progress);
                (state, progress, message)
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
            Ok(Some(left_over)) => {
                let Progress { hits, misses, .. } = progress;
                self.metrics.warm_inputs(name, WarmInput::Renewed, hits);
                self.metrics.warm_inputs(name, WarmInput::Computed, misses);
                self.metrics
                    .warm_inputs(name, WarmInput::LeftOver, left_over);
                if state == RunState::Done {
                    return self.metrics.warm_run(name, WarmOutcome::Done);
                }
                self.metrics.warm_run(name, WarmOutcome::Failed);
                tracing::error!(run = claim.id, reason = message, "a warming run failed");
            }
            Ok(None) => {}
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
        name: &str,
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
            self.post(claim, name).await?;
        }
        self.wait(claim).await
    }

    async fn plan(&self, claim: Claim, schedule: &Schedule) -> Result<(), Stopped> {
        // It knows what is there and what memory is left.
        if !self.engine.reaches_readers() {
            tokio::time::sleep(READERS_AGAIN).await;
            self.store.release_run(claim).await?;
            return Err(Stopped::Later("Redis takes nothing".to_owned()));
        }
        self.store.clear_posts(claim).await?;
        let now = self.store.clock().await?;
        let gatherer = Gatherer {
            settings: &self.settings,
            registry: self.engine.registry(),
            store: &self.store,
            redis: self.engine.cache().server(),
            now,
            claim: Some(claim),
            scores_here: true,
        };
        let spent = self.store.spent_ahead(&schedule.name, Some(claim.id));
        let mut left = schedule.clone();
        left.budget = schedule.budget.less(&spent.await?);
        let schedule = &left;
        let source = open(
            schedule,
            &self.settings,
            &self.store,
            self.engine.cache().server(),
        )
        .await?;
        let mut plan = gatherer.plan(schedule, source.as_ref()).await?;
        let posts = gatherer.pieces(schedule, &mut plan);
        for (part, first) in posts.chunks(WRITE).zip((0i32..).step_by(WRITE)) {
            if !self.store.add_posts(claim, first, part).await? {
                return Err(Stopped::Lost);
            }
        }
        let mut totals = plan.totals(&schedule.budget, posts.len());
        // What a ranking lacks may come in jobs of its own before it.
        totals.planned = posts.iter().map(|post| i64::from(post.inputs)).sum();
        totals.computes = posts.iter().map(|post| i64::from(post.computes)).sum();
        tracing::info!(
            schedule = schedule.name,
            run = claim.id,
            planned = totals.planned,
            computes = totals.computes,
            skipped = totals.skipped,
            left_over = totals.left_over,
            bad = totals.bad,
            "a warming run is planned"
        );
        self.metrics
            .warm_inputs(&schedule.name, WarmInput::LeftOver, totals.left_over);
        if self.store.plan_run(claim, &totals).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }
}

/// How a run ended that was seen through: one of which all was rejected has failed.
fn outcome(progress: &Progress) -> (RunState, Option<String>) {
    let rejected = progress.rejected;
    let message = format!("{rejected} jobs were rejected: see the dead letters");
    match rejected {
        0 => (RunState::Done, None),
        all if all >= progress.jobs => (RunState::Failed, Some(message)),
        _ => (RunState::Done, Some(message)),
    }
}

/// What is said of a run that hit its limit.
pub(super) const TOO_LONG: &str = "it ran past its time limit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_which_all_was_rejected_has_failed() {
        let ended = |jobs, rejected| {
            let progress = Progress {
                jobs,
                rejected,
                ..Progress::default()
            };
            outcome(&progress).0
        };
        assert_eq!(ended(0, 0), RunState::Done);
        assert_eq!(ended(3, 0), RunState::Done);
        assert_eq!(ended(3, 2), RunState::Done);
        assert_eq!(ended(3, 3), RunState::Failed);
    }
}
