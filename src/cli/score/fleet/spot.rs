//! Owns a job's place in the files, and the id that follows from it. Pure.

use super::super::item::Position;

/// Hexadecimal digits of a body's hash in an id.
const HASH_DIGITS: usize = 16;

/// Where a job's first row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli::score) struct Place {
    /// Which of the files, counted from 0.
    pub file: usize,
    /// The line, or a table's row, counted from 1.
    pub line: u64,
}

impl Place {
    /// The id of a job: its run, its place and its body's hash.
    pub fn key(self, run: &str, hash: &[u8; 32]) -> String {
        let mut hash = hex::encode(hash);
        hash.truncate(HASH_DIGITS);
        format!("{run}.{}.{}.{hash}", self.file, self.line)
    }

    /// The place that an id of a run tells.
    pub fn of_key(key: &str, run: &str) -> Option<Self> {
        let mut parts = key.strip_prefix(run)?.strip_prefix('.')?.split('.');
        Some(Self {
            file: parts.next()?.parse().ok()?,
            line: parts.next()?.parse().ok()?,
        })
    }

    /// Whether its rows are before a position.
    pub fn is_before(self, end: Position) -> bool {
        (self.file, self.line) <= (end.file, end.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_its_place() {
        let spot = Place {
            file: 3,
            line: 4097,
        };
        let key = spot.key("run-1", &[0xab; 32]);
        assert_eq!(key, "run-1.3.4097.abababababababab");
        assert_eq!(Place::of_key(&key, "run-1"), Some(spot));
        assert_eq!(Place::of_key(&key, "run-2"), None);
        assert_eq!(Place::of_key("run-1.3", "run-1"), None);
        let end = |file, lines| Position {
            file,
            bytes: 0,
            lines,
        };
        assert!(spot.is_before(end(3, 4097)) && spot.is_before(end(4, 0)));
        assert!(!spot.is_before(end(3, 4096)));
    }
}
