//! Owns how workers report to each other what is hot: each writes its own hottest inputs to Redis, and whoever needs the
//! whole adds them up.

use super::{
    Heat, HeatScope, NamedRate,
    sketch::{Asked, MAX_CAPACITY},
};
use crate::cache::RedisCache;
use kiln_contract::{
    job::key_problem,
    key::{self, InputHash},
};
use std::{collections::HashMap, time::Duration};

/// Inputs, and names, of one namespace that a worker reports at the utmost: all that it holds, since even what is seldom asked for is renewed for
/// next to nothing.
pub const MAX_REPORTED: usize = MAX_CAPACITY;
/// The hottest of one namespace that it reports, however many namespaces there are: some 90 KB every few seconds.
const MIN_REPORTED: usize = 2_000;
/// Those of all namespaces together that it reports, where these have no more than their least each.
const REPORTED_TOGETHER: usize = 16 * MIN_REPORTED;
/// How long a report counts.
const CURRENT: Duration = Duration::from_secs(60);
/// How long it is stored at most.
const STORED: Duration = Duration::from_secs(600);
/// A hash, a rate and when it was asked for last.
const ENTRY_BYTES: usize = 44;
const HEADER_BYTES: usize = 8;
/// The layout of reports, which is the last byte of their header: the others are the time of day. The first release's is 0.
const LAYOUT: i64 = 1 << 56;
/// Removes the reports of workers that have reported nothing since.
const FORGET: &str = "local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local at, scale = 0, 1
  for n = 1, 6 do
    at = at + (string.byte(all[i + 1], n) or 0) * scale
    scale = scale * 256
  end
  if at < tonumber(ARGV[1]) then redis.call('HDEL', KEYS[1], all[i]) end
end";
/// After so long a worker that has reported nothing is forgotten.
const GONE: Duration = Duration::from_secs(300);

/// The hottest inputs of one namespace, over all workers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hot {
    pub scope: HeatScope,
    /// Inputs with their requests a second, the fastest first.
    pub inputs: Vec<(InputHash, f64)>,
    /// When each was asked for last, in milliseconds since 1970.
    pub asked_ms: HashMap<InputHash, i64>,
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
        let now = (heat.now(), now_ms);
        let scopes = heat.scopes();
        let top = reported(scopes.len());
        // One after the other: all of them at once would be as much again as heat takes.
        for scope in scopes {
            let Some(hot) = heat.asked_last(&scope, top, now) else {
                continue;
            };
            let (index, hash) = (key::heat_index(), key::heat(&scope.namespace, &scope.model));
            let member = format!("{}:{}", scope.namespace, scope.model);
            let body = encode(&hot, now_ms);
            if !self
                .redis
                .record(&index, &member, &hash, worker, &body, STORED)
                .await
            {
                return false;
            }
        }
        let now = heat.readers.now();
        let namespaces = heat.readers.namespaces();
        let top = reported(namespaces.len());
        for namespace in namespaces {
            let hot = heat.readers.hottest_at(&namespace, top, now, now_ms);
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

    /// Reports that this worker had no room for so many requests.
    pub async fn report_dropped(&self, requests: u64, worker: &str, now_ms: i64) -> bool {
        let (index, hash) = (key::heat_dropped_index(), key::heat_dropped());
        let mut body = (now_ms | LAYOUT).to_le_bytes().to_vec();
        body.extend(requests.to_le_bytes());
        let life = CURRENT;
        let recorded = self
            .redis
            .record(&index, worker, &hash, worker, &body, life);
        recorded.await
    }

    /// The requests that workers had no room for when they reported last, and how many workers those are.
    pub async fn dropped(&self, now_ms: i64) -> Option<(usize, u64)> {
        let reported = self.redis.fields(&key::heat_dropped()).await?;
        let counts = reported.values().filter_map(|body| {
            let (count, _) = current(body, now_ms)?.split_first_chunk::<8>()?;
            Some(u64::from_le_bytes(*count))
        });
        Some(counts.fold((0, 0), |(workers, all), count| {
            (workers + 1, all.saturating_add(count))
        }))
    }

    /// Forgets what workers that are gone have reported of what is hot here as well, and what no worker has written.
    pub async fn forget_gone(&self, heat: &Heat, now_ms: i64) {
        let indexes = [key::heat_index(), key::reads_index()];
        let sets = indexes.each_ref().map(|index| (index.as_str(), "set"));
        self.redis.remove_unless(&sets).await;
        let asked = heat.scopes().into_iter();
        let asked = asked.map(|scope| key::heat(&scope.namespace, &scope.model));
        let read = heat.readers.namespaces().into_iter();
        let read = read.map(|namespace| key::reads(&namespace));
        let keys: Vec<Vec<u8>> = asked.chain(read).map(String::into_bytes).collect();
        let since = now_ms.saturating_sub(GONE.as_millis() as i64).to_string();
        self.redis.run_on_each(FORGET, &keys, &since).await;
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
        let (inputs, asked_ms) = merge(&bodies, now_ms);
        Some(Hot {
            scope: scope.clone(),
            inputs,
            asked_ms,
        })
    }
}

