//! Owns how a block's rows become parts that go through the scorer: inputs in jobs, whole jobs, and bad rows, in the file's order.
//!
//! Pure.

use super::{
    item::{BadRow, Input, Item},
    scorer::Scorer,
};

/// Rows that go through the scorer together.
pub(super) enum Part<'a> {
    Inputs(Vec<&'a Input>),
    Job { line: u64, body: &'a str },
    Bad(&'a BadRow),
}

/// A block's rows as parts that go through the scorer together.
pub(super) fn parts<'a>(scorer: &Scorer, items: &'a [Item], bytes: &'a [u8]) -> Vec<Part<'a>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut rest = items;
    while let Some(first) = rest.first() {
        match first {
            Item::Job { line, body } => parts.push(Part::Job {
                line: *line,
                body: body.text(bytes),
            }),
            Item::Bad(bad) => parts.push(Part::Bad(bad)),
            Item::Input(_) => {
                let inputs: Vec<&Input> = rest.iter().map_while(Item::as_input).collect();
                let sizes: Vec<usize> = inputs
                    .iter()
                    .map(|input| input.json.text(bytes).len())
                    .collect();
                let mut left = inputs.as_slice();
                for count in scorer.cut(&sizes) {
                    let (job, others) = left.split_at_checked(count).unwrap_or((left, &[]));
                    left = others;
                    parts.push(Part::Inputs(job.to_vec()));
                }
                rest = rest.get(inputs.len()..).unwrap_or_default();
                continue;
            }
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    parts
}
