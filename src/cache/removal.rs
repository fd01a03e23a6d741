//! Owns the removal of what readers find of an invalidated namespace.
//!
//! Promises to hold Redis up with no more than a thousand keys at a time, and to know a Redis that was started again, or has taken over
//! from another one: it may have what was removed before.

use super::{RedisCache, redis::is_refusal};
use chrono::DateTime;
use kiln_contract::key;
use redis::{RedisError, Value};

/// Keys that Redis scans, or removes, at a time.
const AT_A_TIME: usize = 1_000;
/// As many bytes of an entry's end hold when it was scored.
const TAIL: i64 = 1_024;
/// What stands before that moment.
const SCORED_AT: &[u8] = b"\"scored_at\":\"";
/// How far workers' clocks may be from the database's.
const CLOCKS_MS: u64 = 60_000;
/// What a server is called that doesn't say which one it is.
const UNNAMED: &str = "unnamed";

/// The removal of what readers find of one namespace, a piece at a time.
#[derive(Debug)]
pub struct Removal<'a> {
    redis: &'a RedisCache,
    namespace: &'a str,
    /// What was scored later, by this stamp, stays.
    until: Option<u64>,
    cursor: u64,
    /// Keys removed so far.
    pub removed: u64,
    /// Whether all that was there is gone.
    pub done: bool,
}

impl RedisCache {
    /// Namespaces whose removal nobody has brought to its end, as workers of earlier releases note them; nothing where Redis fails.
    pub async fn unremoved(&self) -> Option<Vec<String>> {
        self.members(&key::unremoved()).await
    }

    /// Which server this is, by its run: it changes with a restart and a failover. An error holds no credentials.
    pub async fn server_run(&self) -> Result<String, String> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        match self.command::<String>(info).await {
            Ok(info) => {
                let mut lines = info.lines();
                let run = lines.find_map(|line| line.trim_end().strip_prefix("run_id:"));
                Ok(run.unwrap_or(UNNAMED).to_owned())
            }
            Err(error) if is_refusal(&error) => Ok(UNNAMED.to_owned()),
            Err(error) => Err(self.scrub(&error)),
        }
    }

    /// Begins to remove what readers find of a namespace; where a stamp is given, only what was scored before it.
    pub fn removal<'a>(&'a self, namespace: &'a str, until: Option<u64>) -> Removal<'a> {
        Removal {
            redis: self,
            namespace,
            until,
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
        let keys = match self.until {
            Some(stamp) => self.older(keys, stamp).await.map_err(scrub)?,
            None => keys,
        };
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

    /// The keys of what wasn't surely scored later.
    async fn older(&self, mut keys: Vec<Vec<u8>>, stamp: u64) -> Result<Vec<Vec<u8>>, RedisError> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let mut tails = redis::Pipeline::with_capacity(keys.len());
        for key in &keys {
            tails.cmd("GETRANGE").arg(key).arg(-TAIL).arg(-1);
        }
        let tails: Vec<Vec<u8>> = self.redis.now(tails).await?;
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
