//! Owns what workers share with each other through Redis: sets, and hashes with a field for each.

use super::{Again, RedisCache, Size};
use crate::telemetry::metrics::CacheOperation;
use redis::{Cmd, FromRedisValue, Pipeline};
use std::{collections::HashMap, time::Duration};

impl RedisCache {
    /// Writes one field of a hash and notes it in an index; both expire after `life`.
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
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SADD").arg(index).arg(member).ignore();
        pipeline.cmd("EXPIRE").arg(index).arg(seconds).ignore();
        pipeline
            .cmd("HSET")
            .arg(hash)
            .arg(field)
            .arg(value)
            .ignore();
        pipeline.cmd("EXPIRE").arg(hash).arg(seconds).ignore();
        let bytes = hash.len() + field.len() + value.len();
        let size = Size { keys: 4, bytes };
        let question = pipeline.into();
        let recorded = self.guarded::<()>(CacheOperation::Set, &question, size, Again::No);
        recorded.await.is_some()
    }

    /// The members of a set; nothing where Redis fails.
    pub async fn members(&self, set: &str) -> Option<Vec<String>> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(set);
        self.asked(command).await
    }

    /// The fields of a hash; nothing where Redis fails.
    pub async fn fields(&self, hash: &str) -> Option<HashMap<String, Vec<u8>>> {
        let mut command = redis::cmd("HGETALL");
        command.arg(hash);
        self.asked(command).await
    }

    async fn asked<T: FromRedisValue>(&self, command: Cmd) -> Option<T> {
        self.guarded(
            CacheOperation::Get,
            &command.into(),
            Size::SMALL,
            Again::Yes,
        )
        .await
    }
}
