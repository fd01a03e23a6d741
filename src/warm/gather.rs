//! Owns a run's way from its source to the jobs that it will post: what is fresh is skipped, what is left is chosen by
//! worth and budget, and cut into pieces.
//!
//! Promises that the same plan is made whether it is to be posted or only shown. Refuses to write anything.

use super::{
    due,
    plan::{self, Candidate},
    schedule::{Keep, Schedule},
    source::{Content, Item, Row, Source, SourceError},
};
use crate::{
    cache::RedisCache,
    config::Settings,
    heat::SharedHeat,
    job,
    key::{self, EntryPrefix},
    model::{Model, Registry},
    pipeline::ROUND_TRIP_SECONDS,
};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc};

/// Rows whose entries are looked at in one round trip.
const CHUNK: usize = 512;
/// What an input is taken to cost before the model has run, in seconds.
const UNKNOWN_COST: f64 = 0.001;
/// How many bad rows are told apart; the rest are counted.
const TOLD: usize = 3;

/// What a plan needs to know of the world.
pub struct Gatherer<'a> {
    pub settings: &'a Settings,
    pub registry: &'a Registry,
    /// Nothing is fresh where there is none.
    pub redis: Option<&'a RedisCache>,
    pub now: DateTime<Utc>,
    /// A number within 0 to 1, anew for each call.
    pub random: fn() -> f64,
}

/// One entry of the plan: an input, or a ranking with all its inputs.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What readers ask for; nothing for an input without a key.
    pub key: Option<String>,
    pub rows: Vec<Row>,
    pub candidate: Candidate,
    /// Seconds that its entry has to live, where it is there; below 0 it is served in its grace time.
    pub left: Option<f64>,
}

/// What a run will do.
#[derive(Debug, Default)]
pub struct Plan {
    /// In the order in which they are posted.
    pub chosen: Vec<Planned>,
    /// Inputs whose entries outlive the next run.
    pub fresh: usize,
    /// Inputs beyond the budget.
    pub over_budget: usize,
    pub bad: usize,
    /// The first bad rows.
    pub told: Vec<String>,
}

impl Plan {
    /// Inputs to post.
    pub fn inputs(&self) -> usize {
        self.chosen.iter().map(|p| p.rows.len()).sum()
    }

    /// Model time that it is expected to cost, in seconds.
    pub fn model_seconds(&self) -> f64 {
        self.chosen
            .iter()
            .fold(0.0, |all, p| all + p.candidate.cost)
    }

    /// Waiting that it is expected to save, in seconds, where any rate is known.
    pub fn saved_seconds(&self) -> Option<f64> {
        let mut known = self
            .chosen
            .iter()
            .filter_map(|p| p.candidate.saves())
            .peekable();
        known.peek()?;
        Some(known.sum())
    }

    /// What is wrong with its source's rows, for people.
    pub fn message(&self) -> Option<String> {
        if self.bad == 0 {
            return None;
        }
        let more = self.bad.saturating_sub(self.told.len());
        let more = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        Some(format!("bad rows: {}{more}", self.told.join("; ")))
    }
}

/// What one plan is made for.
#[derive(Clone, Copy)]
struct Aim<'a> {
    schedule: &'a Schedule,
    model: &'a Arc<Model>,
    /// How long a run takes, in seconds.
    spread: f64,
    /// Reads a second by name.
    reads: &'a HashMap<String, f64>,
}

/// A job as it is posted, without its id: that is the message's.
#[derive(Serialize)]
struct JobText<'a> {
    model: &'a str,
    namespace: &'a str,
    inputs: Vec<InputText<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    named: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<RankText<'a>>,
    ttl_seconds: u64,
    on_error: &'static str,
}

#[derive(Serialize)]
struct RankText<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<usize>,
}

#[derive(Serialize)]
struct InputText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a [f32]>,
}

