//! Cuts texts into tokens, for the models that read tokens.
//!
//! Promises that no text has more tokens than its model takes, that truncated texts are counted, and that a tokenizer that
//! doesn't belong to its model is refused when it is loaded. The algorithms are those of the `tokenizers` crate.

use std::error::Error;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use kiln_contract::{
    model::{ModelError, PairRule},
    redact,
};
use tokenizers::{
    Encoding, PostProcessor, Token, TruncationDirection, TruncationParams, TruncationStrategy,
    truncate_encodings,
};

use super::error::LoadError;
use super::files::read_verified;
use super::manifest::{TokenizerFile, TruncationSide};
use super::rows::TextRow;

/// Longest token that a message shows, in characters.
const SHOWN_CHARS: usize = 64;

/// Texts as tokens, one after the other, unpadded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Every text's tokens, special ones included.
    pub ids: Vec<u32>,
    /// Which of the two texts a token belongs to, for every token.
    pub types: Vec<u32>,
    /// Where each text ends in `ids`.
    ends: Vec<usize>,
    /// Texts that were longer than the model takes.
    pub truncated: usize,
}

impl Tokens {
    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Tokens of the texts of that range, which must lie within [`Tokens::len`].
    pub fn span(&self, texts: &Range<usize>) -> Range<usize> {
        self.end(texts.start)..self.end(texts.end)
    }

    /// Where the first `texts` texts end in `ids`.
    fn end(&self, texts: usize) -> usize {
        match texts.checked_sub(1) {
            None => 0,
            Some(last) => {
                debug_assert!(last < self.ends.len(), "{texts} of {} texts", self.len());
                self.ends.get(last).copied().unwrap_or(self.ids.len())
            }
        }
    }

    /// Tokens a text, for the texts of that range.
    pub fn lengths(&self, texts: Range<usize>) -> Vec<usize> {
        texts
            .map(|text| self.end(text + 1) - self.end(text))
            .collect()
    }

    /// Adds a text.
    pub fn push(&mut self, ids: &[u32], types: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.types.extend_from_slice(types);
        self.ends.push(self.ids.len());
    }
}

/// A loaded tokenizer.
///
/// It cuts texts whole, and what is too long is cut after: the crate's own way stops reading a text early, and then takes
/// two long texts for equally long.
pub(crate) struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    max_tokens: usize,
    direction: TruncationDirection,
    /// Special tokens of a text, and of a pair.
    special: [usize; 2],
    /// Stands before every text; mostly empty.
    prompt: String,
    /// A text's first tokens, which are the prompt's and those that stand before it.
    prompt_tokens: usize,
}

impl Tokenizer {
    /// Reads the tokenizer beside the manifest, for a model with `vocabulary` words.
    pub fn read(
        folder: &Path,
        declared: &TokenizerFile,
        vocabulary: usize,
    ) -> Result<Self, LoadError> {
        let bytes = read_verified(folder, &declared.file, &declared.sha256, "tokenizer")?;
        Self::parse(&bytes, declared, vocabulary)
            .map_err(|message| LoadError::file(&declared.file, message))
    }

