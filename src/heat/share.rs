//! Owns how workers report to each other what is hot: each writes its own hottest inputs to Redis, and whoever needs the
//! whole adds them up.

use super::{Heat, HeatScope, NamedRate};
use crate::cache::RedisCache;
use kiln_contract::key::{self, InputHash};
use std::{collections::HashMap, time::Duration};

/// Inputs of one namespace that a worker reports.
const MAX_REPORTED: usize = 2_000;
/// How long a report counts.
const CURRENT: Duration = Duration::from_secs(60);
/// How long it is stored at most.
const STORED: Duration = Duration::from_secs(600);
/// A hash and a rate.
const ENTRY_BYTES: usize = 36;
const HEADER_BYTES: usize = 8;

/// The hottest inputs of one namespace, over all workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Hot {
    pub scope: HeatScope,
    /// Inputs with their requests a second, the fastest first.
    pub inputs: Vec<(InputHash, f64)>,
}

/// Writes this worker's report, and reads those of all.
pub struct SharedHeat<'a> {
    redis: &'a RedisCache,
}

impl<'a> SharedHeat<'a> {
    /// Heat in this Redis.
    pub fn new(redis: &'a RedisCache) -> Self {
        Self { redis }
    }

    /// Reports what this worker sees. `now_ms` is the time of day.
    pub async fn report(&self, heat: &Heat, worker: &str, now_ms: i64) -> bool {
        for (scope, hot) in heat.hottest(MAX_REPORTED) {
            let hash = key::heat(&scope.namespace, &scope.model);
            let member = format!("{}:{}", scope.namespace, scope.model);
            if !self
                .redis
                .record(
                    &key::heat_index(),
                    &member,
                    &hash,
                    worker,
                    &encode(&hot, now_ms),
                    STORED,
                )
                .await
            {
                return false;
            }
        }
        for (namespace, hot) in heat.readers.hottest(MAX_REPORTED) {
            let (index, hash) = (key::reads_index(), key::reads(&namespace));
            let body = encode_names(&hot, now_ms);
            if !self
                .redis
                .record(&index, &namespace, &hash, worker, &body, STORED)
                .await
            {
                return false;
            }
        }
        true
    }

    /// Every namespace of whose readers there is a recent report.
    pub async fn read_namespaces(&self) -> Option<Vec<String>> {
        let mut namespaces = self.redis.members(&key::reads_index()).await?;
        namespaces.sort();
        Some(namespaces)
    }

    /// What readers of one namespace read most; nothing where Redis doesn't answer.
    pub async fn read(&self, namespace: &str, now_ms: i64) -> Option<Vec<NamedRate>> {
        let reported = self.redis.fields(&key::reads(namespace)).await?;
        let bodies: Vec<Vec<u8>> = reported.into_values().collect();
        Some(merge_names(&bodies, now_ms))
    }

    /// Every namespace with its model of which there is a recent report.
    pub async fn scopes(&self) -> Option<Vec<HeatScope>> {
        let members = self.redis.members(&key::heat_index()).await?;
        let mut scopes: Vec<HeatScope> = members
            .into_iter()
            .filter_map(|member| {
                let (namespace, model) = member.split_once(':')?;
                Some(HeatScope {
                    namespace: namespace.to_owned(),
                    model: model.to_owned(),
                })
            })
            .collect();
        scopes.sort();
        Some(scopes)
    }

