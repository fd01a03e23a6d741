//! The encoder as a graph of burn operations: what every backend but `cpu` runs, and the reference for the kernels.
//!
//! Texts are padded to the longest one of their group, and padding is masked out of the attention. Sums over a padded row may round
//! otherwise than over a bare one: a text's vector can differ in the last bits between batches (see the bound in the
//! tests), unlike on the kernels.

use burn_tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use super::padding::{Group, Padded, Sizes, groups};
use super::weights::{LayerLinear, LayerWeights, LinearWeights, NormWeights, TableWeights};
use crate::dense::numbers;
use crate::hardware::Hardware;
use crate::manifest::{EncoderActivation, EncoderShape, Pooling};
use crate::product::{Parts, Products};
use kiln_kernels::Relative;

/// What a masked score becomes: its exponential is zero in 32-bit floats, without being infinite itself.
const MASKED: f32 = -1e4;

/// The encoder's weights on a device.
pub(crate) struct GraphEncoder {
    shape: EncoderShape,
    words: Tensor<2>,
    positions: Option<Tensor<2>>,
    /// Biases of attention by distance.
    relative: Option<Relative>,
    skipped: usize,
    types: Option<Tensor<2>>,
    norm: Norm,
    layers: Vec<Layer>,
    device: Device,
    products: Products,
    sizes: Sizes,
}

