//! What is wrong with a weights file is said with what was expected and what was found.

use std::fs;

use sha2::{Digest, Sha256};

use super::*;
use crate::fixtures::{Named, file_of};

const SHAPES: [(&str, &[usize]); 2] = [("a.weight", &[2, 3]), ("a.bias", &[2])];

fn expected() -> Vec<Expected> {
    SHAPES
        .iter()
        .map(|(name, shape)| Expected::new(*name, *shape))
        .collect()
}

fn tensors() -> Vec<Named> {
    SHAPES
        .iter()
        .map(|(name, shape)| Named::new(name, shape, 1))
        .collect()
}

fn declared(file: &[u8]) -> WeightsFile {
    WeightsFile {
        file: "w.safetensors".to_owned(),
        sha256: hex::encode(Sha256::digest(file)),
        prefix: String::new(),
        rename: BTreeMap::new(),
        precision: crate::WeightPrecision::Single,
    }
}

fn read(file: &[u8], declared: &WeightsFile) -> Result<Weights, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(&declared.file), file).unwrap();
    Weights::read(dir.path(), declared, &expected())
}

fn refusal(file: &[u8], declared: &WeightsFile) -> String {
    read(file, declared).expect_err("a broken file").to_string()
}

#[track_caller]
fn says(refusal: &str, parts: &[&str]) {
    for part in parts {
        assert!(refusal.contains(part), "expected {part:?} in {refusal:?}");
    }
}

#[test]
fn hands_out_what_the_file_holds() {
    let file = file_of(&tensors());
    let mut weights = read(&file, &declared(&file)).unwrap();
    assert_eq!(weights.parameters(), 8);
    assert_eq!(weights.size().bytes, 4 * 8);
    assert_eq!(weights.take("a.weight"), tensors()[0].numbers);
    assert_eq!(weights.take("a.bias"), tensors()[1].numbers);
}

#[test]
fn maps_the_files_names() {
    let mut named = tensors();
    named[0].name = "net.lin.kernel".to_owned();
    named[1].name = "net.a.bias".to_owned();
    let file = file_of(&named);
    let mut declared = declared(&file);
    declared.prefix = "net.".to_owned();
    declared.rename = [("a.weight".to_owned(), "lin.kernel".to_owned())].into();
    let mut weights = read(&file, &declared).unwrap();
    assert_eq!(weights.take("a.weight"), tensors()[0].numbers);

    declared
        .rename
        .insert("b.weight".to_owned(), "x".to_owned());
    says(
        &refusal(&file, &declared),
        &["manifest.toml: weights.rename.\"b.weight\""],
    );
}

#[test]
fn a_missing_file() {
    let dir = tempfile::tempdir().unwrap();
    let error = Weights::read(dir.path(), &declared(b""), &expected()).unwrap_err();
    assert_eq!(error.to_string(), "w.safetensors: is missing");
}

#[test]
fn another_sha() {
    let file = file_of(&tensors());
    let mut changed = file.clone();
    *changed.last_mut().unwrap() ^= 1;
    let declared = declared(&file);
    says(
        &refusal(&changed, &declared),
        &["w.safetensors: has SHA-256", "expected", &declared.sha256],
    );
}

#[test]
fn truncated_and_garbage() {
    let file = file_of(&tensors());
    for broken in [
        &file[..file.len() - 1],
        &file[..20],
        b"",
        b"not a safetensors file at all",
    ] {
        says(
            &refusal(broken, &declared(broken)),
            &["is not a whole safetensors file"],
        );
    }
}

#[test]
fn a_wrong_shape_or_type() {
    let mut named = tensors();
    named[0].shape = vec![3, 2];
    let file = file_of(&named);
    says(
        &refusal(&file, &declared(&file)),
        &[
            "tensor \"a.weight\"",
            "expected F32 [2, 3]",
            "found F32 [3, 2]",
        ],
    );

    let zeros = [0u8; 48];
    let views = SHAPES.iter().map(|(name, shape)| {
        let bytes = &zeros[..shape.iter().product::<usize>() * 8];
        let view = safetensors::tensor::TensorView::new(Dtype::F64, shape.to_vec(), bytes);
        (*name, view.unwrap())
    });
    let file = safetensors::tensor::serialize(views, None).unwrap();
    says(
        &refusal(&file, &declared(&file)),
        &["expected F32 [2, 3]", "found F64 [2, 3]"],
    );
}

#[test]
fn a_tensor_too_few_or_too_many() {
    let mut named = tensors();
    named.pop();
    let file = file_of(&named);
    says(
        &refusal(&file, &declared(&file)),
        &["tensor \"a.bias\" is missing, expected F32 [2]; found a.weight"],
    );

    let mut named = tensors();
    named.push(Named::new("extra", &[1], 1));
    let file = file_of(&named);
    says(
        &refusal(&file, &declared(&file)),
        &["tensor \"extra\"", "expected a.weight, a.bias"],
    );
}

#[test]
fn a_number_that_is_none() {
    let mut named = tensors();
    named[0].numbers[4] = f32::NAN;
    let file = file_of(&named);
    says(
        &refusal(&file, &declared(&file)),
        &["tensor \"a.weight\": number 4 is NaN"],
    );
}
