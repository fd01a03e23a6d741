//! Owns what an audit says of what it looked at, and the sums of it. Pure.

use serde::Serialize;
use std::collections::BTreeMap;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Named,
    Ranking,
    Score,
}

impl Kind {
    /// What tables and JSON call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Named => "entry",
            Self::Ranking => "ranking",
            Self::Score => "score",
        }
    }
}

/// Whether it is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The model says the same, and so do its rows.
    Right,
    /// Its rows say the same; it couldn't be recomputed, for this reason.
    ByRows(Unchecked),
    /// It isn't what the model, or its row, says.
    Wrong(&'static str),
    /// There is no row that it could be of.
    WithoutRow(&'static str),
    /// It couldn't be compared with anything.
    Unchecked(Unchecked),
}

/// Why something wasn't recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchecked {
    /// The model version that it names isn't installed here.
    VersionNotHere,
    /// Its input isn't stored: `store.inputs` was off.
    InputNotStored,
    /// Jobs came first, or the model failed.
    NoTurn,
    /// Rows of its kind aren't stored: `store.served` is off, or `store.scores` or `cache.mode` leaves scores out.
    RowsOff,
    /// Nothing says which inputs all of it is made of.
    NoInputs,
}

impl Verdict {
    /// The worse of two, for what has several parts.
    pub fn worse(self, other: Self) -> Self {
        if other.weight() > self.weight() {
            other
        } else {
            self
        }
    }

    fn weight(self) -> u8 {
        match self {
            Self::Right => 0,
            Self::ByRows(_) => 1,
            Self::Unchecked(_) => 2,
            Self::WithoutRow(_) => 3,
            Self::Wrong(_) => 4,
        }
    }
}

/// What is found of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub namespace: String,
    /// Its name, or its model, version and input.
    pub name: String,
    pub kind: Kind,
    pub verdict: Verdict,
    /// Whether it is of another version than the one that its model's name means; nothing where that doesn't matter or isn't known.
    pub is_other_version: Option<bool>,
    /// Whether it is older than its namespace allows; nothing where it has no objective.
    pub is_too_old: Option<bool>,
}

/// The sums of some findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub sampled: u64,
    /// Recomputed, and the same.
    pub right: u64,
    /// As its rows have it, and not recomputed.
    pub by_rows: u64,
    pub wrong: u64,
    pub without_row: u64,
    pub unchecked: u64,
    pub other_version: u64,
    pub too_old: u64,
    pub in_time: u64,
    /// Of those that weren't recomputed: their version isn't installed here.
    pub version_not_here: u64,
    /// Of those that weren't recomputed: their input isn't stored.
    pub input_not_stored: u64,
}

impl Counts {
    /// Adds a finding.
    pub fn add(&mut self, finding: &Finding) {
        self.sampled += 1;
        let why = match finding.verdict {
            Verdict::Right => {
                self.right += 1;
                None
            }
            Verdict::Wrong(_) => {
                self.wrong += 1;
                None
            }
            Verdict::WithoutRow(_) => {
                self.without_row += 1;
                None
            }
            Verdict::ByRows(why) => {
                self.by_rows += 1;
                Some(why)
            }
            Verdict::Unchecked(why) => {
                self.unchecked += 1;
                Some(why)
            }
        };
        match why {
            Some(Unchecked::VersionNotHere) => self.version_not_here += 1,
            Some(Unchecked::InputNotStored) => self.input_not_stored += 1,
            Some(Unchecked::NoTurn | Unchecked::RowsOff | Unchecked::NoInputs) | None => {}
        }
        self.other_version += u64::from(finding.is_other_version == Some(true));
        self.too_old += u64::from(finding.is_too_old == Some(true));
        self.in_time += u64::from(finding.is_too_old == Some(false));
    }

    /// Adds other sums.
    pub fn add_all(&mut self, other: &Self) {
        self.sampled += other.sampled;
        self.right += other.right;
        self.by_rows += other.by_rows;
        self.wrong += other.wrong;
        self.without_row += other.without_row;
        self.unchecked += other.unchecked;
        self.other_version += other.other_version;
        self.too_old += other.too_old;
        self.in_time += other.in_time;
        self.version_not_here += other.version_not_here;
        self.input_not_stored += other.input_not_stored;
    }

    /// What could be compared.
    pub fn compared(&self) -> u64 {
        self.right + self.by_rows + self.wrong
    }

    /// Measured consistency: the share of what could be compared that is as it should be; nothing where nothing could.
    pub fn consistency(&self) -> Option<f64> {
        let (good, all) = (self.right + self.by_rows, self.compared());
        (all > 0).then(|| good as f64 / all as f64)
    }

    /// The share that is as young as its namespace wants; nothing where it wants nothing.
    pub fn in_time(&self) -> Option<f64> {
        let all = self.in_time + self.too_old;
        (all > 0).then(|| self.in_time as f64 / all as f64)
    }
}

/// The findings of one audit.
#[derive(Debug, Default)]
pub struct Report {
    pub counts: BTreeMap<(String, Kind), Counts>,
    /// Some of what isn't right.
    pub examples: Vec<Finding>,
}

/// Examples that are kept.
const EXAMPLES: usize = 20;

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        let key = (finding.namespace.clone(), finding.kind);
        self.counts.entry(key).or_default().add(&finding);
        let is_bad = matches!(finding.verdict, Verdict::Wrong(_) | Verdict::WithoutRow(_));
        if is_bad && self.examples.len() < EXAMPLES {
            self.examples.push(finding);
        }
    }

    /// The sums of one namespace's kinds.
    pub fn by_namespace(&self) -> BTreeMap<&str, Counts> {
        let mut sums: BTreeMap<&str, Counts> = BTreeMap::new();
        for ((namespace, _), counts) in &self.counts {
            sums.entry(namespace).or_default().add_all(counts);
        }
        sums
    }

    /// The sums of everything.
    pub fn all(&self) -> Counts {
        let mut all = Counts::default();
        self.counts.values().for_each(|counts| all.add_all(counts));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consistency_leaves_out_what_could_not_be_compared() {
        let mut report = Report::default();
        let finding = |verdict| Finding {
            namespace: "n".into(),
            name: "k".into(),
            kind: Kind::Named,
            verdict,
            is_other_version: None,
            is_too_old: Some(verdict != Verdict::Right),
        };
        assert_eq!(report.all().consistency(), None);
        for verdict in [
            Verdict::Right,
            Verdict::Right,
            Verdict::ByRows(Unchecked::VersionNotHere),
            Verdict::Wrong("it differs"),
            Verdict::Unchecked(Unchecked::RowsOff),
            Verdict::WithoutRow("none"),
        ] {
            report.add(finding(verdict));
        }
        let all = report.all();
        assert_eq!((all.sampled, all.compared()), (6, 4));
        assert_eq!(all.consistency(), Some(0.75));
        assert_eq!((all.version_not_here, all.input_not_stored), (1, 0));
        assert_eq!(all.in_time(), Some(2.0 / 6.0));
        assert_eq!(report.examples.len(), 2);
        assert_eq!(report.by_namespace().get("n"), Some(&all));
    }
}
