//! Compares rows with what is known of them: entries that outlive the next run are skipped, the others become candidates with what
//! their refresh costs and saves. A score that Redis or the table of scores has needn't be computed.

use super::{
    Gatherer, PlannedEntry, RunPlan,
    group::Group,
    knowledge::Knowledge,
    versions::{Seen, Versions},
};
use crate::{
    cache::{RedisCache, memory_bytes},
    heat::SharedHeat,
    pipeline::{LookUpCost, ROUND_TRIP_SECONDS},
    store::StoreError,
    warm::{
        due, known,
        plan::{self, Candidate},
        schedule::{Keep, Schedule},
        source::Row,
    },
};
use chrono::{DateTime, Utc};
use kiln_contract::key;
use std::{collections::HashMap, time::Instant};

/// Assumed cost of an input of which nothing is known, in seconds.
const UNKNOWN_COST: f64 = 0.001;
/// About what readers find of one input, in bytes, and of a ranking's item beside its key.
const NAMED_BYTES: usize = 260;
const ITEM_BYTES: usize = 36;

/// What all candidates of one plan share.
pub(super) struct PlanContext<'a> {
    schedule: &'a Schedule,
    versions: Versions,
    /// Reads per second, by name.
    reads: HashMap<String, f64>,
    pub knowledge: Knowledge,
    /// When the next run is due.
    next_due: Option<DateTime<Utc>>,
    /// Seconds until the next run.
    next: f64,
    /// TTL of an entry, and how long readers are served it after that, in seconds.
    pub ttl: u64,
    pub grace: f64,
    /// Whether scores are kept whatever they cost; and what the plan's own look-ups take.
    keeps_all: bool,
    look_up: LookUpCost,
    /// The namespace's latest invalidation; nothing where Redis doesn't answer.
    mark: Option<u64>,
}

/// How a group's score is known.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Score {
    /// For so many seconds more.
    InRedis(f64),
    InTable,
    Unknown,
}

/// A group with what is known of it.
struct Looked {
    group: Group,
    inputs: Vec<Seen>,
    /// What is left of what readers find, in seconds; below 0 in its grace time.
    shown: Option<f64>,
    scores: Vec<Score>,
    /// Whether the score of each input is scored without a look-up, and not kept.
    are_unkept: Vec<bool>,
}

impl Looked {
    /// Remaining TTL of what readers find, or else of the first input's score, in seconds.
    fn left(&self, has_name: bool) -> Option<f64> {
        match self.scores.first() {
            Some(Score::InRedis(left)) if !has_name => Some(*left),
            _ => self.shown,
        }
    }
}

impl<'a> PlanContext<'a> {
    pub async fn new(
        gatherer: &Gatherer<'_>,
        schedule: &'a Schedule,
        versions: Versions,
    ) -> Result<Self, StoreError> {
        let info = versions.active().info();
        let next = due::next(schedule, gatherer.now);
        let mark = match gatherer.redis {
            Some(redis) => redis.mark(schedule.namespace()).await,
            None => None,
        };
        Ok(Self {
            schedule,
            reads: reads(gatherer, schedule).await,
            knowledge: gatherer.knowledge(schedule).await?,
            next_due: next,
            next: next.map_or(f64::INFINITY, |next| (next - gatherer.now).as_seconds_f64()),
            ttl: gatherer.ttl_seconds(schedule, info.ttl_seconds),
            keeps_all: known::keeps_all(gatherer.settings, schedule.namespace(), &info.name),
            look_up: LookUpCost::from_the_first(),
            grace: gatherer.settings.grace_seconds(schedule.namespace()) as f64,
            mark,
            versions,
        })
    }

    /// Where readers find an entry, if they do.
    fn reader_key(&self, key: Option<&str>) -> Option<Vec<u8>> {
        let key = key.filter(|_| self.schedule.keep != Keep::Scores)?;
        Some(key::named(self.schedule.namespace(), key).into_bytes())
    }

    /// A group's inputs as the job that renews it has them scored.
    fn seen(&self, group: &Group) -> Vec<Seen> {
        let is_ranked = matches!(self.schedule.keep, Keep::Rank { .. });
        let rank = group.key.as_deref().filter(|_| is_ranked);
        let rows = group.rows.iter();
        rows.map(|row| self.versions.seen(rank, row)).collect()
    }

    /// A group with what Redis says of its keys: first of the one that readers use, if any, then of each input's score.
    fn looked(
        &self,
        (group, inputs): (Group, Vec<Seen>),
        lives: &mut impl Iterator<Item = Option<f64>>,
    ) -> Looked {
        let shown = self
            .reader_key(group.key.as_deref())
            .and_then(|_| lives.next().flatten().map(|left| left - self.grace));
        let scores = lives.take(group.rows.len());
        let rows = group.rows.iter().zip(&inputs);
        let are_unkept: Vec<bool> = rows.map(|one| self.is_unkept(one)).collect();
        let scores = scores.zip(&are_unkept).map(|(left, is_unkept)| {
            let left = left.filter(|_| !is_unkept);
            left.map_or(Score::Unknown, Score::InRedis)
        });
        let scores: Vec<Score> = scores.collect();
        debug_assert_eq!(scores.len(), group.rows.len(), "a life for each key");
        Looked {
            group,
            inputs,
            shown,
            scores,
            are_unkept,
        }
    }

