//! The tokenizer: read, tried against the model, and described in the manifest.

use std::fs;

use sha2::{Digest, Sha256};

use super::error::ImportError;
use super::plan::Plan;
use crate::manifest::TokenizerFile;
use crate::tokens::Tokenizer;

/// The file that holds it.
pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";

/// The bytes of a tokenizer that fits the model.
pub(super) fn read_tokenizer(plan: &Plan) -> Result<Vec<u8>, ImportError> {
    let path = plan.transformer.join(TOKENIZER_FILE);
    let bytes = fs::read(&path).map_err(|error| {
        let message = if error.kind() == std::io::ErrorKind::NotFound {
            "is missing; write it with `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`".to_owned()
        } else {
            format!("cannot be read: {error}")
        };
        ImportError::new(&path, message)
    })?;
    Tokenizer::parse(&bytes, &tokenizer_file(plan, &bytes), plan.shape.vocabulary)
        .map_err(|message| ImportError::new(&path, message))?;
    Ok(bytes)
}

/// The manifest's table for it.
pub(super) fn tokenizer_file(plan: &Plan, bytes: &[u8]) -> TokenizerFile {
    TokenizerFile {
        file: TOKENIZER_FILE.to_owned(),
        sha256: hex::encode(Sha256::digest(bytes)),
        max_tokens: plan.max_tokens,
        truncate: plan.truncate,
        prompt: plan.prompt.clone(),
    }
}
