//! Rows that commit late, that share a position, and that are more than can be remembered: each is met, and hardly one twice.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const OVERLAP: Duration = Duration::from_secs(32);
const SECOND: Duration = Duration::from_secs(1);
const PAGE: usize = 256;

/// A table by position and tie, its window, and how often each row was posted.
struct Table {
    rows: BTreeSet<(i64, u64)>,
    window: Window,
    posted: BTreeMap<(i64, u64), usize>,
    now: Instant,
}

impl Table {
    fn new(overlap: Duration) -> Self {
        Self {
            rows: BTreeSet::new(),
            window: Window::new(overlap, 0),
            posted: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    fn after(&self, from: &Point) -> Vec<(i64, u64)> {
        let tie = from.key.parse().map_or(0, |tie: u64| tie + 1);
        let after = self.rows.range((from.position, tie)..);
        after.take(PAGE).copied().collect()
    }

    /// Reads from the floor as far as there is room and budget; says whether it came to the end.
    fn read(&mut self, mut budget: usize, moment: Option<i64>) -> bool {
        self.window.begin(self.now, moment);
        let mut from = self.window.floor().clone();
        loop {
            let page = self.after(&from);
            let Some(last) = page.last() else {
                self.window.end();
                return true;
            };
            let marks: Vec<(i64, u128)> =
                page.iter().map(|(at, tie)| (*at, (*tie).into())).collect();
            self.window.see(self.now, last.0);
            let is_new = |(at, tie): &&(i64, u128)| !self.window.has_met(*at, *tie);
            let new: Vec<(i64, u128)> = marks.iter().filter(is_new).copied().collect();
            let has_room = |(at, _): &(i64, u128)| self.window.has_room(*at, true);
            let (with_room, without): (Vec<_>, Vec<_>) = new.into_iter().partition(has_room);
            for (at, tie) in with_room {
                if budget == 0 {
                    return false;
                }
                budget -= 1;
                let count = self.posted.entry((at, tie as u64)).or_default();
                *count += 1;
                self.window.meet(at, tie);
            }
            if !without.is_empty() {
                self.window.end();
                return false;
            }
            let is_last = page.len() < PAGE;
            from = Point {
                position: last.0,
                key: last.1.to_string(),
            };
            let to = if is_last {
                Point::after(last.0)
            } else {
                from.clone()
            };
            self.window.cover(&to, &marks);
            assert!(self.window.met.len() <= MAX_MET + PAGE);
            if is_last {
                self.window.end();
                return true;
            }
        }
    }

    fn once(&self) -> bool {
        self.posted.len() == self.rows.len() && self.posted.values().all(|count| *count == 1)
    }
}

#[test]
fn a_row_that_commits_late_is_new_and_one_that_was_met_is_not() {
    let mut table = Table::new(OVERLAP);
    table.rows.insert((13, 1));
    table.read(9, None);
    table.now += OVERLAP / 2;
    table.rows.insert((12, 1));
    table.read(9, None);
    assert!(table.once());
    assert_eq!(table.window.passed(), 0);
    assert!(
        table.window.has_met(0, 7),
        "nothing before the floor is read"
    );
}

#[test]
fn the_floor_is_what_was_there_an_overlap_ago() {
    let mut table = Table::new(OVERLAP);
    for n in 1..=40 {
        table.now += SECOND;
        table.rows.insert((n, 1));
        table.read(9, None);
    }
    assert_eq!(table.window.passed(), 8);
    assert_eq!(table.window.met.len(), 32);
    table.now += OVERLAP;
    table.read(9, None);
    assert_eq!((table.window.passed(), table.window.met.len()), (40, 0));
    assert!(table.once());
}

#[test]
fn only_a_reading_that_began_after_the_overlap_raises_the_floor() {
    let (mut window, start) = (Window::new(OVERLAP, 10), Instant::now());
    window.begin(start, None);
    let page = [(20, 1)];
    window.see(start, 20);
    window.meet(20, 1);
    window.cover(&Point::after(20), &page);
    // The reading goes on for longer than the overlap: 15 may have committed after its page was read.
    window.see(start + OVERLAP * 2, 30);
    window.meet(30, 1);
    window.cover(&Point::after(30), &[(30, 1)]);
    window.end();
    assert_eq!(window.passed(), 10);
    assert!(!window.has_met(15, 1));
    // A reading that doesn't begin at the floor says nothing of what lies before it.
    window.see(start + OVERLAP * 3, 40);
    assert_eq!(window.passed(), 10);
    window.begin(start + OVERLAP * 2, None);
    window.cover(&Point::after(15), &[(15, 1)]);
    assert_eq!(window.passed(), 15, "no further than it has come");
    window.end();
    assert_eq!(window.passed(), 20);
}

#[test]
fn without_an_overlap_everything_is_read_once() {
    let mut table = Table::new(Duration::ZERO);
    table.rows.extend([(5, 1), (7, 1)]);
    table.read(9, None);
    assert_eq!((table.window.passed(), table.window.met.len()), (7, 0));
    assert!(table.once());
}

#[test]
fn more_rows_at_one_position_than_are_remembered_are_each_posted_once() {
    let mut table = Table::new(OVERLAP);
    let count = 2 * MAX_MET as u64 + 777;
    table.rows.extend((0..count).map(|tie| (5, tie)));
    let mut readings = 0;
    while !table.read(70_000, None) {
        readings += 1;
        assert!(readings < 50, "{} of {count}", table.posted.len());
        table.now += OVERLAP / 4;
    }
    assert!(table.once(), "{}", table.posted.len());
}

#[test]
fn a_late_transaction_that_is_larger_than_what_is_remembered_is_met() {
    let mut table = Table::new(OVERLAP);
    table.rows.extend((0..1_000).map(|n| (1_000 + n, 1)));
    table.read(usize::MAX, None);
    table.now += SECOND;
    table
        .rows
        .extend((0..MAX_MET as u64 + 5_000).map(|tie| (7, tie)));
    let mut readings = 0;
    while !table.read(usize::MAX, None) {
        readings += 1;
        assert!(readings < 50, "{}", table.posted.len());
        table.now += OVERLAP / 4;
    }
    assert!(table.once());
}

#[test]
fn a_table_of_old_moments_is_read_without_waiting_for_the_overlap() {
    let mut table = Table::new(OVERLAP);
    let count = 3 * MAX_MET as i64;
    table.rows.extend((1..=count).map(|at| (at, 1)));
    let now = count + 40_000_000;
    assert!(!table.read(usize::MAX, Some(now)), "it isn't full before");
    assert!(table.read(usize::MAX, Some(now)));
    assert!(table.once());
}

#[test]
fn rows_that_are_gone_do_not_fill_what_is_remembered() {
    let mut table = Table::new(OVERLAP);
    table.rows.extend((0..MAX_MET as u64).map(|tie| (5, tie)));
    table.read(usize::MAX, None);
    table.rows.clear();
    table.rows.insert((9, 1));
    assert!(!table.read(usize::MAX, None));
    for _ in 0..3 {
        table.now += OVERLAP;
        table.read(usize::MAX, None);
    }
    assert_eq!(table.posted.get(&(9, 1)), Some(&1));
    assert_eq!(table.window.met.len(), 0);
}

#[test]
fn rows_that_change_again_and_again_are_followed_though_they_fill_what_is_remembered() {
    let mut table = Table::new(OVERLAP);
    let latest = |table: &mut Table, second: i64| {
        table.rows = (0..5_000).map(|tie| (second, tie)).collect();
        table.now += SECOND;
        table.read(usize::MAX, None);
        table.posted.keys().next_back().map_or(0, |(at, _)| *at)
    };
    let mut posted: Vec<i64> = (1..200).map(|second| latest(&mut table, second)).collect();
    posted.dedup();
    assert!(posted.len() > 60, "{posted:?}");
    for _ in 0..3 {
        table.now += OVERLAP;
        table.read(usize::MAX, None);
    }
    assert_eq!(table.posted.keys().next_back(), Some(&(199, 4_999)));
    // While it is full, no partial reading adds to it.
    assert!(!(table.window.is_full() && table.window.has_room(0, false)));
}

#[test]
fn a_clock_that_goes_back_behind_the_floor_begins_anew_an_overlap_before() {
    let overlap = Duration::from_secs(30);
    let mut window = Window::new(overlap, 1_000_000_000);
    window.meet(1_010_000_000, 7);
    assert!(!window.step_back(1_000_000_001));
    assert!(
        window.has_met(1_010_000_000, 7),
        "a short step is within the overlap"
    );
    assert!(window.step_back(900_000_000));
    assert_eq!(window.passed(), 870_000_000);
    assert!(
        !window.has_met(900_000_001, 1),
        "what changes from now on is found"
    );
    assert!(!window.step_back(900_000_001), "once");
}
