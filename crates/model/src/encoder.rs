//! `encoder`: a transformer encoder of BERT's kind (Devlin et al., 2019) with a head that classifies, gives one number or embeds.
//!
//! On the backend `cpu` it runs on Kiln's own kernels, over unpadded texts: a text's vector is the same bits whatever else
//! is in its batch. So it does on `cuda`, on kernels for graphics processors. Other backends run its graph of burn operations.

#[cfg(feature = "cuda")]
mod card;
mod graph;
mod head;
mod padding;
mod weights;

use std::path::Path;
use std::sync::Arc;

use super::error::LoadError;
use super::hardware::Hardware;
#[cfg(feature = "cuda")]
use super::hardware::{card_refusal, card_result};
use super::manifest::{
    EncoderActivation, EncoderShape, Head, Manifest, Pooling, RelativeShape, TaskName,
};
use super::network::{Batch, Network};
use super::tokens::Tokenizer;
use super::weights::{Expected, Weights};
use graph::GraphEncoder;
use head::HeadLayers;
use kiln_contract::model::{PairRule, WeightPrecision};
use kiln_kernels::{
    self as kernels, Attention, Disentangled, Distances, Finish, Layer, Linear, Local, Relative,
    Rotary, Tables, Texts,
};
use weights::{ByteWeights, LayerLinear, LayerWeights, LinearWeights, TableWeights};

pub(crate) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    body: Body,
    head: HeadLayers,
    /// A text's first tokens that don't count in the mean.
    skipped: usize,
}

enum Body {
    Kernels {
        encoder: Box<kernels::Encoder>,
        threads: Arc<kernels::ThreadPool>,
    },
    /// On a graphics processor's own kernels.
    #[cfg(feature = "cuda")]
    Card(Box<kiln_cuda::Encoder>),
    Graph(Box<GraphEncoder>),
}

impl Encoder {
    /// The tensors of such an encoder in floats; `outputs` is the width of the last layer, if there is one.
    pub fn tensors(shape: &EncoderShape, head: &Head, outputs: Option<usize>) -> Vec<Expected> {
        weights::expected(shape, head, outputs, WeightPrecision::Single)
    }

    /// The tensors of such a manifest.
    pub fn expected(manifest: &Manifest) -> Result<Vec<Expected>, LoadError> {
        Self::expected_in(manifest, manifest.weight_precision())
    }

    /// The same in that precision.
    pub fn expected_in(
        manifest: &Manifest,
        precision: WeightPrecision,
    ) -> Result<Vec<Expected>, LoadError> {
        let (shape, head) = tables(manifest)?;
        Ok(weights::expected(shape, head, outputs(manifest), precision))
    }

    /// Builds the layers from weights that were checked against [`Encoder::expected`], and reads the tokenizer.
    pub fn build(
        manifest: &Manifest,
        mut weights: Weights,
        folder: &Path,
        hardware: &Hardware,
    ) -> Result<Self, LoadError> {
        let (shape, table_of_head) = tables(manifest)?;
        let precision = manifest.weight_precision();
        assure_computed(shape, precision, hardware)?;
        let tokenizer = Arc::new(tokenizer(manifest, shape, folder)?);
        let tables = TableWeights::take(&mut weights, shape);
        let skipped = if table_of_head.include_prompt {
            0
        } else {
            tokenizer.prompt_tokens()
        };
        let numbers = 0..shape.layers;
        let (outputs, output) = (outputs(manifest), &manifest.output);
        #[cfg(feature = "cuda")]
        if let Some(card) = hardware.card() {
            let of_card = |error| card_refusal(&error);
            let head = (shape.hidden, table_of_head);
            let head = HeadLayers::take_for_card(&mut weights, head, outputs, output, card);
            let (head, after) = head.map_err(of_card)?;
            let layers = numbers.map(|i| LayerWeights::take(&mut weights, shape, i));
            let encoder = card::encoder(card, shape, tables, layers, after).map_err(of_card)?;
            return Ok(Self {
                tokenizer,
                body: Body::Card(Box::new(encoder)),
                head,
                skipped,
            });
        }
        let head = HeadLayers::take(&mut weights, shape.hidden, table_of_head, outputs, output);
        let kernels = |encoder: kernels::Encoder| Body::Kernels {
            encoder: Box::new(encoder),
            threads: Arc::clone(&hardware.threads),
        };
        let body = if precision == WeightPrecision::Int8 {
            let layers = numbers.map(|i| LayerWeights::<ByteWeights>::take(&mut weights, shape, i));
            kernels(on_kernels(shape, tables, layers))
        } else {
            let layers =
                numbers.map(|i| LayerWeights::<LinearWeights>::take(&mut weights, shape, i));
            if hardware.has_kernels() {
                kernels(on_kernels(shape, tables, layers))
            } else {
                let graph = GraphEncoder::new(shape, tables, layers, skipped, hardware);
                Body::Graph(Box::new(graph))
            }
        };
        Ok(Self {
            tokenizer,
            body,
            head,
            skipped,
        })
    }
}

