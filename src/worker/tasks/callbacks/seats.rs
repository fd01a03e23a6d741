//! How many callbacks may be posted at the same time: of all, and to each host. Pure, but for the order of hosts.

use crate::config::Callbacks;
use rand::seq::SliceRandom;
use std::collections::{BTreeMap, BTreeSet};

/// How much may still be posted, of all and to each host.
pub(super) struct Seats {
    left: usize,
    max: usize,
    by_host: BTreeMap<String, usize>,
    max_per_host: usize,
    /// Hosts that took long the last time: they have one seat each, however many of them there are.
    slow: BTreeSet<String>,
}

impl Seats {
    pub(super) fn new(settings: &Callbacks) -> Self {
        let hosts = settings.listed().map(str::to_owned);
        Self {
            left: settings.at_once,
            max: settings.at_once,
            by_host: hosts
                .map(|host| (host, settings.at_once_per_host))
                .collect(),
            max_per_host: settings.at_once_per_host,
            slow: BTreeSet::new(),
        }
    }

    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn are_taken(&self) -> bool {
        self.left < self.max
    }

    /// Hosts with free seats, in any order, so that none is always the last; none where all are taken.
    pub(super) fn free(&self) -> Vec<(String, usize)> {
        if self.left == 0 {
            return Vec::new();
        }
        let free = self.by_host.iter().map(|(host, left)| {
            let kept = match self.slow.contains(host) {
                true => self.max_per_host.saturating_sub(1),
                false => 0,
            };
            (host.clone(), left.saturating_sub(kept))
        });
        let mut free: Vec<_> = free.filter(|(_, seats)| *seats > 0).collect();
        free.shuffle(&mut rand::rng());
        free
    }

    pub(super) fn take(&mut self, host: &str) {
        self.left = self.left.saturating_sub(1);
        if let Some(seats) = self.by_host.get_mut(host) {
            *seats = seats.saturating_sub(1);
        }
    }

    /// One is free again, and whether it was taken for long.
    pub(super) fn give_back(&mut self, host: &str, was_slow: bool) {
        self.left += 1;
        match was_slow {
            true => {
                self.slow.insert(host.to_owned());
            }
            false => {
                self.slow.remove(host);
            }
        }
        if let Some(seats) = self.by_host.get_mut(host) {
            *seats += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_whose_seats_are_taken_leaves_the_others_theirs() {
        let settings = Callbacks {
            hosts: vec!["a".into(), "b".into()],
            at_once: 3,
            at_once_per_host: 2,
            ..Callbacks::default()
        };
        let mut seats = Seats::new(&settings);
        assert_eq!((seats.free().len(), seats.left()), (2, 3));
        seats.take("a");
        seats.take("a");
        assert_eq!(seats.free(), [("b".to_owned(), 2)]);
        assert_eq!(seats.left(), 1);
        seats.take("b");
        assert!(seats.free().is_empty() && seats.are_taken());
        for host in ["a", "b"] {
            seats.give_back(host, false);
        }
        seats.give_back("a", true);
        assert!(!seats.are_taken() && seats.free().len() == 2);
        let of = |seats: &Seats, host: &str| {
            let free = seats.free();
            free.iter().find(|(one, _)| one == host).map(|(_, n)| *n)
        };
        assert_eq!((of(&seats, "a"), of(&seats, "b")), (Some(1), Some(2)));
        seats.take("a");
        assert_eq!(of(&seats, "a"), None, "one at once while it is slow");
        seats.give_back("a", false);
        assert_eq!(of(&seats, "a"), Some(2));
    }
}
