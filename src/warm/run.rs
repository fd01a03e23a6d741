//! Owns which runs of schedules are this worker's: claims what is due, and takes over what was left lying.
//!
//! Promises that a due run happens once over all workers, and that a stop releases those in hand for another worker at once. Refuses
//! to score anything: that is for whoever takes the jobs.

use super::{
    carry::{Carrier, Stopped, TOO_LONG},
    due::{self, DueRun},
    folder::Folder,
    follow::Followers,
    queue::WaitingRuns,
    scan::FolderReading,
    schedule::{Overlap, Schedule},
    turns::{Last, in_turn},
};
use crate::{
    redact::Redact,
    store::{Claim, Claimed, News, Paused, RunState, SCHEDULE, StoreError},
    telemetry::metrics::WarmOutcome,
};
use anyhow::bail;
use chrono::{DateTime, Utc};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// How often due runs are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often the folder of schedules is looked at, in ticks.
const SCAN_TICKS: u64 = 2;

/// A worker's part in warming.
#[derive(Clone)]
pub struct Warmer {
    pub carrier: Carrier,
    pub folder: Arc<Mutex<Folder>>,
    /// What the database says of the clock, of runs that wait, and of what operators have paused.
    pub news: watch::Receiver<Option<Arc<News>>>,
    /// Names this worker in the rows of its runs.
    pub worker: String,
}

/// Runs in hand.
struct Runs {
    tasks: JoinSet<()>,
    followers: Followers,
    stop: CancellationToken,
    /// Whether the latest one to start was due: then it is the turn of those that wait.
    was_due: bool,
}

impl Runs {
    /// Forgets those that have ended.
    fn reap(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                bail!("a run ended: {}", error.redacted());
            }
        }
        self.followers.reap()
    }

    fn start(
        &mut self,
        warmer: &Warmer,
        claim: Claim,
        name: String,
        schedule: Option<Arc<Schedule>>,
        state: RunState,
    ) {
        let carrier = warmer.carrier.clone();
        match schedule {
            Some(schedule) if schedule.follows() => {
                let worker = &warmer.worker;
                self.followers.start(&carrier, worker, schedule, claim);
            }
            schedule => {
                let stop = self.stop.clone();
                self.tasks.spawn(async move {
                    carrier.carry(claim, &name, schedule, state, &stop).await;
                });
            }
        }
    }
}

