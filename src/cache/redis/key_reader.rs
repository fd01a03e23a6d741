//! Owns reading one key of any Redis that the settings name, page after page, on a connection of its own.
//!
//! Promises that in a cluster the server is asked that has the key, wherever it moves meanwhile, that each answer has a deadline, and that an
//! error holds no credentials and nothing that a key holds. Refuses to write.

use super::{
    find::find,
    open::{LATE, connect_one},
    question::redirection,
    source::Source,
};
use crate::{
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
    tls::TlsSettings,
};
use redis::{Cmd, RedisError, Value, aio::MultiplexedConnection};
use std::time::Duration;

/// How often one question is sent to another server of the cluster.
const MAX_REDIRECTIONS: usize = 4;

/// A connection to the server that has a key.
pub struct KeyReader {
    url: Secret,
    settings: Redis,
    connection: MultiplexedConnection,
}

impl std::fmt::Debug for KeyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyReader({:?})", self.url)
    }
}

impl KeyReader {
    /// Connects, each answer within `timeout_ms`.
    pub async fn open(url: &Secret, tls: &TlsSettings, timeout_ms: u64) -> Result<Self, String> {
        let settings = Redis {
            url: Some(url.clone()),
            tls: tls.clone(),
            timeout_ms,
            ..Redis::default()
        };
        let source = Source::read(url)?;
        let found = find(&source, &settings, None, None).await;
        let found = found.map_err(|error| explained(url, &error))?;
        Ok(Self {
            url: url.clone(),
            settings,
            connection: found.connection,
        })
    }

    /// Asks; the answer is of any type.
    pub async fn ask(&mut self, command: &Cmd) -> Result<Value, String> {
        let (mut asking, limit) = (false, self.limit());
        for _ in 0..=MAX_REDIRECTIONS {
            if asking {
                let first = redis::cmd("ASKING");
                within(limit, first.query_async::<Value>(&mut self.connection))
                    .await?
                    .map_err(|error| explained(&self.url, &error))?;
            }
            let answer = command.query_async::<Value>(&mut self.connection);
            let error = match within(limit, answer).await? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some((address, is_once)) = redirection(&error) else {
                return Err(explained(&self.url, &error));
            };
            let scheme = self.url.parts().map_or("redis", |(scheme, ..)| scheme);
            let there = self.url.at(scheme, &address, "");
            let connected = connect_one(&there, &self.settings).await;
            self.connection = connected.map_err(|error| explained(&there, &error))?;
            asking = is_once;
        }
        Err("the key moves from server to server".to_owned())
    }

    fn limit(&self) -> Duration {
        config::ms(self.settings.timeout_ms)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| LATE.to_owned())
}

fn explained(url: &Secret, error: &RedisError) -> String {
    crate::tls::explain(url.scrub(&error.redacted()))
}
