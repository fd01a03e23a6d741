//! Owns what every server that takes writes is asked: one where Redis is one server, each primary where it is a cluster.

use super::{
    Again, RedisCache, Size, Unanswered,
    cluster::{Cluster, Map, Node},
    find::first_of,
    question::{is_refusal, redirection},
};
use futures_util::future::{BoxFuture, join_all};
use kiln_contract::key;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};

/// How long one primary of a cluster is waited for before another one is asked as well, where any will do.
const PATIENCE: Duration = Duration::from_millis(100);
/// What a server is called that doesn't say which one it is.
const UNNAMED: &str = "unnamed";

/// A walk through the keys of all servers.
#[derive(Clone, Default)]
pub(in crate::cache) struct Walk {
    cursor: u64,
    /// The servers as they were when it began, and which of them is next.
    begun: Option<Arc<Map>>,
    at: usize,
    /// Why a server was left out.
    missed: Option<String>,
}

impl Walk {
    /// Leaves out what is left of a cluster's server that failed. An error where nobody else remains.
    pub(in crate::cache) fn pass_by(&mut self, why: String) -> Result<(), String> {
        let Some(map) = &self.begun else {
            return Err(why);
        };
        let is_last = self.at + 1 >= map.nodes.len();
        let missed = self.missed.take().unwrap_or(why);
        if is_last {
            *self = Self::default();
            return Err(missed);
        }
        (self.at, self.cursor, self.missed) = (self.at + 1, 0, Some(missed));
        Ok(())
    }

    /// An error where it has come to its end, and had left out a server.
    pub(in crate::cache) fn is_whole(&mut self) -> Result<(), String> {
        let missed = self.missed.take_if(|_| self.begun.is_none());
        missed.map_or(Ok(()), Err)
    }
}

impl std::fmt::Debug for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Walk({} of server {})", self.cursor, self.at)
    }
}

/// One answer to a pipeline that takes refusals for answers.
fn only(answers: Result<Vec<RedisResult<Value>>, Unanswered>) -> RedisResult<Value> {
    let nothing = || RedisError::from((ErrorKind::Client, "no answer"));
    match answers {
        Ok(answers) => answers.into_iter().next().ok_or_else(nothing)?,
        Err(Unanswered::Failed(error) | Unanswered::Unsent(error)) => Err(error),
        Err(Unanswered::Skipped) => Err(nothing()),
    }
}

async fn ask_one(node: &Node, command: Cmd) -> RedisResult<Value> {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors().add_command(command);
    let answers = node.ask(pipeline.into(), Size::SMALL, Again::No, true);
    only(answers.await)
}

fn run_id(info_text: &str) -> &str {
    let mut lines = info_text.lines();
    let run = lines.find_map(|line| line.trim_end().strip_prefix("run_id:"));
    run.unwrap_or(UNNAMED)
}

impl RedisCache {
    /// Leaves a server that its Sentinels don't call the primary any more.
    pub(in crate::cache) async fn follow(&self) {
        if self.home.followed().is_outvoted().await {
            self.home.close_all();
        }
    }

