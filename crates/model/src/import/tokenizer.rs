//! The tokenizer: read, tried against the model, and described in the manifest.

mod agreed;
mod rewritten;

use std::fs;

use sha2::{Digest, Sha256};

use super::error::ImportError;
use super::plan::Plan;
use crate::manifest::TokenizerFile;
use crate::tokens::Tokenizer;
use agreed::Asked;
use rewritten::{with_lowercase, without_types};

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
    let asked = Asked::read(&plan.transformer)?;
    asked.check(&bytes, plan.family)?;
    let refuse = |message: String| ImportError::new(&path, message);
    let parse = |bytes: &[u8]| {
        let file = tokenizer_file(plan, bytes);
        Tokenizer::parse(bytes, &file, plan.shape.vocabulary).map_err(refuse)
    };
    let mut bytes = match plan.lowercase {
        true => with_lowercase(bytes),
        false => bytes,
    };
    let mut tokenizer = parse(&bytes)?;
    let (pair, types) = (plan.purpose.pair, plan.shape.token_types);
    let highest = tokenizer.highest_type(pair).map_err(refuse)?;
    if asked.is_without_types() && types > 0 && highest > 0 {
        bytes = without_types(bytes);
        tokenizer = parse(&bytes)?;
        if tokenizer.highest_type(pair).map_err(refuse)? > 0 {
            return Err(asked.types_refused());
        }
    }
    tokenizer.check_types(types, pair).map_err(refuse)?;
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
