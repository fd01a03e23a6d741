//! Which changes were met, and from where a table is read again. Pure: takes the time.
//!
//! A transaction may commit after others that took later positions. So what lies after the floor is read again and again, and what was met there
//! is passed over. A position is settled once it is known to have been there an overlap before a reading began: whatever took an earlier one has
//! committed by then, if it commits within the overlap. The floor goes to what is settled, and no further than a reading from the floor itself has
//! come: so nothing lies behind it that wasn't read after it was settled, however long a reading takes and however seldom there is one.

use crate::warm::source::Point;
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};
use tokio::time::Instant;

/// Changes that are remembered; beyond them nothing is read that isn't settled.
pub(super) const MAX_MET: usize = 100_000;
/// In how many steps the floor goes through an overlap.
const STEPS: u32 = 32;

/// What was met after the floor.
pub(super) struct Window {
    overlap: Duration,
    floor: Point,
    settled: i64,
    met: BTreeSet<(i64, u128)>,
    /// Positions that were there, and by when.
    seen: VecDeque<(Instant, i64)>,
}

impl Window {
    /// One that starts with what lies after a position.
    pub(super) fn new(overlap: Duration, position: i64) -> Self {
        Self {
            overlap,
            floor: Point::after(position),
            // Without an overlap nothing commits late.
            settled: if overlap.is_zero() {
                i64::MAX
            } else {
                position
            },
            met: BTreeSet::new(),
            seen: VecDeque::new(),
        }
    }

    /// From where a whole reading begins.
    pub(super) fn floor(&self) -> &Point {
        &self.floor
    }

    /// The last position up to which nothing is read again.
    pub(super) fn passed(&self) -> i64 {
        self.floor.position.saturating_sub(1)
    }

    /// The clock that positions are taken from says `now`: where that is before all that was passed, what changes lies where nobody looks, and the
    /// window begins anew an overlap before. Says whether it does.
    pub(super) fn step_back(&mut self, now: i64) -> bool {
        let has_gone_back = now < self.passed();
        if has_gone_back {
            let overlap = i64::try_from(self.overlap.as_micros()).unwrap_or(i64::MAX);
            *self = Self::new(self.overlap, now.saturating_sub(overlap));
        }
        has_gone_back
    }

    /// A reading from the floor begins. `moment` is no later than that, where positions are moments: one that is older than the overlap is settled
    /// by itself, which counts where more was met than is remembered.
    pub(super) fn begin(&mut self, now: Instant, moment: Option<i64>) {
        while let Some((at, position)) = self.seen.front()
            && now.duration_since(*at) >= self.overlap
        {
            self.settled = self.settled.max(*position);
            self.seen.pop_front();
        }
        if let Some(moment) = moment.filter(|_| self.is_full()) {
            let overlap = i64::try_from(self.overlap.as_micros()).unwrap_or(i64::MAX);
            self.settled = self.settled.max(moment.saturating_sub(overlap));
        }
    }

    fn is_full(&self) -> bool {
        self.met.len() >= MAX_MET
    }

    /// Whether a row at a position may be met: it can be remembered, or needn't be for long, since a whole reading leaves it behind.
    pub(super) fn has_room(&self, position: i64, is_whole: bool) -> bool {
        !self.is_full() || (is_whole && position <= self.settled)
    }

    /// Whether a row was met at a position.
    pub(super) fn has_met(&self, position: i64, row: u128) -> bool {
        position < self.floor.position || self.met.contains(&(position, row))
    }

    /// Remembers a row.
    pub(super) fn meet(&mut self, position: i64, row: u128) {
        if position >= self.floor.position {
            self.met.insert((position, row));
        }
    }

    /// A position was there by then.
    pub(super) fn see(&mut self, by: Instant, position: i64) {
        let step = self.overlap / STEPS;
        let is_news = match self.seen.back() {
            Some((at, last)) => position > *last && by.duration_since(*at) >= step,
            None => position > self.settled,
        };
        if is_news {
            self.seen.push_back((by, position));
        }
    }

    /// Everything up to a point has been met by a reading from the floor, the last of it just now: these rows, by what they are remembered by.
    pub(super) fn cover(&mut self, to: &Point, rows: &[(i64, u128)]) {
        if to.position > self.settled {
            return self.raise(Point::after(self.settled));
        }
        for (position, row) in rows.iter().filter(|(at, _)| *at == to.position) {
            self.met.remove(&(*position, *row));
        }
        self.raise(to.clone());
    }

    /// A reading from the floor came to the end of the table, or beyond what is settled.
    pub(super) fn end(&mut self) {
        if !self.overlap.is_zero() && self.settled > self.passed() {
            self.raise(Point::after(self.settled));
        }
    }

    fn raise(&mut self, floor: Point) {
        self.floor = floor;
        while let Some((position, _)) = self.met.first()
            && *position < self.floor.position
        {
            self.met.pop_first();
        }
    }
}

#[cfg(test)]
mod tests;
