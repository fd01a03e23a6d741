//! `ngram-text`: fastText's design. Words, runs of words and runs of characters are hashed into buckets, the buckets'
//! vectors are averaged, and one linear layer follows.
//!
//! On the backends `cpu` and `cuda` it runs on Kiln's own kernels for the processor, other backends run its graph of burn operations. Both add a text's vectors
//! in the order in which the text has them. The featuriser is public, so that what trains a model and what serves it cut texts
//! the same way.

mod featuriser;

use std::cell::RefCell;

use burn_tensor::{Int, Tensor, TensorData};

use super::dense::{Dense, Tiles, finish, numbers};
use super::error::LoadError;
use super::hardware::Hardware;
use super::manifest::{Manifest, OutputActivation};
use super::network::{Batch, Network};
use super::rows::TextRow;
use super::weights::{Expected, Weights};
use featuriser::Features;
pub use featuriser::Featuriser;
use kiln_kernels::{self as kernels, EmbeddingBag, Finish, PackedLinear, Stack};

/// Texts worth waking another thread for.
const SHARE_ROWS: usize = 16;
/// Texts that go through the linear layer at a time.
const PIECE_ROWS: usize = 64;

pub(crate) struct NgramText {
    featuriser: Featuriser,
    dim: usize,
    body: Body,
    output: OutputActivation,
    output_width: usize,
}

enum Body {
    /// On the processor's own kernels.
    Kernels {
        vectors: EmbeddingBag,
        linear: Stack,
    },
    /// As burn operations.
    Graph(Box<Graph>),
}

struct Graph {
    /// `[buckets, dim]`.
    vectors: Tensor<2>,
    linear: Dense,
    tiles: Tiles,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    features: Features,
    /// The means of a piece's texts.
    means: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
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
        hardware: &Hardware,
    ) -> Result<Self, LoadError> {
        let shape = manifest
            .ngram
            .ok_or_else(|| LoadError::manifest("has no [ngram] table"))?;
        let (dim, output_width) = (shape.dim, manifest.output_width());
        let output = manifest.output.activation;
        let vectors = weights.take("embedding.weight");
        let weight = weights.take("linear.weight");
        let bias = weights.take("linear.bias");
        let body = if hardware.has_small_kernels() {
            let linear = PackedLinear::new(&weight, Some(&bias), dim, output_width);
            let finish = match output {
                OutputActivation::Sigmoid => Finish::Sigmoid,
                OutputActivation::Softmax | OutputActivation::Identity => Finish::Plain,
            };
            Body::Kernels {
                vectors: EmbeddingBag::new(vectors, dim),
                linear: Stack::new(dim, vec![(linear, finish)]),
            }
        } else {
            let device = &hardware.device;
            let vectors = TensorData::new(vectors, [shape.buckets as usize, dim]);
            Body::Graph(Box::new(Graph {
                vectors: Tensor::from_data(vectors, device),
                linear: Dense::new(&weight, bias, dim, output_width, hardware),
                tiles: Tiles::on(hardware),
            }))
        };
        Ok(Self {
            featuriser: Featuriser::new(shape),
            dim,
            body,
            output,
            output_width,
        })
    }

    fn on_kernels(&self, vectors: &EmbeddingBag, linear: &Stack, texts: &[TextRow]) -> Vec<f32> {
        let mut outputs = Vec::with_capacity(texts.len() * self.output_width);
        SCRATCH.with_borrow_mut(|Scratch { features, means }| {
            for piece in texts.chunks(PIECE_ROWS) {
                means.resize(piece.len() * self.dim, 0.0);
                for (row, mean) in piece.iter().zip(means.chunks_exact_mut(self.dim)) {
                    vectors.mean(self.featuriser.cut(&row.text, features), mean);
                }
                outputs.extend(linear.forward(means));
            }
        });
        if self.output == OutputActivation::Softmax {
            outputs
                .chunks_exact_mut(self.output_width)
                .for_each(kernels::softmax);
        }
        outputs
    }

    fn on_graph(&self, graph: &Graph, texts: &[TextRow]) -> Vec<f32> {
        let mut features = Features::default();
        let fill = |rows: std::ops::Range<usize>, tile: &mut [f32]| {
            let texts = texts.iter().skip(rows.start);
            for (row, into) in texts.zip(tile.chunks_exact_mut(self.dim)) {
                graph.mean(self.featuriser.cut(&row.text, &mut features), into);
            }
        };
        graph
            .tiles
            .run(texts.len(), self.dim, self.output_width, fill, |x| {
                finish(graph.linear.forward(x), self.output)
            })
    }
}

impl Graph {
    /// The mean of a text's vectors; zeros for a text without words. Each text is averaged by itself: gathered
    /// together and padded, its sum would be cut by its neighbours' lengths.
    fn mean(&self, buckets: &[u32], into: &mut [f32]) {
        if buckets.is_empty() {
            return;
        }
        let buckets: Vec<i32> = buckets.iter().map(|&bucket| bucket as i32).collect();
        let count = buckets.len();
        let at = Tensor::<1, Int>::from_data(TensorData::new(buckets, [count]), &self.tiles.device);
        let mean = self.vectors.clone().select(0, at).mean_dim(0);
        into.copy_from_slice(&numbers(mean));
    }
}

impl Network for NgramText {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Texts(texts) = batch else {
            unreachable!("rows were checked to be texts")
        };
        match &self.body {
            Body::Kernels { vectors, linear } => self.on_kernels(vectors, linear, texts),
            Body::Graph(graph) => self.on_graph(graph, texts),
        }
    }

    fn is_on_device(&self) -> bool {
        matches!(self.body, Body::Graph(_))
    }

    fn smallest_share(&self) -> usize {
        SHARE_ROWS
    }
}

#[cfg(test)]
mod tests;
