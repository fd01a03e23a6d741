//! Owns looking at some of what is in Redis, on a connection of its own.
//!
//! Promises that a look asks Redis for little at a time, and never for all keys at once; and that it doesn't count as reading
//! where the server can leave that out (from Redis 7.2 on).

use super::redis::{Survey, connect, survey};
use crate::{
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
};
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use std::collections::BTreeMap;

/// Keys that Redis looks at in one step.
const STEP: usize = 200;

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

/// A walk through the keys of Redis, a step at a time: of one server after the other where it is a cluster.
pub struct Samples {
    url: Secret,
    settings: Redis,
    /// Looked for when it is first needed, and again after a failure.
    servers: Option<Servers>,
    cursor: u64,
    at: usize,
}

/// The servers that have keys.
struct Servers {
    survey: Survey,
    connections: Vec<Option<MultiplexedConnection>>,
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
            servers: None,
            cursor: start,
            at: start as usize,
        }
    }

    /// The keys of the next step that match, none as a rule where few do; and whether the walk has come to its end, after which it begins
    /// anew. An error holds no credentials.
    pub async fn step(&mut self, pattern: &str) -> Result<(Vec<Vec<u8>>, bool), String> {
        let count = self.servers().await?.connections.len().max(1);
        self.at %= count;
        let mut scan = Pipeline::new();
        scan.cmd("SCAN")
            .arg(self.cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(STEP);
        let [(cursor, keys)]: [(u64, Vec<Vec<u8>>); 1] = self.ask(self.at, &scan).await?;
        self.cursor = cursor;
        if cursor == 0 {
            self.at = (self.at + 1) % count;
        }
        Ok((keys, cursor == 0 && self.at == 0))
    }

    /// The values of these keys that are still there.
    pub async fn read(&mut self, keys: &[Vec<u8>]) -> Result<Vec<Sample>, String> {
        let mut by_server: BTreeMap<usize, Vec<&Vec<u8>>> = BTreeMap::new();
        let survey = &self.servers().await?.survey;
        for key in keys {
            by_server.entry(survey.owner(key)).or_default().push(key);
        }
        let mut samples = Vec::with_capacity(keys.len());
        for (server, keys) in by_server {
            let mut get = Pipeline::with_capacity(keys.len());
            get.ignore_errors();
            for key in &keys {
                get.cmd("GET").arg(key.as_slice());
            }
            let values: Vec<RedisResult<Option<Vec<u8>>>> = self.ask(server, &get).await?;
            let there = keys.into_iter().zip(values);
            samples.extend(there.filter_map(|(key, value)| {
                Some(Sample {
                    key: key.clone(),
                    value: value.ok()??,
                })
            }));
        }
        Ok(samples)
    }

    async fn servers(&mut self) -> Result<&mut Servers, String> {
        let servers = match self.servers.take() {
            Some(servers) => servers,
            None => {
                let found = survey(&self.url, &self.settings).await;
                let survey = found.map_err(|e| self.scrub(&e))?;
                let connections = survey.primaries.iter().map(|_| None).collect();
                Servers {
                    survey,
                    connections,
                }
            }
        };
        Ok(self.servers.insert(servers))
    }

    /// Asks one of the servers. After a failure they are looked for anew.
    async fn ask<T: FromRedisValue>(
        &mut self,
        server: usize,
        question: &Pipeline,
    ) -> Result<T, String> {
        let settings = self.settings.clone();
        let answer = {
            let servers = self.servers().await?;
            let url = servers.survey.primaries.get(server).cloned();
            match (url, servers.connections.get_mut(server)) {
                (Some(url), Some(connection)) => {
                    answer(&url, &settings, connection, question).await
                }
                _ => Err("its servers have changed".to_owned()),
            }
        };
        if answer.is_err() {
            self.servers = None;
        }
        answer.map_err(|e| self.url.scrub(&e))
    }

    fn scrub(&self, error: &RedisError) -> String {
        self.url.scrub(&error.redacted())
    }
}

async fn answer<T: FromRedisValue>(
    url: &Secret,
    settings: &Redis,
    connection: &mut Option<MultiplexedConnection>,
    question: &Pipeline,
) -> Result<T, String> {
    let limit = config::ms(settings.timeout_ms);
    let open = match connection {
        Some(open) => open,
        None => {
            let connected = connect(url, settings).await;
            let mut made = connected.map_err(|e| e.redacted())?;
            let mut quiet = redis::cmd("CLIENT");
            quiet.arg("NO-TOUCH").arg("ON");
            // An older server refuses it, and what is looked at counts as read.
            let quiet = quiet.query_async::<Value>(&mut made);
            let _as_it_is = tokio::time::timeout(limit, quiet).await;
            connection.insert(made)
        }
    };
    match tokio::time::timeout(limit, question.query_async(open)).await {
        Ok(answer) => answer.map_err(|e| e.redacted()),
        Err(_) => Err("no answer in time".into()),
    }
}