    /// Whether a job scores an input without looking it up, since that takes less time, and doesn't keep its score.
    fn is_unkept(&self, (row, input): (&Row, &Seen)) -> bool {
        let expected = self.versions.expected(input, &row.content);
        !self.keeps_all && self.look_up.is_above(expected)
    }

    /// Whether it can wait for the next run. The draw is the same for whoever plans before that.
    fn is_fresh(&self, looked: &Looked) -> bool {
        let has_name = self.reader_key(looked.group.key.as_deref()).is_some();
        let name = looked.group.key.as_deref().map(str::as_bytes);
        let name = name.or_else(|| looked.inputs.first().map(|input| input.hash.as_slice()));
        let draw = draw(&self.schedule.name, self.next_due, name.unwrap_or_default());
        let left = looked.left(has_name);
        plan::is_fresh(left, self.next, self.knowledge.spread, draw)
    }

    /// Whether it lives for longer than a refresh would have it live.
    fn outlives(&self, looked: &Looked) -> bool {
        let has_name = self.reader_key(looked.group.key.as_deref()).is_some();
        let life = looked.group.life.filter(|life| *life < self.ttl);
        let pair = looked.left(has_name).zip(life);
        pair.is_some_and(|(left, life)| left >= life as f64)
    }

    /// Memory that a group's entries fill, in bytes, and how much of it isn't filled yet.
    fn memory(&self, looked: &Looked) -> (f64, f64) {
        let (group, mut bytes, mut adds) = (&looked.group, 0.0, 0.0);
        if let Some(key) = self.reader_key(group.key.as_deref()) {
            let value = match self.schedule.keep {
                Keep::Rank { top, .. } => {
                    let items = group.rows.iter().take(top.unwrap_or(usize::MAX));
                    let item = |row: &Row| ITEM_BYTES + row.key.as_ref().map_or(0, String::len);
                    NAMED_BYTES + items.map(item).sum::<usize>()
                }
                _ => NAMED_BYTES,
            };
            bytes += memory_bytes(key.len(), value);
            if looked.shown.is_none() {
                adds += bytes;
            }
        }
        let (key, value) = self.versions.entry_bytes();
        let each = memory_bytes(key, value);
        for (score, is_unkept) in looked.scores.iter().zip(&looked.are_unkept) {
            if *is_unkept {
                continue;
            }
            bytes += each;
            if !matches!(score, Score::InRedis(_)) {
                adds += each;
            }
        }
        (bytes, adds)
    }

    fn candidate(&self, looked: Looked) -> PlannedEntry {
        let has_name = self.reader_key(looked.group.key.as_deref()).is_some();
        let (left, (bytes, adds)) = (looked.left(has_name), self.memory(&looked));
        let Looked {
            group,
            inputs,
            scores,
            ..
        } = looked;
        let ttl_seconds = group.life.unwrap_or(self.ttl);
        let rows = group.rows.iter().zip(&inputs);
        let costs: Vec<f64> = rows.map(|one| self.cost(one)).collect();
        let unknown = scores.iter().enumerate();
        let unknown = unknown.filter_map(|(n, score)| (*score == Score::Unknown).then_some(n));
        let missing: Vec<usize> = unknown.collect();
        let cost = missing.iter().filter_map(|number| costs.get(*number));
        let rates: Vec<f64> = group.rows.iter().filter_map(|row| row.rate).collect();
        let foretold = (!rates.is_empty()).then(|| rates.iter().sum::<f64>());
        let read = group.key.as_ref().and_then(|key| self.reads.get(key));
        let candidate = Candidate {
            inputs: group.rows.len(),
            computes: missing.len(),
            // Neither the source nor readers' hints need know of all requests.
            rate: foretold.into_iter().chain(read.copied()).reduce(f64::max),
            ttl: ttl_seconds as f64,
            cost: cost.fold(0.0, |all, cost| all + cost),
            wait: ROUND_TRIP_SECONDS + costs.iter().sum::<f64>(),
            bytes,
            adds,
        };
        PlannedEntry {
            key: group.key,
            rows: group.rows,
            candidate,
            left,
            from_table: scores.iter().filter(|one| **one == Score::InTable).count(),
            full_seconds: costs.iter().sum(),
            ttl_seconds,
            missing,
        }
    }

    fn cost(&self, (row, input): (&Row, &Seen)) -> f64 {
        let expected = self.versions.expected(input, &row.content);
        expected.unwrap_or(UNKNOWN_COST)
    }
}

/// A number from 0 to 1 that is any, and the same until the next run.
fn draw(schedule: &str, next: Option<DateTime<Utc>>, name: &[u8]) -> f64 {
    let next = next.map_or(0, |next| next.timestamp_millis());
    let mut seed = schedule.as_bytes().to_vec();
    seed.extend_from_slice(&next.to_le_bytes());
    seed.extend_from_slice(name);
    let [a, b, c, d, ..] = key::hash_body(&seed);
    (f64::from(u32::from_le_bytes([a, b, c, d])) + 0.5) / 2f64.powi(32)
}

