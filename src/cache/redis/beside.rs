//! Owns what is asked of Redis beside a look-up, at the same time: when jobs were first accepted, and longer lives of entries.

use super::{Again, Many, RedisCache, SHORT_ANSWER};
use crate::telemetry::metrics::CacheOperation;
use kiln_contract::order::Moment;
use redis::Value;
use std::time::Duration;

/// The moment that a value tells.
fn moment(value: Option<Vec<u8>>) -> Option<Moment> {
    let text = String::from_utf8(value?).ok()?;
    Some(Moment::from_micros(text.parse().ok()?))
}

impl RedisCache {
    /// Notes that these jobs were accepted, and says when each was first, if it was before; nothing where Redis fails.
    pub(in crate::cache) async fn accept(
        &self,
        jobs: &[(Vec<u8>, Moment)],
        life: Duration,
    ) -> Option<Vec<Option<Moment>>> {
        let life_ms = life.as_millis() as u64;
        let bytes: Vec<usize> = jobs.iter().map(|(key, _)| key.len() + 64).collect();
        let command = |number: usize| {
            let mut set = redis::cmd("SET");
            if let Some((key, accepted)) = jobs.get(number) {
                set.arg(key.as_slice()).arg(accepted.micros());
                set.arg("NX").arg("GET").arg("PX").arg(life_ms);
            }
            set
        };
        let many = Many {
            bytes: &bytes,
            key: &|number| jobs.get(number).map_or(&[][..], |(key, _)| key),
            command: &command,
        };
        let answers = self.each(CacheOperation::Set, &many, Again::Yes);
        let answers: Vec<Option<Option<Vec<u8>>>> = answers.await?;
        let answers = answers.into_iter().map(Option::flatten);
        Some(answers.map(moment).collect())
    }

    /// When jobs were first accepted, by the keys of that, where it is known; nothing where Redis fails.
    pub(in crate::cache) async fn accepted(&self, keys: &[Vec<u8>]) -> Option<Vec<Option<Moment>>> {
        let known = self.get(keys, |_| SHORT_ANSWER).await?;
        Some(known.into_iter().map(moment).collect())
    }

    /// Gives keys that are there so many milliseconds to live, where they have fewer.
    pub(in crate::cache) async fn prolong(&self, lives: &[(Vec<u8>, u64)]) {
        let bytes: Vec<usize> = lives.iter().map(|(key, _)| key.len()).collect();
        let command = |number: usize| {
            let mut life = redis::cmd("PEXPIRE");
            if let Some((key, life_ms)) = lives.get(number) {
                life.arg(key.as_slice()).arg(life_ms).arg("GT");
            }
            life
        };
        let many = Many {
            bytes: &bytes,
            key: &|number| lives.get(number).map_or(&[][..], |(key, _)| key),
            command: &command,
        };
        self.each::<Value>(CacheOperation::Set, &many, Again::Yes)
            .await;
    }
}