struct Layer {
    query_key_value: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

/// What the tokens of a group see of each other.
struct View {
    texts: usize,
    longest: usize,
    padding: Tensor<4, Bool>,
    /// `[1, heads, longest, longest]`.
    biases: Option<Tensor<4>>,
}

struct Linear {
    /// `[inputs, outputs]`.
    weight: Parts<2>,
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
    /// Puts the weights on the device; a text's first `skipped` tokens don't count in the mean.
    pub fn new(
        shape: &EncoderShape,
        tables: TableWeights,
        layers: impl Iterator<Item = LayerWeights<LinearWeights>>,
        skipped: usize,
        hardware: &Hardware,
    ) -> Self {
        let (device, products) = (&hardware.device, hardware.products);
        let eps = shape.norm_eps;
        let relative = super::relative(shape, &tables);
        let table = |rows: usize, numbers: Vec<f32>| {
            Tensor::from_data(TensorData::new(numbers, [rows, shape.hidden]), device)
        };
        Self {
            words: table(shape.vocabulary, tables.words),
            positions: tables.positions.map(|rows| table(shape.positions, rows)),
            relative,
            skipped,
            types: tables.types.map(|types| table(shape.token_types, types)),
            norm: Norm::new(tables.norm, eps, device),
            layers: layers
                .map(|layer| Layer {
                    query_key_value: Linear::new(
                        LinearWeights::joined([layer.query, layer.key, layer.value]),
                        hardware,
                    ),
                    attended: Linear::new(layer.attended, hardware),
                    attended_norm: Norm::new(layer.attended_norm, eps, device),
                    up: Linear::new(layer.up, hardware),
                    down: Linear::new(layer.down, hardware),
                    norm: Norm::new(layer.norm, eps, device),
                })
                .collect(),
            shape: shape.clone(),
            device: device.clone(),
            products,
            sizes: if hardware.is_gpu() {
                Sizes::OfFewKinds
            } else {
                Sizes::AsTheyAre
            },
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
        let (mut ids, mut types) = (ids, types);
        let texts: Vec<(&[u32], &[u32])> = lengths
            .iter()
            .map(|&length| {
                let (of_ids, other_ids) = ids.split_at(length);
                let (of_types, other_types) = types.split_at(length);
                (ids, types) = (other_ids, other_types);
                (of_ids, of_types)
            })
            .collect();
        let groups = groups(lengths, self.sizes, self.shape.heads);
        // All of them are under way before the first one is waited for.
        let vectors: Vec<Tensor<2>> = groups
            .iter()
            .map(|group| self.group(group, &texts, pooling))
            .collect();
        let hidden = self.shape.hidden;
        let mut pooled = vec![0.0; lengths.len() * hidden];
        for (group, vectors) in groups.iter().zip(vectors) {
            let vectors = numbers(vectors);
            for (&text, vector) in group.texts.iter().zip(vectors.chunks_exact(hidden)) {
                if let Some(into) = pooled.chunks_exact_mut(hidden).nth(text) {
                    into.copy_from_slice(vector);
                }
            }
        }
        pooled
    }

    /// A pass of one kind of size, for its kernels to be compiled; false where there are no more, of texts up to `longest` tokens.
    pub fn warm(&self, pass: usize, longest: usize, pooling: Pooling) -> bool {
        let length = self.sizes.lengths(longest).get(pass).copied();
        if let Some(length) = length {
            let length = length.min(longest);
            self.pooled(&vec![0; length], &vec![0; length], &[length], pooling);
        }
        length.is_some()
    }

    /// The vectors of a group's texts, and of the rows that it is filled up with.
    fn group(&self, group: &Group, texts: &[(&[u32], &[u32])], pooling: Pooling) -> Tensor<2> {
        let Padded {
            texts,
            longest,
            words,
            kinds,
            positions,
            real,
        } = Padded::new(group, texts, self.shape.position_offset);
        let slots = texts * longest;
        let index = |numbers: Vec<i32>| {
            Tensor::<1, Int>::from_data(TensorData::new(numbers, [slots]), &self.device)
        };
        let mut x = self.words.clone().select(0, index(words));
        if let Some(table) = &self.positions {
            x = x + table.clone().select(0, index(positions));
        }
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
        let biases = self.relative.as_ref().map(|relative| {
            let sizes = [1, self.shape.heads, longest, longest];
            let data = TensorData::new(relative.matrices(longest), sizes);
            Tensor::<4>::from_data(data, &self.device)
        });
        let view = View {
            texts,
            longest,
            padding,
            biases,
        };
        for layer in &self.layers {
            x = self.layer(layer, x, &view);
        }
        let x: Tensor<3> = x.reshape([texts, longest, self.shape.hidden]);
        match pooling {
            Pooling::Cls => x.narrow(1, 0, 1).squeeze_dim(1),
            Pooling::Mean => {
                let counted = self.counted(real, longest);
                // Of a text of which none counts, all weights are 0.
                let weights = counted
                    .clone()
                    .div(counted.sum_dim(1).clamp_min(1.0))
                    .reshape([texts, 1, longest]);
                let weights = self.products.parts_of_normed(weights);
                let x = self.products.parts_of_normed(x);
                weights.times(&x).squeeze_dim(1)
            }
        }
    }

    /// 1 for the tokens that count in the mean.
    fn counted(&self, real: Tensor<2>, longest: usize) -> Tensor<2> {
        if self.skipped == 0 {
            return real;
        }
        let counts = (0..longest).map(|token| if token < self.skipped { 0.0 } else { 1.0 });
        let counts = TensorData::new(counts.collect::<Vec<f32>>(), [1, longest]);
        real * Tensor::<2>::from_data(counts, &self.device)
    }

    fn layer(&self, layer: &Layer, x: Tensor<2>, view: &View) -> Tensor<2> {
        let attended = self.attention(layer, x.clone(), view);
        let x = layer.attended_norm.forward(x + attended);
        let up = self.linear(&layer.up, x.clone());
        let up = match self.shape.activation {
            EncoderActivation::Gelu => activation::gelu(up),
            EncoderActivation::GeluTanh => gelu_tanh(up),
            EncoderActivation::Relu => activation::relu(up),
            EncoderActivation::Silu => activation::silu(up),
        };
        layer.norm.forward(x + self.linear(&layer.down, up))
    }

    fn attention(&self, layer: &Layer, x: Tensor<2>, view: &View) -> Tensor<2> {
        let (texts, longest) = (view.texts, view.longest);
        let (heads, hidden) = (self.shape.heads, self.shape.hidden);
        let width = hidden / heads;
        let mixed = self
            .linear(&layer.query_key_value, x)
            .reshape([texts, longest, 3 * heads, width])
            .swap_dims(1, 2);
        let mixed = self.products.parts_of_normed(mixed);
        let [query, key, value] = [0, 1, 2].map(|n| mixed.map(|x| x.narrow(1, n * heads, heads)));
        let scale = 1.0 / (width as f32).sqrt();
        let mut scores = query
            .times(&key.map(|key| key.swap_dims(2, 3)))
            .mul_scalar(scale);
        if let Some(biases) = &view.biases {
            scores = scores + biases.clone();
        }
        let scores = scores.mask_fill(view.padding.clone(), MASKED);
        let scores = self
            .products
            .parts_of_normed(activation::softmax(scores, 3));
        let attended = scores.times(&value);
        let attended = attended.swap_dims(1, 2).reshape([texts * longest, hidden]);
        self.linear(&layer.attended, attended)
    }

    fn linear(&self, linear: &Linear, x: Tensor<2>) -> Tensor<2> {
        self.products.parts_of_normed(x).times(&linear.weight) + linear.bias.clone()
    }
}

impl Linear {
    fn new(weights: LinearWeights, hardware: &Hardware) -> Self {
        let device = &hardware.device;
        let (inputs, outputs) = (weights.inputs, weights.outputs);
        let weight =
            Tensor::<2>::from_data(TensorData::new(weights.weight, [outputs, inputs]), device);
        let bias = weights.bias.unwrap_or_else(|| vec![0.0; outputs]);
        Self {
            weight: hardware.products.parts(weight.transpose()),
            bias: Tensor::from_data(TensorData::new(bias, [1, outputs]), device),
        }
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