    /// One small command to whichever server, whatever the cooldown says; whether Redis counts as failing doesn't change.
    pub(in crate::cache) async fn any<T: FromRedisValue>(
        &self,
        command: Cmd,
    ) -> Result<T, RedisError> {
        if self.cluster().is_none() {
            let question = command.clone().into();
            let answered = self.home.ask_anyway(&question).await;
            if answered.is_ok() || self.cluster().is_none() {
                return answered;
            }
        }
        let map = self.cluster.servers.map().await;
        let mut nodes: Vec<&Node> = map.nodes.iter().map(Arc::as_ref).collect();
        nodes.sort_by_key(|node| node.connections.is_closed());
        let tries = nodes
            .into_iter()
            .map(|node| -> BoxFuture<'_, _> { Box::pin(ask_one(node, command.clone())) });
        let tries: Vec<_> = tries.collect();
        if tries.is_empty() {
            return Err(map.nobody());
        }
        let answer = first_of(tries, PATIENCE).await;
        if answer.is_err() {
            self.cluster.servers.doubt();
        }
        Ok(redis::from_redis_value(answer?)?)
    }

    /// Whether nothing would be asked now, since nothing was answered a moment ago.
    pub fn rests(&self) -> bool {
        match self.cluster() {
            None => self.home.is_closed(),
            Some(cluster) => {
                let map = cluster.servers.known();
                map.nodes.iter().all(|node| node.connections.is_closed())
            }
        }
    }

    /// What each primary of a cluster answers to some commands, of which `ask` makes those for a server that has this slot.
    pub(super) async fn each_primary(
        &self,
        cluster: &Cluster,
        ask: impl Fn(u16) -> Vec<Cmd>,
    ) -> Result<Vec<Value>, RedisError> {
        let map = cluster.servers.map().await;
        if map.nodes.is_empty() {
            return Err(map.nobody());
        }
        let asked = map.nodes.iter().zip(&map.layout.primaries);
        let asked = asked.map(async |(node, primary)| {
            let mut pipeline = Pipeline::new();
            pipeline.ignore_errors();
            for command in ask(primary.slot) {
                pipeline.add_command(command);
            }
            match node
                .ask(pipeline.into(), Size::SMALL, Again::No, true)
                .await
            {
                Ok(answers) => {
                    let answers = answers.into_iter().map(|answer| match answer {
                        // Its slot moves just now: the server is well, and so the slot's next one is asked when it is known.
                        Err(error) if redirection(&error).is_some() => {
                            cluster.servers.doubt();
                            Ok(Value::Nil)
                        }
                        answer => answer.map_err(|error| node.names(error)),
                    });
                    answers.collect()
                }
                Err(Unanswered::Failed(error) | Unanswered::Unsent(error)) => Err(error),
                Err(Unanswered::Skipped) => Err(map.nobody()),
            }
        });
        let answers: RedisResult<Vec<Vec<Value>>> = join_all(asked).await.into_iter().collect();
        if answers.is_err() {
            cluster.servers.doubt();
        }
        Ok(answers?.into_iter().flatten().collect())
    }

    /// Which server this is, by its run: it changes with a restart and a failover, of a cluster with that of any primary. An error holds no
    /// credentials.
    pub async fn server_run(&self) -> Result<String, String> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let answer = match self.cluster() {
            None => self.any::<Value>(info.clone()).await.map(|one| vec![one]),
            Some(_) => Ok(Vec::new()),
        };
        let answers = match self.cluster() {
            None => answer,
            Some(cluster) => self.each_primary(cluster, |_| vec![info.clone()]).await,
        };
        let mut runs: Vec<String> = match answers {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| redis::from_redis_value::<String>(answer).unwrap_or_default())
                .map(|info_text| run_id(&info_text).to_owned())
                .collect(),
            Err(error) if is_refusal(&error) => vec![UNNAMED.to_owned()],
            Err(error) => return Err(self.scrub(&error)),
        };
        runs.sort();
        Ok(match runs.as_slice() {
            [run] => run.clone(),
            // A column holds no list of any length.
            all => hex::encode(Sha256::digest(all.join(","))),
        })
    }

    /// Whether each primary takes writes and, where that is asked for, runs scripts, and every slot has one.
    pub(in crate::cache) async fn try_each_primary(
        &self,
        with_script: bool,
    ) -> Result<(), RedisError> {
        let Some(cluster) = self.cluster() else {
            return Ok(());
        };
        let tried = self.each_primary(cluster, |slot| {
            let mut set = redis::cmd("SET");
            set.arg(key::trial_in(slot, "health")).arg("").arg("XX");
            let mut script = redis::cmd("EVAL");
            script.arg("return 1").arg(0);
            match with_script {
                true => vec![set, script],
                false => vec![set],
            }
        });
        tried.await?;
        let map = cluster.servers.known();
        match map.layout.unserved() {
            0 => Ok(()),
            slots => {
                let what = format!("{slots} slots have no server");
                cluster.servers.doubt();
                Err(RedisError::from((ErrorKind::Io, "cluster", what)))
            }
        }
    }

    /// Begins a walk through a cluster, where it hasn't begun.
    pub(in crate::cache) async fn begin(&self, walk: &mut Walk) -> Result<(), RedisError> {
        if walk.begun.is_none() && self.is_cluster() {
            walk.begun = Some(self.cluster.servers.map_now().await?);
        }
        Ok(())
    }

    /// The next keys of a walk, and whether it has come to its end. A cluster whose slots moved meanwhile is walked through again.
    pub(in crate::cache) async fn scan(
        &self,
        walk: &mut Walk,
        pattern: &str,
        count: usize,
    ) -> Result<(Vec<Vec<u8>>, bool), RedisError> {
        let scan = |cursor: u64| {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(pattern);
            scan.arg("COUNT").arg(count);
            scan
        };
        if self.cluster().is_none() {
            let question = scan(walk.cursor).into();
            let answered = self.home.ask_anyway(&question).await;
            if answered.is_ok() || self.cluster().is_none() {
                let (cursor, keys): (u64, Vec<Vec<u8>>) = answered?;
                walk.cursor = cursor;
                return Ok((keys, cursor == 0));
            }
            *walk = Walk::default();
        }
        let servers = &self.cluster.servers;
        self.begin(walk).await?;
        let map = walk.begun.clone().unwrap_or_default();
        let node = map.nodes.get(walk.at).ok_or_else(|| map.nobody())?;
        let answer = ask_one(node, scan(walk.cursor)).await;
        if answer.is_err() {
            servers.doubt();
        }
        let (cursor, keys): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer?)?;
        walk.cursor = cursor;
        if cursor != 0 {
            return Ok((keys, false));
        }
        walk.at += 1;
        if walk.at < map.nodes.len() {
            return Ok((keys, false));
        }
        let is_same = servers.map_now().await?.layout == map.layout;
        let missed = walk.missed.take();
        let is_end = is_same && missed.is_none();
        *walk = Walk::default();
        walk.missed = missed;
        Ok((keys, is_end))
    }

    /// Removes keys; says how many were there.
    pub(in crate::cache) async fn unlink(&self, keys: &[Vec<u8>]) -> Result<u64, RedisError> {
        if keys.is_empty() {
            return Ok(0);
        }
        if self.cluster().is_none() {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(keys);
            let removed = self.any(unlink).await;
            if removed.is_ok() || self.cluster().is_none() {
                return removed;
            }
        }
        let each = keys.iter().map(|key| {
            let mut unlink = redis::cmd("UNLINK");
            unlink.arg(key.as_slice());
            (key.clone(), unlink)
        });
        let each: Vec<(Vec<u8>, Cmd)> = each.collect();
        let removed = self.now::<u64>(&each).await;
        removed.into_iter().sum()
    }

    /// Whether it is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.cluster().is_some()
    }

    /// Where it is connected to, without credentials: the one server, or the primaries of a cluster. Nothing before the first connection.
    pub fn connected_to(&self) -> Option<String> {
        let Some(cluster) = self.cluster() else {
            return self.home.followed().address();
        };
        let map = cluster.servers.known();
        let all = map.nodes.iter().map(|node| node.address.as_str());
        let all: Vec<&str> = all.collect();
        (!all.is_empty()).then(|| format!("cluster: {}", all.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Redis, secret::Secret, telemetry::metrics::Metrics};

    #[test]
    fn a_run_is_read_from_what_a_server_says() {
        assert_eq!(run_id("# Server\r\nrun_id:abc\r\nx:1\r\n"), "abc");
        assert_eq!(run_id("OK"), UNNAMED);
    }

    #[test]
    fn a_server_that_fails_is_passed_by_and_said_at_the_end() {
        let away = || "away".to_owned();
        let mut alone = Walk {
            cursor: 7,
            ..Walk::default()
        };
        assert_eq!(alone.pass_by(away()), Err(away()));
        assert_eq!(alone.cursor, 7, "one server is asked again from there");

        let url = Secret::new("redis://h:1".to_owned());
        let cache = RedisCache::new(&url, &Redis::default(), Metrics::new()).expect("a cache");
        let at = |address| cache.cluster.servers.node_at(&Map::default(), address);
        let map = Arc::new(Map {
            nodes: vec![at("h:1"), at("h:2"), at("h:3")],
            ..Map::default()
        });
        let mut walk = Walk {
            begun: Some(map),
            ..alone
        };
        assert_eq!(walk.pass_by(away()), Ok(()));
        assert_eq!((walk.at, walk.cursor, walk.is_whole()), (1, 0, Ok(())));
        let mut ended = Walk {
            begun: None,
            ..walk.clone()
        };
        assert_eq!(ended.is_whole(), Err(away()));
        assert_eq!(ended.is_whole(), Ok(()), "the next walk may be");
        assert_eq!(walk.pass_by("late".to_owned()), Ok(()));
        assert_eq!(walk.pass_by("late".to_owned()), Err(away()), "the last one");
        assert_eq!((walk.at, walk.begun.is_none()), (0, true));
    }
}
