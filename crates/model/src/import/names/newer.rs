//! The names of families whose tensors stand together or were called otherwise before.

use super::super::error::ImportError;
use super::super::source::{SourceTensor, SourceTensors};
use super::Family;

/// What Nomic's own files call the tensors that the reference library calls otherwise.
const NOMIC: [(&str, &str); 9] = [
    ("encoder.layers.", "layers."),
    ("emb_ln.", "embeddings.LayerNorm."),
    (".attn.", ".self_attn."),
    (".out_proj.", ".o_proj."),
    (".fc11.", ".up_proj."),
    (".fc12.", ".gate_proj."),
    (".fc2.", ".down_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
];

const NOMIC_PARTS: [(&str, &str); 3] = [
    (".Wqkv.query.", ".q_proj."),
    (".Wqkv.key.", ".k_proj."),
    (".Wqkv.value.", ".v_proj."),
];

/// Tensors that stand together, and the parts that they are cut into, by rows.
const TOGETHER: [(&str, &[&str]); 2] = [
    (".Wqkv.", &[".Wqkv.query.", ".Wqkv.key.", ".Wqkv.value."]),
    (".Wi.", &[".Wi.up.", ".Wi.gate."]),
];

/// Calls tensors as the reference library does, and cuts those that stand together.
pub(in super::super) fn prepare(
    found: SourceTensors,
    family: Family,
) -> Result<SourceTensors, ImportError> {
    if !matches!(family, Family::ModernBert | Family::Nomic) {
        return Ok(found);
    }
    let mut prepared = SourceTensors::new();
    for (mut name, tensor) in found {
        if family == Family::Nomic {
            for (theirs, ours) in NOMIC {
                name = name.replace(theirs, ours);
            }
        }
        let together = TOGETHER.iter().find(|(whole, _)| name.contains(whole));
        match together {
            None => {
                prepared.insert(name, tensor);
            }
            Some((whole, parts)) => {
                for (part, piece) in parts.iter().zip(cut(&name, tensor, parts.len())?) {
                    let mut name = name.replace(whole, part);
                    if family == Family::Nomic {
                        for (ours, theirs) in NOMIC_PARTS {
                            name = name.replace(ours, theirs);
                        }
                    }
                    prepared.insert(name, piece);
                }
            }
        }
    }
    Ok(prepared)
}

/// A tensor's rows in so many equal parts.
fn cut(name: &str, tensor: SourceTensor, parts: usize) -> Result<Vec<SourceTensor>, ImportError> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    let numbers = tensor.numbers.len() / parts;
    if rows == 0 || !rows.is_multiple_of(parts) || numbers == 0 {
        let message = format!(
            "tensor \"{name}\": expected floats in {parts} equal parts, found {:?}",
            tensor.shape
        );
        return Err(ImportError::new(&tensor.file, message));
    }
    let shape: Vec<usize> = std::iter::once(rows / parts)
        .chain(tensor.shape.iter().skip(1).copied())
        .collect();
    let pieces = tensor.numbers.chunks(numbers).map(|piece| SourceTensor {
        shape: shape.clone(),
        numbers: piece.to_vec(),
        file: tensor.file.clone(),
    });
    Ok(pieces.collect())
}

/// MPNet's name.
pub(super) fn mpnet(ours: &str) -> Option<(String, bool)> {
    let (stem, kind) = ours.rsplit_once('.')?;
    let head = match stem {
        "head.dense" => Some("classifier.dense"),
        "head.output" => Some("classifier.out_proj"),
        _ => None,
    };
    if let Some(name) = head {
        return Some((format!("{name}.{kind}"), false));
    }
    let name = match stem {
        "embeddings.word" => "embeddings.word_embeddings".to_owned(),
        "embeddings.position" => "embeddings.position_embeddings".to_owned(),
        "embeddings.norm" => "embeddings.LayerNorm".to_owned(),
        "relative" => "encoder.relative_attention_bias".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "query" => "attention.attn.q",
                "key" => "attention.attn.k",
                "value" => "attention.attn.v",
                "attended" => "attention.attn.o",
                "attended_norm" => "attention.LayerNorm",
                "up" => "intermediate.dense",
                "down" => "output.dense",
                "norm" => "output.LayerNorm",
                _ => return None,
            };
            format!("encoder.layer.{layer}.{part}")
        }
    };
    Some((format!("{name}.{kind}"), true))
}