impl Gatherer<'_> {
    /// Reads the source and chooses. `spread` is how long a run takes, in seconds.
    pub async fn plan(
        &self,
        schedule: &Schedule,
        source: &dyn Source,
        spread: f64,
    ) -> Result<Plan, SourceError> {
        let model = self
            .registry
            .resolve(&schedule.model)
            .map_err(|e| SourceError(e.to_string()))?;
        let reads = self.reads(schedule).await;
        let mut plan = Plan::default();
        let mut candidates = Vec::new();
        let mut groups: Vec<(String, Vec<Row>)> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut rows = source.rows();
        let bad = |plan: &mut Plan, told: String| {
            plan.bad += 1;
            if plan.told.len() < TOLD {
                plan.told.push(told);
            }
        };
        while let Some(item) = rows.next().await {
            let row = match item? {
                Item::Bad(told) => {
                    bad(&mut plan, told);
                    continue;
                }
                Item::Row(row) => row,
            };
            if let Keep::Rank { key, .. } = &schedule.keep {
                let Some(group) = row.group.clone().or_else(|| key.clone()) else {
                    bad(&mut plan, "a row without a group, and no `rank.key`".into());
                    continue;
                };
                if row.key.is_none() {
                    bad(&mut plan, format!("a row of `{group}` without a key"));
                    continue;
                }
                let at = *by_name.entry(group.clone()).or_insert_with(|| {
                    groups.push((group.clone(), Vec::new()));
                    groups.len() - 1
                });
                match groups.get_mut(at) {
                    Some((_, rows)) if rows.len() < job::MAX_INPUTS => rows.push(row),
                    _ => bad(
                        &mut plan,
                        format!("more than {} rows of `{group}`", job::MAX_INPUTS),
                    ),
                }
                continue;
            }
            if schedule.keep == Keep::Named && row.key.is_none() {
                bad(
                    &mut plan,
                    "a row without a key, which a named entry needs".into(),
                );
                continue;
            }
            chunk.push((row.key.clone(), vec![row]));
            if chunk.len() == CHUNK {
                self.weigh(
                    &Aim {
                        schedule,
                        model: &model,
                        spread,
                        reads: &reads,
                    },
                    std::mem::take(&mut chunk),
                    &mut plan,
                    &mut candidates,
                )
                .await;
                // Without rates the source's own order counts: what is beyond the budget needn't be read.
                let rated = candidates
                    .iter()
                    .any(|p: &Planned| p.candidate.rate.is_some());
                if !rated && candidates.len() >= schedule.budget.inputs {
                    break;
                }
            }
        }
        let rest: Vec<(Option<String>, Vec<Row>)> = chunk
            .into_iter()
            .chain(groups.into_iter().map(|(name, rows)| (Some(name), rows)))
            .collect();
        for part in rest.chunks(CHUNK) {
            self.weigh(
                &Aim {
                    schedule,
                    model: &model,
                    spread,
                    reads: &reads,
                },
                part.to_vec(),
                &mut plan,
                &mut candidates,
            )
            .await;
        }
        let weights: Vec<Candidate> = candidates.iter().map(|p| p.candidate).collect();
        let order = plan::choose(&weights, &schedule.budget);
        let all: usize = weights.iter().map(|c| c.inputs).sum();
        let mut slots: Vec<Option<Planned>> = candidates.into_iter().map(Some).collect();
        plan.chosen = order
            .into_iter()
            .filter_map(|index| slots.get_mut(index).and_then(Option::take))
            .collect();
        plan.over_budget = all - plan.inputs();
        Ok(plan)
    }

    /// How often the names of a schedule's namespace are read, in requests a second, as far as workers know.
    async fn reads(&self, schedule: &Schedule) -> HashMap<String, f64> {
        let Some(redis) = self.redis.filter(|_| schedule.keep != Keep::Scores) else {
            return HashMap::new();
        };
        let read = SharedHeat::new(redis)
            .read(schedule.namespace(), self.now.timestamp_millis())
            .await;
        let named = read.unwrap_or_default().into_iter();
        named.map(|one| (one.name, one.rate)).collect()
    }

    /// Looks at the entries of some rows or rankings; those that need a refresh become candidates.
    async fn weigh(
        &self,
        aim: &Aim<'_>,
        rows: Vec<(Option<String>, Vec<Row>)>,
        plan: &mut Plan,
        candidates: &mut Vec<Planned>,
    ) {
        let Aim {
            schedule,
            model,
            spread,
            reads,
        } = *aim;
        let info = model.info();
        let prefix = EntryPrefix::new(&info.name, &info.version);
        let entry = |row: &Row| match &row.content {
            Content::Features(features) => prefix.key(&key::hash_features(features)),
            Content::Text { text, pair } => {
                let pair = pair.as_deref().map(|p| model.normalise(p));
                prefix.key(&key::hash_text(&model.normalise(text), pair.as_deref()))
            }
        };
        // What readers find first, then the score entries, one an input.
        let shown = |key: &Option<String>| {
            key.as_deref()
                .filter(|_| schedule.keep != Keep::Scores)
                .map(|key| key::named(schedule.namespace(), key).into_bytes())
        };
        let keys: Vec<Vec<u8>> = rows
            .iter()
            .flat_map(|(key, rows)| shown(key).into_iter().chain(rows.iter().map(entry)))
            .collect();
        let lives = match self.redis {
            Some(redis) => {
                let mark = redis.mark(schedule.namespace()).await;
                redis.ttls_since(&keys, mark.unwrap_or_default()).await
            }
            None => None,
        };
        let mut lives = lives
            .unwrap_or_else(|| vec![None; keys.len()])
            .into_iter()
            .map(|ms| ms.map(|ms| ms as f64 / 1e3));
        let ttl =
            self.settings
                .ttl_seconds(schedule.ttl_seconds, schedule.namespace(), info.ttl_seconds)
                as f64;
        let grace = self.settings.grace_seconds(schedule.namespace()) as f64;
        let next = due::next(schedule, self.now)
            .map_or(f64::INFINITY, |next| (next - self.now).as_seconds_f64());
        for (key, rows) in rows {
            let shown = shown(&key).is_some().then(|| {
                let life = lives.next().flatten();
                life.map(|left| left - grace)
            });
            let scores: Vec<Option<f64>> = rows.iter().map(|_| lives.next().flatten()).collect();
            let left = match shown {
                Some(left) => left,
                None => scores.first().copied().flatten(),
            };
            if plan::is_fresh(left, next, spread, (self.random)()) {
                plan.fresh += rows.len();
                continue;
            }
            let costs: Vec<f64> = rows.iter().map(|row| cost(model, row)).collect();
            let missing = scores.iter().zip(&costs).filter(|(left, _)| left.is_none());
            let rates: Vec<f64> = rows.iter().filter_map(|row| row.rate).collect();
            let foretold = (!rates.is_empty()).then(|| rates.iter().sum::<f64>());
            let read = key.as_ref().and_then(|key| reads.get(key)).copied();
            let candidate = Candidate {
                inputs: rows.len(),
                // The source may not know of all readers, nor readers' hints of all requests.
                rate: foretold.into_iter().chain(read).reduce(f64::max),
                ttl,
                cost: missing
                    .map(|(_, cost)| cost)
                    .fold(0.0, |all, cost| all + cost),
                wait: ROUND_TRIP_SECONDS + costs.iter().sum::<f64>(),
            };
            candidates.push(Planned {
                key,
                rows,
                candidate,
                left,
            });
        }
    }

    /// The bodies of the jobs that a plan posts, each with how many inputs it has.
    pub fn pieces(&self, schedule: &Schedule, plan: &Plan) -> Vec<(i32, Vec<u8>)> {
        let ttl_seconds = self.settings.ttl_seconds(
            schedule.ttl_seconds,
            schedule.namespace(),
            self.registry
                .resolve(&schedule.model)
                .ok()
                .and_then(|m| m.info().ttl_seconds),
        );
        let body = |rows: &mut dyn Iterator<Item = &Row>, rank: Option<RankText<'_>>| {
            let inputs: Vec<InputText<'_>> = rows.map(input_text).collect();
            let count = inputs.len() as i32;
            let job = JobText {
                model: &schedule.model,
                namespace: schedule.namespace(),
                inputs,
                named: schedule.keep == Keep::Named,
                rank,
                ttl_seconds,
                on_error: "skip",
            };
            // Strings and finite numbers always have a JSON text.
            (count, serde_json::to_vec(&job).unwrap_or_default())
        };
        match &schedule.keep {
            Keep::Rank { top, .. } => plan
                .chosen
                .iter()
                .filter_map(|ranking| {
                    let key = ranking.key.as_deref()?;
                    Some(body(
                        &mut ranking.rows.iter(),
                        Some(RankText { key, top: *top }),
                    ))
                })
                .collect(),
            Keep::Named | Keep::Scores => plan
                .chosen
                .chunks(self.settings.warm.piece_inputs)
                .map(|piece| body(&mut piece.iter().flat_map(|p| &p.rows), None))
                .collect(),
        }
    }
}

fn input_text(row: &Row) -> InputText<'_> {
    let (text, text_pair, features) = match &row.content {
        Content::Text { text, pair } => (Some(text.as_str()), pair.as_deref(), None),
        Content::Features(features) => (None, None, Some(features.as_slice())),
    };
    InputText {
        key: row.key.as_deref(),
        text,
        text_pair,
        features,
    }
}

fn cost(model: &Model, row: &Row) -> f64 {
    let text = match &row.content {
        Content::Text { text, pair } => Some((text.as_str(), pair.as_deref())),
        Content::Features(_) => None,
    };
    model.expected_seconds(text).unwrap_or(UNKNOWN_COST)
}
