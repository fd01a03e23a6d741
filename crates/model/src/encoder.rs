//! `encoder`: a transformer encoder of BERT's kind (Devlin et al., 2019) with a head that classifies, gives one number or embeds.
//!
//! On the backend `cpu` it runs on Kiln's own kernels, over unpadded texts: a text's vector is the same bits whatever else
//! is in its batch. Other backends run its graph of burn operations.

mod graph;
mod head;
mod padding;
mod weights;

use std::path::Path;
use std::sync::Arc;

use super::error::LoadError;
use super::hardware::Hardware;
use super::manifest::{EncoderActivation, EncoderShape, Head, Manifest, Pooling, TaskName};
use super::network::{Batch, Network};
use super::tokens::Tokenizer;
use super::weights::{Expected, Weights};
use graph::GraphEncoder;
use head::HeadLayers;
use kiln_contract::model::WeightPrecision;
use kiln_kernels::{self as kernels, Finish, Layer, Norm, Tables, Texts};
use weights::{ByteWeights, LayerLinear, LayerWeights, LinearWeights, NormWeights, TableWeights};

pub(crate) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    body: Body,
    head: HeadLayers,
}

enum Body {
    Kernels {
        encoder: Box<kernels::Encoder>,
        threads: Arc<kernels::ThreadPool>,
    },
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
        let (shape, head) = tables(manifest)?;
        let precision = manifest.weight_precision();
        if precision == WeightPrecision::Int8 && !hardware.has_kernels() {
            return Err(LoadError::field(
                "weights.precision",
                "int8 runs on the backend \"cpu\" alone; choose it for this model in [models.backends]",
            ));
        }
        let declared = manifest
            .tokenizer
            .as_ref()
            .ok_or_else(|| LoadError::manifest("has no [tokenizer] table"))?;
        let tokenizer = Arc::new(Tokenizer::read(folder, declared, shape.vocabulary)?);
        let tables = TableWeights::take(&mut weights, shape);
        let head = HeadLayers::take(
            &mut weights,
            shape.hidden,
            head,
            outputs(manifest),
            manifest.output.activation,
        );
        let numbers = 0..shape.layers;
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
                Body::Graph(Box::new(GraphEncoder::new(shape, tables, layers, hardware)))
            }
        };
        Ok(Self {
            tokenizer,
            body,
            head,
        })
    }
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
        let pooled = match &self.body {
            Body::Kernels { encoder, threads } => {
                let texts = Texts {
                    ids,
                    types,
                    lengths,
                };
                let pooling = match self.head.pooling {
                    Pooling::Mean => kernels::Pooling::Mean,
                    Pooling::Cls => kernels::Pooling::First,
                };
                encoder.encode(texts, pooling, threads)
            }
            Body::Graph(encoder) => encoder.pooled(ids, types, lengths, self.head.pooling),
        };
        self.head.forward(pooled, lengths.len())
    }

    fn warm(&self, pass: usize) -> bool {
        match &self.body {
            Body::Kernels { .. } => false,
            Body::Graph(encoder) => {
                encoder.warm(pass, self.tokenizer.max_tokens(), self.head.pooling)
            }
        }
    }

    fn smallest_share(&self) -> usize {
        match self.body {
            Body::Kernels { .. } => usize::MAX,
            // A graph stays on its thread.
            Body::Graph(_) => 1,
        }
    }
}

fn on_kernels<L: LayerLinear>(
    shape: &EncoderShape,
    tables: TableWeights,
    layers: impl Iterator<Item = LayerWeights<L>>,
) -> kernels::Encoder {
    let norm = |weights: NormWeights| Norm {
        weight: weights.weight,
        bias: weights.bias,
        eps: shape.norm_eps,
    };
    let activation = match shape.activation {
        EncoderActivation::Gelu => Finish::Gelu,
        EncoderActivation::GeluTanh => Finish::GeluTanh,
        EncoderActivation::Relu => Finish::Relu,
    };
    let layers = layers
        .map(|layer| Layer {
            query_key_value: L::joined([layer.query, layer.key, layer.value]).into_kernel(),
            attended: layer.attended.into_kernel(),
            attended_norm: norm(layer.attended_norm),
            up: layer.up.into_kernel(),
            down: layer.down.into_kernel(),
            norm: norm(layer.norm),
        })
        .collect();
    let tables = Tables {
        words: tables.words,
        positions: tables.positions,
        types: tables.types,
        norm: norm(tables.norm),
    };
    kernels::Encoder::new(
        shape.hidden,
        shape.heads,
        shape.position_offset,
        activation,
        tables,
        layers,
    )
}
