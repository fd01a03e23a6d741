//! Whether an encoder's sizes, tokenizer and head fit each other.

use super::rules::{MAX_LAYER_WIDTH, check_file};
use crate::error::LoadError;
use crate::manifest::tables::{EncoderShape, Head, Output, TaskName, TokenizerFile};

/// Enough for a pair's special tokens and one token of each text.
const MIN_TOKENS: usize = 8;

pub(super) fn check(
    shape: &EncoderShape,
    tokenizer: &TokenizerFile,
    head: &Head,
    output: &Output,
) -> Result<(), LoadError> {
    check_file("tokenizer", &tokenizer.file, &tokenizer.sha256)?;
    let between = |field: &str, value: usize, low: usize, high: usize| {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            let message = format!("must be between {low} and {high}, found {value}");
            Err(LoadError::field(field, &message))
        }
    };
    between("encoder.layers", shape.layers, 1, 128)?;
    between("encoder.hidden", shape.hidden, 1, 16_384)?;
    between("encoder.heads", shape.heads, 1, shape.hidden)?;
    between("encoder.intermediate", shape.intermediate, 1, 65_536)?;
    between("encoder.vocabulary", shape.vocabulary, 1, 1 << 22)?;
    between("encoder.positions", shape.positions, 1, 1 << 17)?;
    between("encoder.token_types", shape.token_types, 0, 1_024)?;
    if !shape.hidden.is_multiple_of(shape.heads) {
        return Err(LoadError::field(
            "encoder.heads",
            &format!(
                "must divide encoder.hidden ({}), found {}",
                shape.hidden, shape.heads
            ),
        ));
    }
    if !(shape.norm_eps > 0.0 && shape.norm_eps < 1.0) {
        return Err(LoadError::field(
            "encoder.norm_eps",
            "must be above 0 and below 1",
        ));
    }
    let usable = shape.positions.saturating_sub(shape.position_offset);
    between(
        "tokenizer.max_tokens",
        tokenizer.max_tokens,
        MIN_TOKENS,
        usable,
    )?;
    if let Some(dense) = head.dense {
        between("head.dense.width", dense.width, 1, MAX_LAYER_WIDTH)?;
    }
    if output.task == TaskName::Embedding {
        let width = head.dense.map_or(shape.hidden, |dense| dense.width);
        if output.width != Some(width) {
            return Err(LoadError::field(
                "output.width",
                &format!("must be {width}, the width of what the head gives"),
            ));
        }
    } else if head.normalise {
        return Err(LoadError::field(
            "head.normalise",
            "only an embedding is scaled to length 1",
        ));
    }
    Ok(())
}
