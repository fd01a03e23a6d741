//! ModernBERT's and Nomic's configurations: turned queries and keys, gates, and layers without biases.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::shape::{Form, Lacking, activation};
use super::{HfConfig, bert_eps};
use crate::manifest::{
    DenseActivation, EncoderShape, Head, HeadDense, Pooling, RotaryShape, WindowShape,
};

/// The kinds of ModernBERT's layers.
const WHOLE: &str = "full_attention";
const PART: &str = "sliding_attention";

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f32>,
    rope_type: Option<String>,
}

impl Rope {
    /// The base of angles that nothing scales.
    fn theta(&self, field: &str) -> Result<Option<f32>, String> {
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(self.rope_theta),
            Some(other) => Err(format!(
                "{field}.rope_type: found {other:?}, expected \"default\""
            )),
        }
    }
}

/// What ModernBERT's has beside others.
#[derive(Deserialize)]
pub(in super::super) struct ModernConfig {
    #[serde(default = "modern_eps")]
    norm_eps: f32,
    #[serde(default)]
    norm_bias: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    classifier_bias: bool,
    classifier_pooling: Option<String>,
    classifier_activation: Option<String>,
    #[serde(default = "modern_window")]
    local_attention: usize,
    global_attn_every_n_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    rope_parameters: Option<BTreeMap<String, Option<Rope>>>,
    global_rope_theta: Option<f32>,
    local_rope_theta: Option<f32>,
    rope_scaling: Option<serde_json::Value>,
}

fn modern_eps() -> f32 {
    1e-5
}

fn modern_window() -> usize {
    128
}

/// The form of ModernBERT.
pub(in super::super) fn modern(config: &HfConfig, own: &ModernConfig) -> Result<Form, String> {
    let rotary = RotaryShape {
        theta: own.theta(WHOLE, own.global_rope_theta, 160_000.0)?,
        window: match every(config, own)? {
            1 => None,
            every => Some(WindowShape {
                theta: own.theta(PART, own.local_rope_theta, 10_000.0)?,
                reach: own.local_attention / 2,
                every,
            }),
        },
    };
    let pooling = match own.classifier_pooling.as_deref() {
        None | Some("cls") => Pooling::Cls,
        Some("mean") => Pooling::Mean,
        Some(other) => {
            return Err(format!(
                "classifier_pooling: found {other:?}, expected cls or mean"
            ));
        }
    };
    Ok(Form {
        shape: EncoderShape {
            position_table: false,
            gate: true,
            norm_first: true,
            norm_eps: own.norm_eps,
            rotary: Some(rotary),
            token_types: 0,
            ..EncoderShape::of(config, activation(config, "hidden_activation")?)
        },
        head: Head::of(
            pooling,
            HeadDense {
                width: config.hidden_size,
                activation: dense_activation(
                    "classifier_activation",
                    own.classifier_activation.as_deref(),
                )?,
                bias: true,
                norm_eps: Some(own.norm_eps),
            },
        ),
        lacking: Lacking {
            attention: !own.attention_bias,
            feed_forward: !own.mlp_bias,
            norms: !own.norm_bias,
            head: !own.classifier_bias,
        },
    })
}

/// A classifier's layer, GELU where it isn't named.
pub(super) fn dense_activation(field: &str, name: Option<&str>) -> Result<DenseActivation, String> {
    Ok(match name {
        None | Some("gelu") => DenseActivation::Gelu,
        Some("tanh") => DenseActivation::Tanh,
        Some("relu") => DenseActivation::Relu,
        Some(other) => {
            return Err(format!(
                "{field}: found {other:?}, expected gelu, tanh or relu"
            ));
        }
    })
}

impl ModernConfig {
    fn theta(&self, kind: &str, older: Option<f32>, usual: f32) -> Result<f32, String> {
        if self.rope_scaling.is_some() {
            return Err("rope_scaling: expected none".to_owned());
        }
        let named = self.rope_parameters.as_ref().and_then(|all| all.get(kind));
        let named = match named {
            Some(Some(rope)) => rope.theta(&format!("rope_parameters.{kind}"))?,
            _ => None,
        };
        Ok(named.or(older).unwrap_or(usual))
    }
}