fn encode(hot: &[(Asked, i64)], now_ms: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + hot.len() * ENTRY_BYTES);
    bytes.extend_from_slice(&(now_ms | LAYOUT).to_le_bytes());
    for (asked, at_ms) in hot {
        bytes.extend_from_slice(&asked.input);
        bytes.extend_from_slice(&(asked.rate as f32).to_le_bytes());
        bytes.extend_from_slice(&at_ms.to_le_bytes());
    }
    bytes
}

/// A flag for a counted rate, whether there is an input, the input, when it was written, the rate and the name's length.
const NAME_HEAD: usize = 2 + 32 + 8 + 4 + 2;

fn encode_names(hot: &[NamedRate], now_ms: i64) -> Vec<u8> {
    let mut bytes = (now_ms | LAYOUT).to_le_bytes().to_vec();
    for one in hot {
        // A key has at most 256 bytes.
        let Ok(length) = u16::try_from(one.name.len()) else {
            continue;
        };
        bytes.extend([u8::from(one.counted), u8::from(one.input.is_some())]);
        bytes.extend(one.input.unwrap_or_default());
        bytes.extend(one.written_ms.to_le_bytes());
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
    let (written, head) = head.split_first_chunk::<8>()?;
    let (rate, head) = head.split_first_chunk::<4>()?;
    let length = usize::from(u16::from_le_bytes(*head.first_chunk()?));
    let (name, rest) = rest.split_at_checked(length)?;
    let one = NamedRate {
        name: std::str::from_utf8(name).ok()?.to_owned(),
        input: (*known == 1).then_some(*input),
        written_ms: i64::from_le_bytes(*written),
        rate: f64::from(f32::from_le_bytes(*rate)),
        counted: *counted == 1,
    };
    Some((one, rest))
}

/// The entries of a report that still counts.
fn current(body: &[u8], now_ms: i64) -> Option<&[u8]> {
    let (header, entries) = body.split_first_chunk::<HEADER_BYTES>()?;
    // One of another layout is of a time that is far off.
    let age = now_ms.saturating_sub(i64::from_le_bytes(*header) ^ LAYOUT);
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
            // A job for what can't be a key would be rejected.
            let is_key = key_problem(&one.name).is_none();
            if !(is_key && one.rate.is_finite() && one.rate > 0.0) {
                continue;
            }
            let Some(known) = all.get_mut(&one.name) else {
                all.insert(one.name.clone(), one);
                continue;
            };
            // What was written last is what readers find.
            if one.input.is_some() && (known.input.is_none() || one.written_ms > known.written_ms) {
                (known.input, known.written_ms) = (one.input, one.written_ms);
            }
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

/// Inputs with their rates, the fastest first, and when each was asked for last.
type Merged = (Vec<(InputHash, f64)>, HashMap<InputHash, i64>);

/// Adds up reports. One that is too old, or isn't a report, doesn't count.
fn merge(reports: &[Vec<u8>], now_ms: i64) -> Merged {
    let mut rates: HashMap<InputHash, f64> = HashMap::new();
    let mut asked: HashMap<InputHash, i64> = HashMap::new();
    for body in reports {
        let entries = current(body, now_ms).unwrap_or_default();
        let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
        for entry in entries {
            let read = || {
                let (input, rest) = entry.split_first_chunk::<32>()?;
                let (rate, at) = rest.split_first_chunk::<4>()?;
                let rate = f64::from(f32::from_le_bytes(*rate));
                Some((input, rate, i64::from_le_bytes(*at.first_chunk()?)))
            };
            let Some((input, rate, at)) = read() else {
                continue;
            };
            if rate.is_finite() && rate > 0.0 {
                *rates.entry(*input).or_default() += rate;
                let last = asked.entry(*input).or_insert(at);
                *last = at.max(*last);
            }
        }
    }
    let mut all: Vec<(InputHash, f64)> = rates.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    (all, asked)
}

/// How many of each are reported where so many namespaces are counted.
fn reported(namespaces: usize) -> usize {
    (REPORTED_TOGETHER / namespaces.max(1)).clamp(MIN_REPORTED, MAX_REPORTED)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_namespaces_are_reported_whole_and_of_many_the_hottest() {
        assert_eq!((reported(0), reported(1)), (MAX_REPORTED, MAX_REPORTED));
        assert_eq!((reported(10), reported(1_000)), (3_200, MIN_REPORTED));
    }

    #[test]
    fn reports_are_added_up_and_rubbish_and_the_past_are_not() {
        let asked = |input: u8, rate: f64, at_ms: i64| {
            let asked = Asked {
                input: [input; 32],
                rate,
                at: 0.0,
            };
            (asked, at_ms)
        };
        let one = encode(&[asked(1, 2.0, 10), asked(2, 1.0, 20)], 1_000_000);
        let other = encode(&[asked(2, 4.0, 15), asked(3, f64::NAN, 9)], 1_010_000);
        let old = encode(&[asked(1, 100.0, 90)], 1_010_000 - 61_000);
        let mut first_release = one.clone();
        first_release[7] = 0;
        let cut = one[..60].to_vec();
        let reports = [one, other, old, vec![1, 2, 3], cut, first_release];
        let (rates, last) = merge(&reports, 1_010_000);
        assert_eq!(rates, [([2; 32], 5.0), ([1; 32], 4.0)]);
        let last_of = |input: u8| last.get(&[input; 32]).copied();
        assert_eq!(
            (last_of(1), last_of(2), last_of(3)),
            (Some(10), Some(20), None)
        );
    }

    fn name(name: &str, rate: f64, counted: bool, input: Option<u8>) -> NamedRate {
        NamedRate {
            name: name.to_owned(),
            input: input.map(|byte| [byte; 32]),
            written_ms: i64::from(input.unwrap_or_default()),
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
            name("d", 1.0, true, Some(4)),
        ];
        let other = [
            name("a", 1.0, true, Some(7)),
            name("b", 4.0, false, None),
            name("c", 1.0, true, None),
            name("d", 1.0, true, Some(3)),
        ];
        let (one, other) = (
            encode_names(&one, 1_000_000),
            encode_names(&other, 1_000_500),
        );
        let old = encode_names(&[name("a", 50.0, true, None)], 900_000);
        // Whatever stands in Redis: no job could name these.
        let no_keys = [name("\0", 9.0, true, None), name("", 9.0, true, None)];
        let no_keys = encode_names(&no_keys, 1_000_500);
        let cut = one[..60].to_vec();
        let reports = [one, other, old, cut, no_keys, vec![9; 100]];
        let expected = [
            name("a", 5.0, true, Some(7)),
            name("b", 4.0, false, Some(1)),
            name("d", 2.0, true, Some(4)),
            name("c", 1.0, true, None),
        ];
        // The one that is cut short still reports its first name.
        assert_eq!(merge_names(&reports, 1_001_000), expected);
    }
}
