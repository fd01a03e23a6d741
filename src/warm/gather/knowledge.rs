//! What planning knows beside a schedule's source: what inputs cost, how much memory there is, and how long runs take. A run and a dry run
//! ask the same.

use super::Gatherer;
use crate::{
    store::{PostgresStore, RunRow, RunState, StoreError},
    warm::{
        plan::{MemoryRoom, RedisMemory},
        schedule::Schedule,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use kiln_model::Model;

/// What a run is taken to last before one has ended, in seconds.
const USUAL_SECONDS: f64 = 2.0;
/// Runs of each schedule that are looked at.
const RUNS: i64 = 3;
/// How long what a schedule's last run keeps is taken to be there.
const KEPT_FOR: TimeDelta = TimeDelta::days(1);

/// What planning knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Knowledge {
    /// How long a run takes, in seconds.
    pub spread: f64,
    /// What Redis says of its memory, where it does.
    pub memory: Option<RedisMemory>,
    /// Keys that it has evicted since the last run, and since it started.
    pub evicted: u64,
    pub evicted_keys: Option<u64>,
    /// What other schedules keep, in bytes.
    pub kept: f64,
}

impl Knowledge {
    /// What a run may fill, where it leaves so many bytes because they are fresh.
    pub fn room(&self, share: f64, fresh: f64) -> MemoryRoom {
        match &self.memory {
            Some(memory) => memory.room(share, self.kept + fresh),
            None => MemoryRoom::UNKNOWN,
        }
    }

    fn of_runs(schedule: &str, runs: &[RunRow], now: DateTime<Utc>) -> Self {
        let ended = runs.iter().find_map(|run| {
            let done = run.schedule == schedule && run.state == RunState::Done;
            let ended = run.finished_at.filter(|_| done)?;
            Some((ended - run.started_at).as_seconds_f64())
        });
        let keeps = |run: &&RunRow| {
            let is_planned = matches!(
                run.state,
                RunState::Posting | RunState::Waiting | RunState::Done
            );
            is_planned && run.schedule != schedule && now - run.started_at < KEPT_FOR
        };
        // A schedule's runs stand together, the latest first.
        let all: Vec<&RunRow> = runs.iter().filter(keeps).collect();
        let latest = all.chunk_by(|a, b| a.schedule == b.schedule);
        let kept = latest.filter_map(|runs| Some(runs.first()?.kept_bytes as f64));
        Self {
            spread: ended.unwrap_or(USUAL_SECONDS).max(0.1),
            kept: kept.sum(),
            ..Self::default()
        }
    }
}

impl Gatherer<'_> {
    /// Asks the database and Redis.
    pub(super) async fn knowledge(&self, schedule: &Schedule) -> Result<Knowledge, StoreError> {
        let runs = self.store.latest_runs(RUNS).await?;
        let mut knowledge = Knowledge::of_runs(&schedule.name, &runs, self.now);
        let capacity = match self.redis {
            Some(redis) => redis.capacity().await,
            None => None,
        };
        let Some(capacity) = capacity else {
            return Ok(knowledge);
        };
        let seen = runs
            .iter()
            .filter_map(|run| Some((run.started_at, run.evicted_keys?)));
        let last = seen
            .max_by_key(|(at, _)| *at)
            .map(|(_, keys)| keys.unsigned_abs());
        let before = last.unwrap_or(capacity.evicted_keys);
        // One that was started anew counts from 0 again.
        knowledge.evicted = capacity.evicted_keys.saturating_sub(before);
        knowledge.evicted_keys = Some(capacity.evicted_keys);
        knowledge.memory = Some(RedisMemory {
            used: capacity.used as f64,
            max: capacity.max as f64,
            makes_room: capacity.makes_room,
            evicts: knowledge.evicted > 0,
        });
        Ok(knowledge)
    }
}

/// Tells others what a model's calls, or its golden inputs, say of its costs, where it scores here; and takes what others say for what its own calls
/// haven't measured. Says whether calls have measured any of it, whoever made them.
pub async fn share_costs(
    store: &PostgresStore,
    model: &Model,
    scores_here: bool,
) -> Result<bool, StoreError> {
    let info = model.info();
    let version = (info.name.as_str(), info.version.as_str());
    if scores_here {
        store
            .share_costs(version, model.machine(), &model.costs())
            .await?;
    }
    let known = store.known_costs(version, model.machine()).await?;
    let costs: Vec<_> = known.iter().map(|one| one.cost).collect();
    model.adopt_costs(&costs);
    let is_measured = costs.iter().any(|cost| cost.is_measured);
    Ok(is_measured || model.has_measured())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(schedule: &str, minutes: i64, kept_bytes: i64, state: RunState) -> RunRow {
        let at = DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes);
        RunRow {
            id: 1,
            schedule: schedule.to_owned(),
            due_at: at,
            state,
            worker: None,
            planned: 0,
            skipped: 0,
            bad: 0,
            posted: 0,
            done: 0,
            failed: 0,
            hits: 0,
            misses: 0,
            model_seconds: 0.0,
            saved_seconds: None,
            message: None,
            started_at: at,
            finished_at: Some(at + TimeDelta::seconds(7)),
            computes: 0,
            left_over: 0,
            spent_seconds: 0.0,
            kept_bytes,
            evicted_keys: None,
        }
    }

    #[test]
    fn what_other_schedules_keep_is_known_by_their_last_runs() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::minutes(2_000);
        let runs = [
            run("a", 1_990, 10, RunState::Done),
            run("b", 1_995, 0, RunState::Skipped),
            run("b", 1_990, 100, RunState::Done),
            run("b", 1_980, 1_000, RunState::Done),
            run("c", 1_999, 10_000, RunState::Posting),
            run("d", 10, 100_000, RunState::Done),
        ];
        let knowledge = Knowledge::of_runs("a", &runs, now);
        assert_eq!((knowledge.kept, knowledge.spread), (10_100.0, 7.0));
        assert_eq!(Knowledge::of_runs("e", &runs, now).spread, USUAL_SECONDS);
        assert_eq!(knowledge.room(0.5, 1.0), MemoryRoom::UNKNOWN);
    }
}
