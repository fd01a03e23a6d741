//! What planning knows beside a schedule's source: what inputs cost, how much memory there is, and how long runs take. A run and a dry run
//! ask the same.

use super::Gatherer;
use crate::{
    store::{Kept, KnownCost, PostgresStore, StoreError},
    warm::{
        plan::{MemoryRoom, RedisMemory},
        schedule::Schedule,
    },
};
use kiln_model::{LengthCost, Model};
use std::collections::BTreeMap;

/// What a run is taken to last before one has ended, in seconds.
const USUAL_SECONDS: f64 = 2.0;

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
    /// What other schedules keep and would keep.
    pub others: Vec<Kept>,
    /// Whether there is a Redis that doesn't say what memory it has.
    pub is_unsaid: bool,
    /// What was left to this run when it reserved what it wants, in bytes.
    pub reserved: Option<f64>,
}

/// What is left of so many bytes to one of several schedules. What others keep is theirs; and of what isn't, so much is left to each as an even share
/// of all, as far as it wants it: so that who came first doesn't keep everything for ever.
fn left_by(total: f64, others: &[Kept]) -> f64 {
    let fair = total / (others.len() + 1) as f64;
    let theirs = others.iter().map(|one| one.bytes.max(one.wanted.min(fair)));
    (total - theirs.sum::<f64>()).max(0.0)
}

impl Knowledge {
    /// What a run may fill, where it leaves so many bytes because they are fresh.
    pub fn room(&self, share: f64, fresh: f64) -> MemoryRoom {
        let Some(memory) = &self.memory else {
            return MemoryRoom::UNKNOWN;
        };
        let total = memory.total(share);
        let left = self
            .reserved
            .unwrap_or_else(|| left_by(total, &self.others));
        memory.room(share, total - left + fresh)
    }
}

impl Gatherer<'_> {
    /// Asks the database and Redis.
    pub(super) async fn knowledge(&self, schedule: &Schedule) -> Result<Knowledge, StoreError> {
        let before = self.store.runs_before(&schedule.name).await?;
        let mut knowledge = Knowledge {
            spread: before.took.unwrap_or(USUAL_SECONDS).max(0.1),
            others: before.others,
            ..Knowledge::default()
        };
        let Some(redis) = self.redis else {
            return Ok(knowledge);
        };
        let Some(capacity) = redis.capacity().await else {
            knowledge.is_unsaid = true;
            return Ok(knowledge);
        };
        let last = before.evicted_keys.map(i64::unsigned_abs);
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

    /// Reserves memory for what a run would keep, so that no two plans take the same. A dry run reserves nothing. Says whether the claim holds.
    pub(super) async fn reserve(
        &self,
        schedule: &Schedule,
        knowledge: &mut Knowledge,
        wanted: f64,
    ) -> Result<bool, StoreError> {
        let (Some(claim), Some(memory)) = (self.claim, &knowledge.memory) else {
            return Ok(true);
        };
        let total = memory.total(self.settings.warm.max_redis_share);
        let reserved = self
            .store
            .reserve_memory(claim, &schedule.name, wanted, |others| {
                left_by(total, others)
            })
            .await?;
        knowledge.reserved = reserved;
        Ok(reserved.is_some())
    }
}

/// Tells others what a model's calls, or its golden inputs, say of its costs, where it scores here; and takes what others say for what its own calls
/// haven't measured. Says whether calls on this kind of machine have measured any of it, whoever made them. Where nothing is scored here, it is the
/// kind of machine that has said so last.
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
    let (machine, own) = if scores_here {
        (model.machine(), model.costs())
    } else {
        let last = known.last().map(|one| one.machine.as_str());
        (last.unwrap_or(model.machine()), Vec::new())
    };
    model.adopt_costs(&adopted(&own, &known, machine));
    let is_measured = known
        .iter()
        .any(|one| one.cost.is_measured && one.machine == machine);
    Ok(is_measured || model.has_measured())
}

