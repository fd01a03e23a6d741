//! Owns what readers find in Redis: it is only ever replaced, or removed, by what is newer.
//!
//! A script compares and sets many keys in one call, by the order at the end of each value. Promises one round trip for a batch, that
//! writing again what stands changes nothing, and that what an invalidation overtook is taken back. A removed entry leaves a mark in a
//! key of its own, in the same slot of a cluster, so that nothing older comes back. Refuses to write without comparing: where the server
//! runs no scripts, readers' entries stay as they are, and that counts as a failure.

use super::{
    Again, Question, RedisCache, Unanswered,
    published::{Forgotten, Published, numbers},
    question::is_unknown_script,
    size::{MAX_BYTES, Size},
};
use crate::{clock, cut::cut, telemetry::metrics::CacheOperation};
use kiln_contract::{
    key,
    order::Order,
    reader::{self, Provenance},
};
use redis::{Cmd, Pipeline, Value};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

/// Compares and sets. Half of the keys are those that readers know, the other half what is left of them where they were removed. Answers
/// with the numbers of the words that were not written for a newer one, with the negative ones of those that removed an entry, and with
/// [`STANDS`](super::published::STANDS) more of those that ask and stand, where nothing stood before that says how old it is, or they
/// themselves did.
pub(super) const WRITE: &str = include_str!("write.lua");
/// Words that one call of the script writes: Redis serves nobody else meanwhile.
const MAX_WORDS: usize = 256;
/// Words of one round trip.
const MAX_ROUND: usize = 2_048;
/// How long it is known when a job was accepted whose words are written, should it come again: from its acknowledgement being lost to
/// its next delivery. Afterwards its row says enough.
pub(super) const SETTLED: Duration = Duration::from_secs(300);
/// How long a removed key says so at the least: what is older may come out of a queue, a retry or a dead letter until then.
pub const REMOVED: Duration = Duration::from_secs(86_400);

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordKind {
    /// It has this value.
    Entry,
    /// The same, unless it was removed: warming brings nothing back.
    Refresh,
    /// It is removed.
    Removal,
}

/// What is to stand under one of readers' keys.
#[derive(Debug, Clone)]
pub struct Word {
    /// As readers know it.
    pub key: String,
    /// Ends with its order.
    pub value: Vec<u8>,
    /// How long it stands, or how long it is known that the key was removed.
    pub ttl_ms: u64,
    pub kind: WordKind,
    /// Whether something newer may have stood that has left Redis, so that it matters what this is written over.
    pub may_be_old: bool,
}

impl Word {
    /// About what it takes on its way.
    pub(super) fn bytes(&self) -> usize {
        2 * self.key.len() + self.value.len()
    }

    /// Its time, and how it is written.
    fn manner(&self) -> String {
        let is_plain = Order::of_entry(&self.value).is_some_and(|order| order.is_plain());
        let said = if is_plain { "" } else { "e" };
        let kind = match self.kind {
            WordKind::Entry => "",
            WordKind::Refresh => "b",
            WordKind::Removal => "x",
        };
        let asks = if self.may_be_old { "n" } else { "" };
        format!("{said}{asks}{kind}{}", self.ttl_ms)
    }
}

/// Words of several jobs.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// By namespace.
    pub all: BTreeMap<&'a str, Vec<Cow<'a, Word>>>,
    /// The jobs whose words they are.
    pub jobs: Vec<&'a str>,
    /// The latest invalidation of all when the jobs' entries were looked up.
    pub stamp: u64,
}

/// One call of the script.
pub(super) fn call(words: &[&Word], hash: Option<&str>) -> Cmd {
    let mut command = match hash {
        Some(hash) => {
            let mut command = redis::cmd("EVALSHA");
            command.arg(hash);
            command
        }
        None => {
            let mut command = redis::cmd("EVAL");
            command.arg(WRITE);
            command
        }
    };
    command.arg(2 * words.len());
    for word in words {
        command.arg(word.key.as_str());
    }
    for word in words {
        command.arg(key::removed(&word.key));
    }
    for word in words {
        command.arg(word.value.as_slice()).arg(word.manner());
    }
    command
}

