//! A version's weights file: read once, checked whole, then handed out by name.
//!
//! Nothing leaves this file before the bytes have the manifest's SHA-256 and the tensors have exactly the names, types
//! and shapes that the architecture expects.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_contract::redact;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::error::LoadError;
use super::files::read_verified;
use super::manifest::WeightsFile;
use super::network::Size;

/// Names that an error message lists before it says how many more there are.
const NAMES_SHOWN: usize = 12;

/// Sizes of a shape that are shown.
const MAX_SIZES_SHOWN: usize = 8;
/// Longest name of a tensor that is shown, in bytes.
const MAX_NAME_BYTES: usize = 80;

/// A tensor that an architecture expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub name: String,
    pub shape: Vec<usize>,
    kind: Dtype,
}

impl Expected {
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            kind: Dtype::F32,
        }
    }

    /// A tensor of signed bytes.
    pub fn bytes(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self {
            kind: Dtype::I8,
            ..Self::new(name, shape)
        }
    }

    /// Whether its numbers are signed bytes, not floats.
    pub fn is_bytes(&self) -> bool {
        self.kind == Dtype::I8
    }
}

/// Checked tensors by the architecture's names for them.
#[derive(Debug)]
pub(crate) struct Weights {
    tensors: BTreeMap<String, Vec<f32>>,
    bytes: BTreeMap<String, Vec<i8>>,
    parameters: usize,
}

impl Weights {
    /// Reads the file beside the manifest and checks it against what the architecture expects.
    pub fn read(
        folder: &Path,
        declared: &WeightsFile,
        expected: &[Expected],
    ) -> Result<Weights, LoadError> {
        let whole = read_verified(folder, &declared.file, &declared.sha256, "weights")?;
        Self::of(&whole, declared, expected)
    }

    /// Checks a file's bytes against what the architecture expects.
    fn of(
        whole: &[u8],
        declared: &WeightsFile,
        expected: &[Expected],
    ) -> Result<Weights, LoadError> {
        let refuse = |message: String| LoadError::file(&declared.file, message);
        let file = SafeTensors::deserialize(whole).map_err(|error| refuse(unreadable(&error)))?;

        let (mut tensors, mut bytes) = (BTreeMap::new(), BTreeMap::new());
        let mut names_used = Vec::with_capacity(expected.len());
        for tensor in expected {
            let renamed = declared.rename.get(&tensor.name).unwrap_or(&tensor.name);
            let name = format!("{}{renamed}", declared.prefix);
            let data = data(&file, &name, tensor).map_err(refuse)?;
            if tensor.is_bytes() {
                let numbers = data.iter().map(|byte| byte.cast_signed()).collect();
                bytes.insert(tensor.name.clone(), numbers);
            } else {
                tensors.insert(tensor.name.clone(), floats(&name, data).map_err(refuse)?);
            }
            names_used.push(name);
        }
        if let Some(extra) = file
            .names()
            .into_iter()
            .find(|name| !names_used.iter().any(|used| used == name))
        {
            return Err(refuse(format!(
                "tensor \"{}\" is not one this architecture has; expected {}",
                shown(extra),
                some(&names_used)
            )));
        }
        if let Some(unknown) = declared
            .rename
            .keys()
            .find(|name| !expected.iter().any(|tensor| &tensor.name == *name))
        {
            return Err(LoadError::field(
                &format!("weights.rename.\"{}\"", shown(unknown)),
                &format!(
                    "is not a tensor of this architecture; expected {}",
                    some(&names_used)
                ),
            ));
        }
        let floats: usize = tensors.values().map(Vec::len).sum();
        let parameters = floats + bytes.values().map(Vec::len).sum::<usize>();
        Ok(Weights {
            tensors,
            bytes,
            parameters,
        })
    }

    /// How many numbers the file holds.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// How many that is, and the bytes that they take.
    pub fn size(&self) -> Size {
        let floats = self.tensors.values().map(|t| size_of_val(t.as_slice()));
        let bytes = self.bytes.values().map(Vec::len);
        Size {
            parameters: self.parameters,
            bytes: floats.chain(bytes).sum(),
        }
    }

    /// Hands a tensor's numbers over. The name must be one that was expected; anything else is empty.
    pub fn take(&mut self, name: &str) -> Vec<f32> {
        self.tensors.remove(name).unwrap_or_default()
    }

    /// The same of a tensor of bytes.
    pub fn take_bytes(&mut self, name: &str) -> Vec<i8> {
        self.bytes.remove(name).unwrap_or_default()
    }
}

/// The bytes of a tensor that must have this type and shape, or what is wrong with it.
fn data<'a>(file: &SafeTensors<'a>, name: &str, expected: &Expected) -> Result<&'a [u8], String> {
    let (kind, shape) = (expected.kind, &expected.shape);
    let view = file.tensor(name).map_err(|_| {
        format!(
            "tensor \"{}\" is missing, expected {kind:?} {shape:?}; found {}",
            shown(name),
            listed(file)
        )
    })?;
    if view.dtype() != kind || view.shape() != shape {
        return Err(format!(
            "tensor \"{}\": expected {kind:?} {shape:?}, found {:?} {}",
            shown(name),
            view.dtype(),
            sizes(view.shape())
        ));
    }
    Ok(view.data())
}

/// A shape of any length, as far as it is shown.
fn sizes(shape: &[usize]) -> String {
    match shape.split_at_checked(MAX_SIZES_SHOWN) {
        Some((_, rest)) if !rest.is_empty() => format!("{} sizes", shape.len()),
        _ => format!("{shape:?}"),
    }
}

/// The floats that a tensor's bytes are, which must be finite.
fn floats(name: &str, data: &[u8]) -> Result<Vec<f32>, String> {
    let numbers: Vec<f32> = data
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    match numbers.iter().enumerate().find(|(_, x)| !x.is_finite()) {
        Some((at, x)) => Err(format!(
            "tensor \"{}\": number {at} is {x}, expected finite numbers",
            shown(name)
        )),
        None => Ok(numbers),
    }
}

fn listed(file: &SafeTensors<'_>) -> String {
    let mut names = file.names();
    names.sort_unstable();
    some(&names)
}

/// Some of those names, and how many more there are.
fn some(names: &[impl AsRef<str>]) -> String {
    if names.is_empty() {
        return "no tensors".to_owned();
    }
    let first = names.iter().take(NAMES_SHOWN);
    let first: Vec<&str> = first.map(|name| shown(name.as_ref())).collect();
    let text = first.join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A tensor's name, unless it is none that anybody gave: a file's header may hold anything.
pub(crate) fn shown(name: &str) -> &str {
    let is_plain = name.len() <= MAX_NAME_BYTES && name.bytes().all(|b| b.is_ascii_graphic());
    if is_plain { name } else { redact::HIDDEN }
}

/// Why bytes are no safetensors file; of its header only names are shown.
pub(crate) fn unreadable(error: &SafeTensorError) -> String {
    let reason = redact::names_only(&error.to_string());
    format!("is not a whole safetensors file: {reason}")
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