    /// The tokenizer of such a file, for a model with `vocabulary` words.
    pub fn parse(
        bytes: &[u8],
        declared: &TokenizerFile,
        vocabulary: usize,
    ) -> Result<Self, String> {
        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(bytes))?
            .map_err(|error| format!("is not a tokenizer.json: {}", said(error.as_ref())))?;
        let special = [false, true].map(|pair| {
            tokenizer
                .get_post_processor()
                .map_or(0, |processor| processor.added_tokens(pair))
        });
        let max_tokens = declared.max_tokens;
        if special.iter().any(|special| *special >= max_tokens) {
            return Err(format!(
                "adds {special:?} special tokens to a text and a pair, expected fewer than max_tokens ({max_tokens})"
            ));
        }
        let highest = tokenizer
            .get_vocab(true)
            .into_iter()
            .max_by_key(|(_, id)| *id);
        if let Some((token, id)) = highest
            && id as usize >= vocabulary
        {
            return Err(format!(
                "the token {:?} has number {id}, expected numbers below {vocabulary}, the rows of the model's word table",
                shown(&token)
            ));
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| said(error.as_ref()))?;
        let prompt_tokens = prompt_tokens(&tokenizer, &declared.prompt)?;
        if prompt_tokens + special[0] >= max_tokens {
            return Err(format!(
                "cuts tokenizer.prompt into {prompt_tokens} tokens, expected fewer than max_tokens ({max_tokens}) with those that it adds"
            ));
        }
        Ok(Self {
            prompt: declared.prompt.clone(),
            prompt_tokens,
            tokenizer,
            max_tokens,
            direction: match declared.truncate {
                TruncationSide::Right => TruncationDirection::Right,
                TruncationSide::Left => TruncationDirection::Left,
            },
            special,
        })
    }

    /// Maximum of tokens in a text, special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// How many of a text's first tokens are the prompt's and those before it; 0 without a prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Whether a table of `types` rows has one for each type that tokens get. Without a table, types don't matter.
    pub fn check_types(&self, types: usize, pair: PairRule) -> Result<(), String> {
        match self.highest_type(pair)? {
            highest if types > 0 && highest as usize >= types => Err(format!(
                "gives tokens the type {highest}, expected types below encoder.token_types ({types}), the rows of the model's type table"
            )),
            _ => Ok(()),
        }
    }

    /// The highest type that tokens get, of lone texts and of pairs as far as these are taken.
    pub fn highest_type(&self, pair: PairRule) -> Result<u32, String> {
        let forms: &[bool] = match pair {
            PairRule::None => &[false],
            PairRule::Optional => &[false, true],
            PairRule::Required => &[true],
        };
        let word = || Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1))], 0);
        let mut highest = 0;
        for has_second in forms {
            let process = || {
                self.tokenizer
                    .post_process(word(), has_second.then(word), true)
            };
            let encoding = guarded(process)?.map_err(|error| said(error.as_ref()))?;
            highest = encoding
                .get_type_ids()
                .iter()
                .copied()
                .fold(highest, u32::max);
        }
        Ok(highest)
    }

    /// Every text's tokens. Takes microseconds a text: keep it off the threads that run models.
    ///
    /// # Errors
    /// Where a text has no tokens at all, or the tokenizer can't take it.
    pub fn tokenize(&self, texts: &[TextRow]) -> Result<Tokens, ModelError> {
        let mut tokens = Tokens::default();
        for (row, text) in texts.iter().enumerate() {
            let refuse = |message: String| ModelError::Untokenised { row, message };
            let (encoding, truncated) = guarded(|| self.encode(text))
                .map_err(refuse)?
                .map_err(|error| refuse(said(error.as_ref())))?;
            if encoding.is_empty() {
                return Err(refuse("the text has no tokens".to_owned()));
            }
            tokens.truncated += usize::from(truncated);
            tokens.push(encoding.get_ids(), encoding.get_type_ids());
        }
        Ok(tokens)
    }

    /// A text's tokens, and whether it was cut short: the longer one of a pair first, token by token.
    fn encode(&self, text: &TextRow) -> tokenizers::Result<(Encoding, bool)> {
        let whole = |text: &str| self.tokenizer.encode_fast(text, false);
        let first = if self.prompt.is_empty() {
            whole(&text.text)?
        } else {
            whole(&format!("{}{}", self.prompt, text.text))?
        };
        let second = text.text_pair.as_deref().map(whole).transpose()?;
        let [alone, pair] = self.special;
        let special = if second.is_some() { pair } else { alone };
        let params = TruncationParams {
            direction: self.direction,
            max_length: self.max_tokens.saturating_sub(special),
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let length = first.len() + second.as_ref().map_or(0, Encoding::len);
        let truncated = length > params.max_length;
        let (first, second) = if truncated {
            truncate_encodings(first, second, &params)?
        } else {
            (first, second)
        };
        let encoding = self.tokenizer.post_process(first, second, true)?;
        Ok((encoding, truncated))
    }
}

/// How many tokens a prompt has with the special ones before it, as sentence-transformers counts them: one special token at the end isn't counted.
fn prompt_tokens(tokenizer: &tokenizers::Tokenizer, prompt: &str) -> Result<usize, String> {
    if prompt.is_empty() {
        return Ok(0);
    }
    let encoding =
        guarded(|| tokenizer.encode_fast(prompt, true))?.map_err(|error| said(error.as_ref()))?;
    let ends_special = encoding.get_special_tokens_mask().last() == Some(&1);
    Ok(encoding.len() - usize::from(ends_special))
}

/// Runs what is the library's: it panics over some files, and over some texts, that it takes otherwise.
fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let reason = redact::panic(panic.as_ref());
        format!("makes the tokenizers library panic: {reason}")
    })
}

/// The beginning of a token.
fn shown(token: &str) -> String {
    token.chars().take(SHOWN_CHARS).collect()
}

/// What the tokenizer's library says, without what it quotes: that may be a text.
fn said(error: &(dyn Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<serde_json::Error>() {
        Some(error) => redact::json(error),
        None => redact::names_only(&error.to_string()),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
