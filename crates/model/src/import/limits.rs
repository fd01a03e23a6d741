//! The maximum length of texts, the end at which longer ones are truncated, and whether they are lowercased.

use std::path::Path;

use serde::Deserialize;

use super::error::{ImportError, read_json};
use crate::manifest::{EncoderShape, TruncationSide};

#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    truncation_side: Option<TruncationSide>,
}

/// What `tokenizer.json` remembers of its last use.
#[derive(Deserialize)]
struct TokenizerState {
    truncation: Option<TokenizerTruncation>,
}

#[derive(Deserialize)]
struct TokenizerTruncation {
    #[serde(default)]
    direction: String,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// A text's maximum of tokens, the end at which longer ones are truncated, and whether texts are lowercased first.
pub(super) fn limits(
    folder: &Path,
    transformer: &Path,
    shape: &EncoderShape,
    asked: Option<usize>,
) -> Result<(usize, TruncationSide, bool), ImportError> {
    let usable = shape.positions.saturating_sub(shape.position_offset);
    if let Some(asked) = asked
        && shape.position_table
        && asked > usable
    {
        let message = format!(
            "--max-tokens: found {asked}, expected at most {usable}, as many positions as the model has"
        );
        return Err(ImportError::new(folder, message));
    }
    let mut sentence = None;
    for folder in [transformer, folder] {
        let file = folder.join("sentence_bert_config.json");
        if sentence.is_none() && file.exists() {
            sentence = Some(read_json::<SentenceConfig>(&file)?);
        }
    }
    let tokenizer_file = transformer.join("tokenizer_config.json");
    let tokenizer: Option<TokenizerConfig> = if tokenizer_file.exists() {
        Some(read_json(&tokenizer_file)?)
    } else {
        None
    };
    let side = tokenizer.as_ref().and_then(|config| config.truncation_side);
    let truncate = match side {
        Some(side) => side,
        None => remembered_side(&transformer.join("tokenizer.json")),
    };
    let stated = tokenizer
        .and_then(|config| config.model_max_length)
        // "No limit" is written as 1e30.
        .filter(|stated| (1.0..1e9).contains(stated))
        .map(|stated| stated as usize);
    let lowercase = sentence.as_ref().is_some_and(|config| config.do_lower_case);
    let max_tokens = asked
        .or(sentence.and_then(|config| config.max_seq_length))
        .or(stated)
        .unwrap_or(usable);
    Ok((max_tokens.min(usable), truncate, lowercase))
}

/// The side at which `tokenizer.json` last truncated. What is wrong with that file is reported when it is loaded.
fn remembered_side(file: &Path) -> TruncationSide {
    let state = read_json::<TokenizerState>(file).ok();
    match state.and_then(|state| state.truncation) {
        Some(truncation) if truncation.direction == "Left" => TruncationSide::Left,
        _ => TruncationSide::Right,
    }
}
