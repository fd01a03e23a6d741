//! Owns how workers tell each other what is hot: each puts its own hottest inputs into Redis, and whoever needs the whole
//! adds them up.

use super::{Heat, Space};
use crate::{
    cache::RedisCache,
    key::{self, InputHash},
};
use std::{collections::HashMap, time::Duration};

/// Inputs of one namespace that a worker tells of.
const TOLD: usize = 2_000;
/// How long what a worker told counts.
const COUNTS: Duration = Duration::from_secs(60);
/// How long it is kept at most.
const KEPT: Duration = Duration::from_secs(600);
/// A hash and a rate.
const ENTRY_BYTES: usize = 36;
const HEADER_BYTES: usize = 8;

/// The hottest inputs of one namespace, over all workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Hot {
    pub space: Space,
    /// Inputs with their requests a second, the fastest first.
    pub inputs: Vec<(InputHash, f64)>,
}

/// Tells the other workers, and hears of them.
pub struct SharedHeat<'a> {
    redis: &'a RedisCache,
}

impl<'a> SharedHeat<'a> {
    /// Heat in this Redis.
    pub fn new(redis: &'a RedisCache) -> Self {
        Self { redis }
    }

    /// Tells what this worker sees. `now_ms` is the time of day.
    pub async fn tell(&self, heat: &Heat, worker: &str, now_ms: i64) -> bool {
        for (space, hot) in heat.hottest(TOLD) {
            let hash = key::heat(&space.namespace, &space.model);
            let member = format!("{}:{}", space.namespace, space.model);
            if !self
                .redis
                .tell(
                    &key::heat_index(),
                    &member,
                    &hash,
                    worker,
                    &encode(&hot, now_ms),
                    KEPT,
                )
                .await
            {
                return false;
            }
        }
        true
    }

    /// Every namespace of which some worker told of late.
    pub async fn spaces(&self) -> Option<Vec<Space>> {
        let members = self.redis.members(&key::heat_index()).await?;
        let mut spaces: Vec<Space> = members
            .into_iter()
            .filter_map(|member| {
                let (namespace, model) = member.split_once(':')?;
                Some(Space {
                    namespace: namespace.to_owned(),
                    model: model.to_owned(),
                })
            })
            .collect();
        spaces.sort();
        Some(spaces)
    }

    /// The hottest inputs of one namespace; nothing where Redis doesn't answer.
    pub async fn hot(&self, space: &Space, now_ms: i64) -> Option<Hot> {
        let told = self
            .redis
            .fields(&key::heat(&space.namespace, &space.model))
            .await?;
        let bodies: Vec<Vec<u8>> = told.into_values().collect();
        Some(Hot {
            space: space.clone(),
            inputs: merge(&bodies, now_ms),
        })
    }
}

fn encode(hot: &[(InputHash, f64)], now_ms: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + hot.len() * ENTRY_BYTES);
    bytes.extend_from_slice(&now_ms.to_le_bytes());
    for (input, rate) in hot {
        bytes.extend_from_slice(input);
        bytes.extend_from_slice(&(*rate as f32).to_le_bytes());
    }
    bytes
}

/// Adds up what workers told. What is too old, or isn't what a worker tells, doesn't count.
pub fn merge(told: &[Vec<u8>], now_ms: i64) -> Vec<(InputHash, f64)> {
    let mut rates: HashMap<InputHash, f64> = HashMap::new();
    for body in told {
        let Some((header, entries)) = body.split_first_chunk::<HEADER_BYTES>() else {
            continue;
        };
        let age = now_ms.saturating_sub(i64::from_le_bytes(*header));
        if age.unsigned_abs() > COUNTS.as_millis() as u64 {
            continue;
        }
        let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
        for entry in entries {
            let (Some(input), Some(rate)) = (entry.first_chunk::<32>(), entry.last_chunk::<4>())
            else {
                continue;
            };
            let rate = f64::from(f32::from_le_bytes(*rate));
            if rate.is_finite() && rate > 0.0 {
                *rates.entry(*input).or_default() += rate;
            }
        }
    }
    let mut all: Vec<(InputHash, f64)> = rates.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_tell_is_added_up_and_rubbish_and_the_past_are_not() {
        let one = encode(&[([1; 32], 2.0), ([2; 32], 1.0)], 1_000_000);
        let other = encode(&[([2; 32], 4.0), ([3; 32], f64::NAN)], 1_010_000);
        let old = encode(&[([1; 32], 100.0)], 1_010_000 - 61_000);
        let told = [one.clone(), other, old, vec![1, 2, 3], one[..50].to_vec()];
        assert_eq!(merge(&told, 1_010_000), [([2; 32], 5.0), ([1; 32], 4.0)]);
    }
}
