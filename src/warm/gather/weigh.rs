//! Compares rows with what Redis holds: entries that outlive the next run are skipped, the others become candidates with what
//! their refresh costs and saves.

use super::{Gatherer, PlannedEntry, RunPlan, group::Group};
use crate::{
    cache::RedisCache,
    heat::SharedHeat,
    pipeline::ROUND_TRIP_SECONDS,
    warm::{
        due,
        plan::{self, Candidate},
        schedule::{Keep, Schedule},
        source::{Row, RowContent},
    },
};
use kiln_contract::key::{self, EntryPrefix};
use kiln_model::Model;
use std::{collections::HashMap, sync::Arc};

/// Assumed cost of an input before the model has run, in seconds.
const UNKNOWN_COST: f64 = 0.001;

/// What all candidates of one plan share.
pub(super) struct PlanContext<'a> {
    schedule: &'a Schedule,
    model: Arc<Model>,
    entries: EntryPrefix,
    /// Reads per second, by name.
    reads: HashMap<String, f64>,
    /// How long a run takes, in seconds.
    spread: f64,
    /// Seconds until the next run.
    next: f64,
    /// TTL of an entry, and how long readers are served it after that, in seconds.
    ttl: f64,
    grace: f64,
}

/// Remaining TTLs of a group's entries, in seconds.
struct Lives {
    /// Of what readers find, or else of the first input's score.
    left: Option<f64>,
    /// Of each input's score.
    scores: Vec<Option<f64>>,
}

impl<'a> PlanContext<'a> {
    pub async fn new(
        gatherer: &Gatherer<'_>,
        schedule: &'a Schedule,
        model: Arc<Model>,
        spread: f64,
    ) -> Self {
        let info = model.info();
        let next = due::next(schedule, gatherer.now);
        Self {
            schedule,
            entries: EntryPrefix::new(&info.name, &info.version),
            reads: reads(gatherer, schedule).await,
            spread,
            next: next.map_or(f64::INFINITY, |next| (next - gatherer.now).as_seconds_f64()),
            ttl: gatherer.ttl_seconds(schedule, info.ttl_seconds) as f64,
            grace: gatherer.settings.grace_seconds(schedule.namespace()) as f64,
            model,
        }
    }

    /// Where readers find an entry, if they do.
    fn reader_key(&self, key: Option<&str>) -> Option<Vec<u8>> {
        let key = key.filter(|_| self.schedule.keep != Keep::Scores)?;
        Some(key::named(self.schedule.namespace(), key).into_bytes())
    }

    fn score_key(&self, row: &Row) -> Vec<u8> {
        let hash = match &row.content {
            RowContent::Features(features) => key::hash_features(features),
            RowContent::Text { text, pair } => {
                let pair = pair.as_deref().map(|p| self.model.normalise(p));
                key::hash_text(&self.model.normalise(text), pair.as_deref())
            }
        };
        self.entries.key(&hash)
    }

    /// The key that readers use first, if any, then one score entry per input.
    fn keys(&self, group: &Group) -> impl Iterator<Item = Vec<u8>> {
        let scores = group.rows.iter().map(|row| self.score_key(row));
        self.reader_key(group.key.as_deref())
            .into_iter()
            .chain(scores)
    }

    /// Takes the remaining TTLs of a group's keys, in their order.
    fn lives(&self, group: &Group, lives: &mut impl Iterator<Item = Option<f64>>) -> Lives {
        let shown = self
            .reader_key(group.key.as_deref())
            .map(|_| lives.next().flatten().map(|left| left - self.grace));
        let scores: Vec<Option<f64>> = lives.take(group.rows.len()).collect();
        debug_assert_eq!(scores.len(), group.rows.len(), "a life for each key");
        let first = scores.first().copied().flatten();
        Lives {
            left: shown.unwrap_or(first),
            scores,
        }
    }

    fn candidate(&self, group: Group, lives: &Lives) -> PlannedEntry {
        let costs: Vec<f64> = group.rows.iter().map(|row| self.cost(row)).collect();
        let missing = lives.scores.iter().zip(&costs);
        let missing = missing.filter(|(left, _)| left.is_none());
        let rates: Vec<f64> = group.rows.iter().filter_map(|row| row.rate).collect();
        let foretold = (!rates.is_empty()).then(|| rates.iter().sum::<f64>());
        let read = group.key.as_ref().and_then(|key| self.reads.get(key));
        let candidate = Candidate {
            inputs: group.rows.len(),
            // Neither the source nor readers' hints need know of all requests.
            rate: foretold.into_iter().chain(read.copied()).reduce(f64::max),
            ttl: self.ttl,
            cost: missing
                .map(|(_, cost)| cost)
                .fold(0.0, |all, cost| all + cost),
            wait: ROUND_TRIP_SECONDS + costs.iter().sum::<f64>(),
        };
        PlannedEntry {
            key: group.key,
            rows: group.rows,
            candidate,
            left: lives.left,
        }
    }

    fn cost(&self, row: &Row) -> f64 {
        let text = row.content.text();
        self.model.expected_seconds(text).unwrap_or(UNKNOWN_COST)
    }
}

impl Gatherer<'_> {
    /// Looks up the entries of some groups; those that need a refresh become candidates.
    pub(super) async fn weigh(
        &self,
        context: &PlanContext<'_>,
        groups: Vec<Group>,
        plan: &mut RunPlan,
    ) -> Vec<PlannedEntry> {
        let keys: Vec<Vec<u8>> = groups
            .iter()
            .flat_map(|group| context.keys(group))
            .collect();
        let mut lives = self.lives(context.schedule, &keys).await.into_iter();
        let mut candidates = Vec::new();
        for group in groups {
            let lives = context.lives(&group, &mut lives);
            if plan::is_fresh(lives.left, context.next, context.spread, (self.random)()) {
                plan.fresh += group.rows.len();
            } else {
                candidates.push(context.candidate(group, &lives));
            }
        }
        candidates
    }

    /// Remaining TTLs of keys, in seconds. Without Redis there are none.
    async fn lives(&self, schedule: &Schedule, keys: &[Vec<u8>]) -> Vec<Option<f64>> {
        let known = match self.redis {
            Some(redis) => lives_since_mark(redis, schedule.namespace(), keys).await,
            None => None,
        };
        let known = known.unwrap_or_else(|| vec![None; keys.len()]);
        let seconds = known.into_iter().map(|ms| ms.map(|ms| ms as f64 / 1e3));
        seconds.collect()
    }
}

async fn lives_since_mark(
    redis: &RedisCache,
    namespace: &str,
    keys: &[Vec<u8>],
) -> Option<Vec<Option<u64>>> {
    let mark = redis.mark(namespace).await;
    redis.ttls_since(keys, mark.unwrap_or_default()).await
}

/// How often the names of a schedule's namespace are read, per second, as far as the workers know.
async fn reads(gatherer: &Gatherer<'_>, schedule: &Schedule) -> HashMap<String, f64> {
    let redis = gatherer.redis.filter(|_| schedule.keep != Keep::Scores);
    let Some(redis) = redis else {
        return HashMap::new();
    };
    let read = SharedHeat::new(redis)
        .read(schedule.namespace(), gatherer.now.timestamp_millis())
        .await;
    let named = read.unwrap_or_default().into_iter();
    named.map(|one| (one.name, one.rate)).collect()
}
