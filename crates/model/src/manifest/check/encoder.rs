//! Whether an encoder's sizes, tokenizer and head fit each other.

use super::rules::{MAX_LAYER_WIDTH, check_file};
use crate::error::LoadError;
use crate::manifest::encoder::{EncoderShape, Head, Pooling};
use crate::manifest::tables::{Output, TaskName, TextInput, TokenizerFile, TruncationSide};
use kiln_contract::model::PairRule;

/// Enough for a pair's special tokens and one token of each text.
const MIN_TOKENS: usize = 8;
/// Maximum of a prompt's bytes.
const MAX_PROMPT_BYTES: usize = 4_096;
/// Maximum of distances that have a bias or a row of their own.
const MAX_DISTANCE: usize = 8_192;
/// Maximum of numbers that embedded distances become in all layers: 1 GiB, twice.
const MAX_EMBEDDED: usize = 1 << 28;
/// Maximum of numbers in a table of turns: 64 MiB.
const MAX_TURNS: usize = 1 << 24;

pub(super) fn check(
    shape: &EncoderShape,
    tokenizer: &TokenizerFile,
    head: &Head,
    text: Option<&TextInput>,
    output: &Output,
) -> Result<(), LoadError> {
    check_file("tokenizer", &tokenizer.file, &tokenizer.sha256)?;
    shape.check()?;
    let usable = shape.positions.saturating_sub(shape.position_offset);
    between(
        "tokenizer.max_tokens",
        tokenizer.max_tokens,
        MIN_TOKENS,
        usable,
    )?;
    check_prompt(tokenizer, head, text, output)?;
    if let Some(dense) = head.dense {
        between("head.dense.width", dense.width, 1, MAX_LAYER_WIDTH)?;
        if let Some(eps) = dense.norm_eps {
            check_eps("head.dense.norm_eps", eps)?;
        }
    }
    if output.task == TaskName::Embedding {
        // Fewer are the first ones, for models that were trained so.
        let width = head.dense.map_or(shape.hidden, |dense| dense.width);
        if !output
            .width
            .is_some_and(|asked| (1..=width).contains(&asked))
        {
            return Err(LoadError::field(
                "output.width",
                &format!("must be at most {width}, the width of what the head gives"),
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

impl EncoderShape {
    /// Whether its sizes can be, and fit each other.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        between("encoder.layers", self.layers, 1, 128)?;
        between("encoder.hidden", self.hidden, 1, 16_384)?;
        between("encoder.heads", self.heads, 1, self.hidden)?;
        between("encoder.intermediate", self.intermediate, 1, 65_536)?;
        between("encoder.vocabulary", self.vocabulary, 1, 1 << 22)?;
        between("encoder.positions", self.positions, 1, 1 << 17)?;
        between("encoder.token_types", self.token_types, 0, 1_024)?;
        if !self.hidden.is_multiple_of(self.heads) {
            return Err(LoadError::field(
                "encoder.heads",
                &format!(
                    "must divide encoder.hidden ({}), found {}",
                    self.hidden, self.heads
                ),
            ));
        }
        check_eps("encoder.norm_eps", self.norm_eps)?;
        check_places(self)?;
        Ok(())
    }
}

/// What stands before texts.
fn check_prompt(
    tokenizer: &TokenizerFile,
    head: &Head,
    text: Option<&TextInput>,
    output: &Output,
) -> Result<(), LoadError> {
    let refuse = |field: &str, message: &str| Err(LoadError::field(field, message));
    if tokenizer.prompt.len() > MAX_PROMPT_BYTES {
        let message = format!("must be at most {MAX_PROMPT_BYTES} bytes");
        return refuse("tokenizer.prompt", &message);
    }
    let has_pairs = text.is_some_and(|text| text.pair != PairRule::None);
    if !tokenizer.prompt.is_empty() && (has_pairs || output.task != TaskName::Embedding) {
        let message = "stands before the texts of an embedding that takes no second one";
        return refuse("tokenizer.prompt", message);
    }
    if !head.include_prompt && (tokenizer.prompt.is_empty() || head.pooling != Pooling::Mean) {
        let message = "is for the mean of texts with a tokenizer.prompt";
        return refuse("head.include_prompt", message);
    }
    if !head.include_prompt && tokenizer.truncate == TruncationSide::Left {
        let message = "must be \"right\" where the prompt is left out of the mean";
        return refuse("tokenizer.truncate", message);
    }
    Ok(())
}

fn between(field: &str, value: usize, low: usize, high: usize) -> Result<(), LoadError> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        let message = format!("must be between {low} and {high}, found {value}");
        Err(LoadError::field(field, &message))
    }
}

fn check_eps(field: &str, eps: f32) -> Result<(), LoadError> {
    if eps > 0.0 && eps < 1.0 {
        Ok(())
    } else {
        Err(LoadError::field(field, "must be above 0 and below 1"))
    }
}

/// How tokens know their places.
fn check_places(shape: &EncoderShape) -> Result<(), LoadError> {
    let kinds = [
        shape.relative.is_some(),
        shape.rotary.is_some(),
        shape.disentangled.is_some(),
    ];
    if kinds.into_iter().filter(|is_there| *is_there).count() > 1 {
        return Err(LoadError::field(
            "encoder",
            "has more than one of the tables relative, rotary and disentangled",
        ));
    }
    if let Some(relative) = shape.relative {
        between("encoder.relative.buckets", relative.buckets, 4, 4_096)?;
        if !relative.buckets.is_multiple_of(4) {
            let message = "must be a multiple of 4";
            return Err(LoadError::field("encoder.relative.buckets", message));
        }
        let min_distance = relative.buckets / 4 + 1;
        let field = "encoder.relative.max_distance";
        between(field, relative.max_distance, min_distance, MAX_DISTANCE)?;
    }
    if let Some(rotary) = shape.rotary {
        check_theta("encoder.rotary.theta", rotary.theta)?;
        let width = shape.hidden / shape.heads;
        if !width.is_multiple_of(2) || width.saturating_mul(shape.positions) > MAX_TURNS {
            let message = format!(
                "needs heads of an even width, which times encoder.positions is at most {MAX_TURNS}"
            );
            return Err(LoadError::field("encoder.rotary", &message));
        }
        if let Some(window) = rotary.window {
            check_theta("encoder.rotary.window.theta", window.theta)?;
            between("encoder.rotary.window.reach", window.reach, 1, 1 << 17)?;
            between("encoder.rotary.window.every", window.every, 1, 128)?;
        }
    }
    if let Some(distances) = shape.disentangled {
        between("encoder.disentangled.buckets", distances.buckets, 0, 4_096)?;
        if !distances.buckets.is_multiple_of(2) {
            let message = "must be even";
            return Err(LoadError::field("encoder.disentangled.buckets", message));
        }
        let min_distance = distances.buckets / 2 + 2;
        let field = "encoder.disentangled.max_distance";
        between(field, distances.max_distance, min_distance, MAX_DISTANCE)?;
        let numbers = distances.rows() * shape.hidden * shape.layers;
        if numbers > MAX_EMBEDDED {
            let message = format!(
                "has {} rows, which times encoder.hidden and encoder.layers is more than {MAX_EMBEDDED}",
                distances.rows()
            );
            return Err(LoadError::field("encoder.disentangled", &message));
        }
    }
    Ok(())
}

fn check_theta(field: &str, theta: f32) -> Result<(), LoadError> {
    if (1.0..=1e9).contains(&theta) {
        Ok(())
    } else {
        let message = "must be between 1 and 1000000000";
        Err(LoadError::field(field, message))
    }
}
