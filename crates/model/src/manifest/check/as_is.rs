//! Whether a manifest of another library's file fits it: trees and ONNX.

use super::super::tables::{Architecture, Manifest, OnnxShape, TaskName};
use super::MAX_NAME_BYTES;
use super::rules::check_file;
use crate::error::LoadError;

/// Tokens between which `tokenizer.max_tokens` lies.
const MIN_TOKENS: usize = 8;
const MAX_TOKENS: usize = 8_192;

impl Manifest {
    /// What other architectures have, and not those whose file is another library's.
    pub(super) fn check_as_is(&self) -> Result<(), LoadError> {
        let refuse = |field: &str| {
            let name = self.architecture.name();
            let message = format!("does not belong to the architecture \"{name}\"");
            Err(LoadError::field(field, &message))
        };
        if let Some(features) = &self.features
            && features.mean.is_some()
        {
            return refuse("features.mean");
        }
        if let Some(weights) = &self.weights {
            if !weights.prefix.is_empty() {
                return refuse("weights.prefix");
            }
            if !weights.rename.is_empty() {
                return refuse("weights.rename");
            }
        }
        if self.architecture == Architecture::Trees && self.output.task == TaskName::Embedding {
            let message = "must be \"scalar\" or \"classification\" for \"trees\"";
            return Err(LoadError::field("output.task", message));
        }
        if let Some(onnx) = &self.onnx {
            self.check_onnx(onnx)?;
        }
        Ok(())
    }

    fn check_onnx(&self, onnx: &OnnxShape) -> Result<(), LoadError> {
        if onnx.output.is_empty() || onnx.output.len() > MAX_NAME_BYTES {
            return Err(LoadError::field("onnx.output", "must be 1 to 256 bytes"));
        }
        if onnx.column.is_some() && self.output.task != TaskName::Scalar {
            let message = "one column is a scalar, and no other task";
            return Err(LoadError::field("onnx.column", message));
        }
        if onnx.missing && self.features.is_none() {
            let message = "only features can be missing";
            return Err(LoadError::field("onnx.missing", message));
        }
        if let Some(tokenizer) = &self.tokenizer {
            check_file("tokenizer", &tokenizer.file, &tokenizer.sha256)?;
            if !(MIN_TOKENS..=MAX_TOKENS).contains(&tokenizer.max_tokens) {
                let message = format!("must be between {MIN_TOKENS} and {MAX_TOKENS}");
                return Err(LoadError::field("tokenizer.max_tokens", &message));
            }
        }
        Ok(())
    }
}
