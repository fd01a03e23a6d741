//! Owns finding the server that takes writes, among several addresses or by asking Sentinels.
//!
//! Promises that an address which doesn't answer holds up the others by a quarter of the time for one answer, and that what is connected
//! to says of itself that it takes writes.

use super::{
    open::{LATE, connect_one},
    source::{Sentinels, Source},
};
use crate::{
    config::{self, Redis},
    secret::Secret,
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use rand::seq::SliceRandom;
use redis::{ErrorKind, RedisError, aio::MultiplexedConnection};
use std::time::Duration;

/// What is asked of a server over each new connection.
const ABOUT: [&str; 3] = ["cluster", "replication", "persistence"];

/// A connection to the server that was looked for.
pub(super) struct Found {
    pub connection: MultiplexedConnection,
    pub url: Secret,
    pub says: Says,
}

/// What a server says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Says {
    pub is_cluster: bool,
    /// Whether it takes writes; nothing where it doesn't say.
    pub takes_writes: Option<bool>,
}

impl Says {
    /// From an answer to INFO.
    pub fn read(info_text: &str) -> Self {
        let field = |name: &str| {
            let mut lines = info_text.lines();
            lines.find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
        };
        let is_loading = field("loading") == Some("1");
        Self {
            is_cluster: field("cluster_enabled") == Some("1"),
            takes_writes: field("role").map(|role| role == "master" && !is_loading),
        }
    }
}

/// Connects to the server that takes writes. `first` is tried before the others, and `last` after them.
pub(super) async fn find(
    source: &Source,
    settings: &Redis,
    first: Option<&str>,
    last: Option<&str>,
) -> Result<Found, RedisError> {
    let patience = config::ms(settings.timeout_ms) / 4;
    let mut all: Vec<&Secret> = source.first().iter().collect();
    all.shuffle(&mut rand::rng());
    all.sort_by_key(|url| {
        let host = url.host();
        (last == Some(host.as_str()), first != Some(host.as_str()))
    });
    // A Sentinel may still name what was left: that is gone back to only where no other one names another.
    let rounds = match source {
        Source::Sentinel(_) if last.is_some() => vec![last, None],
        _ => vec![None],
    };
    let all = all.as_slice();
    let rounds = rounds.into_iter();
    let tries = rounds.flat_map(|unless| all.iter().map(move |url| (unless, *url)));
    let tries = tries.map(|(unless, url)| -> BoxFuture<'_, _> {
        match source {
            Source::Sentinel(sentinels) => Box::pin(by_sentinel(sentinels, url, settings, unless)),
            Source::Several(_) => Box::pin(taking_writes(url, settings)),
            Source::One(_) => Box::pin(as_it_is(url, settings, true)),
            Source::Node(_) => Box::pin(as_it_is(url, settings, false)),
        }
    });
    first_of(tries.collect(), patience).await
}

/// The first that succeeds. The next one begins when one has failed, or has gone on for so long.
pub(super) async fn first_of<T>(
    tries: Vec<BoxFuture<'_, Result<T, RedisError>>>,
    patience: Duration,
) -> Result<T, RedisError> {
    let mut waiting = tries.into_iter();
    let mut going: FuturesUnordered<_> = waiting.next().into_iter().collect();
    let mut failed = RedisError::from((ErrorKind::Io, LATE));
    loop {
        tokio::select! {
            ended = going.next() => match ended {
                Some(Ok(found)) => return Ok(found),
                Some(Err(error)) => {
                    failed = error;
                    going.extend(waiting.next());
                }
                None => return Err(failed),
            },
            () = tokio::time::sleep(patience), if waiting.len() > 0 => going.extend(waiting.next()),
        }
    }
}

/// Connects, and asks the server what it is where that isn't known.
async fn as_it_is(url: &Secret, settings: &Redis, asks: bool) -> Result<Found, RedisError> {
    let mut connection = connect_one(url, settings).await?;
    let says = match asks {
        true => said(&mut connection, config::ms(settings.timeout_ms)).await?,
        false => Says::default(),
    };
    Ok(Found {
        connection,
        url: url.clone(),
        says,
    })
}

async fn said(connection: &mut MultiplexedConnection, limit: Duration) -> Result<Says, RedisError> {
    let mut info = redis::cmd("INFO");
    info.arg(&ABOUT);
    let answer = info.query_async::<String>(connection);
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(info_text)) => Ok(Says::read(&info_text)),
        Ok(Err(error)) if error.is_io_error() => Err(error),
        // A server that doesn't let it be asked is taken for what it is used as.
        Ok(Err(_)) => Ok(Says::default()),
        Err(_) => Err(RedisError::from((ErrorKind::Io, LATE))),
    }
}

