//! Manifests that nobody thought of: what is taken fits together, what is refused names its field.

use super::*;
use crate::{encoder::Encoder, mlp::Mlp, ngram::NgramText};
use kiln_contract::model::InputKind;
use kiln_fuzz::{Case, Target};

const WORDS: [&str; 19] = [
    "[features]\n",
    "[text]\n",
    "[output]\n",
    "[weights]\n",
    "[mlp]\n",
    "[ngram]\n",
    "[encoder]\n",
    "[head]\n",
    "[tokenizer]\n",
    "[trees]\n",
    "[[golden]]\n",
    "[quantised]\n",
    "[training]\n",
    "count = ",
    "names = [",
    "labels = [",
    "hidden = [",
    "ttl_seconds = ",
    "\"\"\"",
];

#[test]
fn fuzz_manifest() {
    Target::new("manifest")
        .memory(256 << 10, 512)
        .words(&WORDS)
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes()).into_owned();
            match case.bounded(text.len(), || Manifest::parse(&text)) {
                Ok(manifest) => {
                    case.saw(manifest.architecture.name());
                    fits(&manifest);
                }
                Err(refused) => {
                    names_its_field(case, &text, &refused.message);
                    case.refused(&refused.message);
                }
            }
        });
}

/// What a manifest says of the model goes together, and its tensors can be listed.
fn fits(manifest: &Manifest) {
    let tensors = match manifest.architecture {
        Architecture::Mlp => Mlp::expected(manifest),
        Architecture::NgramText => NgramText::expected(manifest),
        Architecture::Encoder => Encoder::expected(manifest).expect("it has its tables"),
        _ => Vec::new(),
    };
    for tensor in &tensors {
        let numbers = tensor
            .shape
            .iter()
            .try_fold(1_usize, |n, d| n.checked_mul(*d));
        assert!(numbers.is_some(), "{tensor:?}");
    }
    assert!(manifest.output_width() > 0);
    let names = manifest.feature_names();
    match manifest.input_kind() {
        InputKind::Features { count } => assert!(names.is_empty() || names.len() == count),
        InputKind::Text { .. } => assert!(names.is_empty()),
    }
    for golden in &manifest.golden {
        assert_eq!(golden.expect.len(), manifest.output_width());
    }
}

/// TOML that is no manifest is refused with the field at fault.
fn names_its_field(case: &mut Case<'_>, text: &str, message: &str) {
    let Ok(table) = text.parse::<toml::Table>() else {
        return case.saw("no TOML");
    };
    let begins = message.split([':', ' ']).next().unwrap_or_default();
    let field = begins.split(['.', '[']).next().unwrap_or_default();
    let whole = message.contains('`') || message.contains('[');
    assert!(
        table.contains_key(field) || whole || MISSING.contains(&field),
        "{message:?} names no field of {text:?}"
    );
}

/// Tables that a refusal says are missing.
const MISSING: [&str; 11] = [
    "features",
    "text",
    "output",
    "weights",
    "mlp",
    "ngram",
    "encoder",
    "head",
    "tokenizer",
    "trees",
    "golden",
];
