//! Owns looking entries up and storing them: in Redis, with the worker's memory behind it, or, without
//! servers, in the SQLite file.
//!
//! Promises never to decide correctness: whatever fails here is a miss. A bad entry is a miss that is counted
//! and overwritten.

mod invalidate;
mod journal;
mod lease;
mod marks;
mod memory;
mod probe;
mod reads;
mod redis;
mod removal;
mod samples;
mod tally;
#[cfg(test)]
mod tests;

use self::redis::Put;
#[cfg(all(test, feature = "faults"))]
pub use self::redis::simulated;
pub use self::redis::{
    Capacity, Forgotten, KeyReader, Kind, Published, REMOVED, RedisCache, Survey, Word, WordKind,
    Words, connect, memory_bytes, survey,
};
pub use invalidate::{Invalidation, invalidate};
pub use lease::Leases;
pub use memory::MemoryCache;
use memory::Remembered;
pub use probe::Checks;
pub use reads::Access;
pub use samples::{Sample, Samples};
pub use tally::Tally;

use crate::{
    store::{FoundScores, SqliteStore},
    telemetry::metrics::Metrics,
};
use kiln_contract::entry::{Codec, Seal};
use kiln_contract::key::{self, EntryPrefix, InputHash};
use kiln_contract::order::Moment;
use kiln_model::ModelInfo;
use std::{sync::Arc, time::Duration};

/// One model version's entries.
#[derive(Debug, Clone)]
pub struct Space {
    pub model: String,
    pub version: String,
    pub prefix: EntryPrefix,
    codec: Codec,
    memory_prefix: Arc<[u8]>,
}

impl Space {
    /// The entries of a model version.
    pub fn new(info: &ModelInfo) -> Self {
        let prefix = EntryPrefix::new(&info.name, &info.version);
        Self {
            model: info.name.clone(),
            version: info.version.clone(),
            codec: Codec::new(&prefix, info.output_width, info.precision),
            memory_prefix: prefix.as_bytes().into(),
            prefix,
        }
    }

    /// Bytes of one of its entries.
    pub fn entry_bytes(&self) -> usize {
        self.codec.entry_bytes()
    }

    /// Values of one row.
    pub fn width(&self) -> usize {
        self.codec.width()
    }

    /// The row of an entry; nothing where the bytes are no entry of this input's.
    pub fn row(&self, input: &InputHash, bytes: &[u8]) -> Option<Vec<f32>> {
        let mut row = Vec::new();
        self.codec.decode(input, bytes, &mut row).map(|_| row)
    }
}

/// What is asked of the cache.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub space: &'a Space,
    pub input: &'a InputHash,
}

/// A row to store.
#[derive(Debug)]
pub struct Fresh<'a> {
    pub space: &'a Space,
    pub input: &'a InputHash,
    pub row: &'a [f32],
    /// TTL in milliseconds.
    pub ttl_ms: u64,
    pub seal: Seal,
}

/// The seal of a row that no invalidation reaches: it is in a file of one process alone.
const OWN: Seal = Seal {
    stamp: u64::MAX,
    is_pending: false,
};

/// About what a reader's entry takes.
const STANDING_BYTES: usize = 512;

/// What a look-up found.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The seal of each wanted entry, in order; none where there is no entry.
    pub seals: Vec<Option<Seal>>,
    /// The stamp of each namespace's latest invalidation, in order: entries with a lower one are invalid for it.
    pub marks: Vec<u64>,
    /// The stamp of the latest invalidation of all: what is scored from now on carries it.
    pub now: u64,
}

/// Where entries are stored.
#[derive(Debug)]
enum Backend {
    Redis(Box<RedisCache>),
    File(SqliteStore),
    /// Nothing is looked up or stored.
    Off,
}

/// The cache of one process.
#[derive(Debug)]
pub struct Cache {
    backend: Backend,
    memory: MemoryCache,
    metrics: Metrics,
}

impl Cache {
    /// Redis, with `memory` serving while it fails.
    pub fn redis(redis: RedisCache, memory: MemoryCache, metrics: Metrics) -> Self {
        Self {
            backend: Backend::Redis(Box::new(redis)),
            memory,
            metrics,
        }
    }

    /// A SQLite file's scores.
    pub fn file(store: SqliteStore, metrics: Metrics) -> Self {
        Self {
            backend: Backend::File(store),
            memory: MemoryCache::new(1),
            metrics,
        }
    }

