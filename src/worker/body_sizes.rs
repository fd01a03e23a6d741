//! Decides from how large bodies are of late how many of a queue's messages may be unacknowledged. Pure.
//!
//! The broker counts messages and not bytes, so their number follows their size. Promises that a large body counts at once, and that small
//! ones are believed after a while.

use super::share::{FEW, Share};

/// Weight of a body in the running mean if it is larger than that, and if it is smaller.
const LARGER: f64 = 0.5;
const SMALLER: f64 = 0.05;

/// How large a queue's bodies are, and what follows from it.
#[derive(Debug)]
pub(super) struct BodySizes {
    share: Share,
    mean: f64,
    seen: u64,
}

/// What follows for a consumer of those beyond the first few.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It takes too many, or far too few: another one follows.
    End,
    Open(u16),
}

impl BodySizes {
    /// Of a queue with this share, nothing of which has come.
    pub fn new(share: Share) -> Self {
        Self {
            share,
            mean: 0.0,
            seen: 0,
        }
    }

    /// Notes the size of one that came.
    pub fn note(&mut self, bytes: usize) {
        let more = bytes as f64 - self.mean;
        self.mean += more * if more > 0.0 { LARGER } else { SMALLER };
        self.seen += 1;
    }

    /// Messages that may be unacknowledged: the first few, and as many as fit.
    fn fitting(&self) -> u16 {
        let fit = self.share.bytes as f64 / self.mean.max(1.0);
        let fit = fit.min(f64::from(self.share.max)) as u16;
        fit.max(self.share.few)
    }

    fn are_known(&self) -> bool {
        self.seen >= u64::from(FEW)
    }

    /// What is to become of a consumer that takes so many beyond the first few; of none, where there is none.
    pub fn change(&self, now: Option<u16>) -> Change {
        let wanted = self.fitting() - self.share.few;
        match now {
            Some(now) if wanted < now / 2 || wanted / 2 > now => Change::End,
            None if wanted > 0 && self.are_known() => Change::Open(wanted),
            _ => Change::None,
        }
    }

    /// How many a consumer is to take that takes so many, the first few among them; none where that is right.
    pub fn replacing(&self, now: u16) -> Option<u16> {
        let wanted = self.fitting();
        let is_wide = wanted < now / 2;
        let is_narrow = wanted / 2 >= now && self.are_known();
        (is_wide || is_narrow).then_some(wanted)
    }

    /// Whether a consumer that takes so many takes fewer than it might, for the bodies' size.
    pub fn are_narrow(&self, now: u16) -> bool {
        self.are_known() && now < self.share.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(prefetch: u16) -> BodySizes {
        BodySizes::new(Share::jobs(prefetch, 256 << 20, 0))
    }

    #[test]
    fn few_large_bodies_are_unacknowledged_and_many_small_ones() {
        let mut sizes = sizes(1_000);
        for _ in 0..16 {
            sizes.note(2_200);
        }
        assert_eq!(sizes.fitting(), 1_000);
        // The first large one counts at once.
        sizes.note(4 << 20);
        assert!(sizes.fitting() < 48, "{}", sizes.fitting());
        for _ in 0..200 {
            sizes.note(4 << 20);
        }
        assert_eq!(sizes.fitting(), FEW);
        for _ in 0..200 {
            sizes.note(2_200);
        }
        assert_eq!(sizes.fitting(), 1_000);
        let few = BodySizes::new(Share::jobs(8, 256 << 20, 0));
        assert_eq!(few.fitting(), 8);
    }

    #[test]
    fn it_goes_back_to_many_when_bodies_are_small_again() {
        let mut sizes = sizes(1_000);
        assert_eq!(sizes.change(None), Change::None, "nothing is known yet");
        (0..16).for_each(|_| sizes.note(2_200));
        assert_eq!(sizes.change(None), Change::Open(984));
        assert_eq!(sizes.change(Some(984)), Change::None);
        (0..40).for_each(|_| sizes.note(1 << 20));
        assert_eq!(sizes.change(Some(984)), Change::End);
        let Change::Open(medium) = sizes.change(None) else {
            panic!("some fit");
        };
        assert_eq!(sizes.change(Some(medium)), Change::None);
        (0..200).for_each(|_| sizes.note(2_200));
        assert_eq!(sizes.change(Some(medium)), Change::End);
        assert_eq!(sizes.change(None), Change::Open(984));
    }

    #[test]
    fn a_lanes_consumer_is_replaced_by_a_wide_one_and_by_a_narrow_one() {
        let share = Share::lane(32, 64 << 20, 4);
        let mut sizes = BodySizes::new(share);
        assert_eq!(sizes.replacing(2), None, "nothing is known yet");
        (0..16).for_each(|_| sizes.note(2_200));
        assert!(sizes.are_narrow(2) && !sizes.are_narrow(32));
        assert_eq!(sizes.replacing(2), Some(32));
        assert_eq!(sizes.replacing(32), None);
        sizes.note(8 << 20);
        assert_eq!(sizes.replacing(32), Some(2), "at once");
        assert_eq!(sizes.replacing(2), None);
        (0..200).for_each(|_| sizes.note(2_200));
        assert_eq!(sizes.replacing(2), Some(32));
        // One that may never take more is left as it is.
        let limited = BodySizes::new(Share::lane(2, 64 << 20, 4));
        assert_eq!(limited.replacing(2), None);
    }
}
