//! Owns what workers share with each other through Redis: sets, and hashes with a field for each.

use super::{Again, Many, RedisCache};
use crate::telemetry::metrics::CacheOperation;
use redis::{FromRedisValue, Value};
use std::{collections::HashMap, time::Duration};

impl RedisCache {
    /// Writes one field of a hash and notes it in an index; both expire after `life`. Where something else stands under their keys, which are
    /// Kiln's own, it makes room for the next time.
    pub async fn record(
        &self,
        index: &str,
        member: &str,
        hash: &str,
        field: &str,
        value: &[u8],
        life: Duration,
    ) -> bool {
        let seconds = life.as_secs();
        let command = |number: usize| {
            let (name, key) = match number {
                0 => ("SADD", index),
                2 => ("HSET", hash),
                1 => ("EXPIRE", index),
                _ => ("EXPIRE", hash),
            };
            let mut command = redis::cmd(name);
            command.arg(key);
            match number {
                0 => command.arg(member),
                2 => command.arg(field).arg(value),
                _ => command.arg(seconds),
            };
            command
        };
        let bytes = hash.len() + field.len() + value.len();
        let many = Many {
            bytes: &[0, 0, bytes, 0],
            key: &|number| if number < 2 { index } else { hash }.as_bytes(),
            command: &command,
        };
        let recorded = self.each::<Value>(CacheOperation::Set, &many, Again::No);
        let recorded = recorded.await;
        let is_recorded = recorded.is_some_and(|all| all.iter().all(Option::is_some));
        if !is_recorded {
            self.remove_unless(&[(index, "set"), (hash, "hash")]).await;
        }
        is_recorded
    }

    /// Removes what stands under keys of Kiln's own and is of another type than theirs.
    pub async fn remove_unless(&self, typed: &[(&str, &str)]) {
        let command = |name: &str, key: &str| {
            let mut command = redis::cmd(name);
            command.arg(key);
            (key.as_bytes().to_vec(), command)
        };
        let ask: Vec<_> = typed.iter().map(|(key, _)| command("TYPE", key)).collect();
        let found = self.now::<String>(&ask).await;
        let others = typed.iter().zip(found).filter_map(|((key, own), found)| {
            let found = found.ok()?;
            (found != "none" && found != *own).then(|| command("DEL", key))
        });
        let remove: Vec<_> = others.collect();
        if !remove.is_empty() {
            // Whatever becomes of it: it is looked at again the next time.
            let _answers = self.now::<Value>(&remove).await;
        }
    }

    /// The members of a set; nothing where Redis fails.
    pub async fn members(&self, set: &str) -> Option<Vec<String>> {
        self.asked("SMEMBERS", set).await
    }

    /// The fields of a hash; nothing where Redis fails.
    pub async fn fields(&self, hash: &str) -> Option<HashMap<String, Vec<u8>>> {
        self.asked("HGETALL", hash).await
    }

    async fn asked<T: FromRedisValue + Send>(&self, name: &str, key: &str) -> Option<T> {
        let command = |_| {
            let mut command = redis::cmd(name);
            command.arg(key);
            command
        };
        let many = Many {
            bytes: &[0],
            key: &|_| key.as_bytes(),
            command: &command,
        };
        let answers = self.each(CacheOperation::Get, &many, Again::Yes).await?;
        answers.into_iter().next().flatten()
    }
}
