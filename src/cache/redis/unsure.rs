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

/// Takes back those of a job's words that still stand, by their acceptance.
pub(super) const TAKE_BACK: &str = "for i, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and string.sub(value, -18, -3) == ARGV[i] then redis.call('UNLINK', key) end
end";
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
    /// When its job was accepted, in microseconds.
    accepted: u64,
    /// The latest invalidation of all when its job was looked up.
    stamp: u64,
    checks: u32,
}

/// All that may stand.
#[derive(Debug, Default)]
pub(super) struct AllUnsure(Mutex<VecDeque<Unsure>>);

impl AllUnsure {
    fn all(&self) -> MutexGuard<'_, VecDeque<Unsure>> {
        // The list is sound after a panic elsewhere: every change to it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes words whose answer was lost: those for which `is_lost`.
    pub fn note(&self, words: &Words<'_>, is_lost: impl Fn(&Word) -> bool) {
        let each = words.all.iter();
        let each =
            each.flat_map(|(namespace, words)| words.iter().map(move |one| (*namespace, one)));
        let lost = each.filter_map(|(namespace, word)| {
            let is_entry = word.kind != WordKind::Removal;
            let order = Order::of_entry(&word.value).filter(|_| is_entry && is_lost(word))?;
            Some(Unsure {
                namespace: namespace.to_owned(),
                key: word.key.clone(),
                accepted: order.accepted().micros(),
                stamp: words.stamp,
                checks: CHECKS,
            })
        });
        let mut all = self.all();
        all.extend(lost);
        let over = all.len().saturating_sub(MAX_WORDS);
        all.drain(..over);
    }

    /// Those that an invalidation has overtaken, as keys and acceptances; what can't come any more is forgotten.
    fn overtaken(&self, mark: impl Fn(&str) -> u64) -> Vec<(String, u64)> {
        let mut all = self.all();
        all.retain(|one| one.checks > 0);
        all.iter_mut().for_each(|one| one.checks -= 1);
        let overtaken = all.iter().filter(|one| mark(&one.namespace) > one.stamp);
        overtaken
            .map(|one| (one.key.clone(), one.accepted))
            .collect()
    }
}

impl RedisCache {
    /// Removes those of these words that still stand.
    pub(super) async fn take_back(&self, words: &[Cow<'_, Word>]) {
        let entries = words.iter().filter_map(|word| {
            let order = Order::of_entry(&word.value)?;
            (word.kind != WordKind::Removal).then_some((&word.key, order))
        });
        let entries: Vec<(&String, Order)> = entries.collect();
        for some in entries.chunks(AT_A_TIME) {
            let mut command = redis::cmd("EVAL");
            command.arg(TAKE_BACK).arg(some.len());
            for (key, _) in some {
                command.arg(key.as_str());
            }
            for (_, order) in some {
                command.arg(format!("{:016}", order.accepted().micros()));
            }
            let size = Size {
                keys: some.len(),
                bytes: some.iter().map(|(key, _)| key.len() + 16).sum(),
            };
            self.guarded::<Value>(CacheOperation::Set, &command.into(), size, Again::Yes)
                .await;
        }
    }

    /// Takes back what may have been written since and is older than an invalidation. Redis answered just now.
    pub(in crate::cache) async fn take_back_unsure(&self) {
        let overtaken = self
            .unsure
            .overtaken(|namespace| self.marks().of(namespace));
        let calls = overtaken.into_iter().map(|(key, accepted)| {
            let mut call = redis::cmd("EVAL");
            call.arg(TAKE_BACK)
                .arg(1)
                .arg(&key)
                .arg(format!("{accepted:016}"));
            (key.into_bytes(), call)
        });
        let calls: Vec<(Vec<u8>, Cmd)> = calls.collect();
        for some in calls.chunks(AT_A_TIME) {
            // What fails is tried with the next check.
            self.now::<Value>(some).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::{
        order::Moment,
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
        unsure.note(&words(3), |word| word.key != "k1");
        assert!(unsure.overtaken(|_| 5).is_empty(), "it is as new");
        let expected = [("k0".to_owned(), 0), ("k2".to_owned(), 2)];
        for _ in 1..CHECKS {
            assert_eq!(unsure.overtaken(|_| 6), expected);
        }
        assert!(unsure.overtaken(|_| 6).is_empty(), "it is forgotten");
        let many = MAX_WORDS as i64 + 2;
        unsure.note(&words(many), |_| true);
        let left = unsure.overtaken(|_| 6);
        assert_eq!((left.len(), left[0].1), (MAX_WORDS, 2));
    }
}
