//! The encoder as a graph of burn operations: what every backend but `cpu` runs, and the reference for the kernels.
//!
//! A batch is padded to its longest text, and padding is masked out of the attention. Sums over a padded row may round
//! otherwise than over a bare one: a text's vector can differ in the last bits between batches (see the bound in the
//! tests), unlike on the kernels.

use burn_tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use super::weights::{LayerWeights, LinearWeights, NormWeights, TableWeights};
use crate::dense::numbers;
use crate::manifest::{EncoderActivation, EncoderShape, Pooling};

/// What a masked score becomes: its exponential is zero in 32-bit floats, without being infinite itself.
const MASKED: f32 = -1e4;

/// The encoder's weights on a device.
pub(crate) struct GraphEncoder {
    shape: EncoderShape,
    words: Tensor<2>,
    positions: Tensor<2>,
    types: Option<Tensor<2>>,
    norm: Norm,
    layers: Vec<Layer>,
    device: Device,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

struct Linear {
    /// `[inputs, outputs]`.
    weight: Tensor<2>,
    /// `[1, outputs]`.
    bias: Tensor<2>,
}

struct Norm {
    /// `[1, width]`.
    weight: Tensor<2>,
    bias: Tensor<2>,
    eps: f32,
}

impl GraphEncoder {
    /// Puts the weights on the device.
    pub fn new(
        shape: &EncoderShape,
        tables: TableWeights,
        layers: impl Iterator<Item = LayerWeights>,
        device: &Device,
    ) -> Self {
        let eps = shape.norm_eps;
        let table = |rows: usize, numbers: Vec<f32>| {
            Tensor::from_data(TensorData::new(numbers, [rows, shape.hidden]), device)
        };
        Self {
            words: table(shape.vocabulary, tables.words),
            positions: table(shape.positions, tables.positions),
            types: tables.types.map(|types| table(shape.token_types, types)),
            norm: Norm::new(tables.norm, eps, device),
            layers: layers
                .map(|layer| Layer {
                    query: Linear::new(layer.query, device),
                    key: Linear::new(layer.key, device),
                    value: Linear::new(layer.value, device),
                    attended: Linear::new(layer.attended, device),
                    attended_norm: Norm::new(layer.attended_norm, eps, device),
                    up: Linear::new(layer.up, device),
                    down: Linear::new(layer.down, device),
                    norm: Norm::new(layer.norm, eps, device),
                })
                .collect(),
            shape: shape.clone(),
            device: device.clone(),
        }
    }

    /// One vector a text: `[texts, hidden]`, row after row.
    pub fn pooled(
        &self,
        ids: &[u32],
        types: &[u32],
        lengths: &[usize],
        pooling: Pooling,
    ) -> Vec<f32> {
        let Padded {
            words,
            kinds,
            positions,
            real,
        } = Padded::new(ids, types, lengths, self.shape.position_offset);
        let (texts, longest) = (lengths.len(), longest(lengths));
        let slots = texts * longest;
        let index = |numbers: Vec<i32>| {
            Tensor::<1, Int>::from_data(TensorData::new(numbers, [slots]), &self.device)
        };
        let mut x = self.words.clone().select(0, index(words))
            + self.positions.clone().select(0, index(positions));
        if let Some(table) = &self.types {
            x = x + table.clone().select(0, index(kinds));
        }
        let real = Tensor::<2>::from_data(TensorData::new(real, [texts, longest]), &self.device);
        let padding: Tensor<4, Bool> = real
            .clone()
            .equal_elem(0.0)
            .reshape([texts, 1, 1, longest])
            .expand([texts, self.shape.heads, longest, longest]);
        x = self.norm.forward(x);
        for layer in &self.layers {
            x = self.layer(layer, x, &padding, texts, longest);
        }
        let x: Tensor<3> = x.reshape([texts, longest, self.shape.hidden]);
        let pooled: Tensor<2> = match pooling {
            Pooling::Cls => x.narrow(1, 0, 1).squeeze_dim(1),
            Pooling::Mean => {
                let weights = real
                    .clone()
                    .div(real.sum_dim(1))
                    .reshape([texts, 1, longest]);
                weights.matmul(x).squeeze_dim(1)
            }
        };
        numbers(pooled)
    }

