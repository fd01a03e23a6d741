//! DeBERTa's configuration, of versions 2 and 3.

use serde::Deserialize;

use super::HfConfig;
use super::modern::dense_activation;
use super::shape::{Form, Lacking, activation};
use crate::manifest::{DisentangledShape, EncoderShape, Head, HeadDense, Pooling};

/// What DeBERTa's has beside others.
#[derive(Deserialize)]
pub(in super::super) struct DebertaConfig {
    #[serde(default)]
    relative_attention: bool,
    #[serde(default = "none")]
    max_relative_positions: i64,
    #[serde(default = "none")]
    position_buckets: i64,
    #[serde(default = "yes")]
    position_biased_input: bool,
    pos_att_type: Option<Kinds>,
    #[serde(default)]
    share_att_key: bool,
    norm_rel_ebd: Option<String>,
    #[serde(default)]
    conv_kernel_size: i64,
    embedding_size: Option<usize>,
    attention_head_size: Option<usize>,
    pooler_hidden_size: Option<usize>,
    pooler_hidden_act: Option<String>,
    #[serde(default = "deberta_eps")]
    layer_norm_eps: f32,
}

/// A list, or its names with bars between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Kinds {
    List(Vec<String>),
    Joined(String),
}

fn none() -> i64 {
    -1
}

fn yes() -> bool {
    true
}

fn deberta_eps() -> f32 {
    1e-7
}

impl Kinds {
    fn names(&self) -> Vec<String> {
        let mut names = match self {
            Self::List(names) => names.clone(),
            Self::Joined(names) => names
                .split('|')
                .map(|name| name.trim().to_owned())
                .collect(),
        };
        names
            .iter_mut()
            .for_each(|name| name.make_ascii_lowercase());
        names.sort();
        names
    }
}

/// The form of DeBERTa.
pub(in super::super) fn deberta(config: &HfConfig, own: &DebertaConfig) -> Result<Form, String> {
    let refuse = |message: &str| Err(message.to_owned());
    if !own.relative_attention {
        return refuse("relative_attention: expected true");
    }
    if !own.share_att_key {
        return refuse("share_att_key: expected true");
    }
    if own.pos_att_type.as_ref().map(Kinds::names) != Some(vec!["c2p".into(), "p2c".into()]) {
        return refuse("pos_att_type: expected c2p and p2c");
    }
    if own.conv_kernel_size > 0 {
        return refuse("conv_kernel_size: expected none; models with a convolution aren't taken");
    }
    let width = config.hidden_size.checked_div(config.num_attention_heads);
    for (field, found, expected) in [
        (
            "embedding_size",
            own.embedding_size,
            Some(config.hidden_size),
        ),
        ("attention_head_size", own.attention_head_size, width),
        (
            "pooler_hidden_size",
            own.pooler_hidden_size,
            Some(config.hidden_size),
        ),
    ] {
        if found.is_some() && found != expected {
            return refuse(&format!("{field}: expected that of hidden_size"));
        }
    }
    let norm = match own.norm_rel_ebd.as_deref() {
        None | Some("none") => false,
        Some("layer_norm") => true,
        Some(other) => {
            return refuse(&format!(
                "norm_rel_ebd: found {other:?}, expected none or layer_norm"
            ));
        }
    };
    let asked = usize::try_from(own.max_relative_positions).unwrap_or(0);
    Ok(Form {
        shape: EncoderShape {
            position_table: own.position_biased_input,
            norm_eps: own.layer_norm_eps,
            token_types: config.type_vocab_size,
            disentangled: Some(DisentangledShape {
                buckets: usize::try_from(own.position_buckets).unwrap_or(0),
                max_distance: match asked {
                    0 => config.max_position_embeddings,
                    asked => asked,
                },
                norm,
            }),
            ..EncoderShape::of(config, activation(config, "hidden_act")?)
        },
        head: Head::of(
            Pooling::Cls,
            HeadDense {
                activation: dense_activation(
                    "pooler_hidden_act",
                    own.pooler_hidden_act.as_deref(),
                )?,
                ..HeadDense::of(config.hidden_size)
            },
        ),
        lacking: Lacking::default(),
    })
}
