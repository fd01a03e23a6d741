//! What stands beside a graph of texts: its tokenizer, and the descriptions that Hugging Face's tools write.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::ImportOptions;
use crate::import::draft::BYTES_PER_TOKEN;
use crate::import::error::{ImportError, read_json};
use crate::manifest::{TokenizerFile, TruncationSide};
use crate::tokens::Tokenizer;
use kiln_contract::model::PairRule;

pub(super) const TOKENIZER_FILE: &str = "tokenizer.json";
/// Tokens of a text where nothing says.
const USUAL_TOKENS: usize = 512;
/// Tokens of a text where something says more.
const MAX_TOKENS: usize = 8_192;
/// Bytes of a tokenizer.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// A tokenizer and what goes with it.
pub(super) struct Texts {
    pub bytes: Vec<u8>,
    pub pair: PairRule,
    pub labels: Vec<String>,
    pub notes: Vec<String>,
    declared: TokenizerFile,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    #[serde(default)]
    truncation_side: TruncationSide,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    id2label: BTreeMap<String, String>,
    max_position_embeddings: Option<usize>,
}

impl Texts {
    /// What is beside the file, or above its folder `onnx`; nothing where there is no tokenizer.
    pub fn read(
        options: &ImportOptions,
        file: &Path,
        vocabulary: Option<usize>,
    ) -> Result<Option<Self>, ImportError> {
        let Some(folder) = folder_of(file) else {
            return Ok(None);
        };
        let path = folder.join(TOKENIZER_FILE);
        let refuse = |message: String| ImportError::new(&path, message);
        let unreadable = |error: std::io::Error| refuse(format!("cannot be read: {error}"));
        if fs::metadata(&path).map_err(unreadable)?.len() > MAX_TOKENIZER_BYTES {
            return Err(refuse(format!("has more than {MAX_TOKENIZER_BYTES} bytes")));
        }
        let bytes = fs::read(&path).map_err(unreadable)?;
        let config: Option<Config> = read_if_there(&folder.join("config.json"))?;
        let tokenizer: Option<TokenizerConfig> =
            read_if_there(&folder.join("tokenizer_config.json"))?;
        let stated = tokenizer
            .as_ref()
            .and_then(|config| config.model_max_length);
        // "No limit" is written as 1e30.
        let stated = stated.filter(|stated| (1.0..1e9).contains(stated));
        let positions = config
            .as_ref()
            .and_then(|config| config.max_position_embeddings);
        let max_tokens = options
            .max_tokens
            .or(stated.map(|stated| stated as usize))
            .or(positions)
            .unwrap_or(USUAL_TOKENS)
            .min(MAX_TOKENS);
        let declared = TokenizerFile {
            file: TOKENIZER_FILE.to_owned(),
            sha256: hex::encode(Sha256::digest(&bytes)),
            max_tokens,
            truncate: tokenizer.map_or_else(TruncationSide::default, |t| t.truncation_side),
            prompt: String::new(),
        };
        Tokenizer::parse(&bytes, &declared, vocabulary.unwrap_or(usize::MAX)).map_err(refuse)?;
        let pair = options.pair.unwrap_or_default();
        let notes = vec![
            format!("texts have at most {max_tokens} tokens; `--max-tokens` chooses otherwise"),
            format!(
                "a second text is {}; `--pair` chooses otherwise",
                match pair {
                    PairRule::None => "not taken",
                    PairRule::Optional => "taken where a job has one",
                    PairRule::Required => "expected on every input",
                }
            ),
        ];
        Ok(Some(Self {
            bytes,
            pair,
            labels: config.map(Config::labels).unwrap_or_default(),
            notes,
            declared,
        }))
    }

    pub fn max_tokens(&self) -> usize {
        self.declared.max_tokens
    }

    /// Bytes of the longest text that is taken: a longer one would be truncated in any case.
    pub fn max_bytes(&self) -> usize {
        (self.max_tokens() * BYTES_PER_TOKEN).clamp(8_192, 1 << 20)
    }

    /// The manifest's table.
    pub fn declared(&self) -> TokenizerFile {
        self.declared.clone()
    }
}

impl Config {
    /// The labels in the order of their numbers.
    fn labels(self) -> Vec<String> {
        let numbered = self.id2label.into_iter();
        let numbered = numbered.filter_map(|(id, label)| Some((id.parse::<usize>().ok()?, label)));
        let mut numbered: Vec<(usize, String)> = numbered.collect();
        numbered.sort();
        numbered.into_iter().map(|(_, label)| label).collect()
    }
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    let beside = file.parent()?;
    let above = beside.parent().filter(|_| beside.ends_with("onnx"));
    let mut folders = [Some(beside), above].into_iter().flatten();
    let folder = folders.find(|folder| folder.join(TOKENIZER_FILE).is_file())?;
    Some(folder.to_owned())
}

fn read_if_there<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ImportError> {
    match path.exists() {
        true => read_json(path).map(Some),
        false => Ok(None),
    }
}
