//! The whole encoder: embeddings, layers, and one vector a text.

mod workspace;

use super::attention::{self, Attention, Heads};
use super::pointwise::Finish;
use super::threads::{Sharing, ThreadPool};
use super::weights::{Layer, Tables};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use workspace::Workspace;

/// Tokens that one thread carries through the layers at a time: what they need fits the processor's caches.
const PIECE_TOKENS: usize = 256;

/// How the tokens' vectors become a text's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over its tokens.
    Mean,
    /// The mean over its tokens after the first so many; zeros where there are no more.
    MeanAfter(usize),
    /// The first token's.
    First,
}

/// Texts to encode, unpadded.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    /// Every text's tokens, one after the other.
    pub ids: &'a [u32],
    /// The type of every token; not read if the encoder has no types.
    pub types: &'a [u32],
    /// Tokens a text, none of them 0.
    pub lengths: &'a [usize],
}

/// A transformer encoder of BERT's kind with its weights.
#[derive(Debug)]
pub struct Encoder {
    hidden: usize,
    heads: Heads,
    /// The first token's row in the position table; the row before, if any, is that of the token of the same number.
    position_offset: usize,
    activation: Finish,
    tables: Tables,
    layers: Vec<Layer>,
    attention: Attention,
    /// Whether sums go on beside the norms.
    keeps_sums: bool,
    workspaces: Mutex<Vec<Workspace>>,
}

impl Encoder {
    /// Puts an encoder together from tables and layers that work on rows of `hidden` numbers.
    ///
    /// `position_offset` is the first token's row in the position table: 2 for RoBERTa's kind, 0 for BERT's. If it isn't 0, the
    /// row before belongs to the padding token, whose number in the vocabulary is the same: written out in a text, it takes
    /// that row and isn't counted.
    ///
    /// # Panics
    /// If `heads` don't divide `hidden`, or the tables and layers are not of that width.
    pub fn new(
        hidden: usize,
        heads: usize,
        position_offset: usize,
        activation: Finish,
        tables: Tables,
        layers: Vec<Layer>,
    ) -> Self {
        assert!(hidden > 0, "hidden is 0");
        assert!(
            heads > 0 && hidden.is_multiple_of(heads),
            "{heads} heads don't divide {hidden} numbers"
        );
        tables.assert_width(hidden);
        layers.iter().for_each(|layer| layer.assert_width(hidden));
        let positions = tables.positions.as_ref();
        assert!(
            positions.is_none_or(|table| position_offset <= table.len() / hidden),
            "position_offset lies outside the position table"
        );
        Self {
            hidden,
            heads: Heads {
                count: heads,
                width: hidden / heads,
            },
            position_offset,
            activation,
            tables,
            layers,
            attention: Attention::Plain,
            keeps_sums: false,
            workspaces: Mutex::default(),
        }
    }

    /// With that attention in its layers.
    ///
    /// # Panics
    /// If it is of other heads or another number of layers.
    pub fn with_attention(mut self, attention: Attention) -> Self {
        attention.assert_fits(self.heads, self.layers.len());
        self.attention = attention;
        self
    }

    /// With its sums kept: what attention and the feed-forward part give is added to sums that no norm goes through, and each norm gives
    /// what the next part works on: a layer's first norm its feed-forward part, its second the next layer's attention, or the result.
    /// (Elsewhere these are called norms before the parts.)
    pub fn with_sums_kept(mut self) -> Self {
        self.keeps_sums = true;
        self
    }

    /// One vector a text, `[texts, hidden]`, one after the other. A text's vector is the same bits whatever other texts are
    /// there, and however many threads share the work.
    ///
    /// # Panics
    /// If the lengths don't add up to the tokens or one is 0, or a token, a type or a text's length lies outside the tables.
    pub fn encode(&self, texts: Texts<'_>, pooling: Pooling, threads: &ThreadPool) -> Vec<f32> {
        self.assert_fits(texts);
        let mut vectors = vec![0.0; texts.lengths.len() * self.hidden];
        threads.run(|| {
            // With enough texts every thread gets some of its own and never waits; a few texts are shared, step by step.
            if texts.lengths.len() < 2 * threads.count() {
                self.encode_piece(texts, pooling, &mut vectors, Sharing::Shared);
                return;
            }
            let mut pieces = Vec::new();
            let mut rest = vectors.as_mut_slice();
            for (tokens, rows) in pieces_of(texts.lengths, threads.count()) {
                let (vectors, after) = rest.split_at_mut(rows.len() * self.hidden);
                rest = after;
                let part = Texts {
                    ids: &texts.ids[tokens.clone()],
                    types: texts.types.get(tokens).unwrap_or_default(),
                    lengths: &texts.lengths[rows],
                };
                pieces.push((part, vectors));
            }
            pieces
                .into_par_iter()
                .with_max_len(1)
                .for_each(|(part, vectors)| {
                    self.encode_piece(part, pooling, vectors, Sharing::Alone)
                });
        });
        vectors
    }

