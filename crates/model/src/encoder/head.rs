//! From the tokens' vectors to the outputs: one vector a text, an optional layer on it, and what the task asks for.

use super::weights::{LinearWeights, NormWeights};
use crate::manifest::{DenseActivation, Head, Output, OutputActivation, Pooling};
use crate::weights::Weights;
use kiln_kernels::{self as kernels, Finish, Norm, PackedLinear};

/// A head's layers.
pub(super) struct HeadLayers {
    pub pooling: Pooling,
    dense: Option<(PackedLinear, Finish)>,
    dense_norm: Option<Norm>,
    output: Option<PackedLinear>,
    activation: OutputActivation,
    /// How many of an embedding's numbers are kept, from the first on (Kusupati et al., "Matryoshka Representation Learning", 2022).
    kept: usize,
    normalise: bool,
}

impl HeadLayers {
    /// Takes the head's tensors out of checked weights; `outputs` is the last layer's width, if there is one.
    pub fn take(
        weights: &mut Weights,
        hidden: usize,
        head: &Head,
        outputs: Option<usize>,
        output: &Output,
    ) -> Self {
        let mut packed = |name: &str, inputs, outputs, bias| {
            LinearWeights::take(weights, name, inputs, outputs, bias).packed()
        };
        let dense = head.dense.map(|dense| {
            (
                packed("head.dense", hidden, dense.width, dense.bias),
                finish(dense.activation),
            )
        });
        let inputs = head.dense.map_or(hidden, |dense| dense.width);
        Self {
            pooling: head.pooling,
            dense,
            output: outputs.map(|outputs| packed("head.output", inputs, outputs, true)),
            dense_norm: head
                .dense
                .and_then(|dense| dense.norm_eps)
                .map(|eps| NormWeights::take(weights, "head.dense_norm").into_kernel(eps)),
            activation: output.activation,
            kept: output.width.unwrap_or(usize::MAX),
            normalise: head.normalise,
        }
    }

    /// The same with the layers on a graphics processor, which sends the vectors through them: what comes to [`HeadLayers::forward`] has been there.
    #[cfg(feature = "cuda")]
    pub fn take_for_card(
        weights: &mut Weights,
        (hidden, head): (usize, &Head),
        outputs: Option<usize>,
        output: &Output,
        card: &kiln_cuda::Device,
    ) -> Result<(Self, Vec<kiln_cuda::Linear>), kiln_cuda::Error> {
        // A norm between them is computed here, and hence what comes after.
        if head.dense.is_some_and(|dense| dense.norm_eps.is_some()) {
            let here = Self::take(weights, hidden, head, outputs, output);
            return Ok((here, Vec::new()));
        }
        let mut layers = Vec::new();
        if let Some(dense) = head.dense {
            let name = "head.dense";
            let layer = LinearWeights::take(weights, name, hidden, dense.width, dense.bias);
            layers.push(super::card::linear(card, &layer, finish(dense.activation))?);
        }
        if let Some(outputs) = outputs {
            let inputs = head.dense.map_or(hidden, |dense| dense.width);
            let layer = LinearWeights::take(weights, "head.output", inputs, outputs, true);
            layers.push(super::card::linear(card, &layer, Finish::Plain)?);
        }
        let bare = Head {
            dense: None,
            ..head.clone()
        };
        Ok((Self::take(weights, hidden, &bare, None, output), layers))
    }

    /// The outputs of texts whose pooled vectors these are, row after row.
    pub fn forward(&self, pooled: Vec<f32>, texts: usize) -> Vec<f32> {
        let mut x = pooled;
        if let Some((dense, finish)) = &self.dense {
            x = dense.forward(&x, *finish);
            if let Some(norm) = &self.dense_norm {
                for row in x.chunks_exact_mut(norm.weight.len().max(1)) {
                    kernels::layer_norm(row, norm);
                }
            }
        }
        if let Some(output) = &self.output {
            x = output.forward(&x, Finish::Plain);
        }
        let mut width = (x.len() / texts.max(1)).max(1);
        if self.kept < width {
            let rows = x.chunks_exact(width);
            x = rows
                .flat_map(|row| row.iter().take(self.kept))
                .copied()
                .collect();
            width = self.kept;
        }
        for row in x.chunks_exact_mut(width) {
            match self.activation {
                OutputActivation::Identity => {}
                OutputActivation::Sigmoid => row.iter_mut().for_each(|x| *x = sigmoid(*x)),
                OutputActivation::Softmax => kernels::softmax(row),
            }
            if self.normalise {
                scale_to_one(row);
            }
        }
        x
    }
}

fn finish(activation: DenseActivation) -> Finish {
    match activation {
        DenseActivation::Identity => Finish::Plain,
        DenseActivation::Relu => Finish::Relu,
        DenseActivation::Tanh => Finish::Tanh,
        DenseActivation::Gelu => Finish::Gelu,
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Scales a vector to length 1, as `torch.nn.functional.normalize` does: a vector of zeros stays one.
fn scale_to_one(row: &mut [f32]) {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x /= length);
}
