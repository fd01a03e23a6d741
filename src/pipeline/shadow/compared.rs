//! What is known of a shadow version: how many inputs it has scored, dropped and failed on, the latest pairs of scores, and what is wrong with it.
//!
//! Promises that pairs are of one active version: another one begins anew. Pure.

use crate::store::ScorePair;
use std::collections::VecDeque;

/// Pairs of scores that are kept, the latest ones.
const PAIRS: usize = 1_024;

/// Why a shadow version scores nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such version here, or it is refused.
    Missing,
    /// It takes or gives something else than the active version.
    Unfit(&'static str),
    /// It is the active version.
    Active,
    /// It fails on what it is given, or can't be loaded.
    Fails(String),
}

impl Trouble {
    /// What is said of it.
    pub fn reason(&self) -> String {
        match self {
            Self::Missing => "it isn't loaded here".to_owned(),
            Self::Unfit(how) => (*how).to_owned(),
            Self::Active => "it is the active version".to_owned(),
            Self::Fails(reason) => format!("it fails: {reason}"),
        }
    }

    /// Each is said once.
    fn number(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Unfit(_) => 1,
            Self::Active => 2,
            Self::Fails(_) => 3,
        }
    }
}

/// What is known of a model's shadow version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShadowFigures {
    pub model: String,
    pub version: String,
    /// The share of live jobs' inputs that it is to score.
    pub share: f64,
    /// The active version that it is compared with, once that is known.
    pub against: Option<String>,
    /// Inputs that it has scored, that found no room or no longer fit, and that it failed on, since the start.
    pub scored: u64,
    pub dropped: u64,
    pub failed: u64,
    /// Time of its passes, in seconds.
    pub seconds: f64,
    /// Why it scores nothing now, if it doesn't.
    pub trouble: Option<String>,
    /// The latest scores of both versions.
    pub pairs: Vec<ScorePair>,
}

#[derive(Debug, Default)]
pub(super) struct Compared {
    against: Option<String>,
    scored: u64,
    dropped: u64,
    failed: u64,
    seconds: f64,
    trouble: Option<Trouble>,
    /// The kinds of trouble that were said.
    said: u8,
    pairs: VecDeque<ScorePair>,
}

impl Compared {
    /// Whether it may score what comes: one that fails is tried again.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.trouble, None | Some(Trouble::Fails(_)))
    }

    /// Notes that it is compared with this version from now on.
    pub(super) fn compare_with(&mut self, against: &str) {
        if self.against.as_deref() != Some(against) {
            self.against = Some(against.to_owned());
            self.pairs.clear();
        }
        if !self.is_open() {
            self.trouble = None;
        }
    }

    pub(super) fn drop_inputs(&mut self, count: usize) {
        self.dropped += count as u64;
    }

    /// Notes what it has scored, within so many seconds.
    pub(super) fn score(&mut self, pairs: impl IntoIterator<Item = ScorePair>, seconds: f64) {
        self.trouble = None;
        self.seconds += seconds;
        for pair in pairs {
            self.scored += 1;
            if self.pairs.len() == PAIRS {
                self.pairs.pop_front();
            }
            self.pairs.push_back(pair);
        }
    }

    /// Notes what is wrong with it, and how many inputs it failed on; says whether that is to be said.
    pub(super) fn trouble(&mut self, trouble: Trouble, failed: usize) -> bool {
        self.failed += failed as u64;
        let bit = 1 << trouble.number();
        let is_news = self.said & bit == 0;
        self.said |= bit;
        self.trouble = Some(trouble);
        is_news
    }

    /// Adds what is known here.
    pub(super) fn fill(&self, figures: ShadowFigures) -> ShadowFigures {
        ShadowFigures {
            against: self.against.clone(),
            scored: self.scored,
            dropped: self.dropped,
            failed: self.failed,
            seconds: self.seconds,
            trouble: self.trouble.as_ref().map(Trouble::reason),
            pairs: self.pairs.iter().cloned().collect(),
            ..figures
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(new: f32) -> ScorePair {
        ScorePair {
            old: 0.0,
            new,
            old_label: None,
            new_label: None,
        }
    }

    #[test]
    fn the_latest_pairs_of_one_active_version_are_kept() {
        let mut compared = Compared::default();
        compared.compare_with("1");
        compared.score((0..1_500u16).map(|n| pair(f32::from(n))), 0.5);
        let figures = compared.fill(ShadowFigures::default());
        assert_eq!((figures.scored, figures.pairs.len()), (1_500, PAIRS));
        assert_eq!(figures.pairs.last(), Some(&pair(1_499.0)));
        compared.compare_with("1");
        assert_eq!(compared.pairs.len(), PAIRS);
        compared.compare_with("2");
        assert!(compared.pairs.is_empty());
    }

    #[test]
    fn each_kind_of_trouble_is_said_once() {
        let mut compared = Compared::default();
        assert!(compared.trouble(Trouble::Missing, 0) && !compared.is_open());
        assert!(!compared.trouble(Trouble::Missing, 0));
        compared.compare_with("1");
        assert!(compared.is_open());
        assert!(compared.trouble(Trouble::Fails("so".to_owned()), 3) && compared.is_open());
        compared.compare_with("1");
        assert!(compared.trouble.is_some(), "until it has scored something");
        compared.score([pair(1.0)], 0.0);
        assert_eq!((compared.trouble.clone(), compared.failed), (None, 3));
        assert!(!compared.trouble(Trouble::Fails("otherwise".to_owned()), 1));
    }
}