/// Which layers see the whole text: those whose number it divides.
fn every(config: &HfConfig, own: &ModernConfig) -> Result<usize, String> {
    let Some(kinds) = &own.layer_types else {
        return Ok(own.global_attn_every_n_layers.unwrap_or(3));
    };
    let fits = |every: usize| {
        let mut kinds = kinds.iter().enumerate();
        kinds.all(|(i, kind)| kind == if i % every == 0 { WHOLE } else { PART })
    };
    let found = (1..=kinds.len()).find(|every| fits(*every));
    found
        .filter(|_| kinds.len() == config.num_hidden_layers)
        .ok_or_else(|| {
            format!(
                "layer_types: expected {WHOLE} for each layer whose number a number divides, and {PART} for the others, {} in all",
                config.num_hidden_layers
            )
        })
}

/// What Nomic's has beside others, as the reference library writes it.
#[derive(Deserialize)]
pub(in super::super) struct NomicConfig {
    rope_parameters: Option<Rope>,
    head_dim: Option<usize>,
}

/// The form of Nomic's rotary BERT.
pub(in super::super) fn nomic(config: &HfConfig, own: &NomicConfig) -> Result<Form, String> {
    if let Some(width) = own.head_dim
        && Some(width) != config.hidden_size.checked_div(config.num_attention_heads)
    {
        return Err(format!(
            "head_dim: found {width}, expected hidden_size by num_attention_heads"
        ));
    }
    let theta = match &own.rope_parameters {
        Some(rope) => rope.theta("rope_parameters")?,
        None => None,
    };
    rotary_bert(config, theta.unwrap_or(1_000.0))
}

fn rotary_bert(config: &HfConfig, theta: f32) -> Result<Form, String> {
    Ok(Form {
        shape: EncoderShape {
            position_table: false,
            gate: true,
            norm_eps: config.layer_norm_eps,
            token_types: config.type_vocab_size,
            rotary: Some(RotaryShape {
                theta,
                window: None,
            }),
            ..EncoderShape::of(config, activation(config, "hidden_act")?)
        },
        head: Head::of(Pooling::Mean, HeadDense::of(config.hidden_size)),
        lacking: Lacking {
            attention: true,
            feed_forward: true,
            ..Lacking::default()
        },
    })
}

/// Nomic's configuration as its own code writes it.
#[derive(Deserialize)]
pub(in super::super) struct NomicHubConfig {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    n_positions: usize,
    max_trained_positions: Option<usize>,
    activation_function: String,
    #[serde(default = "bert_eps")]
    layer_norm_epsilon: f32,
    #[serde(default)]
    type_vocab_size: usize,
    rotary_emb_base: f32,
    rotary_emb_fraction: f32,
    rotary_scaling_factor: Option<f32>,
    #[serde(flatten)]
    switches: BTreeMap<String, serde_json::Value>,
}

/// Switches of Nomic's code that change the arithmetic, all of them off in its models.
const SWITCHES: [&str; 9] = [
    "prenorm",
    "use_rms_norm",
    "parallel_block",
    "rotary_emb_interleaved",
    "qkv_proj_bias",
    "mlp_fc1_bias",
    "mlp_fc2_bias",
    "causal",
    "rotary_emb_scale_base",
];

impl NomicHubConfig {
    /// The same in the reference library's words, and its form.
    pub fn form(self) -> Result<(HfConfig, Form), String> {
        if self.activation_function != "swiglu" {
            return Err(format!(
                "activation_function: found {:?}, expected swiglu",
                self.activation_function
            ));
        }
        if self.rotary_emb_fraction != 1.0 {
            return Err("rotary_emb_fraction: expected 1".to_owned());
        }
        for name in SWITCHES {
            let off = [serde_json::Value::Null, serde_json::Value::Bool(false)];
            if self
                .switches
                .get(name)
                .is_some_and(|value| !off.contains(value))
            {
                return Err(format!("{name}: expected false or null"));
            }
        }
        // Beyond what it was trained with, its angles would be scaled by the text's length.
        let scaled = self.rotary_scaling_factor.and(self.max_trained_positions);
        let config = HfConfig {
            architectures: self.architectures,
            vocab_size: self.vocab_size,
            hidden_size: self.n_embd,
            num_hidden_layers: self.n_layer,
            num_attention_heads: self.n_head,
            intermediate_size: self.n_inner.unwrap_or(self.n_embd.saturating_mul(4)),
            max_position_embeddings: self.n_positions.min(scaled.unwrap_or(usize::MAX)),
            type_vocab_size: self.type_vocab_size,
            hidden_act: "silu".to_owned(),
            layer_norm_eps: self.layer_norm_epsilon,
            ..HfConfig::default()
        };
        let form = rotary_bert(&config, self.rotary_emb_base)?;
        Ok((config, form))
    }
}
