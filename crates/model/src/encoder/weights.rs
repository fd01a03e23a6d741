//! The encoder's tensors: their names and shapes, and the checked numbers in groups.

use crate::manifest::{EncoderShape, Head};
use crate::weights::{Expected, Weights};
use kiln_contract::model::WeightPrecision;
use kiln_kernels::{Linear, Norm, PackedLinear, QuantisedLinear, layer_norm};

/// Every tensor of an encoder with this head; `outputs` is the width of the last layer, if there is one. In bytes are the layers'
/// weights alone, each with its outputs' scales beside it.
pub(crate) fn expected(
    shape: &EncoderShape,
    head: &Head,
    outputs: Option<usize>,
    precision: WeightPrecision,
) -> Vec<Expected> {
    let hidden = shape.hidden;
    let mut all = vec![Expected::new(
        "embeddings.word.weight",
        [shape.vocabulary, hidden],
    )];
    if shape.position_table {
        all.push(Expected::new(
            "embeddings.position.weight",
            [shape.positions, hidden],
        ));
    }
    if shape.token_types > 0 {
        all.push(Expected::new(
            "embeddings.type.weight",
            [shape.token_types, hidden],
        ));
    }
    let norm = |all: &mut Vec<Expected>, name: &str| {
        all.push(Expected::new(format!("{name}.weight"), [hidden]));
        all.push(Expected::new(format!("{name}.bias"), [hidden]));
    };
    let linear =
        |all: &mut Vec<Expected>, name: &str, inputs: usize, outputs: usize, bias: bool| {
            all.push(Expected::new(format!("{name}.weight"), [outputs, inputs]));
            if bias {
                all.push(Expected::new(format!("{name}.bias"), [outputs]));
            }
        };
    let in_layer = |all: &mut Vec<Expected>, name: &str, inputs: usize, outputs: usize| {
        if precision == WeightPrecision::Single {
            return linear(all, name, inputs, outputs, true);
        }
        all.push(Expected::bytes(format!("{name}.weight"), [outputs, inputs]));
        all.push(Expected::new(format!("{name}.scale"), [outputs]));
        all.push(Expected::new(format!("{name}.bias"), [outputs]));
    };
    norm(&mut all, "embeddings.norm");
    all.extend(of_distances(shape));
    for layer in 0..shape.layers {
        for part in ["query", "key", "value", "attended"] {
            in_layer(&mut all, &format!("layers.{layer}.{part}"), hidden, hidden);
        }
        norm(&mut all, &format!("layers.{layer}.attended_norm"));
        let (up, down) = (format!("layers.{layer}.up"), format!("layers.{layer}.down"));
        in_layer(&mut all, &up, hidden, shape.intermediate);
        if shape.gate {
            let gate = format!("layers.{layer}.gate");
            in_layer(&mut all, &gate, hidden, shape.intermediate);
        }
        in_layer(&mut all, &down, shape.intermediate, hidden);
        norm(&mut all, &format!("layers.{layer}.norm"));
    }
    if let Some(dense) = head.dense {
        linear(&mut all, "head.dense", hidden, dense.width, dense.bias);
        if dense.norm_eps.is_some() {
            let width = [dense.width];
            all.push(Expected::new("head.dense_norm.weight", width));
            all.push(Expected::new("head.dense_norm.bias", width));
        }
    }
    if let Some(outputs) = outputs {
        let inputs = head.dense.map_or(hidden, |dense| dense.width);
        linear(&mut all, "head.output", inputs, outputs, true);
    }
    all
}

/// The tensors by which tokens know how far apart they are.
fn of_distances(shape: &EncoderShape) -> Vec<Expected> {
    let mut all = Vec::new();
    if let Some(relative) = shape.relative {
        let size = [relative.buckets, shape.heads];
        all.push(Expected::new("relative.weight", size));
    }
    if let Some(distances) = shape.disentangled {
        let size = [distances.rows(), shape.hidden];
        all.push(Expected::new("distances.weight", size));
        if distances.norm {
            all.push(Expected::new("distances.norm.weight", [shape.hidden]));
            all.push(Expected::new("distances.norm.bias", [shape.hidden]));
        }
    }
    all
}

/// The three tables and their norm.
pub(crate) struct TableWeights {
    /// `[vocabulary, hidden]`.
    pub words: Vec<f32>,
    /// `[positions, hidden]`.
    pub positions: Option<Vec<f32>>,
    /// `[token_types, hidden]`.
    pub types: Option<Vec<f32>>,
    pub norm: NormWeights,
    /// `[buckets, heads]`.
    pub relative: Option<Vec<f32>>,
    /// `[rows, hidden]`.
    pub distances: Option<Vec<f32>>,
}

pub(crate) struct LayerWeights<L> {
    pub query: L,
    pub key: L,
    pub value: L,
    pub attended: L,
    pub attended_norm: NormWeights,
    pub up: L,
    pub gate: Option<L>,
    pub down: L,
    pub norm: NormWeights,
}

/// One fully connected layer's numbers, in either precision.
pub(crate) trait LayerLinear: Sized {
    /// Takes one layer's weight and bias.
    fn take(weights: &mut Weights, name: &str, inputs: usize, outputs: usize) -> Self;

    /// Three layers over the same input as one.
    fn joined(parts: [Self; 3]) -> Self;

    /// Packed for the processor's kernels.
    fn into_kernel(self) -> Linear;
}

