//! Owns the runs of schedules: claiming what is due, planning it, posting it, seeing it through.
//!
//! Promises that a due run happens once over all workers; that one cut short goes on where it stopped, on whichever worker
//! takes it over; and that a worker which was taken over from does nothing any more that counts: its jobs have the same
//! ids and bodies, and its writes carry an older token. Refuses to score anything: that is for whoever takes the jobs.

use super::{
    depths::Depths,
    due,
    folder::Folder,
    gather::Gatherer,
    schedule::{Keep, Overlap, Schedule},
    source::{HotInputs, Source, SourceError, SourceSpec},
};
use crate::{
    amqp::{connection::Broker, topology::Topology},
    amqp::{
        message::{self, Message},
        publisher::Publisher,
    },
    cache::RedisCache,
    clock,
    config::Settings,
    heat::{HeatScope, SharedHeat},
    pipeline::Engine,
    store::{
        Claim, Claimed, Paused, PlanTotals, PostgresStore, Progress, RunState, SCHEDULE, StoreError,
    },
    telemetry::metrics::{Metrics, WarmOutcome},
};
use chrono::{DateTime, Utc};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// How often due runs are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Jobs of a run that are posted together.
const WINDOW: i64 = 128;
/// Jobs of a plan written in one statement.
const WRITE: usize = 32;
/// How often a paused or waiting run looks again.
const LOOK: Duration = Duration::from_millis(100);
/// How often the folder of schedules is looked at, in ticks.
const SCAN_TICKS: u64 = 2;
/// What a run is taken to last before one has ended, in seconds.
const USUAL_SECONDS: f64 = 2.0;

/// Why a run wasn't carried on here.
#[derive(Debug, thiserror::Error)]
enum Stopped {
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
            StoreError::Unavailable(reason) | StoreError::Contended(reason) => Self::Later(reason),
            StoreError::Refused(reason) => Self::Failed(reason),
        }
    }
}

