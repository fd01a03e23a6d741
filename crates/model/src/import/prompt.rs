//! The prompts of a sentence-transformers folder, and which of them stands before texts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::ImportError;
use super::options::ImportOptions;

/// What chooses no prompt.
const NONE: &str = "none";

/// What `config_sentence_transformers.json` says of embeddings.
#[derive(Deserialize, Default)]
pub(super) struct EmbeddingConfig {
    /// How many of an embedding's numbers are kept.
    pub truncate_dim: Option<usize>,
    #[serde(default)]
    prompts: Option<BTreeMap<String, String>>,
    default_prompt_name: Option<String>,
}

/// The prompt, or an empty one; and what was chosen, for people.
pub(super) fn prompt(
    config: &EmbeddingConfig,
    file: &Path,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<String, ImportError> {
    let none = BTreeMap::new();
    let prompts = config.prompts.as_ref().unwrap_or(&none);
    let asked = options.prompt.as_ref();
    let Some(name) = asked.or(config.default_prompt_name.as_ref()) else {
        let names = with_words(prompts);
        if !names.is_empty() {
            notes.push(format!(
                "no prompt stands before texts; `--prompt` chooses one of {}",
                names.join(", ")
            ));
        }
        return Ok(String::new());
    };
    match prompts.get(name) {
        Some(prompt) => {
            if asked.is_none() && !prompt.is_empty() {
                notes.push(format!(
                    "the prompt {name:?} stands before texts; `--prompt` chooses otherwise"
                ));
            }
            Ok(prompt.clone())
        }
        None if name == NONE => Ok(String::new()),
        None => Err(ImportError::new(
            file,
            format!(
                "has no prompt {name:?}, expected one of [{}] or {NONE}",
                prompts.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
        )),
    }
}

fn with_words(prompts: &BTreeMap<String, String>) -> Vec<&str> {
    let with_words = prompts.iter().filter(|(_, prompt)| !prompt.is_empty());
    with_words.map(|(name, _)| name.as_str()).collect()
}