async fn taking_writes(url: &Secret, settings: &Redis) -> Result<Found, RedisError> {
    let found = as_it_is(url, settings, true).await?;
    if found.says.is_cluster || found.says.takes_writes.unwrap_or(true) {
        return Ok(found);
    }
    let refused = (
        ErrorKind::Io,
        "no server takes writes",
        format!("{} is a replica, or is loading", url.host()),
    );
    Err(RedisError::from(refused))
}

async fn by_sentinel(
    sentinels: &Sentinels,
    url: &Secret,
    settings: &Redis,
    unless: Option<&str>,
) -> Result<Found, RedisError> {
    let (host, port) = ask_sentinel(&sentinels.name, url, settings).await?;
    let server = sentinels.server(&host, &port);
    if unless == Some(server.host().as_str()) {
        let left = format!("{} names the server that was left", url.host());
        return Err(RedisError::from((ErrorKind::Io, "sentinel", left)));
    }
    taking_writes(&server, settings).await
}

/// The server that takes writes by the word of more than half of the Sentinels that answer, and of more than one where several are named.
pub(super) async fn elected(sentinels: &Sentinels, settings: &Redis) -> Option<Secret> {
    // The other half of the time is the server's.
    let limit = config::ms(settings.timeout_ms) / 2;
    let asked = sentinels.all.iter().map(async |url| {
        let said = ask_sentinel(&sentinels.name, url, settings);
        tokio::time::timeout(limit, said).await.ok()?.ok()
    });
    let said: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let (host, port) = agreed(&said, sentinels.all.len())?;
    let url = sentinels.server(host, port);
    taking_writes(&url, settings).await.ok()?;
    Some(url)
}

/// What more than half of those that answered say, and more than one where several are named.
fn agreed<T: PartialEq>(said: &[T], named: usize) -> Option<&T> {
    let votes = |one: &T| said.iter().filter(|other| *other == one).count();
    let mut all = said.iter();
    all.find(|one| 2 * votes(one) > said.len() && votes(one) >= named.min(2))
}

/// Where a Sentinel says that the primary is.
async fn ask_sentinel(
    name: &str,
    url: &Secret,
    settings: &Redis,
) -> Result<(String, String), RedisError> {
    let mut connection = sentinel(url, settings).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = ask.query_async::<Option<(String, String)>>(&mut connection);
    let late = |_| RedisError::from((ErrorKind::Io, LATE));
    let limit = config::ms(settings.timeout_ms);
    let address = tokio::time::timeout(limit, answer).await.map_err(late)??;
    address.ok_or_else(|| {
        let who = format!("{} knows no primary named {name}", url.host());
        RedisError::from((ErrorKind::InvalidClientConfig, "sentinel", who))
    })
}

/// Connects to a Sentinel: with the server's user and password, and without them where it has none.
pub(super) async fn sentinel(
    url: &Secret,
    settings: &Redis,
) -> Result<MultiplexedConnection, RedisError> {
    let connected = connect_one(url, settings).await;
    let anonymous = url.anonymous();
    match connected {
        Err(error) if !error.is_io_error() && anonymous != *url => {
            connect_one(&anonymous, settings).await.map_err(|_| error)
        }
        connected => connected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_what_it_says() {
        let says = |text: &str| {
            let says = Says::read(text);
            (says.is_cluster, says.takes_writes)
        };
        let primary = "# Cluster\r\ncluster_enabled:0\r\n# Replication\r\nrole:master\r\n";
        assert_eq!(says(primary), (false, Some(true)));
        let loading = format!("{primary}# Persistence\r\nloading:1\r\n");
        assert_eq!(says(&loading), (false, Some(false)));
        assert_eq!(says("role:slave\r\n"), (false, Some(false)));
        assert_eq!(says("cluster_enabled:1\r\n"), (true, None));
        assert_eq!(says("OK"), (false, None));
    }

    #[tokio::test]
    async fn one_that_hangs_holds_up_the_next_only_for_a_while() {
        let hangs: BoxFuture<'_, Result<u8, RedisError>> = Box::pin(std::future::pending());
        let fails = Box::pin(async { Err(RedisError::from((ErrorKind::Io, "no"))) });
        let answers = Box::pin(async { Ok(3) });
        let patience = Duration::from_millis(1);
        let found = first_of(vec![hangs, fails, answers], patience).await;
        assert_eq!(found.ok(), Some(3));
        let none = first_of::<u8>(Vec::new(), patience).await;
        assert!(none.is_err());
    }

    #[test]
    fn a_server_is_elected_by_more_than_one_sentinel() {
        assert_eq!(agreed(&["b"], 1), Some(&"b"), "only one is named");
        assert_eq!(agreed(&["b"], 3), None, "the others don't answer");
        assert_eq!(agreed(&["a", "b"], 3), None);
        assert_eq!(agreed(&["b", "a", "b"], 3), Some(&"b"));
        assert_eq!(agreed(&["a", "a", "b", "b"], 5), None);
        assert_eq!(agreed::<&str>(&[], 3), None);
    }
}
