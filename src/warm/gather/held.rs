//! The candidates of a plan while its source is read: no more of them than may be chosen, and no more bytes than there is room for.

use super::PlannedEntry;
use crate::warm::{
    plan::{self, Candidate, LeftOver, MemoryRoom},
    schedule::Budget,
    source::{Row, RowContent},
};

/// Bytes of rows that a plan holds.
pub(super) const MAX_BYTES: usize = 128 << 20;
/// What a row takes beside its texts, about.
const ROW_BYTES: usize = 200;

/// The part of the model time that isn't worth reading on for.
const REST: f64 = 1.0 / 16.0;

/// Bytes that a row takes, about.
pub(super) fn bytes_of(row: &Row) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let content = match &row.content {
        RowContent::Text { text, pair } => text.len() + length(pair),
        RowContent::Features(features) => size_of_val(features.as_slice()),
    };
    ROW_BYTES + content + length(&row.key) + length(&row.group)
}

/// Candidates so far.
pub(super) struct Held {
    pub candidates: Vec<PlannedEntry>,
    bytes: usize,
    max_bytes: usize,
    budget: Budget,
    /// What is left of it to those without a rate: of them the first ones are chosen.
    unrated: Budget,
    is_any_rated: bool,
    /// Whether more of the source would be too much to hold.
    pub is_cut_short: bool,
}

impl Held {
    pub fn new(budget: &Budget, max_bytes: usize) -> Self {
        Self {
            candidates: Vec::new(),
            bytes: 0,
            max_bytes,
            budget: *budget,
            unrated: *budget,
            is_any_rated: false,
            is_cut_short: false,
        }
    }

    /// Adds a candidate, or counts it as left over where it can't be chosen in any case.
    pub fn add(&mut self, one: PlannedEntry, left: &mut LeftOver) {
        if one.candidate.rate.is_some() {
            self.is_any_rated = true;
        } else if let Some(left) = self.refuse(&one.candidate, left) {
            *left += one.candidate.inputs;
            return;
        }
        self.bytes += one.rows.iter().map(bytes_of).sum::<usize>();
        self.candidates.push(one);
        if self.bytes > self.max_bytes {
            self.prune(left);
            self.is_cut_short = self.bytes > self.max_bytes / 2;
        }
    }

    /// Whether nothing that follows in the source would be chosen or held. Where a rate is known of any, the best may come last.
    pub fn is_full(&self) -> bool {
        let seconds = self.unrated.model_seconds.zip(self.budget.model_seconds);
        let computes =
            self.unrated.inputs == 0 || seconds.is_some_and(|(left, all)| left <= all * REST);
        self.is_cut_short || (!self.is_any_rated && computes && self.unrated.renewals == 0)
    }

    /// Takes one without a rate out of what is left; or says where it is counted as left over.
    fn refuse<'a>(&mut self, one: &Candidate, left: &'a mut LeftOver) -> Option<&'a mut usize> {
        let renewed = one.inputs.saturating_sub(one.computes);
        let seconds = self.unrated.model_seconds.unwrap_or(f64::INFINITY);
        if one.computes > 0 && (one.computes > self.unrated.inputs || one.cost > seconds) {
            return Some(&mut left.compute);
        }
        if renewed > self.unrated.renewals {
            return Some(&mut left.renewals);
        }
        self.unrated.inputs -= one.computes;
        self.unrated.renewals -= renewed;
        if let Some(seconds) = self.unrated.model_seconds.as_mut() {
            *seconds -= one.cost;
        }
        None
    }

    /// Leaves what wouldn't be chosen by now: what comes later can only push out more.
    fn prune(&mut self, left: &mut LeftOver) {
        let weights: Vec<Candidate> = self.candidates.iter().map(|one| one.candidate).collect();
        let choice = plan::choose(&weights, &self.budget, MemoryRoom::UNKNOWN);
        let mut is_kept = vec![false; weights.len()];
        for number in choice.chosen {
            if let Some(kept) = is_kept.get_mut(number) {
                *kept = true;
            }
        }
        left.compute += choice.left.compute;
        left.renewals += choice.left.renewals;
        let mut kept = is_kept.into_iter();
        self.candidates.retain(|_| kept.next().unwrap_or_default());
        let rows = self.candidates.iter().flat_map(|one| &one.rows);
        self.bytes = rows.map(bytes_of).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(rate: Option<f64>, computes: usize, text: usize) -> PlannedEntry {
        PlannedEntry {
            key: None,
            rows: vec![Row {
                key: None,
                group: None,
                content: RowContent::Text {
                    text: "x".repeat(text),
                    pair: None,
                },
                rate,
            }],
            candidate: Candidate {
                inputs: 1,
                computes,
                rate,
                ttl: 60.0,
                cost: 0.01 * computes as f64,
                wait: 0.01,
                ..Candidate::default()
            },
            left: None,
            from_table: 0,
            full_seconds: 0.01,
            ttl_seconds: 60,
            missing: Vec::new(),
        }
    }

    fn budget(inputs: usize, model_seconds: Option<f64>, renewals: usize) -> Budget {
        Budget {
            inputs,
            model_seconds,
            renewals,
        }
    }

    #[test]
    fn without_rates_no_more_is_held_than_both_budgets_take() {
        let (mut held, mut left) = (
            Held::new(&budget(20, None, 30), MAX_BYTES),
            LeftOver::default(),
        );
        for _ in 0..1_000 {
            held.add(one(None, 1, 10), &mut left);
            assert!(!held.is_full(), "what is known may still follow");
        }
        for _ in 0..30 {
            held.add(one(None, 0, 10), &mut left);
        }
        assert!(held.is_full());
        held.add(one(None, 0, 10), &mut left);
        assert_eq!(held.candidates.len(), 50);
        assert_eq!((left.compute, left.renewals, left.memory), (980, 1, 0));
        let mut held = Held::new(&budget(1_000, Some(0.105), 0), MAX_BYTES);
        for _ in 0..100 {
            held.add(one(None, 1, 10), &mut left);
        }
        assert_eq!((held.candidates.len(), held.is_full()), (10, true));
    }

    #[test]
    fn what_is_rated_is_held_as_far_as_there_is_room_and_the_best_of_it_stays() {
        let (mut held, mut left) = (
            Held::new(&budget(10, None, 0), 100_000),
            LeftOver::default(),
        );
        for number in 0..5_000 {
            held.add(one(Some(f64::from(number)), 1, 800), &mut left);
            assert!(held.candidates.len() <= 101 && !held.is_full());
        }
        let last = held.candidates.last().and_then(|one| one.candidate.rate);
        assert_eq!(last, Some(4_999.0));
        assert_eq!(held.candidates.len() + left.compute, 5_000);
        // All of them may be chosen, and are too much.
        let mut held = Held::new(&budget(10_000, None, 0), 100_000);
        while !held.is_full() {
            held.add(one(Some(1.0), 1, 800), &mut left);
        }
        assert!(held.is_cut_short && held.candidates.len() <= 101);
    }
}
