//! How many callbacks may be posted at the same time: of all, and to each host. Pure, but for the order of hosts.

use crate::config::Callbacks;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;

/// How much may still be posted, of all and to each host.
pub(super) struct Seats {
    left: usize,
    max: usize,
    by_host: BTreeMap<String, usize>,
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
        let free = self.by_host.iter().filter(|(_, seats)| **seats > 0);
        let mut free: Vec<_> = free.map(|(host, seats)| (host.clone(), *seats)).collect();
        free.shuffle(&mut rand::rng());
        free
    }

    pub(super) fn take(&mut self, host: &str) {
        self.left = self.left.saturating_sub(1);
        if let Some(seats) = self.by_host.get_mut(host) {
            *seats = seats.saturating_sub(1);
        }
    }

    pub(super) fn give_back(&mut self, host: &str) {
        self.left += 1;
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
        for host in ["a", "b", "a"] {
            seats.give_back(host);
        }
        assert!(!seats.are_taken() && seats.free().len() == 2);
    }
}
