//! Owns what is asked of Redis beside a look-up, at the same time: when jobs were first accepted.

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
}