/// Cuts words into calls. The script reads all keys first: a key that comes again is another call's.
fn calls(words: &[&Word]) -> Vec<Range<usize>> {
    let mut calls = Vec::new();
    let mut seen: HashSet<&str, ahash::RandomState> = HashSet::default();
    let mut start = 0;
    for (number, word) in words.iter().enumerate() {
        if number - start >= MAX_WORDS || !seen.insert(&word.key) {
            calls.push(start..number);
            start = number;
            seen.clear();
            seen.insert(&word.key);
        }
    }
    if start < words.len() {
        calls.push(start..words.len());
    }
    calls
}

/// Notes what the calls on these words answered.
fn add(published: &mut Published, words: &[&Word], answers: &[Value]) {
    if answers.iter().flat_map(numbers).next().is_none() {
        return;
    }
    for (range, answer) in calls(words).into_iter().zip(answers) {
        let there = words.get(range).unwrap_or_default();
        published.add(answer, |index| there.get(index).map(|word| &*word.key));
    }
}

/// What an answer to a question for a mark shows.
pub(super) fn mark_in(answer: &Value) -> u64 {
    match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default(),
        _ => 0,
    }
}

impl RedisCache {
    /// Writes what readers find, where nothing newer stands there. What an invalidation has overtaken is taken back, so that its own
    /// removal, which may have passed by already, misses nothing; also where the answer is lost. Nothing where Redis fails.
    pub(in crate::cache) async fn publish(&self, words: &Words<'_>) -> Option<Published> {
        if self.cluster().is_none() {
            let published = self.publish_to_one(words).await;
            if let Err(may_stand) = published {
                self.unsure.note(words, |number| number < may_stand);
            }
            if published.is_ok() || self.cluster().is_none() {
                return published.ok();
            }
        }
        Some(self.publish_spread(self.cluster()?, words).await)
    }

    /// Where Redis fails, how many of the words, from the first on, may stand although nobody looked whether they are overtaken.
    async fn publish_to_one(&self, words: &Words<'_>) -> Result<Published, usize> {
        let all: Vec<&Word> = words.all.values().flatten().map(Cow::as_ref).collect();
        let mut rounds = cut(all.iter().map(|word| word.bytes()), MAX_ROUND, MAX_BYTES);
        let last = rounds.pop().unwrap_or_default();
        let mut published = Published::default();
        let write = async |range: &Range<usize>, after: &[Cmd]| {
            let some = all.get(range.clone()).unwrap_or_default();
            let written = self.write(some, after).await;
            written.map_err(|may_stand| if may_stand { range.end } else { range.start })
        };
        // A mark that is set while these are written must be seen: they are there before it is looked for.
        for round in rounds {
            let answers = write(&round, &[]).await?;
            add(&mut published, all.get(round).unwrap_or_default(), &answers);
        }
        let mut after = Vec::with_capacity(words.jobs.len() + words.all.len());
        for job in &words.jobs {
            let mut settled = redis::cmd("EXPIRE");
            settled.arg(key::accepted(job)).arg(SETTLED.as_secs());
            after.push(settled);
        }
        for namespace in words.all.keys() {
            let mut mark = redis::cmd("GET");
            mark.arg(key::mark(namespace));
            after.push(mark);
        }
        let mut answers = write(&last, &after).await?;
        let marks = answers.split_off(answers.len().saturating_sub(words.all.len()));
        add(&mut published, all.get(last).unwrap_or_default(), &answers);
        for ((namespace, written), mark) in words.all.iter().zip(marks) {
            if mark_in(&mark).max(self.marks().of(namespace)) > words.stamp {
                let left = self.take_back(written).await;
                self.unsure.note_some(namespace, left, words.stamp);
            }
        }
        Ok(published)
    }

