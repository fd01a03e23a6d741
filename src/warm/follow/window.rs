//! Which changes were met, and from where a table is read again. Pure: takes the time.
//!
//! A transaction may commit after others that took later positions. So what lies after the floor is read again and again, and what was met there
//! is passed over; the floor is the last position that was met an overlap ago. A row is therefore found if it commits within the overlap after
//! it took its position, since by then no later position had become the floor.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Changes that are remembered; of more, the oldest are taken for older than the overlap.
const MAX_MET: usize = 100_000;
/// In how many steps the floor goes through an overlap.
const STEPS: u32 = 32;

/// What was met after the floor.
pub(super) struct Window {
    overlap: Duration,
    floor: i64,
    met: BTreeSet<(i64, u128)>,
    /// Up to which position everything had been met, and when.
    passed: VecDeque<(Instant, i64)>,
}

impl Window {
    /// One that starts with what lies after a position.
    pub(super) fn new(overlap: Duration, floor: i64) -> Self {
        Self {
            overlap,
            floor,
            met: BTreeSet::new(),
            passed: VecDeque::new(),
        }
    }

    /// What lies at it or before isn't read again.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    /// Whether a row was met at a position.
    pub(super) fn has_met(&self, position: i64, row: u128) -> bool {
        position <= self.floor || self.met.contains(&(position, row))
    }

    /// Remembers a row.
    pub(super) fn meet(&mut self, position: i64, row: u128) {
        if position > self.floor {
            self.met.insert((position, row));
        }
    }

    /// Everything up to a position has been met, in a reading that began then.
    pub(super) fn pass(&mut self, began: Instant, position: i64) {
        let step = self.overlap / STEPS;
        let is_news = match self.passed.back() {
            Some((at, last)) => position > *last && began.duration_since(*at) >= step,
            None => position > self.floor,
        };
        if is_news {
            self.passed.push_back((began, position));
        }
        self.advance(began);
    }

    fn advance(&mut self, now: Instant) {
        while let Some((at, position)) = self.passed.front()
            && now.duration_since(*at) >= self.overlap
        {
            self.floor = self.floor.max(*position);
            self.passed.pop_front();
        }
        while self.met.len() > MAX_MET
            && let Some((position, _)) = self.met.pop_first()
        {
            self.floor = self.floor.max(position);
        }
        // What is at the floor's own position isn't read again either.
        self.met = self.met.split_off(&(self.floor.saturating_add(1), 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_secs(32);

    fn window() -> (Window, Instant) {
        (Window::new(OVERLAP, 10), Instant::now())
    }

    #[test]
    fn a_row_that_commits_late_is_new_and_one_that_was_met_is_not() {
        let (mut window, start) = window();
        window.meet(13, 1);
        window.pass(start, 13);
        assert!(window.has_met(13, 1) && !window.has_met(13, 2) && !window.has_met(12, 1));
        window.pass(start + OVERLAP / 2, 13);
        assert_eq!(window.floor(), 10);
        assert!(!window.has_met(12, 1), "a transaction that took 12 before");
        window.meet(12, 1);
        assert!(window.has_met(12, 1));
        assert!(window.has_met(10, 7), "nothing before the floor is read");
    }

    #[test]
    fn the_floor_is_what_was_passed_an_overlap_ago() {
        let (mut window, start) = window();
        let second = Duration::from_secs(1);
        for n in 1..=40u32 {
            let position = 10 + i64::from(n);
            window.meet(position, 1);
            window.pass(start + second * n, position);
        }
        // At second 40, what was passed at second 8.
        assert_eq!(window.floor(), 18);
        assert_eq!(window.met.len(), 32);
        window.pass(start + OVERLAP * 9, 50);
        assert_eq!((window.floor(), window.met.len()), (50, 0));
    }

    #[test]
    fn without_an_overlap_everything_is_read_once() {
        let mut window = Window::new(Duration::ZERO, 0);
        let start = Instant::now();
        window.meet(5, 1);
        window.pass(start, 5);
        window.pass(start, 7);
        assert_eq!(window.floor(), 7);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut window, start) = window();
        for n in 0..=MAX_MET as i64 {
            window.meet(100 + n, 1);
        }
        window.pass(start, 100);
        assert_eq!((window.met.len(), window.floor()), (MAX_MET, 100));
    }
}
