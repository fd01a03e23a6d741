//! `ngram-text`: fastText's design. Words, runs of words and runs of characters are hashed into buckets, the buckets'
//! vectors are averaged, and one linear layer follows.
//!
//! The featuriser is public, so that what trains a model and what serves it cut texts the same way.

use burn_tensor::{Device, Int, Tensor, TensorData};

use super::dense::{Dense, finish, in_tiles, numbers};
use super::error::LoadError;
use super::manifest::{Manifest, NgramShape, OutputActivation};
use super::network::{Batch, Network};
use super::weights::{Expected, Weights};

/// Texts worth waking another thread for.
const SHARE_ROWS: usize = 16;

/// Cuts texts into buckets.
///
/// A word is a run of letters and digits with the apostrophes inside it; every other visible character is a word of its
/// own. A run of 1 to `word_ngrams` neighbouring words is one feature, and so is, within `<word>` (the word with its
/// boundary marks), every run of `min_chars` to `max_chars` characters. A feature's bucket is the 32-bit FNV-1a hash
/// of a byte for its kind (`w` or `c`) and its bytes in UTF-8, words joined by single spaces, modulo `buckets`.
#[derive(Debug, Clone, Copy)]
pub struct Featuriser {
    shape: NgramShape,
}

impl Featuriser {
    /// A featuriser of that shape, whose `buckets` must not be 0.
    pub fn new(shape: NgramShape) -> Self {
        Self { shape }
    }

    /// Every feature's bucket, a feature as often as it occurs; none for a text without words.
    pub fn buckets(&self, text: &str) -> Vec<u32> {
        let words: Vec<&str> = words(text).collect();
        let mut buckets = Vec::with_capacity(text.len() * 3);
        let mut rest = words.as_slice();
        while let Some((_, after)) = rest.split_first() {
            let mut hash = fnv(FNV_START, b"w");
            for (i, word) in rest.iter().take(self.shape.word_ngrams).enumerate() {
                if i > 0 {
                    hash = fnv(hash, b" ");
                }
                hash = fnv(hash, word.as_bytes());
                buckets.push(hash % self.shape.buckets);
            }
            rest = after;
        }
        if self.shape.max_chars > 0 {
            let mut marked = String::new();
            for word in words {
                marked.clear();
                marked.push('<');
                marked.push_str(word);
                marked.push('>');
                self.push_runs(&marked, &mut buckets);
            }
        }
        buckets
    }

    fn push_runs(&self, marked: &str, buckets: &mut Vec<u32>) {
        let mut rest = marked.chars();
        while !rest.as_str().is_empty() {
            let mut hash = fnv(FNV_START, b"c");
            for (i, c) in rest.clone().take(self.shape.max_chars).enumerate() {
                hash = fnv(hash, c.encode_utf8(&mut [0; 4]).as_bytes());
                if i + 1 >= self.shape.min_chars {
                    buckets.push(hash % self.shape.buckets);
                }
            }
            rest.next();
        }
    }
}

const FNV_START: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

fn fnv(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME)
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c.is_control());
        let first = rest.chars().next()?;
        let mut end = first.len_utf8();
        if first.is_alphanumeric() {
            let mut chars = rest.char_indices().skip(1).peekable();
            while let Some((at, c)) = chars.next() {
                let inside = is_apostrophe(c)
                    && chars
                        .peek()
                        .is_some_and(|(_, after)| after.is_alphanumeric());
                if !c.is_alphanumeric() && !inside {
                    break;
                }
                end = at + c.len_utf8();
            }
        }
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’')
}

pub(crate) struct NgramText {
    featuriser: Featuriser,
    /// `[buckets, dim]`.
    vectors: Tensor<2>,
    dim: usize,
    linear: Dense,
    output: OutputActivation,
    output_width: usize,
    device: Device,
}

impl NgramText {
    /// The tensors of such a manifest: `embedding.weight [buckets, dim]`, `linear.weight [out, dim]`, `linear.bias [out]`.
    pub fn expected(manifest: &Manifest) -> Vec<Expected> {
        let (buckets, dim) = manifest
            .ngram
            .map_or((0, 0), |shape| (shape.buckets as usize, shape.dim));
        let width = manifest.output_width();
        vec![
            Expected::new("embedding.weight", [buckets, dim]),
            Expected::new("linear.weight", [width, dim]),
            Expected::new("linear.bias", [width]),
        ]
    }

    /// Builds the model from weights that were checked against [`NgramText::expected`].
    pub fn build(
        manifest: &Manifest,
        mut weights: Weights,
        device: &Device,
    ) -> Result<Self, LoadError> {
        let shape = manifest
            .ngram
            .ok_or_else(|| LoadError::manifest("has no [ngram] table"))?;
        let output_width = manifest.output_width();
        let vectors = weights.take("embedding.weight");
        let linear = Dense::new(
            &weights.take("linear.weight"),
            weights.take("linear.bias"),
            shape.dim,
            output_width,
            device,
        );
        Ok(Self {
            featuriser: Featuriser::new(shape),
            vectors: Tensor::from_data(
                TensorData::new(vectors, [shape.buckets as usize, shape.dim]),
                device,
            ),
            dim: shape.dim,
            linear,
            output: manifest.output.activation,
            output_width,
            device: device.clone(),
        })
    }

    /// The mean of a text's vectors; zeros for a text without words. Each text is averaged by itself: gathered
    /// together and padded, its sum would be cut by its neighbours' lengths.
    fn mean(&self, text: &str, into: &mut [f32]) {
        let buckets: Vec<i32> = self
            .featuriser
            .buckets(text)
            .into_iter()
            .map(|bucket| bucket as i32)
            .collect();
        if buckets.is_empty() {
            return;
        }
        let count = buckets.len();
        let at = Tensor::<1, Int>::from_data(TensorData::new(buckets, [count]), &self.device);
        let mean = self.vectors.clone().select(0, at).mean_dim(0);
        into.copy_from_slice(&numbers(mean));
    }
}

impl Network for NgramText {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Texts(texts) = batch else {
            unreachable!("rows were checked to be texts")
        };
        let fill = |rows: std::ops::Range<usize>, tile: &mut [f32]| {
            let texts = texts.iter().skip(rows.start);
            for (row, into) in texts.zip(tile.chunks_exact_mut(self.dim)) {
                self.mean(&row.text, into);
            }
        };
        in_tiles(
            texts.len(),
            self.dim,
            self.output_width,
            &self.device,
            fill,
            |x| finish(self.linear.forward(x), self.output),
        )
    }

    fn smallest_share(&self) -> usize {
        SHARE_ROWS
    }
}

#[cfg(test)]
mod tests;
