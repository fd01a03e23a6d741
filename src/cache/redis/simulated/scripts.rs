//! Owns what Kiln's scripts do, as the stand-in of Redis does it: by what the contract says of orders, not by their text.

use super::{
    commands::Reply,
    keys::{Keys, number},
};
use crate::cache::{
    invalidate::RAISE,
    lease::GIVE_BACK,
    redis::{published::STANDS, unsure::TAKE_BACK, words::WRITE},
};
use kiln_contract::{key, order::Order};

/// What a script is called by.
pub(super) fn hash(script: &[u8]) -> Vec<u8> {
    let mut hash = hex::encode(key::hash_body(script)).into_bytes();
    hash.truncate(40);
    hash
}

/// Runs a script of Kiln's.
pub(super) fn run(keys: &mut Keys, of: &[u8], names: &[Vec<u8>], with: &[Vec<u8>]) -> Reply {
    let is = |script: &str| hash(script.as_bytes()) == of;
    if is(WRITE) {
        return write(keys, names, with);
    }
    if is(TAKE_BACK) {
        for (name, end) in names.iter().zip(with) {
            if keys.get(name).is_some_and(|value| &end_of(value) == end) {
                keys.remove(name);
            }
        }
        return Reply::Nil;
    }
    let (Some(name), Some(said)) = (names.first(), with.first()) else {
        return Reply::Error("ERR no such script here".into());
    };
    if is(GIVE_BACK) {
        let is_own = keys.get(name) == Some(said.as_slice());
        return Reply::Int((is_own && keys.remove(name)).into());
    }
    if is(RAISE) {
        let mark = keys.get(name).map(number).unwrap_or_default();
        let life = with.get(1).map(|word| number(word)).unwrap_or_default();
        if mark < number(said) {
            keys.set(name, said, Some(1_000 * life));
        }
        return Reply::Bulk(mark.to_string().into_bytes());
    }
    Reply::Error("ERR no such script here".into())
}

/// What a word is known by: its last bytes, without the order that it may have taken over.
fn end_of(value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let before = value.get(length.saturating_sub(551)..length.saturating_sub(39));
    let after = value.get(length.saturating_sub(18)..);
    [before.unwrap_or_default(), after.unwrap_or_default()].concat()
}

/// How a word is written.
struct Manner {
    ttl_ms: u64,
    asks: bool,
    refreshes: bool,
    removes: bool,
}

impl Manner {
    fn read(text: &[u8]) -> Self {
        let letters = text.iter().take_while(|byte| byte.is_ascii_lowercase());
        let letters: Vec<u8> = letters.copied().collect();
        Self {
            ttl_ms: number(text.get(letters.len()..).unwrap_or_default()),
            asks: letters.contains(&b'n'),
            refreshes: letters.last() == Some(&b'b'),
            removes: letters.last() == Some(&b'x'),
        }
    }
}

fn write(keys: &mut Keys, names: &[Vec<u8>], with: &[Vec<u8>]) -> Reply {
    let count = names.len() / 2;
    let (named, removed) = names.split_at(count);
    // All is read before anything is written.
    let mut read = |names: &[Vec<u8>]| -> Vec<Option<Vec<u8>>> {
        let found = names.iter().map(|name| keys.get(name).map(<[u8]>::to_vec));
        found.collect()
    };
    let (found, marks) = (read(named), read(removed));
    let mut answers = Vec::new();
    for (index, said) in with.chunks_exact(2).enumerate().take(count) {
        let [value, manner] = said else { continue };
        let (manner, number) = (Manner::read(manner), index as i64 + 1);
        let stands = found[index].as_ref().or(marks[index].as_ref());
        let stood = stands.and_then(|value| Order::of_entry(value));
        let (mut value, is_there) = (value.clone(), found[index].is_some());
        if let (Some(stood), Some(order)) = (stood, Order::of_entry(&value)) {
            let Some(over) = order.over(Some(&stood)) else {
                if order.accepted() != stood.accepted() {
                    answers.push(number);
                } else if manner.asks && is_there {
                    answers.push(STANDS + number);
                }
                continue;
            };
            Order::rewrite(&mut value, |_| over);
        }
        if manner.removes {
            if is_there {
                keys.remove(&named[index]);
                answers.push(-number);
            }
            keys.set(&removed[index], &value, Some(manner.ttl_ms));
        } else if manner.refreshes && !is_there && marks[index].is_some() {
            answers.push(number);
        } else {
            keys.set(&named[index], &value, Some(manner.ttl_ms));
            if manner.asks && stood.is_none_or(|stood| stood.is_plain()) {
                answers.push(STANDS + number);
            }
        }
    }
    Reply::Array(answers.into_iter().map(Reply::Int).collect())
}
