//! A version's weights file: read once, checked whole, then handed out by name.
//!
//! Nothing leaves this file before the bytes have the manifest's SHA-256 and the tensors have exactly the names, types
//! and shapes that the architecture expects.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::error::LoadError;
use super::manifest::WeightsFile;

/// A tensor that an architecture expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub name: String,
    pub shape: Vec<usize>,
}

impl Expected {
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
        }
    }
}

/// Checked tensors by the architecture's names for them.
#[derive(Debug)]
pub(crate) struct Weights {
    tensors: BTreeMap<String, Vec<f32>>,
    parameters: usize,
}

impl Weights {
    /// Reads the file beside the manifest and checks it against what the architecture expects.
    pub fn read(
        folder: &Path,
        declared: &WeightsFile,
        expected: &[Expected],
    ) -> Result<Weights, LoadError> {
        let refuse = |message: String| LoadError::file(&declared.file, message);
        let bytes = fs::read(folder.join(&declared.file)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("is missing".to_owned()),
            _ => refuse(format!("cannot be read: {error}")),
        })?;
        let found = hex::encode(Sha256::digest(&bytes));
        if !found.eq_ignore_ascii_case(&declared.sha256) {
            return Err(refuse(format!(
                "has SHA-256 {found} ({} bytes), expected {} by the manifest's weights.sha256",
                bytes.len(),
                declared.sha256.to_ascii_lowercase()
            )));
        }
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| refuse(format!("is not a whole safetensors file: {error}")))?;

        let mut tensors = BTreeMap::new();
        let mut names_used = Vec::with_capacity(expected.len());
        for tensor in expected {
            let renamed = declared.rename.get(&tensor.name).unwrap_or(&tensor.name);
            let name = format!("{}{renamed}", declared.prefix);
            let view = file.tensor(&name).map_err(|_| {
                refuse(format!(
                    "tensor \"{name}\" is missing, expected F32 {:?}; found {}",
                    tensor.shape,
                    listed(&file)
                ))
            })?;
            if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
                return Err(refuse(format!(
                    "tensor \"{name}\": expected F32 {:?}, found {:?} {:?}",
                    tensor.shape,
                    view.dtype(),
                    view.shape()
                )));
            }
            let numbers: Vec<f32> = view
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
                return Err(refuse(format!(
                    "tensor \"{name}\": number {at} is {}, expected finite numbers",
                    numbers[at]
                )));
            }
            tensors.insert(tensor.name.clone(), numbers);
            names_used.push(name);
        }
        if let Some(extra) = file
            .names()
            .into_iter()
            .find(|name| !names_used.iter().any(|used| used == name))
        {
            return Err(refuse(format!(
                "tensor \"{extra}\" is not one this architecture has; expected {}",
                names_used.join(", ")
            )));
        }
        if let Some(unknown) = declared
            .rename
            .keys()
            .find(|name| !expected.iter().any(|tensor| &tensor.name == *name))
        {
            return Err(LoadError::field(
                &format!("weights.rename.\"{unknown}\""),
                &format!(
                    "is not a tensor of this architecture; expected {}",
                    names_used.join(", ")
                ),
            ));
        }
        let parameters = tensors.values().map(Vec::len).sum();
        Ok(Weights {
            tensors,
            parameters,
        })
    }

    /// How many numbers the file holds.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Hands a tensor's numbers over. The name must be one that was expected; anything else is empty.
    pub fn take(&mut self, name: &str) -> Vec<f32> {
        self.tensors.remove(name).unwrap_or_default()
    }
}

fn listed(file: &SafeTensors<'_>) -> String {
    let mut names = file.names();
    names.sort_unstable();
    let shown = names.len().min(12);
    let more = names.len() - shown;
    let mut text = names[..shown].join(", ");
    if text.is_empty() {
        text.push_str("no tensors");
    }
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests;
