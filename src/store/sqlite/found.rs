//! Owns look-ups in the file, and what they found and took.

use super::{
    staged::{ShortHash, short},
    statements::FIND_OUTPUTS,
};
use kiln_contract::key::InputHash;
use rusqlite::{Connection, params};

/// The rows that were found for some inputs.
#[derive(Debug, Default)]
pub struct FoundScores {
    /// Of each input, in order, which of the rows is its own.
    pub of: Vec<Option<usize>>,
    /// The rows, one after the other.
    pub rows: Vec<f32>,
}

/// Adds a row to `rows`, and says which it is. One of another width is another model's, whose files were replaced under the same version.
pub(super) fn take(rows: &mut Vec<f32>, width: usize, bytes: &[u8]) -> Option<usize> {
    if bytes.len() != width * size_of::<f32>() || width == 0 {
        return None;
    }
    let (values, _) = bytes.as_chunks::<4>();
    rows.extend(values.iter().map(|b| f32::from_le_bytes(*b)));
    Some(rows.len() / width - 1)
}

/// Looks up what wasn't found yet, in the order of the keys: each page is read once.
pub(super) fn find_written(
    connection: &mut Connection,
    model: i64,
    width: usize,
    inputs: &[InputHash],
    found: &mut FoundScores,
) -> rusqlite::Result<()> {
    let mut open: Vec<(ShortHash, usize)> = inputs
        .iter()
        .enumerate()
        .filter(|(number, _)| found.of.get(*number).is_none_or(Option::is_none))
        .map(|(number, input)| (short(input), number))
        .collect();
    open.sort_unstable();
    // One view of the file for all: without it, each statement takes the log's locks anew.
    let transaction = connection.transaction()?;
    {
        let mut find = transaction.prepare_cached(FIND_OUTPUTS)?;
        for (key, number) in open {
            let mut rows = find.query(params![key, model])?;
            if let (Some(row), Some(of)) = (rows.next()?, found.of.get_mut(number)) {
                let outputs = row.get_ref(0)?.as_blob().unwrap_or_default();
                *of = take(&mut found.rows, width, outputs);
            }
        }
    }
    transaction.finish()
}
