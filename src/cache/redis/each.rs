//! Owns asking for many keys, wherever they are: in one pipeline where Redis is one server, in one a server where it is a cluster.
//!
//! Promises that what one server of a cluster fails to answer is nothing for its own keys only.

use super::{
    Again, CacheOperation, Put, RedisCache, SHORT_ANSWER, Unanswered,
    cluster::{Answers, Cluster, Many},
    parts,
    question::is_refusal,
    set,
};
use crate::clock;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, Value};
use std::ops::Range;

impl RedisCache {
    /// The answer to each of many commands, in order: none for a key whose server fails, and nothing where all do.
    pub(super) async fn each<T: FromRedisValue + Send>(
        &self,
        operation: CacheOperation,
        many: &Many<'_>,
        again: Again,
    ) -> Option<Vec<Option<T>>> {
        if self.cluster().is_none() {
            let ask = |range: Range<usize>| pipeline(many, range).into();
            let answers = self.in_parts::<Vec<T>>(operation, parts(many.bytes), &ask, again);
            let answers = answers.await;
            if answers.is_some() || self.cluster().is_none() {
                let answers = answers?.into_iter().flatten();
                return Some(answers.map(Some).collect());
            }
        }
        let answers = self.spread(self.cluster()?, operation, many, again).await;
        some(answers)
    }

    /// Stores values; says of each whether Redis took it. Of one server that isn't known by value, but by round trip.
    pub async fn put(&self, values: &[Put]) -> Vec<bool> {
        if self.cluster().is_some() {
            return self.put_together(values).await;
        }
        let bytes: Vec<usize> = values.iter().map(Put::bytes).collect();
        let parts = parts(&bytes).into_iter().map(|part| {
            let values = values.get(part.keys).unwrap_or_default();
            self.put_together(values).boxed()
        });
        let parts: Vec<BoxFuture<'_, Vec<bool>>> = parts.collect();
        let put = stream::iter(parts).buffered(self.home.count());
        put.concat().await
    }

    async fn put_together(&self, values: &[Put]) -> Vec<bool> {
        let bytes: Vec<usize> = values.iter().map(Put::bytes).collect();
        let many = Many {
            bytes: &bytes,
            key: &|number| values.get(number).map_or(&[][..], |put| &put.key),
            command: &|number| values.get(number).map_or_else(Cmd::new, set),
        };
        let put = self.each::<Value>(CacheOperation::Set, &many, Again::Yes);
        match put.await {
            Some(answers) => answers.iter().map(Option::is_some).collect(),
            None => vec![false; values.len()],
        }
    }

    /// The answers to one command for each key, in order, of which each takes about `answer_bytes`; none for a key whose server fails, and
    /// nothing where all do.
    pub(in crate::cache) async fn for_each_key<T: FromRedisValue + Send>(
        &self,
        keys: &[Vec<u8>],
        answer_bytes: usize,
        command: impl Fn(&[u8]) -> Cmd + Sync,
    ) -> Option<Vec<Option<T>>> {
        let bytes: Vec<usize> = keys.iter().map(|key| key.len() + answer_bytes).collect();
        let key = |number: usize| keys.get(number).map_or(&[][..], Vec::as_slice);
        let many = Many {
            bytes: &bytes,
            key: &key,
            command: &|number| command(key(number)),
        };
        self.each(CacheOperation::Get, &many, Again::Yes).await
    }

    /// Runs a script of Kiln's own on each key, with one argument.
    pub async fn run_on_each(&self, script: &'static str, keys: &[Vec<u8>], argument: &str) {
        let own = script.len() + argument.len();
        let bytes: Vec<usize> = keys.iter().map(|key| key.len() + own).collect();
        let key = |number: usize| keys.get(number).map_or(&[][..], Vec::as_slice);
        let command = |number: usize| {
            let mut command = redis::cmd("EVAL");
            command.arg(script).arg(1).arg(key(number)).arg(argument);
            command
        };
        let many = Many {
            bytes: &bytes,
            key: &key,
            command: &command,
        };
        self.each::<Value>(CacheOperation::Set, &many, Again::No)
            .await;
    }

    /// What is left of each key's TTL in milliseconds, none for one that isn't there; nothing where Redis fails.
    pub async fn ttls(&self, keys: &[Vec<u8>]) -> Option<Vec<Option<u64>>> {
        let ask = |key: &[u8]| {
            let mut command = redis::cmd("PTTL");
            command.arg(key);
            command
        };
        let ttls: Vec<Option<i64>> = self.for_each_key(keys, SHORT_ANSWER, ask).await?;
        // -2: not there; -1: without an end, which nothing of Kiln's is.
        let ttls = ttls.into_iter();
        Some(ttls.map(|ms| u64::try_from(ms?).ok()).collect())
    }

    /// The values of keys of a cluster.
    pub(super) async fn get_each(
        &self,
        cluster: &Cluster,
        keys: &[Vec<u8>],
        bytes: &[usize],
        mut unread: impl FnMut(usize),
    ) -> Option<Vec<Option<Vec<u8>>>> {
        let key = |number: usize| keys.get(number).map_or(&[][..], Vec::as_slice);
        let get = |number: usize| {
            let mut get = redis::cmd("GET");
            get.arg(key(number));
            get
        };
        let many = Many {
            bytes,
            key: &key,
            command: &get,
        };
        let answers = self.spread(cluster, CacheOperation::Get, &many, Again::Yes);
        let values: Vec<Option<Value>> = some(answers.await)?;
        let values = values.into_iter().enumerate();
        let values = values.map(|(number, value)| match value {
            Some(Value::BulkString(bytes)) => Some(bytes),
            Some(_) => None,
            None => {
                unread(number);
                None
            }
        });
        Some(values.collect())
    }

