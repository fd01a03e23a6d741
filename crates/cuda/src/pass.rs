//! What one pass over texts works with.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use kiln_kernels::Texts;

use super::error::Error;
use super::launch::{BLOCK_QUERIES, Tokens, WARP_QUERIES};
use super::matrix::Matrix;

/// Buffers that go from one pass to the next, and from one model to the next.
pub(crate) struct Workspace {
    pub x: Matrix,
    /// Where sums go on beside the norms.
    pub sums: Matrix,
    pub wide: Matrix,
    pub gate: Matrix,
    pub attended: Matrix,
    pub added: Matrix,
    pub pooled: Matrix,
    /// Products of queries and of keys with embedded distances.
    pub query_places: Matrix,
    pub key_places: Matrix,
}

impl Workspace {
    /// Empty buffers.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, Error> {
        let empty = || Matrix::new(stream);
        Ok(Self {
            x: empty()?,
            sums: empty()?,
            wide: empty()?,
            gate: empty()?,
            attended: empty()?,
            added: empty()?,
            pooled: empty()?,
            query_places: empty()?,
            key_places: empty()?,
        })
    }
}

/// Cuts texts into passes of at most so many tokens, unless one text alone has more: the tokens and the texts of each.
pub(crate) fn passes(lengths: &[usize], max_tokens: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let mut passes = Vec::new();
    let (mut tokens, mut texts) = (0..0, 0..0);
    for &length in lengths {
        if !texts.is_empty() && tokens.len() + length > max_tokens {
            passes.push((tokens.clone(), texts.clone()));
            (tokens.start, texts.start) = (tokens.end, texts.end);
        }
        tokens.end += length;
        texts.end += 1;
    }
    if !texts.is_empty() {
        passes.push((tokens, texts));
    }
    passes
}

/// Puts a pass's tokens on the device; `offset` is the first token's row in the position table.
pub(crate) fn tokens(
    stream: &Arc<CudaStream>,
    texts: Texts<'_>,
    offset: usize,
) -> Result<Tokens, Error> {
    let count = texts.ids.len();
    let (mut places, mut within) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let (mut of_texts, mut items) = (Vec::new(), Vec::new());
    let mut first = 0;
    for &length in texts.lengths {
        let mut place = offset;
        for (at, &id) in texts.ids.iter().skip(first).take(length).enumerate() {
            // The row before the first belongs to a padding token, which isn't counted.
            let is_padding = id as usize + 1 == offset;
            places.push(if is_padding { offset - 1 } else { place } as u32);
            place += usize::from(!is_padding);
            within.push(at as u32);
        }
        of_texts.extend([first as i32, length as i32]);
        for query in (0..length).step_by(BLOCK_QUERIES) {
            items.extend([first as i32, length as i32, query as i32, 0]);
        }
        first += length;
    }
    let zeros;
    let types = if texts.types.len() == count {
        texts.types
    } else {
        zeros = vec![0; count];
        &zeros
    };
    // Warps without queries would hold registers until the block's others are through.
    let longest = texts.lengths.iter().copied().max().unwrap_or(1);
    let warps = longest.clamp(1, BLOCK_QUERIES).div_ceil(WARP_QUERIES);
    Ok(Tokens {
        count,
        in_block: 32 * warps as u32,
        ids: stream.clone_htod(texts.ids)?,
        types: stream.clone_htod(types)?,
        places: stream.clone_htod(&places)?,
        within: stream.clone_htod(&within)?,
        texts: stream.clone_htod(&of_texts)?,
        items: stream.clone_htod(&items)?,
    })
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn passes_are_bounded_and_no_text_is_lost() {
        assert_eq!(passes(&[], 8), []);
        assert_eq!(passes(&[3, 5, 1], 8), [(0..8, 0..2), (8..9, 2..3)]);
        assert_eq!(
            passes(&[20, 1, 20, 20], 8),
            [
                (0..20, 0..1),
                (20..21, 1..2),
                (21..41, 2..3),
                (41..61, 3..4)
            ]
        );
    }
}
