//! The manifest: what a version says of itself in `manifest.toml`.
//!
//! Parsing answers with a manifest whose parts fit each other, or with the field that is wrong. What the weights file
//! holds is checked against it elsewhere, before anything is built.

mod check;
mod encoder;
mod onnx;
mod tables;
mod trees;

pub(crate) use check::check_labels;
pub use encoder::Pooling;
pub(crate) use encoder::{
    DenseActivation, DisentangledShape, EncoderActivation, EncoderShape, Head, HeadDense,
    RelativeShape, RotaryShape, WindowShape,
};
#[cfg(feature = "onnx")]
pub(crate) use tables::OnnxShape;
pub(crate) use tables::{
    Architecture, FeatureInput, Golden, HiddenActivation, Manifest, Output, TaskName,
    TokenizerFile, TreesFormat, TreesShape, TruncationSide, WeightsFile,
};
pub use tables::{NgramShape, OutputActivation};

use super::error::LoadError;
use kiln_contract::model::Training;
use kiln_contract::redact;
use serde::de::DeserializeOwned;

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(source: &str) -> Result<Manifest, LoadError> {
        let manifest: Manifest = read(source)?;
        manifest.check()?;
        Ok(manifest)
    }
}

/// Reads and checks the fields of `[training]`, which stand alone here.
pub(crate) fn parse_training(source: &str) -> Result<Training, LoadError> {
    let training: Training = read(source)?;
    check::check_training(&training)
        .map_err(|(field, message)| LoadError::field(&field, &message))?;
    Ok(training)
}

fn read<T: DeserializeOwned>(source: &str) -> Result<T, LoadError> {
    let deserializer = toml::Deserializer::parse(source)
        .map_err(|error| LoadError::manifest(&unreadable(&error, source)))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = redact::path(error.path());
        let inner = error.into_inner();
        let message = redact::serde(inner.message());
        match path.as_str() {
            "" => LoadError::manifest(&message),
            path => LoadError::field(path, &message),
        }
    })
}

/// Where a text isn't TOML, and why: not with the line itself, as the reader would.
fn unreadable(error: &toml::de::Error, source: &str) -> String {
    let message = redact::serde(error.message());
    let before = error.span().and_then(|span| source.get(..span.start));
    let line = before.map(|before| before.matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
