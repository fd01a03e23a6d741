//! The form of a family's encoders: its sizes, how its tokens know their places, its classifiers' head, and which biases it lacks.

use super::super::names::Family;
use super::HfConfig;
use crate::manifest::{
    DenseActivation, EncoderActivation, EncoderShape, Head, HeadDense, Pooling, RelativeShape,
};

/// What the reference implementation of MPNet has, whatever its configuration says.
const MPNET: RelativeShape = RelativeShape {
    buckets: 32,
    max_distance: 128,
};

/// What becomes of a configuration, whatever sits on the encoder.
pub(in super::super) struct Form {
    pub shape: EncoderShape,
    /// A classifier's.
    pub head: Head,
    pub lacking: Lacking,
}

/// Parts without biases, which become zeros.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Lacking {
    pub attention: bool,
    pub feed_forward: bool,
    pub norms: bool,
    /// The classifier's layer.
    pub head: bool,
}

impl Lacking {
    /// Whether one of Kiln's tensors is such a bias.
    pub fn has(self, ours: &str) -> bool {
        let Some(stem) = ours.strip_suffix(".bias") else {
            return false;
        };
        match stem.rsplit('.').next().unwrap_or_default() {
            "query" | "key" | "value" | "attended" => self.attention,
            "up" | "gate" | "down" => self.feed_forward,
            "norm" | "attended_norm" | "dense_norm" => self.norms,
            "dense" => self.head,
            _ => false,
        }
    }
}

/// Of BERT's and its nearest relations.
pub(super) fn usual(config: &HfConfig, family: Family) -> Result<Form, String> {
    let shape = EncoderShape {
        position_offset: match family {
            Family::Roberta => config.pad_token_id.unwrap_or(1).saturating_add(1),
            // Fixed in the reference implementation.
            Family::Mpnet => 2,
            _ => 0,
        },
        token_types: match family {
            Family::DistilBert | Family::Mpnet => 0,
            _ => config.type_vocab_size,
        },
        norm_eps: match family {
            // Fixed in the reference implementation.
            Family::DistilBert => 1e-12,
            _ => config.layer_norm_eps,
        },
        relative: match family {
            Family::Mpnet => Some(mpnet(config)?),
            _ => None,
        },
        ..EncoderShape::of(config, activation(config, "hidden_act")?)
    };
    let dense = HeadDense {
        activation: match family {
            Family::DistilBert => DenseActivation::Relu,
            _ => DenseActivation::Tanh,
        },
        ..HeadDense::of(config.hidden_size)
    };
    Ok(Form {
        shape,
        head: Head::of(Pooling::Cls, dense),
        lacking: Lacking::default(),
    })
}

impl EncoderShape {
    /// The sizes that all configurations have, with places in a table.
    pub(super) fn of(config: &HfConfig, activation: EncoderActivation) -> Self {
        Self {
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            intermediate: config.intermediate_size,
            vocabulary: config.vocab_size,
            positions: config.max_position_embeddings,
            position_offset: 0,
            token_types: 0,
            activation,
            norm_eps: config.layer_norm_eps,
            position_table: true,
            gate: false,
            norm_first: false,
            relative: None,
            rotary: None,
            disentangled: None,
        }
    }
}

impl Head {
    /// A classifier's: pooled, and a layer before the last one.
    pub(super) fn of(pooling: Pooling, dense: HeadDense) -> Self {
        Self {
            pooling,
            dense: Some(dense),
            normalise: false,
            include_prompt: true,
        }
    }
}

impl HeadDense {
    /// A layer as wide as the encoder.
    pub(super) fn of(width: usize) -> Self {
        Self {
            width,
            activation: DenseActivation::Tanh,
            bias: true,
            norm_eps: None,
        }
    }
}

/// The feed-forward part's activation.
pub(super) fn activation(config: &HfConfig, field: &str) -> Result<EncoderActivation, String> {
    Ok(match config.hidden_act.as_str() {
        "gelu" => EncoderActivation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => EncoderActivation::GeluTanh,
        "relu" => EncoderActivation::Relu,
        "silu" | "swish" => EncoderActivation::Silu,
        other => {
            return Err(format!(
                "{field}: found {other:?}, expected gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu or silu"
            ));
        }
    })
}

fn mpnet(config: &HfConfig) -> Result<RelativeShape, String> {
    match config.relative_attention_num_buckets {
        None => Ok(MPNET),
        Some(buckets) if buckets == MPNET.buckets => Ok(MPNET),
        Some(other) => Err(format!(
            "relative_attention_num_buckets: found {other}, expected {}",
            MPNET.buckets
        )),
    }
}
