//! Owns what the stand-in of Redis holds, and what each command does to it.

use super::{commands::Reply, scripts};
use crate::clock;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Hears of each change: the key, and what stands there now.
pub type Watch = Box<dyn FnMut(&[u8], Option<&[u8]>) + Send>;

struct Held {
    value: Vec<u8>,
    ends: Option<Instant>,
}

/// Keys with their values.
pub(super) struct Keys {
    held: BTreeMap<Vec<u8>, Held>,
    scripts: BTreeSet<Vec<u8>>,
    watch: Option<Watch>,
}

impl Keys {
    pub fn new(watch: Option<Watch>) -> Self {
        Self {
            held: BTreeMap::new(),
            scripts: BTreeSet::new(),
            watch,
        }
    }

    /// Forgets everything, also the scripts that it was given.
    pub fn clear(&mut self) {
        self.scripts.clear();
        self.evict(|| true);
    }

    pub fn evict(&mut self, mut is_chosen: impl FnMut() -> bool) {
        let all: Vec<Vec<u8>> = self.held.keys().cloned().collect();
        for key in all.iter().filter(|_| is_chosen()) {
            self.remove(key);
        }
    }

    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let now = clock::instant();
        let is_over = |held: &Held| held.ends.is_some_and(|ends| ends <= now);
        if self.held.get(key).is_some_and(is_over) {
            self.remove(key);
        }
        self.held.get(key).map(|held| held.value.as_slice())
    }

    pub fn set(&mut self, key: &[u8], value: &[u8], life_ms: Option<u64>) {
        let ends = life_ms.map(|ms| clock::instant() + Duration::from_millis(ms));
        let value = value.to_vec();
        if let Some(watch) = &mut self.watch {
            watch(key, Some(&value));
        }
        self.held.insert(key.to_vec(), Held { value, ends });
    }

    pub fn remove(&mut self, key: &[u8]) -> bool {
        let was_there = self.held.remove(key).is_some();
        if let Some(watch) = self.watch.as_mut().filter(|_| was_there) {
            watch(key, None);
        }
        was_there
    }

    /// Sets when a key ends; with `only_later`, only where it would end sooner.
    fn expire(&mut self, key: &[u8], life_ms: u64, only_later: bool) -> bool {
        if self.get(key).is_none() {
            return false;
        }
        let ends = clock::instant() + Duration::from_millis(life_ms);
        let Some(held) = self.held.get_mut(key) else {
            return false;
        };
        // What has no end ends later than anything.
        let is_later = held.ends.is_some_and(|before| before < ends);
        if only_later && !is_later {
            return false;
        }
        held.ends = Some(ends);
        true
    }

    fn ttl_ms(&mut self, key: &[u8]) -> i64 {
        if self.get(key).is_none() {
            return -2;
        }
        let ends = self.held.get(key).and_then(|held| held.ends);
        ends.map_or(-1, |ends| {
            let left = ends.saturating_duration_since(clock::instant());
            i64::try_from(left.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

/// A number among a command's words.
pub(super) fn number(word: &[u8]) -> u64 {
    let text = std::str::from_utf8(word).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Runs a command.
pub(super) fn run(keys: &mut Keys, name: &str, words: &[Vec<u8>]) -> Reply {
    let word = |index: usize| words.get(index).map_or(&[][..], Vec::as_slice);
    match name {
        "PING" => Reply::Simple("PONG"),
        "CLIENT" | "SELECT" => Reply::Simple("OK"),
        "INFO" => {
            let about = "cluster_enabled:0\r\nrole:master\r\nloading:0\r\n";
            Reply::Bulk(about.as_bytes().to_vec())
        }
        "GET" => Reply::of(keys.get(word(0))),
        "MGET" => Reply::Array(words.iter().map(|key| Reply::of(keys.get(key))).collect()),
        "GETRANGE" => {
            let (first, last) = (number(word(1)) as usize, number(word(2)) as usize);
            let value = keys.get(word(0)).unwrap_or_default();
            let last = (last + 1).min(value.len());
            Reply::Bulk(value.get(first..last).unwrap_or_default().to_vec())
        }
        "SET" => set(keys, words),
        "PSETEX" => {
            keys.set(word(0), word(2), Some(number(word(1))));
            Reply::Simple("OK")
        }
        "DEL" | "UNLINK" => {
            let removed = words.iter().filter(|key| keys.remove(key)).count();
            Reply::Int(removed as i64)
        }
        "EXPIRE" => Reply::Int(keys.expire(word(0), 1_000 * number(word(1)), false).into()),
        "PEXPIRE" => Reply::Int(
            keys.expire(word(0), number(word(1)), word(2) == b"GT")
                .into(),
        ),
        "PTTL" => Reply::Int(keys.ttl_ms(word(0))),
        "SCRIPT" => {
            let hash = scripts::hash(word(1));
            keys.scripts.insert(hash.clone());
            Reply::Bulk(hash)
        }
        "EVAL" | "EVALSHA" => {
            let hash = match name {
                "EVAL" => scripts::hash(word(0)),
                _ => word(0).to_vec(),
            };
            if name == "EVALSHA" && !keys.scripts.contains(&hash) {
                return Reply::Error("NOSCRIPT No matching script. Please use EVAL.".into());
            }
            keys.scripts.insert(hash.clone());
            let (count, rest) = (number(word(1)) as usize, words.get(2..).unwrap_or_default());
            match rest.split_at_checked(count) {
                Some((of, with)) => scripts::run(keys, &hash, of, with),
                None => {
                    Reply::Error("ERR Number of keys can't be greater than number of args".into())
                }
            }
        }
        _ => Reply::Error(format!("ERR unknown command '{name}'")),
    }
}

/// With the options that Kiln uses.
fn set(keys: &mut Keys, words: &[Vec<u8>]) -> Reply {
    let [key, value, options @ ..] = words else {
        return Reply::Error("ERR wrong number of arguments for 'set' command".into());
    };
    let (mut only_new, mut gets, mut life_ms) = (false, false, None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut given = || options.next().map(|word| number(word)).unwrap_or_default();
        match option.as_slice() {
            b"NX" => only_new = true,
            b"GET" => gets = true,
            b"PX" => life_ms = Some(given()),
            b"EX" => life_ms = Some(1_000 * given()),
            _ => return Reply::Error("ERR syntax error".into()),
        }
    }
    let before = keys.get(key).map(<[u8]>::to_vec);
    let is_set = !only_new || before.is_none();
    if is_set {
        keys.set(key, value, life_ms);
    }
    match (gets, is_set) {
        (true, _) => Reply::of(before.as_deref()),
        (false, true) => Reply::Simple("OK"),
        (false, false) => Reply::Nil,
    }
}