    /// One round trip: the script on these words, and then some more. Where Redis fails, whether they may stand all the same.
    async fn write(&self, words: &[&Word], after: &[Cmd]) -> Result<Vec<Value>, bool> {
        let calls = calls(words);
        let size = Size {
            keys: 2 * words.len() + after.len(),
            bytes: words.iter().map(|word| word.bytes()).sum(),
        };
        let question = |hash: Option<&str>| -> Question {
            let mut pipeline = Pipeline::with_capacity(calls.len() + after.len() + 1);
            if hash.is_none() {
                pipeline.cmd("SCRIPT").arg("LOAD").arg(WRITE);
            }
            for range in &calls {
                pipeline.add_command(call(words.get(range.clone()).unwrap_or_default(), hash));
            }
            for command in after {
                pipeline.add_command(command.clone());
            }
            pipeline.into()
        };
        let begun = clock::instant();
        let mut answered = None;
        if let Some(hash) = self.write_hash.get() {
            let known = self.home.ask(&question(Some(hash)), size, Again::Yes).await;
            // It was started anew, or another one is in its stead.
            let is_unknown = matches!(&known, Err(Unanswered::Failed(e)) if is_unknown_script(e));
            answered = (!is_unknown).then_some((known, 0));
        }
        let (answered, first) = match answered {
            Some(answered) => answered,
            None => (self.home.ask(&question(None), size, Again::Yes).await, 1),
        };
        let may_stand = match &answered {
            // It is asked in another way.
            Err(_) if self.cluster().is_some() => return Err(false),
            Err(why) => why.may_be_done(first..first + calls.len()),
            Ok(_) => false,
        };
        let answers: Option<Vec<Value>> = self.concluded(CacheOperation::Set, begun, answered);
        let mut answers = answers.ok_or(may_stand)?;
        let written = answers.split_off(first.min(answers.len()));
        if let Some(Value::BulkString(hash)) = answers.pop()
            && let Ok(hash) = String::from_utf8(hash)
        {
            // The same whoever noted it.
            let _known = self.write_hash.set(hash);
        }
        Ok(written)
    }

    /// Removes what stands under one of a namespace's keys, unless it is newer. An error holds no credentials.
    pub async fn forget(
        &self,
        namespace: &str,
        key: &str,
        said: &Provenance<'_>,
        life: Duration,
    ) -> Result<Forgotten, String> {
        let word = Word {
            key: key::named(namespace, key),
            value: reader::removal(said),
            ttl_ms: life.as_millis() as u64,
            kind: WordKind::Removal,
            may_be_old: false,
        };
        let answer = self
            .now_one::<Value>(word.key.as_bytes(), call(&[&word], None))
            .await
            .map_err(|e| self.scrub(&e))?;
        Ok(match numbers(&answer).next() {
            None => Forgotten::Absent,
            Some(number) if number < 0 => Forgotten::Removed,
            Some(_) => Forgotten::Newer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::order::{AsOf, Moment};

    fn word(key: &str, order: Order, kind: WordKind) -> Word {
        let said = Provenance {
            job_id: None,
            as_of: None,
            order,
        };
        Word {
            key: key.to_owned(),
            value: reader::removal(&said),
            ttl_ms: 60_000,
            kind,
            may_be_old: false,
        }
    }

    #[test]
    fn a_key_that_comes_again_is_in_another_call() {
        let order = Order::new(None, Moment::from_micros(7));
        let keys = ["a", "b", "a", "c", "c"];
        let words: Vec<Word> = keys.map(|key| word(key, order, WordKind::Entry)).into();
        let words: Vec<&Word> = words.iter().collect();
        assert_eq!(calls(&words), [0..2, 2..4, 4..5]);
        assert!(calls(&[]).is_empty());
        let many: Vec<Word> = (0..MAX_WORDS + 1)
            .map(|number| word(&number.to_string(), order, WordKind::Entry))
            .collect();
        let many: Vec<&Word> = many.iter().collect();
        assert_eq!(calls(&many), [0..MAX_WORDS, MAX_WORDS..MAX_WORDS + 1]);
    }

    #[test]
    fn a_word_says_how_it_is_written() {
        let accepted = Moment::from_micros(7);
        let plain = Order::new(None, accepted);
        let said = Order::new(Some(&AsOf::Sequence(7)), accepted);
        for (order, kind, manner) in [
            (plain, WordKind::Entry, "60000"),
            (said, WordKind::Entry, "e60000"),
            (plain, WordKind::Refresh, "b60000"),
            (said, WordKind::Refresh, "eb60000"),
            (plain, WordKind::Removal, "x60000"),
            (said, WordKind::Removal, "ex60000"),
        ] {
            assert_eq!(word("k", order, kind).manner(), manner);
        }
    }
}