impl Gatherer<'_> {
    /// Looks up the entries of some groups; those that need a refresh become candidates.
    pub(super) async fn weigh(
        &self,
        context: &PlanContext<'_>,
        groups: Vec<Group>,
        plan: &mut RunPlan,
    ) -> Result<Vec<PlannedEntry>, StoreError> {
        let seen = groups.into_iter().map(|group| {
            let inputs = context.seen(&group);
            (group, inputs)
        });
        let groups: Vec<(Group, Vec<Seen>)> = seen.collect();
        let keys = groups.iter().flat_map(|(group, inputs)| {
            let scores = inputs.iter().map(|input| context.versions.entry(input));
            let shown = context.reader_key(group.key.as_deref());
            shown.into_iter().chain(scores)
        });
        let keys: Vec<Vec<u8>> = keys.collect();
        let mut lives = self.lives(context, &keys).await.into_iter();
        let mut due = Vec::new();
        for group in groups {
            let looked = context.looked(group, &mut lives);
            let inputs = looked.group.rows.len();
            if context.schedule.keep == Keep::Scores && looked.are_unkept.contains(&true) {
                plan.unkept += inputs;
            } else if context.is_fresh(&looked) {
                plan.fresh += inputs;
                plan.kept_bytes += context.memory(&looked).0;
            } else if context.outlives(&looked) {
                plan.too_old += inputs;
                plan.kept_bytes += context.memory(&looked).0;
            } else {
                due.push(looked);
            }
        }
        self.look_in_table(context, &mut due).await?;
        Ok(due.into_iter().map(|one| context.candidate(one)).collect())
    }

    /// Remaining TTLs of keys, in seconds. Without Redis there are none.
    async fn lives(&self, context: &PlanContext<'_>, keys: &[Vec<u8>]) -> Vec<Option<f64>> {
        let began = Instant::now();
        let known = match self.redis {
            Some(redis) => {
                redis
                    .ttls_since(keys, context.mark.unwrap_or_default())
                    .await
            }
            None => None,
        };
        if known.is_some() {
            let seconds = began.elapsed().as_secs_f64();
            context.look_up.record(keys.len(), seconds);
        }
        let known = known.unwrap_or_else(|| vec![None; keys.len()]);
        let seconds = known.into_iter().map(|ms| ms.map(|ms| ms as f64 / 1e3));
        seconds.collect()
    }

    /// Looks in the table of scores for what Redis doesn't have.
    async fn look_in_table(
        &self,
        context: &PlanContext<'_>,
        due: &mut [Looked],
    ) -> Result<(), StoreError> {
        // Where no entry can be put back, none is taken for known.
        let info = context.versions.active().info();
        let are_kept = known::are_kept(self.settings, context.schedule.namespace(), &info.name);
        let (Some(mark), true) = (context.mark, are_kept) else {
            return Ok(());
        };
        let mut missing: Vec<(&mut Score, Seen)> = Vec::new();
        for looked in due {
            let scores = looked.scores.iter_mut().zip(&looked.inputs);
            let unknown = scores.filter(|(score, _)| **score == Score::Unknown);
            missing.extend(unknown.map(|(score, input)| (score, *input)));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let inputs: Vec<Seen> = missing.iter().map(|(_, input)| *input).collect();
        let rows = context.versions.scored_at(self.store, &inputs).await?;
        for ((score, _), scored_at) in missing.into_iter().zip(rows) {
            if scored_at.is_some_and(|at| known::is_after(at, mark, self.settings)) {
                *score = Score::InTable;
            }
        }
        Ok(())
    }
}

/// How often the names of a schedule's namespace are read, per second, as far as the workers know.
async fn reads(gatherer: &Gatherer<'_>, schedule: &Schedule) -> HashMap<String, f64> {
    let redis: Option<&RedisCache> = gatherer.redis;
    let redis = redis.filter(|_| schedule.keep != Keep::Scores);
    let Some(redis) = redis else {
        return HashMap::new();
    };
    let read = SharedHeat::new(redis)
        .read(schedule.namespace(), gatherer.now.timestamp_millis())
        .await;
    let named = read.unwrap_or_default().into_iter();
    named.map(|one| (one.name, one.rate)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_stands_until_the_next_run_and_any_number_comes() {
        let at = DateTime::from_timestamp(60, 0);
        assert_eq!(draw("s", at, b"k"), draw("s", at, b"k"));
        assert_ne!(draw("s", at, b"k"), draw("s", at, b"l"));
        assert_ne!(draw("s", at, b"k"), draw("s", None, b"k"));
        assert_ne!(draw("s", at, b"k"), draw("t", at, b"k"));
        let draws = (0..1_000u32).map(|n| draw("s", at, &n.to_le_bytes()));
        let low = draws.clone().filter(|one| *one < 0.25).count();
        assert!((200..300).contains(&low), "{low}");
        assert!(draws.into_iter().all(|one| one > 0.0 && one < 1.0));
    }
}