    /// The hottest inputs of one namespace; nothing where Redis doesn't answer.
    pub async fn hot(&self, scope: &HeatScope, now_ms: i64) -> Option<Hot> {
        let reported = self
            .redis
            .fields(&key::heat(&scope.namespace, &scope.model))
            .await?;
        let bodies: Vec<Vec<u8>> = reported.into_values().collect();
        Some(Hot {
            scope: scope.clone(),
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

/// A flag for a counted rate, whether there is an input, the input, the rate and the name's length.
const NAME_HEAD: usize = 2 + 32 + 4 + 2;

fn encode_names(hot: &[NamedRate], now_ms: i64) -> Vec<u8> {
    let mut bytes = now_ms.to_le_bytes().to_vec();
    for one in hot {
        // A key has at most 256 bytes.
        let Ok(length) = u16::try_from(one.name.len()) else {
            continue;
        };
        bytes.extend([u8::from(one.counted), u8::from(one.input.is_some())]);
        bytes.extend(one.input.unwrap_or_default());
        bytes.extend((one.rate as f32).to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(one.name.as_bytes());
    }
    bytes
}

fn decode_name(bytes: &[u8]) -> Option<(NamedRate, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<NAME_HEAD>()?;
    let ([counted, known], head) = head.split_first_chunk::<2>()?;
    let (input, head) = head.split_first_chunk::<32>()?;
    let (rate, head) = head.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_le_bytes(*head.first_chunk()?));
    let (name, rest) = rest.split_at_checked(length)?;
    let one = NamedRate {
        name: std::str::from_utf8(name).ok()?.to_owned(),
        input: (*known == 1).then_some(*input),
        rate: f64::from(f32::from_le_bytes(*rate)),
        counted: *counted == 1,
    };
    Some((one, rest))
}

/// The entries of a report that still counts.
fn current(body: &[u8], now_ms: i64) -> Option<&[u8]> {
    let (header, entries) = body.split_first_chunk::<HEADER_BYTES>()?;
    let age = now_ms.saturating_sub(i64::from_le_bytes(*header));
    (age.unsigned_abs() <= CURRENT.as_millis() as u64).then_some(entries)
}

/// Merges reports of names: hints add up, since each went to one worker; what Redis reports is the same whoever asks, and
/// the highest rate counts.
fn merge_names(reports: &[Vec<u8>], now_ms: i64) -> Vec<NamedRate> {
    let mut all: HashMap<String, NamedRate> = HashMap::new();
    for body in reports {
        let mut rest = current(body, now_ms).unwrap_or_default();
        while let Some((one, after)) = decode_name(rest) {
            rest = after;
            if !(one.rate.is_finite() && one.rate > 0.0) {
                continue;
            }
            let Some(known) = all.get_mut(&one.name) else {
                all.insert(one.name.clone(), one);
                continue;
            };
            known.input = known.input.or(one.input);
            known.rate = match (known.counted, one.counted) {
                (true, true) => known.rate + one.rate,
                (true, false) => known.rate,
                (false, true) => one.rate,
                (false, false) => known.rate.max(one.rate),
            };
            known.counted |= one.counted;
        }
    }
    let mut all: Vec<NamedRate> = all.into_values().collect();
    all.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
    all
}

/// Adds up reports. One that is too old, or isn't a report, doesn't count.
pub fn merge(reports: &[Vec<u8>], now_ms: i64) -> Vec<(InputHash, f64)> {
    let mut rates: HashMap<InputHash, f64> = HashMap::new();
    for body in reports {
        let entries = current(body, now_ms).unwrap_or_default();
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
    fn reports_are_added_up_and_rubbish_and_the_past_are_not() {
        let one = encode(&[([1; 32], 2.0), ([2; 32], 1.0)], 1_000_000);
        let other = encode(&[([2; 32], 4.0), ([3; 32], f64::NAN)], 1_010_000);
        let old = encode(&[([1; 32], 100.0)], 1_010_000 - 61_000);
        let reports = [one.clone(), other, old, vec![1, 2, 3], one[..50].to_vec()];
        assert_eq!(merge(&reports, 1_010_000), [([2; 32], 5.0), ([1; 32], 4.0)]);
    }

    fn name(name: &str, rate: f64, counted: bool, input: Option<u8>) -> NamedRate {
        NamedRate {
            name: name.to_owned(),
            input: input.map(|byte| [byte; 32]),
            rate,
            counted,
        }
    }

    #[test]
    fn hints_add_up_and_what_redis_reported_does_not() {
        let one = [
            name("a", 2.0, true, None),
            name("b", 3.0, false, Some(1)),
            name("c", 9.0, false, None),
        ];
        let other = [
            name("a", 1.0, true, Some(7)),
            name("b", 4.0, false, None),
            name("c", 1.0, true, None),
        ];
        let (one, other) = (
            encode_names(&one, 1_000_000),
            encode_names(&other, 1_000_500),
        );
        let old = encode_names(&[name("a", 50.0, true, None)], 900_000);
        let reports = [one.clone(), other, old, one[..60].to_vec(), vec![9; 100]];
        let expected = [
            name("a", 5.0, true, Some(7)),
            name("b", 4.0, false, Some(1)),
            name("c", 1.0, true, None),
        ];
        // The one that is cut short still reports its first name.
        assert_eq!(merge_names(&reports, 1_001_000), expected);
    }
}