/// What to take from others: what is known of this kind of machine as it is; and of lengths of which nothing is known here what is known of other
/// kinds, times how much this one takes where both are known. Of several the dearest.
fn adopted(own: &[LengthCost], known: &[KnownCost], machine: &str) -> Vec<LengthCost> {
    let sound = known.iter().filter(|one| {
        let seconds = one.cost.seconds_per_unit;
        seconds.is_finite() && seconds > 0.0
    });
    let (here, elsewhere): (Vec<_>, Vec<_>) = sound.partition(|one| one.machine == machine);
    let mut adopted: Vec<LengthCost> = here.iter().map(|one| one.cost).collect();
    let by_class = adopted
        .iter()
        .chain(own)
        .map(|cost| (cost.class, cost.seconds_per_unit));
    let by_class: BTreeMap<u8, f64> = by_class.collect();
    let mut dearest: BTreeMap<u8, (bool, f64)> = BTreeMap::new();
    for one in elsewhere
        .iter()
        .filter(|one| !by_class.contains_key(&one.cost.class))
    {
        let (class, seconds) = (one.cost.class, one.cost.seconds_per_unit);
        let both = elsewhere.iter().filter_map(|other| {
            let other = Some(other).filter(|other| other.machine == one.machine)?;
            let ours = by_class.get(&other.cost.class)?;
            let ratio = ours / other.cost.seconds_per_unit;
            Some((other.cost.class.abs_diff(class), ratio))
        });
        let nearest = both.min_by_key(|(away, _)| *away);
        let found = (
            nearest.is_some(),
            nearest.map_or(seconds, |(_, ratio)| seconds * ratio),
        );
        let known = dearest.entry(class).or_insert(found);
        // What is translated is worth more than what isn't.
        if found > *known {
            *known = found;
        }
    }
    adopted.extend(
        dearest
            .into_iter()
            .map(|(class, (_, seconds_per_unit))| LengthCost {
                class,
                seconds_per_unit,
                is_measured: false,
            }),
    );
    adopted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(class: u8, seconds_per_unit: f64) -> LengthCost {
        LengthCost {
            class,
            seconds_per_unit,
            is_measured: true,
        }
    }

    fn known(machine: &str, class: u8, seconds: f64) -> KnownCost {
        KnownCost {
            machine: machine.to_owned(),
            cost: cost(class, seconds),
        }
    }

    fn pairs(costs: Vec<LengthCost>) -> Vec<(u8, f64)> {
        let pairs = costs.into_iter();
        pairs.map(|c| (c.class, c.seconds_per_unit)).collect()
    }

    #[test]
    fn what_other_kinds_of_machines_take_is_translated() {
        let others = [
            known("gpu", 4, 0.001),
            known("gpu", 8, 0.003),
            known("gpu", 12, 0.01),
            known("phone", 8, 7.0),
            known("phone", 12, f64::NAN),
        ];
        let took = |own: &[LengthCost], others: &[KnownCost]| pairs(adopted(own, others, "cpu"));
        // Nothing is known here: the dearest.
        assert_eq!(took(&[], &others), [(4, 0.001), (8, 7.0), (12, 0.01)]);
        // Five hundred times as long as the other one, by the nearest length that both know.
        let translated = took(&[cost(4, 0.5)], &others);
        assert_eq!(translated, [(8, 1.5), (12, 5.0)]);
        let mut all = others.to_vec();
        all.extend([known("cpu", 4, 0.1), known("cpu", 8, 0.9)]);
        let translated = took(&[], &all);
        assert_eq!(translated[..2], [(4, 0.1), (8, 0.9)]);
        assert_eq!(translated[2].0, 12);
        assert!((translated[2].1 - 3.0).abs() < 1e-9, "{translated:?}");
        assert!(
            adopted(&[], &others, "cpu")
                .iter()
                .all(|one| !one.is_measured)
        );
    }

    #[test]
    fn memory_is_left_to_who_comes_later() {
        let of = |bytes, wanted| Kept { bytes, wanted };
        assert_eq!(left_by(100.0, &[]), 100.0);
        assert_eq!(left_by(100.0, &[of(30.0, 30.0)]), 70.0);
        // The first has all: the second waits for the first one's next plan, which leaves it a half.
        assert_eq!(left_by(100.0, &[of(100.0, 900.0)]), 0.0);
        assert_eq!(left_by(100.0, &[of(0.0, 900.0)]), 50.0);
        assert_eq!(left_by(100.0, &[of(50.0, 900.0)]), 50.0);
        assert_eq!(
            left_by(100.0, &[of(0.0, 10.0), of(0.0, 900.0)]),
            100.0 - 10.0 - 100.0 / 3.0
        );
        let unknown = Knowledge::default();
        assert_eq!(unknown.room(0.5, 1.0), MemoryRoom::UNKNOWN);
        let reserved = Knowledge {
            memory: Some(RedisMemory {
                used: 0.0,
                max: 100.0,
                makes_room: true,
                evicts: false,
            }),
            others: vec![of(10.0, 10.0)],
            ..Knowledge::default()
        };
        assert_eq!(reserved.room(0.5, 1.0).keeps, 39.0);
        let reserved = Knowledge {
            reserved: Some(20.0),
            ..reserved
        };
        assert_eq!(reserved.room(0.5, 1.0).keeps, 19.0);
    }
}