    fn assert_fits(&self, texts: Texts<'_>) {
        let Texts {
            ids,
            types,
            lengths,
        } = texts;
        assert_eq!(
            lengths.iter().sum::<usize>(),
            ids.len(),
            "tokens, which the lengths add up to"
        );
        assert!(!lengths.contains(&0), "a text has no tokens");
        let rows = |table: &[f32]| table.len() / self.hidden;
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let of_table = self.tables.positions.as_deref();
        let of_table = of_table.map(|table| rows(table) - self.position_offset);
        for positions in [of_table, self.attention.longest()].into_iter().flatten() {
            assert!(
                longest <= positions,
                "a text has {longest} tokens, there are {positions} positions"
            );
        }
        let lie_within =
            |numbers: &[u32], rows: usize| numbers.iter().all(|&i| (i as usize) < rows);
        assert!(
            lie_within(ids, rows(&self.tables.words)),
            "a token lies outside the vocabulary"
        );
        if let Some(table) = &self.tables.types {
            assert_eq!(types.len(), ids.len(), "types, one a token");
            assert!(
                lie_within(types, rows(table)),
                "a type lies outside its table"
            );
        }
    }

    fn encode_piece(
        &self,
        texts: Texts<'_>,
        pooling: Pooling,
        vectors: &mut [f32],
        sharing: Sharing,
    ) {
        let mut space = self.lock().pop().unwrap_or_default();
        self.forward(&mut space, texts, sharing);
        let mut from = 0;
        for (vector, &length) in vectors.chunks_exact_mut(self.hidden).zip(texts.lengths) {
            match pooling {
                Pooling::First => {
                    space.x.gather(from, &mut space.row);
                    vector.copy_from_slice(&space.row);
                }
                Pooling::Mean | Pooling::MeanAfter(_) => {
                    let skipped = match pooling {
                        Pooling::MeanAfter(skipped) => skipped.min(length),
                        _ => 0,
                    };
                    for token in from + skipped..from + length {
                        space.x.gather(token, &mut space.row);
                        for (sum, x) in vector.iter_mut().zip(&space.row) {
                            *sum += x;
                        }
                    }
                    for sum in vector.iter_mut() {
                        *sum /= (length - skipped).max(1) as f32;
                    }
                }
            }
            from += length;
        }
        self.lock().push(space);
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Workspace>> {
        self.workspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every token's vector, into `space.x`.
    fn forward(&self, space: &mut Workspace, texts: Texts<'_>, sharing: Sharing) {
        let spans: Vec<Range<usize>> = texts
            .lengths
            .iter()
            .scan(0, |end, &length| {
                let start = *end;
                *end += length;
                Some(start..*end)
            })
            .collect();
        self.embed(space, texts, &spans);
        if self.keeps_sums {
            space.sum.copy(&space.x);
        }
        for (number, layer) in self.layers.iter().enumerate() {
            layer.query_key_value.multiply(
                &space.x,
                &mut space.bytes,
                &mut space.wide,
                Finish::Plain,
                sharing,
            );
            attention::attend(
                &space.wide,
                &spans,
                self.heads,
                self.attention.of_layer(number),
                &mut space.attended,
                sharing,
            );
            layer.attended.multiply(
                &space.attended,
                &mut space.bytes,
                &mut space.added,
                Finish::Plain,
                sharing,
            );
            space.add_and_norm(&layer.attended_norm, self.keeps_sums);
            layer.up.multiply(
                &space.x,
                &mut space.bytes,
                &mut space.wide,
                self.activation,
                sharing,
            );
            if let Some(gate) = &layer.gate {
                gate.multiply(
                    &space.x,
                    &mut space.bytes,
                    &mut space.gate,
                    Finish::Plain,
                    sharing,
                );
                space.wide.times(&space.gate, sharing);
            }
            layer.down.multiply(
                &space.wide,
                &mut space.bytes,
                &mut space.added,
                Finish::Plain,
                sharing,
            );
            space.add_and_norm(&layer.norm, self.keeps_sums);
        }
    }

    fn embed(&self, space: &mut Workspace, texts: Texts<'_>, spans: &[Range<usize>]) {
        let hidden = self.hidden;
        let table_row = |table: &'_ [f32], row: usize, sum: &mut Vec<f32>| {
            for (sum, x) in sum.iter_mut().zip(&table[row * hidden..]) {
                *sum += x;
            }
        };
        space.x.resize(texts.ids.len(), hidden);
        for span in spans {
            let mut position = self.position_offset;
            for token in span.clone() {
                space.row.clear();
                let word = texts.ids[token] as usize * hidden;
                space
                    .row
                    .extend_from_slice(&self.tables.words[word..word + hidden]);
                if let Some(types) = &self.tables.types {
                    table_row(types, texts.types[token] as usize, &mut space.row);
                }
                // The row before the first belongs to a padding token, which isn't counted.
                let is_padding = texts.ids[token] as usize + 1 == self.position_offset;
                let row = if is_padding {
                    self.position_offset - 1
                } else {
                    position
                };
                position += usize::from(!is_padding);
                if let Some(positions) = &self.tables.positions {
                    table_row(positions, row, &mut space.row);
                }
                space.norm_row(&self.tables.norm);
                space.x.scatter(token, &space.row);
            }
        }
    }
}

/// Cuts texts into pieces of about as many tokens, small enough for the caches and enough for the threads: the tokens and
/// the texts of each.
fn pieces_of(lengths: &[usize], threads: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let all: usize = lengths.iter().sum();
    let max_tokens = all.div_ceil(2 * threads).min(PIECE_TOKENS);
    let mut pieces = Vec::new();
    let (mut tokens, mut rows) = (0..0, 0..0);
    for &length in lengths {
        if !rows.is_empty() && tokens.len() + length > max_tokens {
            pieces.push((tokens.clone(), rows.clone()));
            tokens = tokens.end..tokens.end;
            rows = rows.end..rows.end;
        }
        tokens.end += length;
        rows.end += 1;
    }
    if !rows.is_empty() {
        pieces.push((tokens, rows));
    }
    pieces
}
