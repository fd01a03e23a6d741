//! The manifest: what a version says of itself in `manifest.toml`.
//!
//! Parsing answers with a manifest whose parts fit each other, or with the field that is wrong. What the weights file
//! holds is checked against it elsewhere, before anything is built.

mod check;
mod tables;

pub(crate) use tables::{
    Architecture, DenseActivation, EncoderActivation, EncoderShape, Golden, Head, HeadDense,
    HiddenActivation, Manifest, TaskName, TokenizerFile, TruncationSide, WeightsFile,
};
pub use tables::{NgramShape, OutputActivation, Pooling};

use super::error::LoadError;

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(source: &str) -> Result<Manifest, LoadError> {
        let deserializer = toml::Deserializer::parse(source)
            .map_err(|error| LoadError::manifest(error.to_string().trim_end()))?;
        let manifest: Manifest =
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                let path = error.path().to_string();
                let inner = error.into_inner();
                match path.as_str() {
                    "." => LoadError::manifest(inner.message()),
                    path => LoadError::field(path, inner.message()),
                }
            })?;
        manifest.check()?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests;
