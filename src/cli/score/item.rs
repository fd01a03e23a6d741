//! Owns what the rows of a file are: inputs, whole jobs, or bad; and which of their columns make the input.
//!
//! Pure.

use crate::cli::file::LINE_BYTES;
use std::{cell::OnceCell, collections::HashMap, ops::Range};

/// Bytes of rows after which a block is cut, whatever their number.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Where a block ends in what the file unpacks to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Position {
    /// Which of the files, counted from 0: those before it are done.
    #[serde(default)]
    pub file: usize,
    pub bytes: u64,
    pub lines: u64,
}

/// A row.
#[derive(Debug, PartialEq)]
pub(super) enum Item {
    Input(Input),
    /// A whole job.
    Job {
        line: u64,
        body: Json,
    },
    Bad(BadRow),
}

/// An input to score.
#[derive(Debug, PartialEq)]
pub(super) struct Input {
    pub line: u64,
    pub json: Json,
    /// Other columns with their values as JSON, for the output.
    pub kept: Vec<(String, String)>,
    /// The row as it stands, where the input is made of parts of it.
    pub row: Option<Json>,
}

/// A JSON text: a part of its block, or by itself.
#[derive(Debug, PartialEq)]
pub(super) enum Json {
    In(Range<usize>),
    Own(String),
}

impl Item {
    /// The input, where it is one.
    pub fn as_input(&self) -> Option<&Input> {
        match self {
            Self::Input(input) => Some(input),
            Self::Job { .. } | Self::Bad(_) => None,
        }
    }

    /// Bytes that it holds beside its block's.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Input(input) => {
                let kept = input.kept.iter();
                let kept: usize = kept
                    .map(|(name, value)| name.len() + value.len() + 48)
                    .sum();
                input.json.bytes() + kept + input.row.as_ref().map_or(0, Json::bytes)
            }
            Self::Job { body, .. } => body.bytes(),
            Self::Bad(bad) => bad.problem.len() + bad.row.as_ref().map_or(0, String::len),
        }
    }
}

impl Json {
    fn bytes(&self) -> usize {
        match self {
            Self::In(_) => 0,
            Self::Own(text) => text.len(),
        }
    }

    /// The text.
    pub fn text<'a>(&'a self, block: &'a [u8]) -> &'a str {
        match self {
            Self::In(range) => {
                let bytes = block.get(range.clone()).unwrap_or_default();
                std::str::from_utf8(bytes).unwrap_or_default()
            }
            Self::Own(text) => text,
        }
    }
}

/// Values that are few enough to be looked through for each that is wanted.
const FEW: usize = 16;

/// Values by their names: found at once where they stand in the order in which they are asked for, else through a table, so that a row
/// of many doesn't cost the square of them.
pub(super) struct ByName<'a, V> {
    all: &'a [(String, V)],
    table: OnceCell<HashMap<&'a str, &'a V>>,
}

impl<'a, V> ByName<'a, V> {
    pub fn new(all: &'a [(String, V)]) -> Self {
        Self {
            all,
            table: OnceCell::new(),
        }
    }

    /// The first value of a name, which probably stands at a place.
    pub fn get(&self, at: usize, name: &str) -> Option<&'a V> {
        let is_it = |(one, _): &&(String, V)| one == name;
        if let Some((_, value)) = self.all.get(at).filter(is_it) {
            return Some(value);
        }
        if self.all.len() <= FEW {
            return self.all.iter().find(is_it).map(|(_, value)| value);
        }
        let table = self.table.get_or_init(|| {
            // What comes first counts, and is put there last.
            let all = self.all.iter().rev();
            all.map(|(name, value)| (name.as_str(), value)).collect()
        });
        table.get(name).copied()
    }
}

/// A row that can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    pub line: u64,
    /// The column or field at fault, by name or, in a line that is no JSON, by number.
    pub column: Option<String>,
    pub problem: String,
    /// The row as it stands, where it is text.
    pub row: Option<String>,
}

impl BadRow {
    /// A line that is longer than any may be.
    pub fn too_long(line: u64) -> Self {
        Self {
            line,
            column: None,
            problem: format!("longer than {LINE_BYTES} bytes"),
            row: None,
        }
    }
}

/// Which fields of a line make the input, and which go to the output. Without it, a line is the input.
#[derive(Debug, Clone, Default)]
pub(super) struct Pick {
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub key: Option<String>,
    pub features: Vec<String>,
    /// Whether the fields' names are the features'; one that isn't there is missing then.
    pub by_name: bool,
    pub keep: Keep,
}

/// Columns that go to the output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Keep {
    #[default]
    None,
    /// All that make no input.
    Others,
    These(Vec<String>),
}

impl Pick {
    /// Whether lines are to be taken apart.
    pub fn is_needed(&self) -> bool {
        self.text.is_some()
            || self.text_pair.is_some()
            || self.key.is_some()
            || !self.features.is_empty()
            || self.keep != Keep::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_wherever_they_stand() {
        for count in [3, 1_000] {
            let all: Vec<(String, usize)> = (0..count).map(|n| (format!("c{n}"), n)).collect();
            let found = ByName::new(&all);
            assert_eq!(found.get(2, "c2"), Some(&2));
            assert_eq!(found.get(2, "c0"), Some(&0));
            assert_eq!(found.get(count + 1, "c1"), Some(&1));
            assert_eq!(found.get(0, "none"), None);
        }
        let twice: Vec<(String, usize)> = (0..100).map(|n| (format!("c{}", n % 50), n)).collect();
        assert_eq!(ByName::new(&twice).get(99, "c7"), Some(&7));
    }
}
