//! Owns looking at some of what is in Redis, on a connection of its own.
//!
//! Promises that a look asks Redis for little at a time, and never for all keys at once; and that it doesn't count as reading
//! where the server can leave that out (from Redis 7.2 on).

use super::redis::connect;
use crate::{
    config::{self, Redis},
    secret::Secret,
};
use redis::{FromRedisValue, Pipeline, RedisError, Value, aio::MultiplexedConnection};

/// Keys that Redis looks at in one step.
const STEP: usize = 200;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// A walk through the keys of one Redis, a step at a time.
pub struct Samples {
    url: Secret,
    settings: Redis,
    connection: Option<MultiplexedConnection>,
    cursor: u64,
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Samples({:?})", self.url)
    }
}

impl Samples {
    /// A walk that begins anywhere: `start` is drawn by chance, so that walks that are cut short don't all see the same keys.
    pub fn new(url: &Secret, settings: &Redis, start: u64) -> Self {
        Self {
            url: url.clone(),
            settings: settings.clone(),
            connection: None,
            cursor: start,
        }
    }

    /// The keys of the next step that match, none as a rule where few do; and whether the walk has come to its end, after which it begins
    /// anew. An error holds no credentials.
    pub async fn step(&mut self, pattern: &str) -> Result<(Vec<Vec<u8>>, bool), String> {
        let mut scan = Pipeline::new();
        scan.cmd("SCAN")
            .arg(self.cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(STEP);
        let [(cursor, keys)]: [(u64, Vec<Vec<u8>>); 1] = self.ask(&scan).await?;
        self.cursor = cursor;
        Ok((keys, cursor == 0))
    }

    /// The values of these keys that are still there.
    pub async fn read(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Sample>, String> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = Pipeline::new();
        get.cmd("MGET").arg(keys);
        let [values]: [Vec<Option<Vec<u8>>>; 1] = self.ask(&get).await?;
        let there = keys.iter().zip(values);
        let there = there.filter_map(|(key, value)| {
            Some(Sample {
                key: key.clone(),
                value: value?,
            })
        });
        Ok(there.collect())
    }

    async fn ask<T: FromRedisValue>(&mut self, question: &Pipeline) -> Result<T, String> {
        let limit = config::ms(self.settings.timeout_ms);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connected = connect(&self.url, &self.settings).await;
                let mut connection = connected.map_err(|e| self.scrub(&e))?;
                let mut quiet = redis::cmd("CLIENT");
                quiet.arg("NO-TOUCH").arg("ON");
                // An older server refuses it, and what is looked at counts as read.
                let quiet = quiet.query_async::<Value>(&mut connection);
                let _as_it_is = tokio::time::timeout(limit, quiet).await;
                connection
            }
        };
        match tokio::time::timeout(limit, question.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.scrub(&error)),
            Err(_) => Err("no answer in time".into()),
        }
    }

    fn scrub(&self, error: &RedisError) -> String {
        self.url.scrub(&error.to_string())
    }
}