impl Warmer {
    /// Runs what is due until it is asked to stop, and releases what is under way.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let ending = stop.child_token();
        let mut runs = Runs {
            tasks: JoinSet::new(),
            followers: Followers::new(ending.clone()),
            stop: ending,
            was_due: false,
        };
        let ended = self.follow(&mut runs, &stop).await;
        runs.stop.cancel();
        // Each hears of the stop by itself.
        while runs.tasks.join_next().await.is_some() {}
        runs.followers.join().await;
        ended
    }

    async fn follow(&self, runs: &mut Runs, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut ticks, mut news) = (0u64, self.news.clone());
        let mut last: Option<Last> = None;
        let mut has_started = false;
        let (mut retimed, mut reading) = (Vec::new(), FolderReading::default());
        let mut waiting = WaitingRuns::default();
        loop {
            let woken = async {
                tokio::select! {
                    _ = tick.tick() => true,
                    Ok(()) = news.changed() => false,
                }
            };
            let Some(ticked) = stop.run_until_cancelled(woken).await else {
                break;
            };
            if !ticked && ticks == 0 {
                continue;
            }
            if ticked {
                if ticks.is_multiple_of(SCAN_TICKS) {
                    let scan = reading.scan(&self.carrier, &self.folder);
                    let Some(changes) = stop.run_until_cancelled(scan).await else {
                        break;
                    };
                    retimed.extend(changes?.retimed);
                }
                ticks += 1;
            }
            runs.reap()?;
            let Some(news) = news.borrow_and_update().clone() else {
                continue;
            };
            // What is due at the start is only known of the schedules that were read.
            let starting = !has_started && reading.has_read();
            let last = last.get_or_insert_with(|| Last::since(news.now()));
            let added = retimed.drain(..).map(|name| (name, news.now()));
            last.retimed.extend(added);
            if news.is_run_waiting && reading.has_read() {
                self.tend(&mut waiting).await;
            }
            // Never cut short: a claim that was made is a run in hand, which is released.
            match self.tick(&news, last, starting, runs).await {
                // As long as there was no room for some of it, or the database was away, all of it is still to be seen to.
                Ok(were_all_claimed) => has_started |= starting && were_all_claimed,
                Err(error) => tracing::debug!(%error, "due runs can't be claimed now"),
            }
        }
        Ok(())
    }

    /// Looks after what waits.
    async fn tend(&self, waiting: &mut WaitingRuns) {
        let Carrier { store, metrics, .. } = &self.carrier;
        if let Err(error) = waiting.tend(store, metrics, &self.schedules()).await {
            tracing::debug!(%error, "what waits can't be looked after now");
        }
    }

    fn schedules(&self) -> Vec<Arc<Schedule>> {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        folder.schedules()
    }

    /// Brings what is known of the runs up to date where something may be due: otherwise the database isn't asked.
    async fn look(
        &self,
        wanted: &[&Arc<Schedule>],
        last: &mut Last,
        now: DateTime<Utc>,
        starting: bool,
    ) -> Result<(), StoreError> {
        let names: Vec<&str> = wanted.iter().map(|s| s.name.as_str()).collect();
        let may_be_due = |schedule: &&Arc<Schedule>| {
            let Some(known) = last.due.get(&schedule.name) else {
                return true;
            };
            let known = last.of(&schedule.name).max(*known);
            !due::due(schedule, known, last.since, now, starting).is_empty()
        };
        if !wanted.iter().any(may_be_due) {
            return Ok(());
        }
        let mut ran = self.carrier.store.last_due(&names, now).await?;
        let known = names
            .iter()
            .map(|name| ((*name).to_owned(), ran.remove(*name)));
        last.due = known.collect();
        Ok(())
    }

    /// Claims what is due, and takes over what was left lying, as far as there is room. Says whether there was room for all that is due.
    async fn tick(
        &self,
        news: &News,
        last: &mut Last,
        starting: bool,
        runs: &mut Runs,
    ) -> Result<bool, StoreError> {
        let now = news.now();
        last.forget_after(now);
        let max = self.carrier.settings.warm.runs_at_once;
        let schedules = self.schedules();
        let is_paused = |schedule: &Schedule| {
            let held = |one: &Paused| one.name.strip_prefix(SCHEDULE) == Some(&schedule.name);
            news.paused.iter().any(held)
        };
        let runs_itself = |schedule: &&Arc<Schedule>| schedule.enabled && !is_paused(schedule);
        let wanted: Vec<&Arc<Schedule>> = schedules.iter().filter(runs_itself).collect();
        let followers = &mut runs.followers;
        followers.tend(&self.carrier, &self.worker, &wanted).await?;
        if news.is_run_waiting {
            followers
                .take_over(&self.carrier, &self.worker, &wanted)
                .await?;
        }
        self.look(&wanted, last, now, starting).await?;
        // What it would plan and post is for others to do, whose Redis answers, or for later.
        if !self.carrier.engine.reaches_readers() {
            let due = in_turn(&wanted, last, now, starting).into_iter();
            let due: BTreeSet<&String> = due.map(|(schedule, _)| &schedule.name).collect();
            self.carrier.metrics.schedules_overdue(due.len());
            return Ok(false);
        }
        // Where there is room for few, those that are due and those that wait take turns.
        if runs.was_due && news.is_run_waiting {
            self.take_over((&schedules, &wanted), runs, 1).await?;
        }
        let mut overdue = BTreeSet::new();
        for (schedule, run) in in_turn(&wanted, last, now, starting) {
            if runs.stop.is_cancelled() {
                return Ok(false);
            }
            // Of runs that make up for others, each comes after those before it.
            if runs.tasks.len() >= max || overdue.contains(&schedule.name) {
                // Another worker may have room.
                overdue.insert(&schedule.name);
                continue;
            }
            match self.claim(schedule, run).await? {
                Claimed::Own(claim) => {
                    let (name, known) = (schedule.name.clone(), Some(schedule.clone()));
                    runs.start(self, claim, name, known, RunState::Planning);
                    runs.was_due = true;
                }
                Claimed::Full => {
                    overdue.insert(&schedule.name);
                }
                Claimed::Set(..) | Claimed::Taken => {}
            }
        }
        self.carrier.metrics.schedules_overdue(overdue.len());
        if news.is_run_waiting {
            self.take_over((&schedules, &wanted), runs, usize::MAX)
                .await?;
        }
        Ok(overdue.is_empty())
    }

    /// Takes over so many runs that were left lying or had to wait, as far as there is room: those that wait only of schedules that run by
    /// themselves, or where they were asked for.
    async fn take_over(
        &self,
        (schedules, wanted): (&[Arc<Schedule>], &[&Arc<Schedule>]),
        runs: &mut Runs,
        count: usize,
    ) -> Result<(), StoreError> {
        let max = self.carrier.settings.warm.runs_at_once;
        let known: Vec<&str> = schedules.iter().map(|s| s.name.as_str()).collect();
        let running: Vec<&str> = wanted.iter().map(|s| s.name.as_str()).collect();
        let mut started = 0;
        while started < count && runs.tasks.len() < max && !runs.stop.is_cancelled() {
            let life = self.carrier.life();
            let store = &self.carrier.store;
            let names = (&known[..], &running[..]);
            let Some(taken) = store.take_run_over(&self.worker, names, life).await? else {
                break;
            };
            tracing::info!(
                schedule = taken.schedule,
                run = taken.claim.id,
                state = taken.state.as_str(),
                "a run is taken over"
            );
            if taken.is_over {
                let failed = Err(Stopped::Failed(TOO_LONG.to_owned()));
                self.carrier.end(taken.claim, &taken.schedule, failed).await;
                continue;
            }
            let schedule = schedules.iter().find(|s| s.name == taken.schedule).cloned();
            runs.start(self, taken.claim, taken.schedule, schedule, taken.state);
            runs.was_due = false;
            started += 1;
        }
        Ok(())
    }

    /// Claims one run for this worker.
    async fn claim(&self, schedule: &Schedule, run: DueRun) -> Result<Claimed, StoreError> {
        let overlap = match schedule.overlap {
            Overlap::Allow => "allow",
            // One that makes up for others comes after them.
            Overlap::Skip | Overlap::Wait if run.queues => "queue",
            Overlap::Wait => "wait",
            Overlap::Skip => "skip",
        };
        let claimed = self
            .carrier
            .store
            .claim_run(
                &schedule.name,
                run.at,
                overlap,
                &self.worker,
                self.carrier.life(),
                schedule.limit,
            )
            .await?;
        if matches!(claimed, Claimed::Set(_, RunState::Skipped)) {
            let metrics = &self.carrier.metrics;
            metrics.warm_run(&schedule.name, WarmOutcome::Skipped);
            let schedule = &schedule.name;
            match overlap {
                "wait" => tracing::warn!(
                    schedule,
                    "a run is left out: an earlier one waits, and stands for it"
                ),
                _ => tracing::warn!(schedule, "a run is left out: an earlier one is under way"),
            }
        }
        Ok(claimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::schedule::parse;
    use std::path::Path;

    #[test]
    fn what_is_added_to_a_running_worker_was_not_due_before() {
        let text = "name = \"s\"\ncron = \"*/10 * * * *\"\nmodel = \"m\"\nmissed = \"all\"\n[source]\nkind = \"static\"\n\
                    inputs = [{ key = \"k\", text = \"t\" }]";
        let schedule = parse(Path::new("s.toml"), text).expect("a schedule");
        let at = |time: &str| -> DateTime<Utc> {
            format!("2026-11-21T{time}Z").parse().expect("an instant")
        };
        let mut last = Last::since(at("08:00:01"));
        let due = |last: &Last, now: &str| {
            due::due(&schedule, last.of("s"), last.since, at(now), false).len()
        };
        assert_eq!(due(&last, "08:50:00"), 5, "it was there from the start");
        last.retimed.insert("s".to_owned(), at("08:45:10"));
        assert_eq!(due(&last, "08:49:59"), 0);
        assert_eq!(due(&last, "08:50:00"), 1);
        // Its runs from before count as dealt with, and so does a later one.
        last.due.insert("s".to_owned(), Some(at("08:10:00")));
        assert_eq!(due(&last, "08:50:00"), 1);
        last.due.insert("s".to_owned(), Some(at("08:50:00")));
        assert_eq!(due(&last, "08:50:01"), 0);
    }
}
