//! What a file holds, piece by piece, and the lines that can't be used.

use indicatif::ProgressBar;

/// Longest line: that of a whole job, and far more than an input's. What is longer is bad, and never held.
pub const LINE_BYTES: u64 = 16 << 20;

/// A line that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    pub line: u64,
    pub problem: String,
}

/// Bad lines so far: the first few are printed, all are counted.
#[derive(Debug, Default)]
pub struct BadLines(u64);

impl BadLines {
    /// Bad lines that are printed.
    const SHOWN: u64 = 20;

    /// Counts one, and prints it above the progress.
    pub fn report(&mut self, bar: &ProgressBar, row: &str, bad: &BadLine) {
        self.0 += 1;
        if self.0 <= Self::SHOWN {
            bar.suspend(|| eprintln!("{row} {}: {}", bad.line, bad.problem));
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0
    }

    /// Says how many were not printed.
    pub fn print_rest(&self) {
        if self.0 > Self::SHOWN {
            eprintln!("… and {} more bad lines", self.0 - Self::SHOWN);
        }
    }
}

/// What a file holds, piece by piece.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Inputs as JSON objects, each with its line.
    Inputs(Vec<(u64, String)>),
    /// A whole job, as it stands.
    Job {
        line: u64,
        body: String,
    },
    Bad(BadLine),
}
