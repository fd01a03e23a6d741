//! What `kiln doctor` asks of Redis: of which kind it is, and of each server that takes writes its version, memory, whether it takes writes and runs scripts, and the clock.
//!
//! Promises that the key that it tries with is gone, by its deletion or within seconds by its TTL.

use super::{
    check::{self, Check},
    problem::{Cause, Problem},
};
use crate::{
    cache::{self, Kind, Survey},
    config::{self, Redis, Settings},
    secret::Secret,
};
use kiln_contract::key;
use redis::{RedisError, aio::MultiplexedConnection};
use std::time::Duration;

const NAME: &str = "redis";
const KIND: &str = "redis kind";
const MEMORY: &str = "redis memory";
const WRITES: &str = "redis writes";
const SCRIPTS: &str = "redis scripts";
const CLOCK: &str = "redis clock";
/// The oldest version that Kiln is made for.
const OLDEST: u64 = 7;
/// Life of the trial's key, should its deletion be lost, in milliseconds.
const TRIAL_MS: u64 = 10_000;

/// A script that changes nothing.
const SCRIPT: &str = "return redis.call('EXISTS', KEYS[1])";

/// Reachable, version, eviction policy, a key written, read and deleted, a script, and the clock.
pub(super) async fn check(settings: &Settings, token: &str) -> Vec<Check> {
    let Some(url) = &settings.redis.url else {
        return vec![Check::off(
            NAME,
            "not configured",
            "`kiln run` needs KILN_REDIS_URL",
        )];
    };
    let found = match cache::survey(url, &settings.redis).await {
        Ok(found) => found,
        Err(error) => return vec![unreachable(url, &Problem::redis(url, &error))],
    };
    let mut checks = Vec::new();
    if found.kind != Kind::Single {
        checks.push(judge_kind(&found));
    }
    for (number, primary) in found.primaries.iter().enumerate() {
        let of = match found.primaries.len() {
            1 => String::new(),
            _ => format!(" at {}", address(primary)),
        };
        let mut server = match Server::connect(primary, &settings.redis).await {
            Ok(server) => server,
            Err(problem) => {
                checks.push(unreachable(primary, &problem));
                continue;
            }
        };
        let key = match found.slot(number) {
            Some(slot) => key::trial_in(slot, token),
            None => key::trial(token),
        };
        let all = [
            server.version().await,
            server.memory().await,
            server.writes(&key, token).await,
            server.scripts(&key).await,
            server.clock().await,
        ];
        checks.extend(all.map(|mut check| {
            check.name.push_str(&of);
            check
        }));
    }
    checks
}

fn unreachable(url: &Secret, problem: &Problem) -> Check {
    let found = format!("{}: {problem}", url.host());
    let advice = match problem.cause {
        Cause::Login => "check the user and password in KILN_REDIS_URL",
        _ => "start Redis, or correct KILN_REDIS_URL",
    };
    Check::fail(NAME, found, advice)
}

/// Host and port.
fn address(url: &Secret) -> &str {
    url.parts().map_or("", |(_, host, _)| host)
}

/// What kind of Redis it is, and what would make a failover worse than it need be.
fn judge_kind(survey: &Survey) -> Check {
    if survey.lacks.is_empty() {
        return Check::ok(KIND, survey.found.as_str());
    }
    let found = format!("{}; {}", survey.found, survey.lacks.join("; "));
    Check::warn(KIND, found, "see docs/clusters.md")
}

struct Server<'a> {
    url: &'a Secret,
    connection: MultiplexedConnection,
    timeout: Duration,
}

impl<'a> Server<'a> {
    async fn connect(url: &'a Secret, settings: &Redis) -> Result<Self, Problem> {
        let timeout = config::ms(settings.timeout_ms);
        let connected = cache::connect(url, settings).await;
        let connection = connected.map_err(|e| Problem::redis(url, &e))?;
        let mut server = Self {
            url,
            connection,
            timeout,
        };
        // A server that wants a password, or is still loading, takes the connection and says so here.
        server.ask::<String>(&["PING"]).await?;
        Ok(server)
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> Result<T, Problem> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let answer = command.query_async(&mut self.connection);
        deadline(self.url, self.timeout, answer).await
    }

    async fn version(&mut self) -> Check {
        let host = self.url.host();
        let info_text = match self.ask::<String>(&["INFO", "server"]).await {
            Ok(info_text) => info_text,
            Err(problem) => {
                return Check::warn(
                    NAME,
                    format!("{host} doesn't report its version: {problem}"),
                    "allow the user INFO, or make sure that it is Redis 7 or newer",
                );
            }
        };
        let version = info(&info_text, "redis_version").unwrap_or("?");
        // Valkey tells the version of Redis that it is compatible with, and its own.
        let found = match info(&info_text, "valkey_version") {
            Some(valkey) => format!("{host}, Valkey {valkey}"),
            None => format!("{host}, version {version}"),
        };
        let major = version
            .split('.')
            .next()
            .and_then(|m| m.parse::<u64>().ok());
        match major {
            Some(major) if major < OLDEST => {
                Check::fail(NAME, found, "upgrade to Redis 7 or newer, or Valkey 8")
            }
            _ => Check::ok(NAME, found),
        }
    }

    async fn memory(&mut self) -> Check {
        match self.ask::<String>(&["INFO", "memory"]).await {
            Ok(info_text) => judge_memory(
                info(&info_text, "maxmemory").and_then(|m| m.parse().ok()),
                info(&info_text, "maxmemory_policy"),
            ),
            Err(problem) => Check::warn(
                MEMORY,
                problem.to_string(),
                "allow the user INFO, or check maxmemory and the eviction policy yourself",
            ),
        }
    }

