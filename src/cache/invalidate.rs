//! Owns invalidation: a namespace's mark, which invalidates every older entry for it on every worker at once.
//!
//! A mark is a stamp: milliseconds of the database's clock, and always more than the latest one. An entry carries the latest mark that
//! its writer knew of before it scored, so that whatever was scored before an invalidation is older than it, no matter when
//! it is written or what the workers' clocks say. Marks live in the database; Redis has copies, so that every worker meets a new one with
//! its next look-up. Promises that a mark counts that this process has ever known, and that what Redis has lost is put back.

use super::{RedisCache, journal::Journal};
use crate::{
    clock,
    store::{InvalidationMark, PostgresStore, StoreError},
};
use kiln_contract::entry;
use kiln_contract::job::MAX_TTL_SECONDS;
use kiln_contract::key;
use redis::{Cmd, RedisError};

/// Raises a mark, stored for twice as long as an entry can be: TTLs are spread downwards only. Gives the one that was there.
pub(super) const RAISE: &str = "local mark = tonumber(redis.call('GET', KEYS[1])) or 0
if mark < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
return string.format('%.0f', mark)";
/// Marks that are looked after at a time.
const MARKS_AT_A_TIME: usize = 1_000;
/// Bytes of a mark.
pub(super) const MARK_BYTES: usize = 16;

/// A mark's value; 0 where there is none.
pub(super) fn read(value: &Option<Vec<u8>>) -> u64 {
    let text = value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn raise(key: &str, stamp: u64) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(RAISE).arg(1).arg(key);
    command.arg(stamp).arg(2 * MAX_TTL_SECONDS);
    command
}

/// What an invalidation came to.
#[derive(Debug)]
pub struct Invalidation {
    pub stamp: u64,
    /// Why Redis didn't hear of it, without credentials: workers learn of it from the database within a second.
    pub unheard: Option<String>,
}

/// Invalidates every entry that was scored for a namespace until now: in the database, and then in Redis. An error means that nothing is
/// invalidated.
pub async fn invalidate(
    store: &PostgresStore,
    redis: Option<&RedisCache>,
    namespace: &str,
) -> Result<Invalidation, StoreError> {
    let floor = redis.map_or(0, |redis| redis.marks().latest());
    let mut stamp = store.invalidate(namespace, floor).await?;
    let Some(redis) = redis else {
        let unheard = None;
        return Ok(Invalidation { stamp, unheard });
    };
    let mut raised = redis.raise_marks(namespace, stamp).await;
    // Entries may carry a later one: earlier releases took Redis's own clock.
    if let Ok(later) = raised
        && later >= stamp
    {
        stamp = store.invalidate(namespace, later).await?;
        raised = redis.raise_marks(namespace, stamp).await;
    }
    redis.marks().learn(namespace, stamp);
    Ok(Invalidation {
        stamp,
        unheard: raised.err(),
    })
}

impl RedisCache {
    /// Has invalidations heard in this database.
    pub fn hearing(mut self, store: &PostgresStore) -> Self {
        self.journal = Some(Journal::new(store));
        self
    }

    /// Asks the database what was invalidated since.
    pub async fn hear(&self) -> Result<(), StoreError> {
        match &self.journal {
            Some(journal) => journal.hear(self.marks(), self.connections_made()).await,
            None => Ok(()),
        }
    }

    /// From which change on the database is to be asked, and how many connections to this Redis were made before that.
    pub async fn asking(&self) -> (i64, u64) {
        let made = self.connections_made();
        match &self.journal {
            Some(journal) => (journal.change().await, made),
            None => (i64::MAX, made),
        }
    }

    /// Takes what the database answered to [`RedisCache::asking`]. Says whether that is all: otherwise it is to be asked anew.
    pub async fn heard(&self, news: &[InvalidationMark], (since, made): (i64, u64)) -> bool {
        match &self.journal {
            Some(journal) => journal.take(self.marks(), news, since, made).await,
            None => true,
        }
    }

    /// Hands to the database what only Redis has shown.
    pub async fn hand_over(&self) -> Result<(), StoreError> {
        match &self.journal {
            Some(journal) => journal.hand_over(self.marks()).await,
            None => Ok(()),
        }
    }

    /// Whether all is known that this Redis may have lost, or doesn't show just now.
    pub(super) async fn is_current(&self, is_unread: bool) -> bool {
        match &self.journal {
            Some(journal) => {
                let made = self.connections_made();
                journal.is_current(self.marks(), made, is_unread).await
            }
            None => true,
        }
    }