/// ModernBERT's name, in a model of so many layers.
pub(super) fn modern(ours: &str, layers: usize) -> Option<(String, bool)> {
    let (stem, kind) = ours.rsplit_once('.')?;
    let head = match stem {
        "head.dense" => Some("head.dense"),
        "head.dense_norm" => Some("head.norm"),
        "head.output" => Some("classifier"),
        _ => None,
    };
    if let Some(name) = head {
        return Some((format!("{name}.{kind}"), false));
    }
    let name = match stem {
        "embeddings.word" => "embeddings.tok_embeddings".to_owned(),
        "embeddings.norm" => "embeddings.norm".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
            // The norms that stand before a layer are called after the one before.
            let next = layer.parse::<usize>().ok()? + 1;
            match part {
                "query" | "key" | "value" => format!("layers.{layer}.attn.Wqkv.{part}"),
                "attended" => format!("layers.{layer}.attn.Wo"),
                "attended_norm" => format!("layers.{layer}.mlp_norm"),
                "up" | "gate" => format!("layers.{layer}.mlp.Wi.{part}"),
                "down" => format!("layers.{layer}.mlp.Wo"),
                "norm" if next == layers => "final_norm".to_owned(),
                "norm" => format!("layers.{next}.attn_norm"),
                _ => return None,
            }
        }
    };
    Some((format!("{name}.{kind}"), true))
}

/// The name of Nomic's rotary BERT.
pub(super) fn nomic(ours: &str) -> Option<(String, bool)> {
    let (stem, kind) = ours.rsplit_once('.')?;
    let name = match stem {
        "embeddings.word" => "embeddings.word_embeddings".to_owned(),
        "embeddings.type" => "embeddings.token_type_embeddings".to_owned(),
        "embeddings.norm" => "embeddings.LayerNorm".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "query" => "self_attn.q_proj",
                "key" => "self_attn.k_proj",
                "value" => "self_attn.v_proj",
                "attended" => "self_attn.o_proj",
                "attended_norm" => "post_attention_layernorm",
                "up" => "mlp.gate_proj",
                "gate" => "mlp.up_proj",
                "down" => "mlp.down_proj",
                "norm" => "post_mlp_layernorm",
                _ => return None,
            };
            format!("layers.{layer}.{part}")
        }
    };
    Some((format!("{name}.{kind}"), true))
}

/// DeBERTa's name.
pub(super) fn deberta(ours: &str) -> Option<(String, bool)> {
    let (stem, kind) = ours.rsplit_once('.')?;
    let head = match stem {
        "head.dense" => Some("pooler.dense"),
        "head.output" => Some("classifier"),
        _ => None,
    };
    if let Some(name) = head {
        return Some((format!("{name}.{kind}"), false));
    }
    let name = match stem {
        "embeddings.word" => "embeddings.word_embeddings".to_owned(),
        "embeddings.position" => "embeddings.position_embeddings".to_owned(),
        "embeddings.type" => "embeddings.token_type_embeddings".to_owned(),
        "embeddings.norm" => "embeddings.LayerNorm".to_owned(),
        "distances" => "encoder.rel_embeddings".to_owned(),
        "distances.norm" => "encoder.LayerNorm".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "query" => "attention.self.query_proj",
                "key" => "attention.self.key_proj",
                "value" => "attention.self.value_proj",
                "attended" => "attention.output.dense",
                "attended_norm" => "attention.output.LayerNorm",
                "up" => "intermediate.dense",
                "down" => "output.dense",
                "norm" => "output.LayerNorm",
                _ => return None,
            };
            format!("encoder.layer.{layer}.{part}")
        }
    };
    Some((format!("{name}.{kind}"), true))
}