    fn layer(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        padding: &Tensor<4, Bool>,
        texts: usize,
        longest: usize,
    ) -> Tensor<2> {
        let attended = self.attention(layer, x.clone(), padding, texts, longest);
        let x = layer.attended_norm.forward(x + attended);
        let up = layer.up.forward(x.clone());
        let up = match self.shape.activation {
            EncoderActivation::Gelu => activation::gelu(up),
            EncoderActivation::GeluTanh => gelu_tanh(up),
            EncoderActivation::Relu => activation::relu(up),
        };
        layer.norm.forward(x + layer.down.forward(up))
    }

    fn attention(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        padding: &Tensor<4, Bool>,
        texts: usize,
        longest: usize,
    ) -> Tensor<2> {
        let (heads, hidden) = (self.shape.heads, self.shape.hidden);
        let width = hidden / heads;
        let split = |linear: &Linear| {
            linear
                .forward(x.clone())
                .reshape([texts, longest, heads, width])
                .swap_dims(1, 2)
        };
        let scale = 1.0 / (width as f32).sqrt();
        let scores = split(&layer.query)
            .matmul(split(&layer.key).swap_dims(2, 3))
            .mul_scalar(scale)
            .mask_fill(padding.clone(), MASKED);
        let attended = activation::softmax(scores, 3).matmul(split(&layer.value));
        layer
            .attended
            .forward(attended.swap_dims(1, 2).reshape([texts * longest, hidden]))
    }
}

/// Texts filled up to the longest one, `[texts, longest]`.
struct Padded {
    words: Vec<i32>,
    kinds: Vec<i32>,
    positions: Vec<i32>,
    /// 1 for a token, 0 for padding.
    real: Vec<f32>,
}

impl Padded {
    fn new(ids: &[u32], types: &[u32], lengths: &[usize], offset: usize) -> Self {
        let longest = longest(lengths);
        let slots = lengths.len() * longest;
        let mut padded = Self {
            words: Vec::with_capacity(slots),
            kinds: Vec::with_capacity(slots),
            positions: Vec::with_capacity(slots),
            real: Vec::with_capacity(slots),
        };
        let mut tokens = ids.iter().zip(types);
        for (text, &length) in lengths.iter().enumerate() {
            let mut position = offset;
            for (&id, &kind) in tokens.by_ref().take(length) {
                // The row before the first belongs to a padding token, which isn't counted.
                let is_padding = id as usize + 1 == offset;
                let row = if is_padding { offset - 1 } else { position };
                position += usize::from(!is_padding);
                padded.push(id as i32, kind as i32, row as i32, 1.0);
            }
            while padded.words.len() < (text + 1) * longest {
                padded.push(0, 0, offset as i32, 0.0);
            }
        }
        padded
    }

    fn push(&mut self, word: i32, kind: i32, position: i32, real: f32) {
        self.words.push(word);
        self.kinds.push(kind);
        self.positions.push(position);
        self.real.push(real);
    }
}

fn longest(lengths: &[usize]) -> usize {
    lengths.iter().copied().max().unwrap_or(0)
}

impl Linear {
    fn new(weights: LinearWeights, device: &Device) -> Self {
        let (inputs, outputs) = (weights.inputs, weights.outputs);
        let weight =
            Tensor::<2>::from_data(TensorData::new(weights.weight, [outputs, inputs]), device);
        let bias = weights.bias.unwrap_or_else(|| vec![0.0; outputs]);
        Self {
            weight: weight.transpose(),
            bias: Tensor::from_data(TensorData::new(bias, [1, outputs]), device),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }
}

impl Norm {
    fn new(weights: NormWeights, eps: f32, device: &Device) -> Self {
        let row = |numbers: Vec<f32>| {
            let width = numbers.len();
            Tensor::from_data(TensorData::new(numbers, [1, width]), device)
        };
        Self {
            weight: row(weights.weight),
            bias: row(weights.bias),
            eps,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().powf_scalar(2.0).mean_dim(1);
        centred / (variance + self.eps).sqrt() * self.weight.clone() + self.bias.clone()
    }
}

/// GELU by a hyperbolic tangent (Hendrycks and Gimpel, 2016), as the checkpoints that name it were trained.
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    let cubed = x.clone() * x.clone() * x.clone();
    let inner =
        (x.clone() + cubed.mul_scalar(0.044_715)).mul_scalar((2.0 / std::f32::consts::PI).sqrt());
    x.mul_scalar(0.5) * (inner.tanh() + 1.0)
}
