//! What is kept of an input's score: its entry in the cache, its row in the database. Pure.

use crate::config::StoredScores;

/// What is kept of an input's score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Its entry in the cache.
    pub entry: bool,
    /// Its row in the database.
    pub row: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            entry: true,
            row: true,
        }
    }
}

impl Retention {
    /// What is kept where costs don't matter.
    pub fn always(rows: StoredScores) -> Self {
        Self {
            entry: true,
            row: rows != StoredScores::None,
        }
    }

    /// What either keeps.
    pub fn or(self, other: Self) -> Self {
        Self {
            entry: self.entry || other.entry,
            row: self.row || other.row,
        }
    }
}
