//! The tensors of a Hugging Face folder: one safetensors file, or shards with their index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::error::{ImportError, read_json};
use crate::weights::{shown, unreadable};

/// The usual names.
const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One tensor as 32-bit floats, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceTensor {
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
    /// The file that held it, for messages.
    pub file: PathBuf,
}

/// Every tensor of a folder, by its name there.
pub(super) type SourceTensors = BTreeMap<String, SourceTensor>;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads all tensors of `folder`; half floats become whole ones.
pub(super) fn read(folder: &Path) -> Result<SourceTensors, ImportError> {
    let mut tensors = SourceTensors::new();
    let index_file = folder.join(INDEX);
    if folder.join(WHOLE).exists() || !index_file.exists() {
        read_file(&folder.join(WHOLE), &mut tensors)?;
        return Ok(tensors);
    }
    let index: Index = read_json(&index_file)?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    for shard in shards {
        if shard.is_empty() || shard.contains(['/', '\\', '\0']) || shard.starts_with('.') {
            return Err(ImportError::new(
                &index_file,
                format!("names the file {shard:?}, expected a plain file name"),
            ));
        }
        read_file(&folder.join(shard), &mut tensors)?;
    }
    for (tensor, shard) in &index.weight_map {
        if !tensors.contains_key(tensor) {
            return Err(ImportError::new(
                &folder.join(shard),
                format!(
                    "has no tensor \"{}\", which {INDEX} says it has",
                    shown(tensor)
                ),
            ));
        }
    }
    Ok(tensors)
}

fn read_file(path: &Path, into: &mut SourceTensors) -> Result<(), ImportError> {
    let refuse = |message: String| ImportError::new(path, message);
    let bytes = fs::read(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            refuse(
                "is missing; save the model with `model.save_pretrained(folder)`, which writes safetensors".to_owned(),
            )
        } else {
            refuse(format!("cannot be read: {error}"))
        }
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| refuse(unreadable(&error)))?;
    for (name, view) in file.tensors() {
        let numbers = numbers(view.dtype(), view.data()).map_err(|expected| {
            refuse(format!(
                "tensor \"{}\" has type {:?}, expected {expected}",
                shown(&name),
                view.dtype()
            ))
        })?;
        let tensor = SourceTensor {
            shape: view.shape().to_vec(),
            numbers,
            file: path.to_owned(),
        };
        if into.insert(name.clone(), tensor).is_some() {
            let name = shown(&name);
            return Err(refuse(format!("tensor \"{name}\" is in another shard too")));
        }
    }
    Ok(())
}

/// A tensor's numbers; whole numbers (position buffers) come as none.
fn numbers(dtype: Dtype, data: &[u8]) -> Result<Vec<f32>, &'static str> {
    Ok(match dtype {
        Dtype::F32 => data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect(),
        Dtype::F16 => halves(data, |bits| half::f16::from_bits(bits).to_f32()),
        Dtype::BF16 => halves(data, |bits| half::bf16::from_bits(bits).to_f32()),
        Dtype::I64 | Dtype::I32 => Vec::new(),
        _ => return Err("F32, F16 or BF16"),
    })
}

fn halves(data: &[u8], widen: impl Fn(u16) -> f32) -> Vec<f32> {
    data.as_chunks::<2>()
        .0
        .iter()
        .map(|bytes| widen(u16::from_le_bytes(*bytes)))
        .collect()
}
