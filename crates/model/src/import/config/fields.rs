//! The manifest's fields in the words of a `config.json`, for messages about it.

use std::path::Path;

use super::super::error::read_json;

/// A field of the manifest, and what configurations call it.
const FIELDS: [(&str, &[&str]); 16] = [
    (
        "encoder.layers",
        &["num_hidden_layers", "n_layers", "n_layer"],
    ),
    ("encoder.hidden", &["hidden_size", "dim", "n_embd"]),
    (
        "encoder.heads",
        &["num_attention_heads", "n_heads", "n_head"],
    ),
    (
        "encoder.intermediate",
        &["intermediate_size", "hidden_dim", "n_inner"],
    ),
    ("encoder.vocabulary", &["vocab_size"]),
    (
        "encoder.positions",
        &["max_position_embeddings", "n_positions"],
    ),
    ("encoder.token_types", &["type_vocab_size"]),
    (
        "encoder.norm_eps",
        &["norm_eps", "layer_norm_eps", "layer_norm_epsilon"],
    ),
    ("encoder.rotary.window.reach", &["local_attention"]),
    (
        "encoder.rotary.window.every",
        &["global_attn_every_n_layers"],
    ),
    (
        "encoder.rotary.window.theta",
        &["rope_parameters", "local_rope_theta"],
    ),
    (
        "encoder.rotary.theta",
        &["rope_parameters", "global_rope_theta", "rotary_emb_base"],
    ),
    ("encoder.rotary", &["num_attention_heads", "n_head"]),
    ("encoder.disentangled.buckets", &["position_buckets"]),
    (
        "encoder.disentangled.max_distance",
        &["max_relative_positions"],
    ),
    ("encoder.disentangled", &["position_buckets"]),
];

/// The same message with the names of that configuration's fields: those that it has, of the ones that there are.
pub(in super::super) fn in_its_words(message: &str, config: &Path) -> String {
    let has: serde_json::Map<String, serde_json::Value> = read_json(config).unwrap_or_default();
    let mut message = message.to_owned();
    // The longer name first: one may begin with another.
    let mut fields = FIELDS;
    fields.sort_by_key(|(ours, _)| std::cmp::Reverse(ours.len()));
    for (ours, theirs) in fields {
        let known = theirs.iter().find(|name| has.contains_key(**name));
        if let Some(name) = known.or(theirs.first()) {
            message = message.replace(ours, name);
        }
    }
    message
}