impl From<SourceError> for Stopped {
    fn from(error: SourceError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A worker's part in warming.
#[derive(Clone)]
pub struct Warmer {
    pub store: PostgresStore,
    pub engine: Arc<Engine>,
    pub publisher: Publisher,
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub settings: Arc<Settings>,
    pub metrics: Metrics,
    pub folder: Arc<Mutex<Folder>>,
    /// What operators have paused.
    pub paused: watch::Receiver<Vec<Paused>>,
    /// Names this worker in the rows of its runs.
    pub worker: String,
}

impl Warmer {
    /// Runs what is due for as long as the worker lives.
    pub async fn run(self) -> Result<(), String> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut runs: JoinSet<()> = JoinSet::new();
        let mut since: Option<DateTime<Utc>> = None;
        for number in 0u64.. {
            tick.tick().await;
            if number.is_multiple_of(SCAN_TICKS) {
                self.scan().await?;
            }
            while let Some(ended) = runs.try_join_next() {
                if let Err(error) = ended {
                    return Err(format!("a run panicked: {error}"));
                }
            }
            let starting = since.is_none();
            // That the database is out of reach is told by its own check.
            let Ok(now) = self.store.clock().await else {
                continue;
            };
            let since = *since.get_or_insert(now);
            if let Err(error) = self.tick(now, since, starting, &mut runs).await {
                tracing::debug!(%error, "due runs can't be claimed now");
            }
        }
        Ok(())
    }

    async fn scan(&self) -> Result<(), String> {
        let folder = self.folder.clone();
        let (changes, problems) = tokio::task::spawn_blocking(move || {
            let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            (folder.scan(), folder.problems().len())
        })
        .await
        .map_err(|e| e.to_string())?;
        for schedule in &changes.read {
            tracing::info!(schedule, "a schedule was read");
        }
        for schedule in &changes.gone {
            tracing::info!(schedule, "a schedule is gone");
        }
        for problem in &changes.problems {
            tracing::error!(%problem, "a schedule file is refused");
        }
        self.metrics.schedule_problems(problems);
        Ok(())
    }

    fn schedules(&self) -> Vec<Arc<Schedule>> {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.schedules()
    }

    /// Claims what is due at `now`, and takes over what was left lying, as far as there is room.
    async fn tick(
        &self,
        now: DateTime<Utc>,
        since: DateTime<Utc>,
        starting: bool,
        runs: &mut JoinSet<()>,
    ) -> Result<(), StoreError> {
        let most = self.settings.warm.runs_at_once;
        let schedules = self.schedules();
        let names: Vec<&str> = schedules.iter().map(|s| s.name.as_str()).collect();
        let last = if names.is_empty() {
            BTreeMap::new()
        } else {
            self.store.last_due(&names).await?
        };
        let paused = self.paused.borrow().clone();
        let is_paused = |schedule: &Schedule| {
            let held = |one: &Paused| one.name.strip_prefix(SCHEDULE) == Some(&schedule.name);
            paused.iter().any(held)
        };
        let runs_itself = |schedule: &&Arc<Schedule>| schedule.enabled && !is_paused(schedule);
        let mut overdue = 0;
        for schedule in schedules.iter().filter(runs_itself) {
            let last = last.get(&schedule.name).copied();
            for due_at in due::due(schedule, last, since, now, starting) {
                if runs.len() >= most {
                    // Another worker may have room.
                    overdue += 1;
                    break;
                }
                if let Some(claim) = self.claim(schedule, due_at).await? {
                    self.start(claim, Some(schedule.clone()), RunState::Planning, runs);
                }
            }
        }
        self.metrics.schedules_overdue(overdue);
        while runs.len() < most {
            let life = self.life();
            let Some(taken) = self.store.take_run_over(&self.worker, &names, life).await? else {
                break;
            };
            tracing::info!(
                schedule = taken.schedule,
                run = taken.claim.id,
                state = taken.state.as_str(),
                "a run is taken over"
            );
            if taken.is_over {
                self.end(taken.claim, Err(Stopped::Failed(TOO_LONG.to_owned())))
                    .await;
                continue;
            }
            let schedule = schedules.iter().find(|s| s.name == taken.schedule).cloned();
            self.start(taken.claim, schedule, taken.state, runs);
        }
        Ok(())
    }

    fn life(&self) -> Duration {
        Duration::from_secs(self.settings.warm.claim_seconds)
    }

    /// Claims one run for this worker.
    pub async fn claim(
        &self,
        schedule: &Schedule,
        due_at: DateTime<Utc>,
    ) -> Result<Option<Claim>, StoreError> {
        let overlap = match schedule.overlap {
            Overlap::Skip => "skip",
            Overlap::Wait => "wait",
            Overlap::Allow => "allow",
        };
        let claimed = self
            .store
            .claim_run(
                &schedule.name,
                due_at,
                overlap,
                &self.worker,
                self.life(),
                schedule.limit,
            )
            .await?;
        Ok(match claimed {
            Claimed::Own(claim) => Some(claim),
            Claimed::Set(_, RunState::Skipped) => {
                self.metrics.warm_run(WarmOutcome::Skipped);
                tracing::warn!(
                    schedule = schedule.name,
                    "a run is left out: an earlier one is under way"
                );
                None
            }
            Claimed::Set(..) | Claimed::Taken => None,
        })
    }

    fn start(
        &self,
        claim: Claim,
        schedule: Option<Arc<Schedule>>,
        state: RunState,
        runs: &mut JoinSet<()>,
    ) {
        let warmer = self.clone();
        runs.spawn(async move { warmer.carry(claim, schedule, state).await });
    }

    /// Carries a run to its end, or until it is another worker's.
    pub async fn carry(&self, claim: Claim, schedule: Option<Arc<Schedule>>, state: RunState) {
        let result = tokio::select! {
            result = self.work(claim, schedule, state) => result,
            stopped = self.keep(claim) => Err(stopped),
        };
        self.end(claim, result).await;
    }

    async fn end(&self, claim: Claim, result: Result<Progress, Stopped>) {
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

    /// Renews the claim until that fails.
    async fn keep(&self, claim: Claim) -> Stopped {
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
        loop {
            let posts = self.store.next_posts(claim.id, WINDOW).await?;
            if posts.is_empty() {
                break;
            }
            while !depths.have_room(self).await {
                tokio::time::sleep(LOOK).await;
            }
            let pieces: Vec<i32> = posts.iter().map(|post| post.piece).collect();
            let messages: Vec<Message> = posts
                .into_iter()
                .map(|post| {
                    message::job(
                        &self.topology.warm,
                        &job_id(claim.id, post.piece),
                        post.body,
                    )
                })
                .collect();
            self.publisher.publish(&messages).await;
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
const TOO_LONG: &str = "it ran past its time limit";

/// The id of a run's job: what makes posting it twice harmless.
fn job_id(run: i64, piece: i32) -> String {
    format!("warm-{run}-{piece}")
}

/// The source of a schedule. What is hot is asked of Redis, where workers tell each other.
pub async fn open(
    schedule: &Schedule,
    settings: &Settings,
    store: &PostgresStore,
    redis: Option<&RedisCache>,
) -> Result<Box<dyn Source>, SourceError> {
    let SourceSpec::Heat(spec) = &schedule.source else {
        return schedule.source.open(settings);
    };
    let space = HeatScope {
        namespace: schedule.namespace().to_owned(),
        model: schedule.model_name().to_owned(),
    };
    let unheard = || SourceError("redis, where workers tell what is hot, doesn't answer".into());
    let redis = redis.ok_or_else(unheard)?;
    let now_ms = clock::now().timestamp_millis();
    let heat = SharedHeat::new(redis);
    let asked = heat.hot(&space, now_ms).await.ok_or_else(unheard)?.inputs;
    let read = if schedule.keep == Keep::Named {
        let read = heat.read(&space.namespace, now_ms).await;
        read.ok_or_else(unheard)?
    } else {
        Vec::new()
    };
    Ok(Box::new(HotInputs::new(
        store.clone(),
        space.model,
        asked,
        read,
        spec.top,
    )))
}
