//! The manifest's tables of encoders, as written.

use serde::{Deserialize, Serialize};

/// `[encoder]`: the transformer's sizes, in the words of Hugging Face's `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncoderShape {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub intermediate: usize,
    /// Rows of the word table.
    pub vocabulary: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// The first token's row in the position table: 2 for RoBERTa's kind, which keeps two rows for itself. Where it isn't 0,
    /// the row before belongs to the padding token, whose number in the vocabulary is the same: written out in a text, it
    /// takes that row and isn't counted.
    #[serde(default)]
    pub position_offset: usize,
    /// Rows of the token type table; 0 if the model has none.
    #[serde(default)]
    pub token_types: usize,
    pub activation: EncoderActivation,
    pub norm_eps: f32,
    /// Whether places have a table whose rows are added to the words'; the default.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub position_table: bool,
    /// Whether the feed-forward part has a gate: `down(activation(up(x)) * gate(x))`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gate: bool,
    /// Whether norms stand before the parts instead of after the sums. What would be the first one is the embeddings' own; a layer's `norm` is then
    /// the next layer's first, or the last one of all.
    #[serde(default, skip_serializing_if = "is_false")]
    pub norm_first: bool,
    /// Biases of attention by head and distance, as MPNet has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<RelativeShape>,
    /// Queries and keys turned by their places.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotary: Option<RotaryShape>,
    /// Products with embedded distances, as DeBERTa has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disentangled: Option<DisentangledShape>,
}

/// `[encoder.relative]`: which distances share a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelativeShape {
    /// Rows of the table: half of them for tokens after, of which half are single distances and half ranges.
    pub buckets: usize,
    /// From here on all distances share the last range.
    pub max_distance: usize,
}

/// `[encoder.rotary]`: how fast queries and keys turn.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotaryShape {
    /// The base of the angles.
    pub theta: f32,
    /// The layers that see a part of the text, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowShape>,
}

/// `[encoder.rotary.window]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowShape {
    /// The base of these layers' angles.
    pub theta: f32,
    /// How many tokens a token sees on each side of itself.
    pub reach: usize,
    /// Layers 0, `every`, 2 · `every` and so on see the whole text.
    pub every: usize,
}

/// `[encoder.disentangled]`: which distances share a row of their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DisentangledShape {
    /// Rows for each direction, of which half are ranges; 0 where every distance up to `max_distance` has its own.
    pub buckets: usize,
    pub max_distance: usize,
    /// Whether the table's rows go through a norm.
    pub norm: bool,
}

impl DisentangledShape {
    /// Rows of the table.
    pub fn rows(self) -> usize {
        match self.buckets {
            0 => 2 * self.max_distance,
            buckets => 2 * buckets,
        }
    }
}

impl EncoderShape {
    /// What only Kiln's own kernels compute.
    pub fn beyond_graphs(&self) -> Option<&'static str> {
        let found = [
            ("encoder.gate", self.gate),
            ("encoder.norm_first", self.norm_first),
            ("encoder.rotary", self.rotary.is_some()),
            ("encoder.disentangled", self.disentangled.is_some()),
        ];
        found
            .iter()
            .find(|(_, is_there)| *is_there)
            .map(|(field, _)| *field)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EncoderActivation {
    /// The exact one, by the error function.
    Gelu,
    /// The approximation by a hyperbolic tangent.
    GeluTanh,
    Relu,
    /// A number times its logistic function.
    Silu,
}

/// `[head]`: from a vector a token to the outputs.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    pub pooling: Pooling,
    /// A layer on the pooled vector, before the last one.
    pub dense: Option<HeadDense>,
    /// Whether an embedding is scaled to length 1.
    #[serde(default)]
    pub normalise: bool,
    /// Whether the tokens of the tokenizer's prompt, and those before it, count in the mean; the default.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub include_prompt: bool,
}

/// How the tokens' vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over all tokens, special ones included.
    Mean,
    /// The first token's.
    Cls,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadDense {
    pub width: usize,
    pub activation: DenseActivation,
    #[serde(default = "default_true")]
    pub bias: bool,
    /// The epsilon of a norm after the activation, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f32>,
}

fn default_true() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DenseActivation {
    Identity,
    Relu,
    Tanh,
    /// The exact one, by the error function.
    Gelu,
}
