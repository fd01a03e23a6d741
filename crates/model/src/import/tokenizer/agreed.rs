//! What `tokenizer_config.json` says over `tokenizer.json`: refused where the two say different things.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::super::error::{ImportError, read_json};
use super::super::names::Family;

/// The input that is a token's type.
const TYPES: &str = "token_type_ids";

/// Fields that the reference library puts over what `tokenizer.json` says, for some classes.
#[derive(Default, Deserialize)]
struct Fields {
    tokenizer_class: Option<String>,
    do_lower_case: Option<Value>,
    strip_accents: Option<Value>,
    tokenize_chinese_chars: Option<Value>,
    add_prefix_space: Option<Value>,
    model_input_names: Option<Vec<String>>,
}

/// The parts of `tokenizer.json` that those fields are about.
#[derive(Deserialize)]
struct Parts {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
}

pub(super) struct Asked {
    file: PathBuf,
    fields: Fields,
}

impl Asked {
    /// Reads them; a folder may have none.
    pub fn read(folder: &Path) -> Result<Self, ImportError> {
        let file = folder.join("tokenizer_config.json");
        let fields = if file.exists() {
            read_json(&file)?
        } else {
            Fields::default()
        };
        Ok(Self { file, fields })
    }

    /// Whether the model is given no types, though its tokenizer may know some.
    pub fn is_without_types(&self) -> bool {
        let names = self.fields.model_input_names.as_ref();
        names.is_some_and(|names| !names.iter().any(|name| name == TYPES))
    }

    /// That types can't be left out of such a tokenizer.
    pub fn types_refused(&self) -> ImportError {
        let message = format!(
            "model_input_names: lists no {TYPES}, and tokenizer.json gives the second text another type in a way that can't be rewritten"
        );
        ImportError::new(&self.file, message)
    }

    /// Refuses fields that say something else than `tokenizer.json`.
    pub fn check(&self, tokenizer: &[u8], family: Family) -> Result<(), ImportError> {
        // What is wrong with that file is reported when it is loaded.
        let Ok(parts) = serde_json::from_slice::<Parts>(tokenizer) else {
            return Ok(());
        };
        let normalizer = parts.normalizer.as_ref();
        let pre_tokenizer = parts.pre_tokenizer.as_ref();
        if self.is_of(
            &["BertTokenizer", "DistilBertTokenizer", "MPNetTokenizer"],
            &[Family::Bert, Family::DistilBert, Family::Mpnet],
            family,
        ) && let Some(part) = normalizer.and_then(|part| find(part, "BertNormalizer"))
        {
            let flag = |name: &str| part.get(name).and_then(Value::as_bool);
            let accents = flag("strip_accents").or(flag("lowercase"));
            let fields = &self.fields;
            self.agree("do_lower_case", &fields.do_lower_case, flag("lowercase"))?;
            self.agree("strip_accents", &fields.strip_accents, accents)?;
            let characters = flag("handle_chinese_chars");
            let asked = &fields.tokenize_chinese_chars;
            self.agree("tokenize_chinese_chars", asked, characters)?;
        }
        if self.is_of(&["RobertaTokenizer"], &[Family::Roberta], family)
            && let Some(part) = pre_tokenizer.and_then(|part| find(part, "ByteLevel"))
        {
            let found = part.get("add_prefix_space").and_then(Value::as_bool);
            self.agree("add_prefix_space", &self.fields.add_prefix_space, found)?;
        }
        Ok(())
    }

    /// Whether the reference library takes one of these classes; without a class, it goes by the family.
    fn is_of(&self, classes: &[&str], families: &[Family], family: Family) -> bool {
        match &self.fields.tokenizer_class {
            Some(class) => classes.contains(&class.trim_end_matches("Fast")),
            None => families.contains(&family),
        }
    }

    fn agree(
        &self,
        field: &str,
        asked: &Option<Value>,
        found: Option<bool>,
    ) -> Result<(), ImportError> {
        match (asked.as_ref().and_then(Value::as_bool), found) {
            (Some(asked), Some(found)) if asked != found => {
                let message = format!(
                    "{field}: found {asked}, and tokenizer.json has {found}; \
                     `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)` writes both alike"
                );
                Err(ImportError::new(&self.file, message))
            }
            _ => Ok(()),
        }
    }
}

/// The part of that type, alone or in a sequence.
fn find<'a>(part: &'a Value, kind: &str) -> Option<&'a Value> {
    if part.get("type").and_then(Value::as_str) == Some(kind) {
        return Some(part);
    }
    let parts = ["normalizers", "pretokenizers"];
    let lists = parts.iter().filter_map(|name| part.get(name)?.as_array());
    lists.flatten().find_map(|part| find(part, kind))
}