pub(crate) struct LinearWeights {
    pub inputs: usize,
    pub outputs: usize,
    /// PyTorch's layout, `[outputs, inputs]`.
    pub weight: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// A layer in bytes.
pub(crate) struct ByteWeights {
    inputs: usize,
    outputs: usize,
    /// PyTorch's layout, `[outputs, inputs]`.
    weight: Vec<i8>,
    /// One an output.
    scale: Vec<f32>,
    bias: Vec<f32>,
}

pub(crate) struct NormWeights {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

impl TableWeights {
    /// Takes them out of weights that were checked against [`expected`].
    pub fn take(weights: &mut Weights, shape: &EncoderShape) -> Self {
        Self {
            words: weights.take("embeddings.word.weight"),
            positions: shape
                .position_table
                .then(|| weights.take("embeddings.position.weight")),
            types: (shape.token_types > 0).then(|| weights.take("embeddings.type.weight")),
            norm: NormWeights::take(weights, "embeddings.norm"),
            relative: shape.relative.map(|_| weights.take("relative.weight")),
            distances: shape
                .disentangled
                .map(|distances| normed_distances(weights, shape, distances.norm)),
        }
    }
}

/// The rows of embedded distances, through their norm where they have one.
fn normed_distances(weights: &mut Weights, shape: &EncoderShape, norm: bool) -> Vec<f32> {
    let mut rows = weights.take("distances.weight");
    if norm {
        let norm = NormWeights::take(weights, "distances.norm").into_kernel(shape.norm_eps);
        for row in rows.chunks_exact_mut(shape.hidden) {
            layer_norm(row, &norm);
        }
    }
    rows
}

impl<L: LayerLinear> LayerWeights<L> {
    /// Takes one layer's.
    pub fn take(weights: &mut Weights, shape: &EncoderShape, layer: usize) -> Self {
        let (hidden, between) = (shape.hidden, shape.intermediate);
        let mut linear = |part: &str, inputs, outputs| {
            L::take(weights, &format!("layers.{layer}.{part}"), inputs, outputs)
        };
        let (query, key) = (
            linear("query", hidden, hidden),
            linear("key", hidden, hidden),
        );
        let (value, attended) = (
            linear("value", hidden, hidden),
            linear("attended", hidden, hidden),
        );
        let (up, down) = (
            linear("up", hidden, between),
            linear("down", between, hidden),
        );
        let gate = shape.gate.then(|| linear("gate", hidden, between));
        Self {
            query,
            key,
            value,
            attended,
            up,
            gate,
            down,
            attended_norm: NormWeights::take(weights, &format!("layers.{layer}.attended_norm")),
            norm: NormWeights::take(weights, &format!("layers.{layer}.norm")),
        }
    }
}

impl LayerLinear for LinearWeights {
    fn take(weights: &mut Weights, name: &str, inputs: usize, outputs: usize) -> Self {
        LinearWeights::take(weights, name, inputs, outputs, true)
    }

    fn into_kernel(self) -> Linear {
        self.packed().into()
    }

    fn joined(parts: [Self; 3]) -> Self {
        let [Self { inputs, .. }, ..] = parts;
        let outputs = parts.iter().map(|part| part.outputs).sum();
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for part in parts {
            weight.extend(part.weight);
            bias.extend(part.bias.unwrap_or_else(|| vec![0.0; part.outputs]));
        }
        Self {
            inputs,
            outputs,
            weight,
            bias: Some(bias),
        }
    }
}

impl LayerLinear for ByteWeights {
    fn take(weights: &mut Weights, name: &str, inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            weight: weights.take_bytes(&format!("{name}.weight")),
            scale: weights.take(&format!("{name}.scale")),
            bias: weights.take(&format!("{name}.bias")),
        }
    }

    fn into_kernel(self) -> Linear {
        let bias = Some(self.bias.as_slice());
        QuantisedLinear::new(&self.weight, &self.scale, bias, self.inputs, self.outputs).into()
    }

    fn joined(parts: [Self; 3]) -> Self {
        let [Self { inputs, .. }, ..] = parts;
        let outputs = parts.iter().map(|part| part.outputs).sum();
        let (mut weight, mut scale, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            weight.extend(part.weight);
            scale.extend(part.scale);
            bias.extend(part.bias);
        }
        Self {
            inputs,
            outputs,
            weight,
            scale,
            bias,
        }
    }
}

impl LinearWeights {
    /// Packed for the processor's kernels.
    pub fn packed(self) -> PackedLinear {
        PackedLinear::new(
            &self.weight,
            self.bias.as_deref(),
            self.inputs,
            self.outputs,
        )
    }

    /// Takes one layer's weight, and its bias if it has one.
    pub fn take(
        weights: &mut Weights,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Self {
        Self {
            inputs,
            outputs,
            weight: weights.take(&format!("{name}.weight")),
            bias: bias.then(|| weights.take(&format!("{name}.bias"))),
        }
    }
}

impl NormWeights {
    /// As the processor's kernels take it.
    pub fn into_kernel(self, eps: f32) -> Norm {
        Norm {
            weight: self.weight,
            bias: self.bias,
            eps,
        }
    }

    /// Takes one norm's weight and bias.
    pub fn take(weights: &mut Weights, name: &str) -> Self {
        Self {
            weight: weights.take(&format!("{name}.weight")),
            bias: weights.take(&format!("{name}.bias")),
        }
    }
}
