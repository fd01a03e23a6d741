//! Decides which of the broker's addresses is tried next, and what counts as a failover.
//!
//! Shared by every connection of one worker: all of them prefer the address on which the last one succeeded, so that a worker lives on one
//! node and says once that it has moved. Which one is the first is drawn, so that a fleet spreads. Refuses to connect.

use crate::secret::Secret;
use rand::seq::IteratorRandom;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long an address from which nothing was heard is tried after the others.
const AVOIDED: Duration = Duration::from_secs(30);

/// The addresses of one broker.
#[derive(Debug)]
pub(super) struct Addresses {
    all: Vec<Secret>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The one that the worker's connections prefer.
    current: Option<usize>,
    known: Vec<Known>,
}

/// What is known of one address.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Why the last attempt failed, or the connection ended in silence; nothing since the last success.
    failed: Option<String>,
    /// It was silent: others first, until then.
    avoided_until: Option<Instant>,
}

/// The worker is connected to another address than before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failover {
    pub from: String,
    pub to: String,
    pub why: String,
}

impl Addresses {
    pub(super) fn new(url: &Secret) -> Self {
        let mut all = url.addresses();
        if all.is_empty() {
            // It is no URL, which whoever connects says.
            all.push(url.clone());
        }
        let known = vec![Known::default(); all.len()];
        let state = State {
            current: None,
            known,
        };
        Self {
            all,
            state: Mutex::new(state),
        }
    }

    pub(super) fn all(&self) -> &[Secret] {
        &self.all
    }

    /// The address to try after those that were `tried`; nothing where there is no other.
    pub(super) fn next(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let state = self.state();
        let is_avoided = |index: &usize| {
            let known = state.known.get(*index);
            known.is_some_and(|known| known.avoided_until.is_some_and(|until| now < until))
        };
        let left = || (0..self.all.len()).filter(|index| !tried.contains(index));
        let current = state.current.filter(|index| !tried.contains(index));
        let mut random = rand::rng();
        current
            .filter(|index| !is_avoided(index))
            .or_else(|| left().filter(|i| !is_avoided(i)).choose(&mut random))
            .or_else(|| left().choose(&mut random))
    }

    /// Notes that an attempt failed.
    pub(super) fn failed(&self, index: usize, why: String) {
        if let Some(known) = self.state().known.get_mut(index) {
            known.failed = Some(why);
        }
    }

    /// Notes that nothing was heard from an address.
    pub(super) fn silent(&self, index: usize, why: String, now: Instant) {
        if let Some(known) = self.state().known.get_mut(index) {
            known.failed = Some(why);
            known.avoided_until = Some(now + AVOIDED);
        }
    }

    /// Notes a connection. A failover is one to another address where the one before has failed since.
    pub(super) fn connected(&self, index: usize) -> Option<Failover> {
        let state = &mut *self.state();
        if let Some(known) = state.known.get_mut(index) {
            *known = Known::default();
        }
        let before = match state.current {
            None => {
                state.current = Some(index);
                return None;
            }
            Some(before) => before,
        };
        let why = state.known.get(before)?.failed.clone()?;
        state.current = Some(index);
        Some(Failover {
            from: self.all.get(before)?.host(),
            to: self.all.get(index)?.host(),
            why,
        })
    }

    /// The address that the worker's connections prefer; nothing before the first one.
    pub(super) fn current(&self) -> Option<String> {
        let current = self.state().current?;
        self.all.get(current).map(Secret::host)
    }

    /// Takes URLs and passwords out of a text.
    pub(super) fn scrub(&self, text: &str) -> String {
        let each = self.all.iter();
        each.fold(text.to_owned(), |text, url| url.scrub(&text))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Addresses {
        Addresses::new(&Secret::new("amqp://kiln:hunter2@a,b,c/v"))
    }

    #[test]
    fn every_address_is_tried_once_and_the_first_one_is_drawn() {
        let (addresses, now) = (three(), Instant::now());
        let mut first = [0; 3];
        for _ in 0..200 {
            let mut tried = Vec::new();
            while let Some(next) = addresses.next(&tried, now) {
                tried.push(next);
            }
            first[tried[0]] += 1;
            tried.sort_unstable();
            assert_eq!(tried, [0, 1, 2]);
        }
        assert!(first.iter().all(|count| *count > 20), "{first:?}");
    }

    #[test]
    fn connections_follow_the_last_one_and_a_failover_is_said_once() {
        let (addresses, now) = (three(), Instant::now());
        assert_eq!(addresses.connected(1), None, "the first is none");
        assert_eq!(addresses.next(&[], now), Some(1));
        assert_eq!(addresses.connected(1), None);
        // Somebody else was slow to connect there; the worker stays where it is.
        assert_eq!(addresses.connected(2), None);
        assert_eq!(addresses.current().as_deref(), Some("amqp://b/v"));
        addresses.failed(1, "refused".into());
        let failover = Failover {
            from: "amqp://b/v".into(),
            to: "amqp://c/v".into(),
            why: "refused".into(),
        };
        assert_eq!(addresses.connected(2), Some(failover));
        assert_eq!(addresses.connected(2), None);
        assert_eq!(addresses.next(&[], now), Some(2));
        addresses.failed(2, "cut".into());
        assert_eq!(addresses.connected(2), None, "it is where it was");
    }

    #[test]
    fn what_was_silent_is_tried_after_the_others_for_a_while() {
        let (addresses, now) = (three(), Instant::now());
        addresses.connected(0);
        addresses.silent(0, "silent".into(), now);
        for _ in 0..50 {
            assert_ne!(addresses.next(&[], now), Some(0));
            assert_eq!(addresses.next(&[1, 2], now), Some(0));
        }
        assert_eq!(addresses.next(&[], now + AVOIDED), Some(0));
        addresses.connected(0);
        assert_eq!(addresses.next(&[], now), Some(0), "it is heard again");
    }

    #[test]
    fn one_address_is_tried_whatever_it_did() {
        let (one, now) = (Addresses::new(&Secret::new("amqp://a")), Instant::now());
        one.silent(0, "silent".into(), now);
        assert_eq!(one.next(&[], now), Some(0));
        assert_eq!(one.next(&[0], now), None);
        assert_eq!(one.connected(0), None);
    }
}
