//! Owns what is asked of Redis beside a look-up, at the same time: when jobs were first accepted, and longer lives of entries.

use super::{Again, RedisCache, parts};
use crate::telemetry::metrics::CacheOperation;
use kiln_contract::order::Moment;
use redis::Pipeline;
use std::{ops::Range, time::Duration};

impl RedisCache {
    /// Notes that these jobs were accepted, and says when each was first, if it was before; nothing where Redis fails.
    pub(in crate::cache) async fn accept(
        &self,
        jobs: &[(Vec<u8>, Moment)],
        life: Duration,
    ) -> Option<Vec<Option<Moment>>> {
        let life_ms = life.as_millis() as u64;
        let bytes: Vec<usize> = jobs.iter().map(|(key, _)| key.len() + 64).collect();
        let ask = |range: Range<usize>| {
            let mut pipeline = Pipeline::with_capacity(range.len());
            for (key, accepted) in jobs.get(range).unwrap_or_default() {
                let set = pipeline.cmd("SET").arg(key.as_slice());
                let set = set.arg(accepted.micros()).arg("NX").arg("GET");
                set.arg("PX").arg(life_ms);
            }
            pipeline.into()
        };
        let parts = parts(&bytes);
        let answers = self.in_parts(CacheOperation::Set, parts, &ask, Again::Yes);
        let answers: Vec<Vec<Option<Vec<u8>>>> = answers.await?;
        let read = |value: Option<Vec<u8>>| {
            let text = String::from_utf8(value?).ok()?;
            Some(Moment::from_micros(text.parse().ok()?))
        };
        Some(answers.into_iter().flatten().map(read).collect())
    }

    /// Gives keys that are there so many milliseconds to live, where they have fewer.
    pub(in crate::cache) async fn prolong(&self, lives: &[(Vec<u8>, u64)]) {
        let bytes: Vec<usize> = lives.iter().map(|(key, _)| key.len()).collect();
        let ask = |range: Range<usize>| {
            let mut pipeline = Pipeline::with_capacity(range.len());
            for (key, life_ms) in lives.get(range).unwrap_or_default() {
                let life = pipeline.cmd("PEXPIRE").arg(key.as_slice());
                life.arg(life_ms).arg("GT").ignore();
            }
            pipeline.into()
        };
        let asked = self.in_parts::<()>(CacheOperation::Set, parts(&bytes), &ask, Again::Yes);
        asked.await;
    }
}
