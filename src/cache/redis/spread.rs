//! Owns writing what readers find to a cluster: a call of the script for each key, and what is to be known afterwards in a second round.

use super::{
    Again, CacheOperation, RedisCache,
    cluster::{Answers, Cluster, Many},
    published::Published,
    question::is_unknown_script,
    unsure::{ends, take_back},
    words::{SETTLED, WRITE, Word, Words, call, mark_in},
};
use crate::cache::redis::Unanswered;
use kiln_contract::key;
use redis::{Cmd, Value};
use std::borrow::Cow;

impl RedisCache {
    /// As `publish`, on a cluster. What its servers that work have taken stands, whatever the others did.
    pub(super) async fn publish_spread(&self, cluster: &Cluster, words: &Words<'_>) -> Published {
        let all: Vec<&Word> = words.all.values().flatten().map(Cow::as_ref).collect();
        let written = self.write_spread(cluster, &all).await;
        let mut published = Published::default();
        for (word, answer) in all.iter().zip(&written) {
            let answer = answer.as_ref().unwrap_or(&Value::Nil);
            published.add(answer, |_| Some(&word.key));
        }
        let may_stand = |answer: &Result<Value, Unanswered>| match answer {
            Ok(_) => false,
            Err(why) => why.may_be_done(0..1),
        };
        self.unsure
            .note(words, |number| written.get(number).is_some_and(may_stand));
        let unwritten = all.iter().zip(&written);
        let unwritten = unwritten.filter(|(_, written)| written.is_err());
        published.unwritten = unwritten.map(|(word, _)| word.key.clone()).collect();
        // A mark that is set while these are written must be seen: they are there before it is looked for.
        let settled = words.jobs.iter().map(|job| {
            let mut settled = redis::cmd("EXPIRE");
            settled.arg(key::accepted(job)).arg(SETTLED.as_secs());
            (key::accepted(job), settled)
        });
        let marks = words.all.keys().map(|namespace| {
            let mut mark = redis::cmd("GET");
            mark.arg(key::mark(namespace));
            (key::mark(namespace).into_bytes(), mark)
        });
        let after: Vec<(Vec<u8>, Cmd)> = settled.chain(marks).collect();
        let mut shown = self.on_keys(cluster, &after).await;
        let shown = shown.split_off(words.jobs.len().min(shown.len()));
        let are_known = !shown.iter().any(Result::is_err) || self.is_current(true).await;
        let mut written = written.iter();
        for ((namespace, there), mark) in words.all.iter().zip(&shown) {
            let there = there.iter().map(Cow::as_ref).zip(&mut written);
            let there = there.filter_map(|(word, written)| written.is_ok().then_some(word));
            let there: Vec<&Word> = there.collect();
            let is_known = are_known || mark.is_ok();
            let mark = mark.as_ref().map_or(0, mark_in);
            if mark.max(self.marks().of(namespace)) > words.stamp {
                let left = self.take_back_spread(cluster, there).await;
                self.unsure
                    .note_some(namespace, left.into_iter(), words.stamp);
            } else if !is_known {
                self.unsure
                    .note_some(namespace, there.into_iter(), words.stamp);
            }
        }
        published
    }

    /// The script on each of these words, by its hash; servers that don't know it are shown it.
    async fn write_spread(&self, cluster: &Cluster, words: &[&Word]) -> Answers {
        let write = async |numbers: &[usize], hash: Option<&str>| {
            let word = |number: usize| words.get(*numbers.get(number)?).copied();
            let bytes = (0..numbers.len()).map(|number| word(number).map_or(0, Word::bytes));
            let bytes: Vec<usize> = bytes.collect();
            let command = |number: usize| call(word(number).as_slice(), hash);
            let many = Many {
                bytes: &bytes,
                key: &|number| word(number).map_or(&[][..], |word| word.key.as_bytes()),
                command: &command,
            };
            self.spread(cluster, CacheOperation::Set, &many, Again::Yes)
                .await
        };
        let all: Vec<usize> = (0..words.len()).collect();
        let hash = match self.write_hash.get() {
            Some(hash) => hash,
            None => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(WRITE);
                let Ok(hash) = self.any::<String>(load).await else {
                    return write(&all, None).await;
                };
                self.write_hash.get_or_init(|| hash)
            }
        };
        let mut answers = write(&all, Some(hash)).await;
        let is_unknown = |answer: &Result<Value, Unanswered>| match answer {
            Err(Unanswered::Failed(error)) => is_unknown_script(error),
            _ => false,
        };
        let unknown = answers.iter().enumerate();
        let unknown = unknown.filter_map(|(number, answer)| is_unknown(answer).then_some(number));
        let unknown: Vec<usize> = unknown.collect();
        if unknown.is_empty() {
            return answers;
        }
        for (number, answer) in unknown.iter().zip(write(&unknown, None).await) {
            if let Some(known) = answers.get_mut(*number) {
                *known = answer;
            }
        }
        answers
    }

    /// Removes those of these words that still stand. Gives those of which that isn't known.
    async fn take_back_spread<'a>(&self, cluster: &Cluster, words: Vec<&'a Word>) -> Vec<&'a Word> {
        let words = ends(words.into_iter());
        let calls = words.iter().map(|(word, end)| {
            let (call, _) = take_back(&[(&word.key, end)]);
            (word.key.clone().into_bytes(), call)
        });
        let calls: Vec<(Vec<u8>, Cmd)> = calls.collect();
        let taken = self.on_keys(cluster, &calls).await;
        let left = words.iter().zip(&taken).filter(|(_, taken)| taken.is_err());
        left.map(|((word, _), _)| *word).collect()
    }

    async fn on_keys(&self, cluster: &Cluster, commands: &[(Vec<u8>, Cmd)]) -> Answers {
        let bytes: Vec<usize> = commands.iter().map(|(key, _)| key.len() + 16).collect();
        let command = |number: usize| {
            let one = commands.get(number);
            one.map_or_else(Cmd::new, |(_, command)| command.clone())
        };
        let many = Many {
            bytes: &bytes,
            key: &|number| commands.get(number).map_or(&[][..], |(key, _)| key),
            command: &command,
        };
        self.spread(cluster, CacheOperation::Set, &many, Again::Yes)
            .await
    }
}
