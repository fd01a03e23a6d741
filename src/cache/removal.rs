//! Owns the removal of what readers find of an invalidated namespace.
//!
//! Promises to hold Redis up with no more than a thousand keys at a time, and to know a Redis that was started again, or has taken over
//! from another one: it may have what was removed before.

use super::{RedisCache, redis::Walk};
use chrono::DateTime;
use kiln_contract::key;
use redis::{Cmd, RedisError, Value};

/// Keys that Redis scans, or removes, at a time.
const AT_A_TIME: usize = 1_000;
/// As many bytes of an entry's end hold when it was scored.
const TAIL: i64 = 1_024;
/// What stands before that moment.
const SCORED_AT: &[u8] = b"\"scored_at\":\"";
/// How far workers' clocks may be from the database's.
const CLOCKS_MS: u64 = 60_000;
/// The removal of what readers find of one namespace, a piece at a time.
#[derive(Debug)]
pub struct Removal<'a> {
    redis: &'a RedisCache,
    namespace: &'a str,
    /// What was scored later, by this stamp, stays.
    until: Option<u64>,
    walk: Walk,
    /// Keys removed so far.
    pub removed: u64,
    /// Whether all that was there is gone.
    pub done: bool,
    /// Whether all servers of a cluster were visited, and some of them failed.
    pub is_partial: bool,
}

impl RedisCache {
    /// Namespaces whose removal nobody has brought to its end, as workers of earlier releases note them; nothing where Redis fails.
    pub async fn unremoved(&self) -> Option<Vec<String>> {
        self.members(&key::unremoved()).await
    }

    /// Begins to remove what readers find of a namespace; where a stamp is given, only what was scored before it.
    pub fn removal<'a>(&'a self, namespace: &'a str, until: Option<u64>) -> Removal<'a> {
        Removal {
            redis: self,
            namespace,
            until,
            walk: Walk::default(),
            removed: 0,
            done: false,
            is_partial: false,
        }
    }
}

impl Removal<'_> {
    /// Removes the next piece. A server of a cluster that fails doesn't hold up the others: the error comes when all were visited. It
    /// holds no credentials; the removal may go on after it.
    pub async fn step(&mut self) -> Result<(), String> {
        let begun = self.redis.begin(&mut self.walk).await;
        begun.map_err(|e| self.redis.scrub(&e))?;
        // Where what was found isn't removed, it is found again.
        let mut walk = self.walk.clone();
        let went = match self.piece(&mut walk).await {
            Ok(()) => {
                self.walk = walk;
                self.walk.is_whole()
            }
            Err(why) => self.walk.pass_by(why),
        };
        self.is_partial = went.is_err() && self.redis.is_cluster();
        went
    }

    async fn piece(&mut self, walk: &mut Walk) -> Result<(), String> {
        let scrub = |e: RedisError| self.redis.scrub(&e);
        let pattern = key::all_named(self.namespace);
        let scanned = self.redis.scan(walk, &pattern, AT_A_TIME).await;
        let (keys, is_end) = scanned.map_err(scrub)?;
        let keys = match self.until {
            Some(stamp) => self.older(keys, stamp).await.map_err(scrub)?,
            None => keys,
        };
        let unlinked = self.redis.unlink(&keys).await;
        self.removed += unlinked.map_err(scrub)?;
        if is_end {
            let (set, mut end) = (key::unremoved(), redis::cmd("SREM"));
            end.arg(&set).arg(self.namespace);
            let ended = self.redis.now_one::<Value>(set.as_bytes(), end).await;
            ended.map_err(scrub)?;
            self.done = true;
        }
        Ok(())
    }

    /// The keys of what wasn't surely scored later.
    async fn older(&self, mut keys: Vec<Vec<u8>>, stamp: u64) -> Result<Vec<Vec<u8>>, RedisError> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let tails = keys.iter().map(|key| {
            let mut tail = redis::cmd("GETRANGE");
            tail.arg(key.as_slice()).arg(-TAIL).arg(-1);
            (key.clone(), tail)
        });
        let tails: Vec<(Vec<u8>, Cmd)> = tails.collect();
        let tails = self.redis.now(&tails).await;
        let tails: Vec<Vec<u8>> = tails.into_iter().collect::<Result<_, RedisError>>()?;
        let mut tails = tails.iter();
        keys.retain(|_| {
            let scored = tails.next().and_then(|tail| scored_at_ms(tail));
            scored.is_none_or(|at| at < stamp.saturating_add(CLOCKS_MS))
        });
        Ok(keys)
    }
}

/// When an entry was scored, from its end, in milliseconds since 1970.
fn scored_at_ms(tail: &[u8]) -> Option<u64> {
    let windows = tail.windows(SCORED_AT.len());
    let at = windows.rev().position(|window| window == SCORED_AT)?;
    let (_, after) = tail.split_at_checked(tail.len() - at)?;
    let moment = after.split(|byte| *byte == b'"').next()?;
    let moment = DateTime::parse_from_rfc3339(std::str::from_utf8(moment).ok()?).ok()?;
    u64::try_from(moment.timestamp_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrys_moment_is_read_from_its_end() {
        let entry = br#"{"items":[],"version":"1","scored_at":"2026-11-20T12:00:00.250Z","job_id":"\"scored_at\":\"2020-01-01T00:00:00Z"}"#;
        assert_eq!(scored_at_ms(entry), Some(1_795_176_000_250));
        assert_eq!(scored_at_ms(br#"{"scored_at":"soon"}"#), None);
        assert_eq!(scored_at_ms(b"x"), None);
        assert_eq!(scored_at_ms(b""), None);
    }
}
