//! Owns looking at what kind of Redis the settings name, and at what it lacks, over connections of its own.

use super::{
    cluster::{Layout, learn_at},
    find::{find, first_of, sentinel},
    open::{LATE, connect_one},
    source::{Sentinels, Source},
};
use crate::{
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
};
use futures_util::future::{BoxFuture, join_all};
use kiln_contract::slot;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult};

/// What kind of Redis it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One server.
    Single,
    /// Several addresses, of which one takes writes.
    Several,
    /// Sentinels that name the primary.
    Sentinel,
    Cluster,
}

/// What Redis was found to be.
#[derive(Debug, Clone)]
pub struct Survey {
    pub kind: Kind,
    /// Every server that takes writes.
    pub primaries: Vec<Secret>,
    /// What it is, in words.
    pub found: String,
    /// What would make a failure worse than it need be.
    pub lacks: Vec<String>,
    layout: Layout,
}

impl Survey {
    /// The number of the server that has a key.
    pub fn owner(&self, key: &[u8]) -> usize {
        let owner = self.layout.owner(slot::of_key(key));
        owner.unwrap_or_default()
    }

    /// A slot of a cluster's primary.
    pub fn slot(&self, primary: usize) -> Option<u16> {
        self.layout.primaries.get(primary).map(|one| one.slot)
    }

    fn of_one(kind: Kind, primary: Secret, found: String, lacks: Vec<String>) -> Self {
        Self {
            kind,
            primaries: vec![primary],
            found,
            lacks,
            layout: Layout::default(),
        }
    }
}

/// Looks at the Redis that a URL names. An error says why no server that takes writes was found.
pub async fn survey(url: &Secret, settings: &Redis) -> RedisResult<Survey> {
    let wrong = |e| RedisError::from((ErrorKind::InvalidClientConfig, "settings", e));
    let source = Source::read(url).map_err(wrong)?;
    let found = find(&source, settings, None, None).await?;
    if found.says.is_cluster {
        return cluster(url, settings).await;
    }
    let primary = found.url;
    let host = address(&primary);
    Ok(match &source {
        Source::One(_) | Source::Node(_) => {
            let found = match found.says.takes_writes {
                Some(false) => "one server, which is a replica",
                _ => "one server",
            };
            Survey::of_one(Kind::Single, primary, found.to_owned(), Vec::new())
        }
        Source::Several(all) => {
            let lacks = away(all, settings).await;
            let found = format!("{} addresses; {host} takes writes", all.len());
            Survey::of_one(Kind::Several, primary, found, lacks)
        }
        Source::Sentinel(sentinels) => {
            let mut lacks = watched(sentinels, settings).await;
            lacks.extend(unfollowed(&primary, settings).await);
            let (name, count) = (&sentinels.name, sentinels.all.len());
            let found = format!("{count} Sentinels; {host} is the primary of {name}");
            Survey::of_one(Kind::Sentinel, primary, found, lacks)
        }
    })
}

/// Host and port.
fn address(url: &Secret) -> String {
    let host = url.parts().map(|(_, host, _)| host);
    host.unwrap_or_default().to_owned()
}

async fn asked<T: FromRedisValue>(url: &Secret, settings: &Redis, command: Cmd) -> RedisResult<T> {
    let mut connection = connect_one(url, settings).await?;
    let answer = command.query_async(&mut connection);
    let late = |_| RedisError::from((ErrorKind::Io, LATE));
    let limit = config::ms(settings.timeout_ms);
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

fn info(section: &str) -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg(section);
    info
}

/// The servers that can't be reached, each with the reason.
async fn away(all: &[Secret], settings: &Redis) -> Vec<String> {
    let asked = all.iter().map(async |url| {
        let answer = asked::<String>(url, settings, info("replication")).await;
        let error = answer.err().filter(|error| error.is_io_error())?;
        let reason = error.redacted();
        Some(url.scrub(&format!("{} can't be reached: {reason}", address(url))))
    });
    let away = join_all(asked).await;
    away.into_iter().flatten().collect()
}

/// That nobody could take over from a primary.
async fn unfollowed(primary: &Secret, settings: &Redis) -> Option<String> {
    let answer = asked::<String>(primary, settings, info("replication")).await;
    let info_text = answer.ok()?;
    let none = info_text
        .lines()
        .any(|line| line.trim_end() == "connected_slaves:0");
    none.then(|| format!("{} has no replica that could take over", address(primary)))
}

/// What the Sentinels can't do.
async fn watched(sentinels: &Sentinels, settings: &Redis) -> Vec<String> {
    let asked = sentinels.all.iter().map(async |url| {
        let host = address(url);
        let mut connection = match sentinel(url, settings).await {
            Ok(connection) => connection,
            Err(error) => {
                let reason = error.redacted();
                return Some(url.scrub(&format!("Sentinel {host} can't be reached: {reason}")));
            }
        };
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("CKQUORUM").arg(&sentinels.name);
        let answer = ask.query_async::<String>(&mut connection);
        match tokio::time::timeout(config::ms(settings.timeout_ms), answer).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => {
                let why = error.detail().unwrap_or("it refuses CKQUORUM").to_owned();
                Some(format!("Sentinel {host} could elect nobody: {why}"))
            }
            Err(_) => Some(format!("Sentinel {host} doesn't answer")),
        }
    });
    let mut lacks: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    if sentinels.all.len() < 3 {
        lacks.push("fewer than three Sentinels are named".to_owned());
    }
    lacks
}

/// That all of a cluster stops where one shard does.
async fn all_or_none(primary: &Secret, settings: &Redis) -> Option<String> {
    const SETTING: &str = "cluster-require-full-coverage";
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg(SETTING);
    let answer = asked::<Vec<String>>(primary, settings, ask).await.ok()?;
    let is_set = answer.last().is_some_and(|value| value == "yes");
    is_set.then(|| format!("{SETTING} is yes: while one shard is away, the others answer nothing"))
}

async fn cluster(url: &Secret, settings: &Redis) -> RedisResult<Survey> {
    let seeds = url.addresses();
    let tries = seeds.iter().map(|url| -> BoxFuture<'_, _> {
        Box::pin(async move { learn_at(url, settings).await.map(|layout| (url, layout)) })
    });
    let patience = config::ms(settings.timeout_ms) / 4;
    let (seed, layout) = first_of(tries.collect(), patience).await?;
    let (scheme, ..) = seed.parts().unwrap_or(("redis", "", ""));
    let primaries = layout.primaries.iter();
    let primaries: Vec<Secret> = primaries
        .map(|one| seed.at(scheme, &one.address, ""))
        .collect();
    let mut lacks = Vec::new();
    match layout.unserved() {
        0 => {}
        slots => lacks.push(format!("{slots} slots have no server")),
    }
    for one in layout.primaries.iter().filter(|one| one.replicas == 0) {
        let address = &one.address;
        lacks.push(format!("{address} has no replica that could take over"));
    }
    lacks.extend(away(&primaries, settings).await);
    if let Some(first) = primaries.first() {
        lacks.extend(all_or_none(first, settings).await);
    }
    if seeds.len() < 3 {
        let what = "fewer than three addresses are named: a worker that starts while they are away finds nobody";
        lacks.push(what.to_owned());
    }
    let replicas: usize = layout.primaries.iter().map(|one| one.replicas).sum();
    let found = format!(
        "Redis Cluster, {} primaries, {replicas} replicas",
        primaries.len()
    );
    Ok(Survey {
        kind: Kind::Cluster,
        primaries,
        found,
        lacks,
        layout,
    })
}