/// What that hardware doesn't compute is refused by its field.
fn assure_computed(
    shape: &EncoderShape,
    precision: WeightPrecision,
    hardware: &Hardware,
) -> Result<(), LoadError> {
    let of_int8 = precision == WeightPrecision::Int8 && !hardware.has_kernels();
    let of_int8 = of_int8.then_some("weights.precision");
    let of_shape = shape.beyond_graphs().filter(|_| hardware.runs_graphs());
    let (field, where_it_runs) = match (of_int8, of_shape) {
        (Some(field), _) => (field, "int8 runs on the backend \"cpu\" alone"),
        (_, Some(field)) => (field, "runs on the backends \"cpu\" and \"cuda\" alone"),
        _ => return Ok(()),
    };
    let message = format!("{where_it_runs}; choose one for this model in [models.backends]");
    Err(LoadError::field(field, &message))
}

fn tables(manifest: &Manifest) -> Result<(&EncoderShape, &Head), LoadError> {
    manifest
        .encoder
        .as_ref()
        .zip(manifest.head.as_ref())
        .ok_or_else(|| LoadError::manifest("has no [encoder] or no [head] table"))
}

fn outputs(manifest: &Manifest) -> Option<usize> {
    (manifest.output.task != TaskName::Embedding).then(|| manifest.output_width())
}

impl Network for Encoder {
    fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        Some(&self.tokenizer)
    }

    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Tokens {
            ids,
            types,
            lengths,
        } = batch
        else {
            unreachable!("texts were cut into tokens")
        };
        let texts = Texts {
            ids,
            types,
            lengths,
        };
        let pooling = match self.head.pooling {
            Pooling::Mean => kernels::Pooling::MeanAfter(self.skipped),
            Pooling::Cls => kernels::Pooling::First,
        };
        let pooled = match &self.body {
            Body::Kernels { encoder, threads } => encoder.encode(texts, pooling, threads),
            #[cfg(feature = "cuda")]
            Body::Card(encoder) => card_result(encoder.encode(texts, pooling)),
            Body::Graph(encoder) => encoder.pooled(ids, types, lengths, self.head.pooling),
        };
        self.head.forward(pooled, lengths.len())
    }

    fn is_on_device(&self) -> bool {
        !matches!(self.body, Body::Kernels { .. })
    }

    fn warm(&self, pass: usize) -> bool {
        match &self.body {
            Body::Graph(encoder) => {
                encoder.warm(pass, self.tokenizer.max_tokens(), self.head.pooling)
            }
            _ => false,
        }
    }

    fn smallest_share(&self) -> usize {
        match self.body {
            // A graph stays on its thread.
            Body::Graph(_) => 1,
            _ => usize::MAX,
        }
    }
}

