//! Owns why inputs miss: asked for the first time, again after their entry's life, or although it should have been there.
//!
//! Promises a bounded table and next to no cost: only one input in sixteen is watched, the same ones always. Pure but for the clock.

use super::window::Causes;
use kiln_contract::key::InputHash;
use std::collections::HashMap;

/// Inputs that are watched at once.
const MAX_WATCHED: usize = 16_384;
/// One in so many is watched.
const WATCHED: u8 = 16;
/// Until when after the end of its life an input's entry would have been worth keeping, in seconds.
pub const SOON: u64 = 1_800;

/// When some inputs were last scored, and how long their entries live.
#[derive(Debug, Default)]
pub struct Watched {
    ends: HashMap<u64, u64, ahash::RandomState>,
}

impl Watched {
    /// Notes that an input is scored at `now`, in seconds, for an entry of `ttl` seconds; says why it missed, where it is watched.
    pub fn missed(&mut self, input: &InputHash, now: u64, ttl: u64) -> Option<Causes> {
        let [first, rest @ ..] = input;
        if first % WATCHED != 0 {
            return None;
        }
        let short = rest
            .iter()
            .take(8)
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        let mut causes = Causes::default();
        match self.ends.get(&short) {
            None => causes.first = 1,
            // Entries live up to a tenth shorter than they are asked to.
            Some(end) if now + ttl / 10 < *end => causes.dropped = 1,
            Some(end) if now < end + SOON => causes.soon_after = 1,
            Some(_) => causes.late = 1,
        }
        if self.ends.len() >= MAX_WATCHED {
            // Those that expired longest ago say least; a quarter goes, so that this is seldom done.
            let mut ends: Vec<u64> = self.ends.values().copied().collect();
            let (_, middle, _) = ends.select_nth_unstable(MAX_WATCHED / 4);
            let middle = *middle;
            self.ends.retain(|_, end| *end > middle);
        }
        self.ends.insert(short, now + ttl);
        Some(causes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(n: u8) -> InputHash {
        let mut input = [n; 32];
        input[0] = 16;
        input
    }

    #[test]
    fn a_miss_is_told_by_when_its_entry_ended() {
        let mut watched = Watched::default();
        let mut why = |n, now| watched.missed(&input(n), now, 600).expect("watched");
        assert_eq!(why(1, 0).first, 1);
        assert_eq!(why(1, 100).dropped, 1);
        assert_eq!(why(1, 690).soon_after, 1, "it may have ended a tenth early");
        assert_eq!(why(1, 690 + 600 + SOON).late, 1);
        assert_eq!(why(2, 5_000).first, 1);
        assert_eq!(watched.missed(&[1; 32], 0, 600), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut watched = Watched::default();
        for n in 0..100_000u64 {
            let mut input = [0; 32];
            input[1..9].copy_from_slice(&n.to_be_bytes());
            watched.missed(&input, n, 600);
        }
        assert!(watched.ends.len() <= MAX_WATCHED);
    }
}
