//! What each family of encoders calls the tensors that Kiln's manifest calls by one name.

mod newer;

pub(super) use newer::prepare;

/// A family of encoders: the same arithmetic under other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    DistilBert,
    /// RoBERTa and XLM-RoBERTa.
    Roberta,
    Mpnet,
    ModernBert,
    Nomic,
    /// DeBERTa of versions 2 and 3.
    Deberta,
}

impl Family {
    /// What stands before the encoder's tensors in a checkpoint with a head.
    pub fn prefix(self) -> &'static str {
        match self {
            Family::Bert => "bert.",
            Family::DistilBert => "distilbert.",
            Family::Roberta => "roberta.",
            Family::Mpnet => "mpnet.",
            Family::ModernBert => "model.",
            Family::Nomic => "nomic_bert.",
            Family::Deberta => "deberta.",
        }
    }

    /// The family's name for one of Kiln's tensors, without the prefix, and whether it belongs to the encoder (and so
    /// may have the prefix), in a model of so many layers.
    pub fn source_name(self, ours: &str, layers: usize) -> Option<(String, bool)> {
        match self {
            Family::ModernBert => return newer::modern(ours, layers),
            Family::Nomic => return newer::nomic(ours),
            Family::Deberta => return newer::deberta(ours),
            Family::Mpnet => return newer::mpnet(ours),
            Family::Bert | Family::DistilBert | Family::Roberta => {}
        }
        let (stem, kind) = ours.rsplit_once('.')?;
        if let Some(head) = stem.strip_prefix("head.") {
            let (name, encoder) = match (self, head) {
                (Family::Bert, "dense") => ("pooler.dense", true),
                (Family::Bert | Family::DistilBert, "output") => ("classifier", false),
                (Family::DistilBert, "dense") => ("pre_classifier", false),
                (Family::Roberta, "dense") => ("classifier.dense", false),
                (Family::Roberta, "output") => ("classifier.out_proj", false),
                _ => return None,
            };
            return Some((format!("{name}.{kind}"), encoder));
        }
        if let Some(table) = stem.strip_prefix("embeddings.") {
            let name = match table {
                "word" => "word_embeddings",
                "position" => "position_embeddings",
                "type" => "token_type_embeddings",
                "norm" => "LayerNorm",
                _ => return None,
            };
            return Some((format!("embeddings.{name}.{kind}"), true));
        }
        let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
        let name = match self {
            Family::Mpnet | Family::ModernBert | Family::Nomic | Family::Deberta => return None,
            Family::Bert | Family::Roberta => {
                let part = match part {
                    "query" => "attention.self.query",
                    "key" => "attention.self.key",
                    "value" => "attention.self.value",
                    "attended" => "attention.output.dense",
                    "attended_norm" => "attention.output.LayerNorm",
                    "up" => "intermediate.dense",
                    "down" => "output.dense",
                    "norm" => "output.LayerNorm",
                    _ => return None,
                };
                format!("encoder.layer.{layer}.{part}.{kind}")
            }
            Family::DistilBert => {
                let part = match part {
                    "query" => "attention.q_lin",
                    "key" => "attention.k_lin",
                    "value" => "attention.v_lin",
                    "attended" => "attention.out_lin",
                    "attended_norm" => "sa_layer_norm",
                    "up" => "ffn.lin1",
                    "down" => "ffn.lin2",
                    "norm" => "output_layer_norm",
                    _ => return None,
                };
                format!("transformer.layer.{layer}.{part}.{kind}")
            }
        };
        Some((name, true))
    }

    /// Whether a tensor that the model doesn't need is a known companion: position buffers, the pooler of a model that
    /// pools otherwise, the heads of pre-training.
    pub fn is_left_out(self, name: &str) -> bool {
        let name = name.strip_prefix(self.prefix()).unwrap_or(name);
        let of_family: &[&str] = match self {
            // Of its pre-training.
            Family::ModernBert => &["head.", "decoder."],
            // The reference implementation leaves the table out, too.
            Family::Deberta => &[
                "embeddings.position_embeddings.",
                "lm_predictions.",
                "mask_predictions.",
            ],
            _ => &[],
        };
        if of_family.iter().any(|prefix| name.starts_with(prefix)) {
            return true;
        }
        matches!(
            name,
            "embeddings.position_ids" | "embeddings.token_type_ids"
        ) || [
            "pooler.",
            "cls.",
            "lm_head.",
            "vocab_transform.",
            "vocab_layer_norm.",
            "vocab_projector.",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    }
}

/// TensorFlow's older names for a layer norm's tensors, which early checkpoints kept.
pub(super) fn older(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let older = match kind {
        "weight" => "gamma",
        "bias" => "beta",
        _ => return None,
    };
    stem.ends_with("LayerNorm")
        .then(|| format!("{stem}.{older}"))
}
