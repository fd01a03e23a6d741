//! Owns writing what readers find to a cluster: a call of the script for each key, and what is to be known afterwards in a second round.

use super::{
    Again, CacheOperation, RedisCache,
    cluster::{Answers, Cluster, Many},
    question::is_unknown_script,
    unsure::TAKE_BACK,
    words::{Published, SETTLED, WRITE, Word, WordKind, Words, call, mark_in},
};
use crate::cache::redis::Unanswered;
use kiln_contract::{key, order::Order};
use redis::{Cmd, Value};
use std::{borrow::Cow, collections::HashSet};

impl RedisCache {
    /// As `publish`, on a cluster. What its servers that work have taken stands, whatever the others did.
    pub(super) async fn publish_spread(&self, cluster: &Cluster, words: &Words<'_>) -> Published {
        let all: Vec<&Word> = words.all.values().flatten().map(Cow::as_ref).collect();
        let written = self.write_spread(cluster, &all).await;
        let mut published = Published::default();
        for (word, answer) in all.iter().zip(&written) {
            let answer = answer.as_ref().unwrap_or(&Value::Nil);
            published.add_call(&[*word], answer);
        }
        let unwritten = all.iter().zip(&written);
        let unwritten = unwritten.filter(|(_, written)| written.is_err());
        let unwritten: HashSet<&str> = unwritten.map(|(word, _)| word.key.as_str()).collect();
        if !unwritten.is_empty() {
            self.unsure
                .note(words, |word| unwritten.contains(word.key.as_str()));
        }
        published.unwritten = unwritten.into_iter().map(str::to_owned).collect();
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
        if shown.iter().any(Result::is_err) {
            self.is_current(true).await;
        }
        for ((namespace, written), mark) in words.all.iter().zip(&shown) {
            let mark = mark.as_ref().map_or(0, mark_in);
            if mark.max(self.marks().of(namespace)) > words.stamp {
                self.take_back_spread(cluster, written).await;
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

    /// Removes those of these words that still stand.
    async fn take_back_spread(&self, cluster: &Cluster, words: &[Cow<'_, Word>]) {
        let entries = words.iter().filter_map(|word| {
            let order = Order::of_entry(&word.value)?;
            (word.kind != WordKind::Removal).then(|| {
                let mut command = redis::cmd("EVAL");
                let call = command.arg(TAKE_BACK).arg(1).arg(word.key.as_str());
                call.arg(format!("{:016}", order.accepted().micros()));
                (word.key.clone().into_bytes(), command)
            })
        });
        let entries: Vec<(Vec<u8>, Cmd)> = entries.collect();
        self.on_keys(cluster, &entries).await;
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