    /// Raises a namespace's mark and the latest of all; gives the latest one before.
    async fn raise_marks(&self, namespace: &str, stamp: u64) -> Result<u64, String> {
        let keys = [key::mark(namespace), key::latest_mark()];
        let raised = keys.map(|key| {
            let raise = raise(&key, stamp);
            (key.into_bytes(), raise)
        });
        let raised = self.now(&raised).await.into_iter().collect();
        let raised: Vec<String> = Result::map_err(raised, |e: RedisError| self.scrub(&e))?;
        let before = raised.last().and_then(|before| before.parse().ok());
        Ok(before.unwrap_or_default())
    }

    /// Puts back what Redis has lost of the marks that are known here, a part of them at a time where they are many; `turn` says where to
    /// go on. Says how many were lost; nothing where none is known, or Redis doesn't show them.
    pub(super) async fn repair_marks(&self, turn: &mut usize) -> Option<u64> {
        let mut known = self.marks().all();
        known.sort();
        known.push((String::new(), self.marks().latest()));
        known.retain(|(_, mark)| *mark > 0);
        let begin = if *turn < known.len() { *turn } else { 0 };
        let part: Vec<(String, u64)> = known
            .into_iter()
            .skip(begin)
            .take(MARKS_AT_A_TIME)
            .collect();
        *turn = begin + part.len();
        if part.is_empty() {
            return None;
        }
        let key = |namespace: &str| match namespace {
            "" => key::latest_mark(),
            named => key::mark(named),
        };
        let keys = part.iter().map(|(namespace, _)| key(namespace));
        let keys: Vec<Vec<u8>> = keys.map(String::into_bytes).collect();
        // That Redis is failing is told by its own check.
        let there = self.values_now(&keys).await;
        let are_shown = there.iter().all(Result::is_ok);
        let lost = part
            .iter()
            .zip(&there)
            .filter_map(|((namespace, mark), there)| {
                let is_lost = read(there.as_ref().ok()?) < *mark;
                is_lost.then(|| (key(namespace).into_bytes(), raise(&key(namespace), *mark)))
            });
        let lost: Vec<(Vec<u8>, Cmd)> = lost.collect();
        let mut repaired = 0;
        if !lost.is_empty() {
            let raised = self.now::<String>(&lost).await;
            repaired = raised.iter().filter(|one| one.is_ok()).count() as u64;
        }
        are_shown.then_some(repaired)
    }

    /// Notes what Redis shows of some namespaces' marks and, last, of the latest of all, and raises it to what is known.
    pub(super) fn meet(&self, namespaces: &[&str], values: &[Option<Vec<u8>>]) -> (Vec<u64>, u64) {
        let now_ms = clock::now().timestamp_millis().unsigned_abs();
        let marks = namespaces.iter().zip(values).map(|(namespace, value)| {
            let mark = read(value);
            let known = self.marks().of(namespace);
            if mark > known {
                self.marks().seen(namespace, mark, now_ms);
            }
            mark.max(known)
        });
        let marks: Vec<u64> = marks.collect();
        let latest = values.last().map(read).unwrap_or_default();
        if latest > self.marks().latest() {
            self.marks().seen("", latest, now_ms);
        }
        // Should the latest mark be gone before a namespace's own, that one is as late as any that is known.
        let now = marks.iter().copied().max().unwrap_or_default();
        (marks, now.max(latest).max(self.marks().latest()))
    }

    /// The stamp of a namespace's latest invalidation; nothing where Redis fails.
    pub async fn mark(&self, namespace: &str) -> Option<u64> {
        let key = key::mark(namespace).into_bytes();
        let values = self.get(&[key], |_| MARK_BYTES).await?;
        let mark = values.first().map(read)?;
        Some(mark.max(self.marks().of(namespace)))
    }

    /// As [`RedisCache::ttls`], where entries that are older than `mark` count as gone.
    pub async fn ttls_since(&self, keys: &[Vec<u8>], mark: u64) -> Option<Vec<Option<u64>>> {
        let mut ttls = self.ttls(keys).await?;
        if mark == 0 || keys.is_empty() {
            return Some(ttls);
        }
        let ask = |key: &[u8]| {
            let mut command = redis::cmd("GETRANGE");
            let last = entry::TO_STAMP.saturating_sub(1);
            command.arg(key).arg(0).arg(last);
            command
        };
        let heads: Vec<Option<Vec<u8>>> = self.for_each_key(keys, entry::TO_STAMP, ask).await?;
        for (ttl, head) in ttls.iter_mut().zip(heads) {
            let head = head.unwrap_or_default();
            // What readers find carries no stamp: an invalidation removes it.
            let is_entry = entry::is_entry(&head);
            if is_entry && entry::stamp_of(&head).unwrap_or_default() < mark {
                *ttl = None;
            }
        }
        Some(ttls)
    }
}