    /// Asks the servers of a cluster, and notes how it went.
    pub(super) async fn spread(
        &self,
        cluster: &Cluster,
        operation: CacheOperation,
        many: &Many<'_>,
        again: Again,
    ) -> Answers {
        if many.bytes.is_empty() {
            return Vec::new();
        }
        let begun = clock::instant();
        let answers = cluster.each(many, again, false).await;
        let failed = answers.iter().find_map(|answer| {
            let error = answer.as_ref().err()?.error()?;
            // What another type stands under is no failure of Redis.
            (error.code() != Some("WRONGTYPE")).then_some(error)
        });
        let is_skipped =
            |answer: &Result<_, Unanswered>| matches!(answer, Err(Unanswered::Skipped));
        let answered = match failed {
            Some(error) => Err(Unanswered::Failed(error.clone())),
            None if answers.iter().any(is_skipped) => Err(Unanswered::Skipped),
            None => Ok(()),
        };
        self.concluded(operation, begun, answered);
        answers
    }

    /// The answers to small commands, each with the key that it is on, whatever the cooldown says; whether Redis counts as failing doesn't
    /// change.
    pub(in crate::cache) async fn now<T: FromRedisValue>(
        &self,
        commands: &[(Vec<u8>, Cmd)],
    ) -> Vec<Result<T, RedisError>> {
        let bytes = vec![0; commands.len()];
        let key = |number: usize| commands.get(number).map_or(&[][..], |(key, _)| key);
        let command = |number: usize| {
            let one = commands.get(number);
            one.map_or_else(Cmd::new, |(_, command)| command.clone())
        };
        let many = Many {
            bytes: &bytes,
            key: &key,
            command: &command,
        };
        if self.cluster().is_none() {
            let mut pipeline = pipeline(&many, 0..commands.len());
            pipeline.ignore_errors();
            let answers = self.home.ask_anyway(&pipeline.into()).await;
            match answers {
                Ok(answers) => return answers,
                Err(error) if self.cluster().is_none() => {
                    let all = commands.iter().map(|_| Err(error.clone()));
                    return all.collect();
                }
                Err(_) => {}
            }
        }
        let answers = self.cluster.each(&many, Again::No, true).await;
        answers.into_iter().map(read).collect()
    }

    /// The values of keys, whatever the cooldown says.
    pub(in crate::cache) async fn values_now(
        &self,
        keys: &[Vec<u8>],
    ) -> Vec<Result<Option<Vec<u8>>, RedisError>> {
        if self.cluster().is_none() {
            let mut ask = redis::cmd("MGET");
            ask.arg(keys);
            let answers = self.any::<Vec<Option<Vec<u8>>>>(ask).await;
            match answers {
                Ok(values) => return values.into_iter().map(Ok).collect(),
                Err(error) if self.cluster().is_none() => {
                    return keys.iter().map(|_| Err(error.clone())).collect();
                }
                Err(_) => {}
            }
        }
        let gets = keys.iter().map(|key| {
            let mut get = redis::cmd("GET");
            get.arg(key.as_slice());
            (key.clone(), get)
        });
        let gets: Vec<(Vec<u8>, Cmd)> = gets.collect();
        self.now(&gets).await
    }

    /// One small command on one key, whatever the cooldown says.
    pub(in crate::cache) async fn now_one<T: FromRedisValue>(
        &self,
        key: &[u8],
        command: Cmd,
    ) -> Result<T, RedisError> {
        let answers = self.now(&[(key.to_vec(), command)]).await;
        let nothing = || RedisError::from((redis::ErrorKind::Client, "no answer"));
        answers.into_iter().next().ok_or_else(nothing)?
    }
}

fn pipeline(many: &Many<'_>, range: Range<usize>) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(range.len());
    for number in range {
        pipeline.add_command((many.command)(number));
    }
    pipeline
}

fn read<T: FromRedisValue>(answer: Result<Value, Unanswered>) -> Result<T, RedisError> {
    match answer {
        Ok(value) => Ok(redis::from_redis_value(value)?),
        Err(Unanswered::Failed(error) | Unanswered::Unsent(error)) => Err(error),
        Err(Unanswered::Skipped) => {
            let rests = "it failed a moment ago";
            Err(RedisError::from((redis::ErrorKind::Io, rests)))
        }
    }
}

/// The answers that there are, or nothing where there is none and one was asked for.
fn some<T: FromRedisValue>(answers: Answers) -> Option<Vec<Option<T>>> {
    let is_there = |answer: &Result<Value, Unanswered>| match answer {
        Ok(_) => true,
        Err(why) => why.error().is_some_and(is_refusal),
    };
    if !answers.is_empty() && !answers.iter().any(is_there) {
        return None;
    }
    let answers = answers.into_iter().map(|answer| read(answer).ok());
    Some(answers.collect())
}