fn on_kernels<L: LayerLinear>(
    shape: &EncoderShape,
    tables: TableWeights,
    layers: impl Iterator<Item = LayerWeights<L>>,
) -> kernels::Encoder {
    let eps = shape.norm_eps;
    let layers: Vec<Layer> = layers
        .map(|layer| Layer {
            query_key_value: L::joined([layer.query, layer.key, layer.value]).into_kernel(),
            attended: layer.attended.into_kernel(),
            attended_norm: layer.attended_norm.into_kernel(eps),
            up: layer.up.into_kernel(),
            gate: layer.gate.map(L::into_kernel),
            down: layer.down.into_kernel(),
            norm: layer.norm.into_kernel(eps),
        })
        .collect();
    let of_layers = layers.iter().map(|layer| &layer.query_key_value);
    let attention = attention(shape, &tables, of_layers);
    let tables = Tables {
        words: tables.words,
        positions: tables.positions,
        types: tables.types,
        norm: tables.norm.into_kernel(eps),
    };
    let encoder = kernels::Encoder::new(
        shape.hidden,
        shape.heads,
        shape.position_offset,
        finish(shape),
        tables,
        layers,
    )
    .with_attention(attention);
    if shape.norm_first {
        encoder.with_sums_kept()
    } else {
        encoder
    }
}

/// The feed-forward part's activation.
fn finish(shape: &EncoderShape) -> Finish {
    match shape.activation {
        EncoderActivation::Gelu => Finish::Gelu,
        EncoderActivation::GeluTanh => Finish::GeluTanh,
        EncoderActivation::Relu => Finish::Relu,
        EncoderActivation::Silu => Finish::Silu,
    }
}

/// The tokenizer beside the manifest, if it fits the encoder's tables.
fn tokenizer(
    manifest: &Manifest,
    shape: &EncoderShape,
    folder: &Path,
) -> Result<Tokenizer, LoadError> {
    let declared = manifest
        .tokenizer
        .as_ref()
        .ok_or_else(|| LoadError::manifest("has no [tokenizer] table"))?;
    let tokenizer = Tokenizer::read(folder, declared, shape.vocabulary)?;
    let text = manifest.text.as_ref();
    let pair = text.map_or_else(PairRule::default, |text| text.pair);
    tokenizer
        .check_types(shape.token_types, pair)
        .map_err(|message| LoadError::file(&declared.file, message))?;
    Ok(tokenizer)
}

/// How tokens know their places; `layers` are the queries, keys and values of each.
fn attention<'a>(
    shape: &EncoderShape,
    tables: &TableWeights,
    layers: impl Iterator<Item = &'a Linear>,
) -> Attention {
    if let Some(relative) = relative(shape, tables) {
        return Attention::Relative(relative);
    }
    if let Some(rotary) = shape.rotary {
        let turns = |theta| Rotary::new(theta, shape.hidden / shape.heads, shape.positions);
        return Attention::Rotary {
            turns: turns(rotary.theta),
            local: rotary.window.map(|window| Local {
                turns: turns(window.theta),
                reach: window.reach,
                every: window.every,
            }),
        };
    }
    if let Some((distances, rows)) = shape.disentangled.zip(tables.distances.as_ref()) {
        let distances = Distances::new(distances.buckets, distances.max_distance);
        let of_layer = |layer: &Linear| {
            let mixed = layer.forward(rows);
            Disentangled::new(distances.clone(), &mixed, shape.hidden, shape.heads)
        };
        return Attention::Disentangled(layers.map(of_layer).collect());
    }
    Attention::Plain
}

/// The biases by distance, where there are any.
fn relative(shape: &EncoderShape, tables: &TableWeights) -> Option<Relative> {
    let (relative, table) = shape.relative.zip(tables.relative.as_ref())?;
    let RelativeShape {
        buckets,
        max_distance,
    } = relative;
    Some(Relative::new(table, buckets, max_distance, shape.heads))
}