    async fn writes(&mut self, key: &str, token: &str) -> Check {
        let life = TRIAL_MS.to_string();
        let trial = async {
            self.ask::<String>(&["SET", key, token, "PX", &life])
                .await?;
            let read: Option<String> = self.ask(&["GET", key]).await?;
            let deleted: u64 = self.ask(&["DEL", key]).await?;
            Ok::<_, Problem>(read.as_deref() == Some(token) && deleted == 1)
        };
        match trial.await {
            Ok(true) => Check::ok(WRITES, "a key was written, read and deleted"),
            Ok(false) => Check::fail(
                WRITES,
                "a key that was just written was not there",
                "its memory may be far too small: raise maxmemory",
            ),
            Err(problem) => Check::fail(WRITES, problem.to_string(), write_advice(&problem)),
        }
    }

    /// The ways in which scripts are called: without them nothing is written that readers find.
    async fn scripts(&mut self, key: &str) -> Check {
        let trial = async {
            let hash: String = self.ask(&["SCRIPT", "LOAD", SCRIPT]).await?;
            self.ask::<u64>(&["EVALSHA", &hash, "1", key]).await?;
            self.ask::<u64>(&["EVAL", SCRIPT, "1", key]).await
        };
        match trial.await {
            Ok(_) => Check::ok(SCRIPTS, "a script was loaded and run"),
            Err(problem) => {
                let advice = match problem.cause {
                    Cause::Forbidden => {
                        "named entries and rankings aren't written without: `redis-cli ACL SETUSER USER +@scripting`"
                    }
                    _ => "named entries and rankings aren't written without: see Redis' log",
                };
                Check::fail(SCRIPTS, problem.to_string(), advice)
            }
        }
    }

    async fn clock(&mut self) -> Check {
        let asked = chrono::Utc::now().timestamp_millis();
        match self.ask::<(i64, i64)>(&["TIME"]).await {
            Ok((seconds, micros)) => {
                let answered = chrono::Utc::now().timestamp_millis();
                let server = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
                check::clock(CLOCK, check::ahead_ms(server, asked, answered))
            }
            Err(problem) => Check::warn(CLOCK, problem.to_string(), "allow the user TIME"),
        }
    }
}

async fn deadline<T>(
    url: &Secret,
    timeout: Duration,
    work: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(timeout, work).await {
        Ok(answer) => answer.map_err(|e| Problem::redis(url, &e)),
        Err(_) => Err(Problem::silent(timeout)),
    }
}

/// A field of an answer to INFO.
fn info<'a>(info_text: &'a str, field: &str) -> Option<&'a str> {
    info_text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(str::trim)
}

fn judge_memory(max_bytes: Option<u64>, policy: Option<&str>) -> Check {
    const EVICT: &str = "`redis-cli CONFIG SET maxmemory-policy allkeys-lfu`";
    let (Some(max_bytes), Some(policy)) = (max_bytes, policy) else {
        return Check::warn(
            MEMORY,
            "not reported",
            "set maxmemory and an eviction policy",
        );
    };
    match (max_bytes, policy) {
        (0, policy) => Check::warn(
            MEMORY,
            format!("no maxmemory, {policy}"),
            format!("set a bound: `redis-cli CONFIG SET maxmemory 1gb` and {EVICT}"),
        ),
        (max_bytes, "noeviction") => Check::warn(
            MEMORY,
            format!(
                "{} MiB, noeviction: a full Redis refuses writes",
                max_bytes >> 20
            ),
            EVICT,
        ),
        (max_bytes, policy) => Check::ok(MEMORY, format!("{} MiB, {policy}", max_bytes >> 20)),
    }
}

fn write_advice(problem: &Problem) -> &'static str {
    match problem.cause {
        Cause::Full => {
            "it is full: raise maxmemory, or `redis-cli CONFIG SET maxmemory-policy allkeys-lfu`"
        }
        Cause::Replica => "KILN_REDIS_URL names a replica: name the primary",
        Cause::Forbidden => {
            "allow the user to use kiln:*: `redis-cli ACL SETUSER USER ~kiln:* +@all`"
        }
        Cause::Login | Cause::NoDatabase | Cause::Other => "see Redis' log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Status;

    #[test]
    fn memory_wants_a_bound_and_an_eviction_policy() {
        let judged = |max_bytes, policy| judge_memory(max_bytes, policy).status;
        assert_eq!(judged(Some(1 << 30), Some("allkeys-lfu")), Status::Ok);
        assert_eq!(judged(Some(1 << 30), Some("volatile-ttl")), Status::Ok);
        assert_eq!(judged(Some(1 << 30), Some("noeviction")), Status::Warn);
        assert_eq!(judged(Some(0), Some("allkeys-lfu")), Status::Warn);
        assert_eq!(judged(None, None), Status::Warn);
        let check = judge_memory(Some(0), Some("noeviction"));
        assert!(check.advice.contains("CONFIG SET maxmemory-policy"));
    }

    #[test]
    fn info_is_read_by_whole_fields() {
        let info_text = "# Memory\r\nmaxmemory_human:1G\r\nmaxmemory:1073741824\r\nmaxmemory_policy:allkeys-lfu\r\n";
        assert_eq!(info(info_text, "maxmemory"), Some("1073741824"));
        assert_eq!(info(info_text, "maxmemory_policy"), Some("allkeys-lfu"));
        assert_eq!(info(info_text, "redis_version"), None);
    }
}
