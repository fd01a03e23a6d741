//! Owns taking words back that an invalidation has overtaken; also those of which it isn't known whether Redis has them: it was to write
//! them, and its answer was lost.
//!
//! A server that was slow may write them long afterwards, when what an invalidation removes is removed already. Promises that what an invalidation
//! has overtaken by then is taken back, for as long as this process lives, and that a bounded number of words is remembered.

use super::{
    Again, CacheOperation, RedisCache,
    size::Size,
    words::{Word, WordKind, Words},
};
use kiln_contract::order::Order;
use redis::{Cmd, Value};
use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Takes back those of some words that still stand, by their ends. What a word took over from the one before it isn't compared.
pub(super) const TAKE_BACK: &str = "for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and string.sub(value, -551, -40) .. string.sub(value, -18) == ARGV[i] then redis.call('UNLINK', key) end
end";
/// Bytes before a word's order by which it is known: they say whose it is and when it was scored, and of most words all.
const END_BYTES: usize = 512;
/// Bytes of a word from its order on, and from when it was accepted on.
const ORDER_BYTES: usize = 39;
const ACCEPTED_BYTES: usize = 18;
/// Words that are remembered: of more, the latest.
const MAX_WORDS: usize = 10_000;
/// For how many good answers of Redis to a check, of which there is one a second about, a word that it was to write before may still come.
const CHECKS: u32 = 60;
/// Words that are taken back at a time.
const AT_A_TIME: usize = 256;

/// A word that may stand.
#[derive(Debug)]
struct Unsure {
    namespace: String,
    key: String,
    end: Vec<u8>,
    /// The latest invalidation of all when its job was looked up.
    stamp: u64,
    checks: u32,
}

/// All that may stand.
#[derive(Debug, Default)]
pub(super) struct AllUnsure(Mutex<VecDeque<Unsure>>);

/// What a word is known by where it stands; none of a removal.
fn end(word: &Word) -> Option<Vec<u8>> {
    let value = word.value.as_slice();
    Order::of_entry(value).filter(|_| word.kind != WordKind::Removal)?;
    let (before, order) = value.split_at_checked(value.len().checked_sub(ORDER_BYTES)?)?;
    let end = before.get(before.len().saturating_sub(END_BYTES)..)?;
    let accepted = order.get(ORDER_BYTES - ACCEPTED_BYTES..)?;
    Some([end, accepted].concat())
}

/// The call that takes some words back, and how much it is.
pub(super) fn take_back<'a>(words: &[(&'a str, &'a [u8])]) -> (Cmd, Size) {
    let mut command = redis::cmd("EVAL");
    command.arg(TAKE_BACK).arg(words.len());
    for (key, _) in words {
        command.arg(*key);
    }
    for (_, end) in words {
        command.arg(*end);
    }
    let bytes = words.iter().map(|(key, end)| key.len() + end.len()).sum();
    let keys = words.len();
    (command, Size { keys, bytes })
}

/// These words with their ends.
pub(super) fn ends<'a>(words: impl Iterator<Item = &'a Word>) -> Vec<(&'a Word, Vec<u8>)> {
    words.filter_map(|word| Some((word, end(word)?))).collect()
}

impl AllUnsure {
    fn all(&self) -> MutexGuard<'_, VecDeque<Unsure>> {
        // The list is sound after a panic elsewhere: every change to it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes those words that may stand, by their numbers in order.
    pub fn note(&self, words: &Words<'_>, may_stand: impl Fn(usize) -> bool) {
        let mut number = 0..;
        for (namespace, words_there) in &words.all {
            let there = words_there.iter().map(Cow::as_ref);
            let there = there.filter(|_| number.next().is_some_and(&may_stand));
            self.note_some(namespace, there, words.stamp);
        }
    }

    /// Notes these words of a namespace.
    pub fn note_some<'a>(
        &self,
        namespace: &str,
        words: impl Iterator<Item = &'a Word>,
        stamp: u64,
    ) {
        let noted = ends(words).into_iter().map(|(word, end)| Unsure {
            namespace: namespace.to_owned(),
            key: word.key.clone(),
            end,
            stamp,
            checks: CHECKS,
        });
        let noted: Vec<Unsure> = noted.collect();
        let mut all = self.all();
        all.extend(noted);
        let over = all.len().saturating_sub(MAX_WORDS);
        all.drain(..over);
    }

    /// Those that an invalidation has overtaken, as keys and ends; what can't come any more is forgotten.
    fn overtaken(&self, mark: impl Fn(&str) -> u64) -> Vec<(String, Vec<u8>)> {
        let mut all = self.all();
        all.retain(|one| one.checks > 0);
        all.iter_mut().for_each(|one| one.checks -= 1);
        let overtaken = all.iter().filter(|one| mark(&one.namespace) > one.stamp);
        overtaken
            .map(|one| (one.key.clone(), one.end.clone()))
            .collect()
    }
}

