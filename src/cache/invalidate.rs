//! Owns invalidation: a namespace's mark, which invalidates every older entry for it on every worker at once, and the
//! removal of what its readers find.
//!
//! A mark is a stamp: milliseconds of Redis's clock, and always more than the latest one. An entry carries the latest mark that
//! its writer knew of before it scored, so that whatever was scored before an invalidation is older than it, no matter when
//! it is written or what the workers' clocks say. Promises to hold Redis up with no more than a thousand keys at a time.

use super::RedisCache;
use kiln_contract::entry;
use kiln_contract::job::MAX_TTL_SECONDS;
use kiln_contract::key;
use redis::{RedisError, Value};

/// Sets a namespace's mark and the latest one, and notes what is to be removed. All are stored as long as an entry can be.
const MARK: &str = "local t = redis.call('TIME')
local mark = t[1] * 1000 + math.floor(t[2] / 1000)
for i = 1, 2 do mark = math.max(mark, (tonumber(redis.call('GET', KEYS[i])) or 0) + 1) end
mark = string.format('%.0f', mark)
for i = 1, 2 do redis.call('SET', KEYS[i], mark, 'EX', ARGV[1]) end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[1])
return mark";
/// Keys that Redis scans, or removes, at a time.
const AT_A_TIME: usize = 1_000;
/// Bytes of a mark.
pub(super) const MARK_BYTES: usize = 16;

/// A mark's value; 0 where there is none.
pub(super) fn read(value: &Option<Vec<u8>>) -> u64 {
    let text = value.as_deref().and_then(|v| std::str::from_utf8(v).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The removal of what readers find of one namespace, a piece at a time.
#[derive(Debug)]
pub struct Removal<'a> {
    redis: &'a RedisCache,
    namespace: &'a str,
    cursor: u64,
    /// Keys removed so far.
    pub removed: u64,
    /// Whether all that was there is gone.
    pub done: bool,
}

impl RedisCache {
    /// Invalidates every entry that was scored for a namespace until now. An error holds no credentials.
    pub async fn invalidate(&self, namespace: &str) -> Result<(), String> {
        let mut command = redis::cmd("EVAL");
        command
            .arg(MARK)
            .arg(3)
            .arg(key::latest_mark())
            .arg(key::mark(namespace))
            .arg(key::unremoved())
            // TTLs are spread downwards only; twice as long is safe.
            .arg(2 * MAX_TTL_SECONDS)
            .arg(namespace);
        let mark: Result<String, RedisError> = self.command(command).await;
        mark.map(|_| ()).map_err(|e| self.scrub(&e))
    }

    /// The stamp of a namespace's latest invalidation; nothing where Redis fails.
    pub async fn mark(&self, namespace: &str) -> Option<u64> {
        let key = key::mark(namespace).into_bytes();
        let values = self.get(&[key], |_| MARK_BYTES).await?;
        values.first().map(read)
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
        let heads: Vec<Vec<u8>> = self.for_each_key(keys, entry::TO_STAMP, ask).await?;
        for (ttl, head) in ttls.iter_mut().zip(heads) {
            // What readers find carries no stamp: an invalidation removes it.
            let is_entry = entry::is_entry(&head);
            if is_entry && entry::stamp_of(&head).unwrap_or_default() < mark {
                *ttl = None;
            }
        }
        Some(ttls)
    }

    /// Namespaces whose removal nobody has brought to its end; nothing where Redis fails.
    pub async fn unremoved(&self) -> Option<Vec<String>> {
        self.members(&key::unremoved()).await
    }

    /// Begins to remove what readers find of a namespace.
    pub fn removal<'a>(&'a self, namespace: &'a str) -> Removal<'a> {
        Removal {
            redis: self,
            namespace,
            cursor: 0,
            removed: 0,
            done: false,
        }
    }
}

impl Removal<'_> {
    /// Removes the next piece. An error holds no credentials; the removal may go on after it.
    pub async fn step(&mut self) -> Result<(), String> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(self.cursor)
            .arg("MATCH")
            .arg(key::all_named(self.namespace))
            .arg("COUNT")
            .arg(AT_A_TIME);
        let scrub = |e: RedisError| self.redis.scrub(&e);
        let (cursor, keys): (u64, Vec<Vec<u8>>) = self.redis.command(scan).await.map_err(scrub)?;
        if !keys.is_empty() {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(&keys);
            let removed: u64 = self.redis.command(unlink).await.map_err(scrub)?;
            self.removed += removed;
        }
        if cursor == 0 {
            let mut end = redis::cmd("SREM");
            end.arg(key::unremoved()).arg(self.namespace);
            self.redis.command::<Value>(end).await.map_err(scrub)?;
            self.done = true;
        }
        self.cursor = cursor;
        Ok(())
    }
}