    /// No cache: every input is a miss.
    pub fn off(metrics: Metrics) -> Self {
        Self {
            backend: Backend::Off,
            memory: MemoryCache::new(1),
            metrics,
        }
    }

    /// The server behind it, if there is one.
    pub fn server(&self) -> Option<&RedisCache> {
        match &self.backend {
            Backend::Redis(redis) => Some(redis),
            Backend::File(_) | Backend::Off => None,
        }
    }

    /// Looks every input up for these namespaces, in one round trip unless they are many; appends found rows to `outputs` in order. The caller
    /// compares their seals' stamps with the marks: an entry that is older than its namespace's mark is invalid.
    pub async fn look_up(
        &self,
        wanted: &[Wanted<'_>],
        namespaces: &[&str],
        outputs: &mut Vec<f32>,
    ) -> Lookup {
        match &self.backend {
            Backend::Off => Lookup {
                seals: vec![None; wanted.len()],
                ..Lookup::default()
            },
            Backend::Redis(redis) => {
                self.look_up_in_redis(redis, wanted, namespaces, outputs)
                    .await
            }
            Backend::File(store) => {
                let there = Self::look_up_in_file(store, wanted, outputs).await;
                Lookup {
                    seals: there.into_iter().map(|is| is.then_some(OWN)).collect(),
                    ..Lookup::default()
                }
            }
        }
    }

    async fn look_up_in_redis(
        &self,
        redis: &RedisCache,
        wanted: &[Wanted<'_>],
        namespaces: &[&str],
        outputs: &mut Vec<f32>,
    ) -> Lookup {
        let entries = wanted.iter().map(|w| w.space.prefix.key(w.input));
        let marks = namespaces.iter().map(|name| key::mark(name).into_bytes());
        let latest = std::iter::once(key::latest_mark().into_bytes());
        let keys: Vec<Vec<u8>> = entries.chain(marks).chain(latest).collect();
        let bytes = |n: usize| match wanted.get(n) {
            Some(entry) => entry.space.codec.entry_bytes(),
            None => invalidate::MARK_BYTES,
        };
        // Of a cluster, the server that has a namespace's mark may be away while others answer.
        let (marks, mut is_unread) = (wanted.len()..keys.len() - 1, false);
        let unread = |number| is_unread |= marks.contains(&number);
        let (seals, shown) = match redis.get_noting(&keys, bytes, unread).await {
            Some(mut values) => {
                let marks = values.split_off(wanted.len().min(values.len()));
                let failing = redis.is_failing();
                // An entry of which nobody can say whether it is invalid isn't used.
                let seals = if redis.is_current(is_unread).await {
                    self.read(wanted, values, failing, outputs)
                } else {
                    vec![None; wanted.len()]
                };
                (seals, marks)
            }
            None => {
                let seals = wanted.iter().map(|w| self.remembered(w, outputs));
                (seals.collect(), vec![None; namespaces.len() + 1])
            }
        };
        // After the database was asked, if it was.
        let (marks, now) = redis.meet(namespaces, &shown);
        Lookup { seals, marks, now }
    }

    fn read(
        &self,
        wanted: &[Wanted<'_>],
        values: Vec<Option<Vec<u8>>>,
        failing: bool,
        outputs: &mut Vec<f32>,
    ) -> Vec<Option<Seal>> {
        let mut bad = 0;
        let found = wanted
            .iter()
            .zip(values)
            .map(|(wanted, value)| match value {
                Some(bytes) => {
                    let seal = wanted.space.codec.decode(wanted.input, &bytes, outputs);
                    bad += u64::from(seal.is_none());
                    seal
                }
                None if failing => self.remembered(wanted, outputs),
                None => None,
            })
            .collect();
        if bad > 0 {
            self.metrics.bad_entries(bad);
        }
        found
    }

    fn remembered(&self, wanted: &Wanted<'_>, outputs: &mut Vec<f32>) -> Option<Seal> {
        let known = self.in_memory(wanted)?;
        outputs.extend_from_slice(&known.row);
        Some(known.seal)
    }

    /// The row in memory. One of another width is another model's, whose files were replaced under the same version.
    fn in_memory(&self, wanted: &Wanted<'_>) -> Option<Remembered> {
        let known = self.memory.get(&wanted.space.memory_prefix, wanted.input)?;
        (known.row.len() == wanted.space.codec.width()).then_some(known)
    }

    /// Asks the file, whose own pages in memory are its cache: what a run has stored is found there at once.
    async fn look_up_in_file(
        store: &SqliteStore,
        wanted: &[Wanted<'_>],
        outputs: &mut Vec<f32>,
    ) -> Vec<bool> {
        let mut are_there = Vec::with_capacity(wanted.len());
        // Wanted inputs come grouped by model version: one look-up for each run of the same.
        for run in wanted.chunk_by(|one, next| std::ptr::eq(one.space, next.space)) {
            let Some(Wanted { space, .. }) = run.first() else {
                continue;
            };
            let (inputs, width) = (run.iter().map(|w| *w.input).collect(), space.codec.width());
            let found = store.find_scores(&space.model, &space.version, width, inputs);
            let found = found.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the file's scores can't be read; scoring again");
                FoundScores::default()
            });
            for number in 0..run.len() {
                let at = found.of.get(number).copied().flatten();
                let row = at.and_then(|at| found.rows.get(at * width..(at + 1) * width));
                outputs.extend_from_slice(row.unwrap_or_default());
                are_there.push(row.is_some());
            }
        }
        are_there
    }

    /// Stores rows that were just scored.
    pub async fn put(&self, fresh: &[Fresh<'_>]) {
        match &self.backend {
            // The file has them with their rows.
            Backend::Off | Backend::File(_) => {}
            Backend::Redis(redis) => {
                let puts: Vec<Put> = fresh
                    .iter()
                    .map(|f| Put {
                        key: f.space.prefix.key(f.input),
                        value: f.space.codec.encode(f.input, f.row, f.seal),
                        ttl_ms: f.ttl_ms,
                    })
                    .collect();
                self.remember(fresh, &redis.put(&puts).await);
            }
        }
    }

    /// Keeps in memory what Redis didn't take.
    fn remember(&self, fresh: &[Fresh<'_>], stored: &[bool]) {
        for (f, is_stored) in fresh.iter().zip(stored) {
            if !is_stored {
                let prefix = &f.space.memory_prefix;
                self.memory.put(prefix, f.input, f.row, f.seal);
            }
        }
    }

    /// Notes that these jobs were accepted, and says when each was first, if it was before.
    pub async fn accept(&self, jobs: &[(Vec<u8>, Moment)], life: Duration) -> Vec<Option<Moment>> {
        let known = match &self.backend {
            Backend::Redis(redis) if !jobs.is_empty() => redis.accept(jobs, life).await,
            _ => None,
        };
        known.unwrap_or_else(|| vec![None; jobs.len()])
    }

    /// When jobs were first accepted, by the keys of that, where it is known.
    pub async fn accepted(&self, keys: &[Vec<u8>]) -> Vec<Option<Moment>> {
        let known = match &self.backend {
            Backend::Redis(redis) if !keys.is_empty() => redis.accepted(keys).await,
            _ => None,
        };
        known.unwrap_or_else(|| vec![None; keys.len()])
    }

    /// Has entries live for so many milliseconds more, where they are there and would live shorter.
    pub async fn prolong(&self, lives: &[(Vec<u8>, u64)]) {
        if let Backend::Redis(redis) = &self.backend
            && !lives.is_empty()
        {
            redis.prolong(lives).await;
        }
    }

    /// What stands under each of readers' keys: an entry, what is left of a removed one, or nothing; nothing at all where Redis fails.
    pub async fn standing(&self, keys: &[String]) -> Vec<Option<Vec<u8>>> {
        let Backend::Redis(redis) = &self.backend else {
            return vec![None; keys.len()];
        };
        let removed = keys.iter().map(|key| key::removed(key));
        let both = keys.iter().cloned().chain(removed).map(String::into_bytes);
        let both: Vec<Vec<u8>> = both.collect();
        let found = redis.get(&both, |_| STANDING_BYTES).await;
        let mut found = found.unwrap_or_else(|| vec![None; both.len()]);
        let removed = found.split_off(keys.len());
        let found = found.into_iter().zip(removed);
        found.map(|(entry, removed)| entry.or(removed)).collect()
    }

    /// Writes what readers find: named entries and rankings, where nothing newer stands. Only Redis holds them. What was scored before
    /// an invalidation, by its stamp, and comes after it is taken back. Nothing where Redis fails.
    pub async fn publish(&self, words: &Words<'_>) -> Option<Published> {
        let Backend::Redis(redis) = &self.backend else {
            return Some(Published::default());
        };
        let published = redis.publish(words).await;
        let older = published.as_ref().map_or(0, |published| published.older);
        self.metrics.older_words(older);
        published
    }
}