impl RedisCache {
    /// Removes those of these words that still stand. Gives those of which that isn't known: none are tried after one that fails.
    pub(super) async fn take_back<'a>(
        &self,
        words: &'a [Cow<'_, Word>],
    ) -> impl Iterator<Item = &'a Word> {
        let words = ends(words.iter().map(Cow::as_ref));
        let mut done = 0;
        for some in words.chunks(AT_A_TIME) {
            let some = some.iter();
            let some: Vec<(&str, &[u8])> = some.map(|(w, end)| (w.key.as_str(), &**end)).collect();
            let (command, size) = take_back(&some);
            let question = command.into();
            let taken = self.guarded::<Value>(CacheOperation::Set, &question, size, Again::Yes);
            if taken.await.is_none() {
                break;
            }
            done += some.len();
        }
        words.into_iter().skip(done).map(|(word, _)| word)
    }

    /// Takes back what may have been written since and is older than an invalidation. To be called when Redis has answered just now.
    pub async fn take_back_unsure(&self) {
        let overtaken = self
            .unsure
            .overtaken(|namespace| self.marks().of(namespace));
        for some in overtaken.chunks(AT_A_TIME) {
            let calls = some.iter().map(|(key, end)| {
                let (call, _) = take_back(&[(key, end)]);
                (key.clone().into_bytes(), call)
            });
            let calls: Vec<(Vec<u8>, Cmd)> = calls.collect();
            // What fails is tried with the next check.
            if self.now::<Value>(&calls).await.iter().all(Result::is_err) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::{
        order::{AsOf, Moment},
        reader::{self, Provenance},
    };

    fn words(count: i64) -> Words<'static> {
        let word = |micros| {
            let said = Provenance {
                job_id: None,
                as_of: None,
                order: Order::new(None, Moment::from_micros(micros)),
            };
            Cow::Owned(Word {
                key: format!("k{micros}"),
                value: reader::removal(&said),
                ttl_ms: 1,
                kind: WordKind::Entry,
                may_be_old: false,
            })
        };
        Words {
            all: [("n", (0..count).map(word).collect())].into(),
            jobs: Vec::new(),
            stamp: 5,
        }
    }

    #[test]
    fn what_an_invalidation_overtook_is_known_until_it_cannot_come_any_more() {
        let unsure = AllUnsure::default();
        unsure.note(&words(3), |number| number != 1);
        let keys = |mark: u64| {
            let left = unsure.overtaken(|_| mark).into_iter();
            left.map(|(key, _)| key).collect::<Vec<String>>()
        };
        assert!(keys(5).is_empty(), "it is as new");
        for _ in 1..CHECKS {
            assert_eq!(keys(6), ["k0", "k2"]);
        }
        assert!(keys(6).is_empty(), "it is forgotten");
        let many = MAX_WORDS as i64 + 2;
        unsure.note(&words(many), |_| true);
        let left = keys(6);
        assert_eq!((left.len(), left[0].as_str()), (MAX_WORDS, "k2"));
    }

    #[test]
    fn a_word_is_known_by_all_but_what_it_took_over() {
        let order = |value, accepted| {
            let as_of = AsOf::Sequence(value);
            Order::new(Some(&as_of), Moment::from_micros(accepted))
        };
        let of = |job_id, order| {
            let said = Provenance {
                job_id: Some(job_id),
                as_of: None,
                order,
            };
            end(&Word {
                key: "k".to_owned(),
                value: reader::removal(&said),
                ttl_ms: 1,
                kind: WordKind::Entry,
                may_be_old: false,
            })
        };
        let one = of("a", order(1, 7));
        assert_eq!(one, of("a", order(2, 7)), "it was written over another");
        assert_ne!(one, of("a", order(1, 8)));
        assert_ne!(one, of("b", order(1, 7)), "accepted at the same time");
        let long = of(&"a".repeat(9_000), order(1, 7)).expect("an entry's");
        assert_eq!(long.len(), END_BYTES + ACCEPTED_BYTES);
    }
}
