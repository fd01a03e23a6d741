//! Against what the reference libraries answered: see `tests/parity/make.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::tensors::Tensors;
use super::*;
use crate::hardware::Hardware;
use crate::load::{self, ModelSource};
use crate::runner::{Limits, Runner};
use crate::{Backend, ModelSettings, PairRule, Precision, Registry, Rows, Scored, TextRow};
use kiln_kernels::ThreadPool;

mod asked;
mod newer;

/// As small as they may be: a request is never cut.
const LIMITS: Limits = Limits {
    batch_rows: 1,
    batch_tokens: 1,
    queued_rows: 1,
};

#[derive(Deserialize)]
struct Expected {
    inputs: Vec<Input>,
    outputs: Vec<Vec<f32>>,
    truncated: Vec<bool>,
}

#[derive(Deserialize)]
struct Input {
    text: String,
    text_pair: Option<String>,
}

impl Input {
    fn row(&self) -> TextRow {
        TextRow {
            text: self.text.clone(),
            text_pair: self.text_pair.clone(),
        }
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/models")
}

fn options(name: &str, models_dir: &Path) -> ImportOptions {
    ImportOptions {
        folder: fixtures().join(name),
        models_dir: models_dir.to_owned(),
        name: name.to_owned(),
        version: "1".to_owned(),
        pair: None,
        pooling: None,
        normalise: false,
        activation: None,
        max_tokens: None,
        output: None,
        column: None,
        labels: Vec::new(),
        missing: false,
        ttl_seconds: None,
        training: None,
        prompt: None,
        // What the fixture of that name was cut to.
        width: (name == "mpnet-matryoshka").then_some(16),
        range: None,
        precision: Precision::Single,
    }
}

fn open(dir: &Path, backend: Backend, threads: usize) -> Arc<Registry> {
    let registry = Registry::open(&ModelSettings {
        dir: dir.to_owned(),
        threads,
        backend,
        max_batch_tokens: 300,
        ..ModelSettings::default()
    })
    .unwrap();
    assert_eq!(registry.problems(), []);
    registry
}

async fn score(registry: &Registry, name: &str, rows: Vec<TextRow>) -> Scored {
    let model = registry.resolve(name).unwrap();
    model.score(Rows::Texts(rows)).await.unwrap()
}

fn read_expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(fixtures().join(name).join("expected.json")).unwrap()).unwrap()
}

const MODELS: [&str; 21] = [
    "bert-base",
    "bert-classifier",
    "bert-cross-encoder",
    "bert-half",
    "bert-left",
    "bert-multi-label",
    "bert-prompt",
    "bert-prompt-apart",
    "bert-regression",
    "bert-reranker",
    "bert-sentence",
    "bert-sentence-dense",
    "bert-sharded",
    "distilbert-base",
    "distilbert-classifier",
    "mpnet-classifier",
    "mpnet-matryoshka",
    "mpnet-sentence",
    "roberta-base",
    "roberta-classifier",
    "xlm-roberta-classifier",
];

/// Those that no graph computes.
const ON_KERNELS: [&str; 8] = [
    "deberta-base",
    "deberta-classifier",
    "deberta-cross-encoder",
    "modernbert-biased",
    "modernbert-classifier",
    "modernbert-sentence",
    "nomic-base",
    "nomic-hub",
];

/// The largest difference from the reference over every model.
async fn compare(models: &[&str], backend: Backend, tolerance: f32) {
    let dir = tempfile::tempdir().unwrap();
    for name in models {
        import(&options(name, dir.path())).unwrap_or_else(|error| panic!("{error}"));
    }
    let registry = open(dir.path(), backend, 2);
    for name in models {
        let expected = read_expected(name);
        let rows = expected.inputs.iter().map(Input::row).collect();
        let scored = score(&registry, name, rows).await;
        let cut = expected.truncated.iter().filter(|cut| **cut).count();
        assert_eq!(scored.truncated, cut, "{name}");
        let furthest = assert_near(name, &scored.outputs, &expected, tolerance);
        println!("{name} on {backend:?}: {furthest:.1e} at the furthest");
    }
}

/// Returns how far they are apart at the furthest.
fn assert_near(name: &str, outputs: &[f32], expected: &Expected, tolerance: f32) -> f32 {
    let width = expected.outputs[0].len();
    let mut furthest: f32 = 0.0;
    for (i, (found, expected)) in outputs.chunks(width).zip(&expected.outputs).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let difference = (found - expected).abs();
            assert!(
                difference <= tolerance * expected.abs().max(1.0),
                "{name}, input {i}: expected {expected}, found {found}"
            );
            furthest = furthest.max(difference);
        }
    }
    furthest
}

#[tokio::test]
async fn every_architecture_answers_as_its_reference_does() {
    compare(&MODELS, Backend::Cpu, 1e-5).await;
    compare(&ON_KERNELS, Backend::Cpu, 1e-5).await;
}

#[tokio::test]
async fn every_graph_answers_as_its_reference_does() {
    compare(&MODELS, Backend::Flex, 1e-5).await;
}

#[cfg(feature = "ndarray")]
#[tokio::test]
async fn every_graph_answers_on_ndarray_as_its_reference_does() {
    compare(&MODELS, Backend::Ndarray, 1e-5).await;
}

#[test]
fn a_graph_holds_its_bound_beside_longer_texts() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Arc::new(ThreadPool::start("test", 1, || ()).unwrap());
    let hardware = Arc::new(Hardware::open(Backend::Flex, pool).unwrap());
    let runner = Runner::start(1, LIMITS).unwrap();
    for name in MODELS {
        let imported = import(&options(name, dir.path())).unwrap();
        let source = ModelSource {
            name: name.to_owned(),
            version: "1".to_owned(),
            folder: imported.path,
            hardware: Arc::clone(&hardware),
            queue: Arc::clone(runner.queue()),
        };
        let model = load::load(&source).unwrap().model;
        let expected = read_expected(name);
        let rows = expected.inputs.iter().map(Input::row).collect();
        // All in one batch, the short ones padded to the longest.
        let outputs = model.score_blocking(Rows::Texts(rows)).unwrap();
        assert_near(name, &outputs, &expected, 1e-5);
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[tokio::test]
async fn a_graphics_processor_answers_as_the_reference_does() {
    for backend in crate::fixtures::GRAPHICS {
        compare(&MODELS, *backend, 1e-4).await;
        if *backend == Backend::Cuda {
            compare(&ON_KERNELS, *backend, 1e-4).await;
        }
    }
}

#[tokio::test]
async fn a_score_is_a_function_of_its_input_alone() {
    assert_same_bits_in_any_batch(Backend::Cpu).await;
}

#[cfg(feature = "cuda")]
#[tokio::test]
async fn a_score_is_a_function_of_its_input_alone_on_cuda_graphics() {
    assert_same_bits_in_any_batch(Backend::Cuda).await;
}

async fn assert_same_bits_in_any_batch(backend: Backend) {
    let dir = tempfile::tempdir().unwrap();
    let models = [
        "bert-classifier",
        "roberta-base",
        "bert-prompt-apart",
        "mpnet-sentence",
    ];
    let models: Vec<&str> = models.into_iter().chain(ON_KERNELS).collect();
    for name in &models {
        import(&options(name, dir.path())).unwrap();
    }
    let many = open(dir.path(), backend, 3);
    let one = open(dir.path(), backend, 1);
    for name in models {
        let rows: Vec<TextRow> = read_expected(name).inputs.iter().map(Input::row).collect();
        let together = score(&many, name, rows.clone()).await.outputs;
        let width = together.len() / rows.len();
        let mut backwards: Vec<TextRow> = rows.iter().rev().cloned().collect();
        backwards.extend(rows.clone());
        let backwards = score(&one, name, backwards).await.outputs;
        for (i, row) in rows.iter().enumerate() {
            let here = &together[i * width..(i + 1) * width];
            for registry in [&one, &many] {
                let alone = score(registry, name, vec![row.clone()]).await.outputs;
                assert_eq!(alone, here, "{name}, input {i} alone");
            }
            let turned = rows.len() - 1 - i;
            assert_eq!(&backwards[turned * width..(turned + 1) * width], here);
            let again = rows.len() + i;
            assert_eq!(&backwards[again * width..(again + 1) * width], here);
        }
    }
}

/// A copy of a fixture in which one thing was changed.
fn changed(name: &str, dir: &Path, change: impl FnOnce(&Path)) -> ImportError {
    let copy = copied(name, dir);
    change(&copy);
    let models = dir.join("models");
    let error = import(&ImportOptions {
        folder: copy,
        ..options(name, &models)
    })
    .expect_err("a refusal");
    assert!(!models.join(name).exists(), "nothing stays behind");
    error
}

fn copied(name: &str, dir: &Path) -> PathBuf {
    let copy = dir.join("source");
    let mut folders = vec![(fixtures().join(name), copy.clone())];
    while let Some((from, to)) = folders.pop() {
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let target = to.join(path.file_name().unwrap());
            if path.is_file() {
                fs::copy(&path, target).unwrap();
            } else {
                folders.push((path, target));
            }
        }
    }
    copy
}

fn edit_config(folder: &Path, field: &str, value: serde_json::Value) {
    edit(&folder.join("config.json"), field, value);
}

/// Sets a field of a JSON file, which may not be there yet.
fn edit(file: &Path, field: &str, value: serde_json::Value) {
    let mut config = fs::read(file).map_or(serde_json::json!({}), |bytes| {
        serde_json::from_slice(&bytes).unwrap()
    });
    config[field] = value;
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, config.to_string()).unwrap();
}

fn edit_tensors(folder: &Path, edit: impl FnOnce(&mut Tensors)) {
    let mut tensors: Tensors = source::read(folder)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, (tensor.shape, tensor.numbers)))
        .collect();
    edit(&mut tensors);
    fs::write(folder.join(WEIGHTS_FILE), serialise(&tensors).unwrap()).unwrap();
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of refusals")]
fn what_cant_be_taken_is_refused_with_file_field_and_what_was_expected() {
    let refused = |change: &dyn Fn(&Path), file: &str, words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let error = changed("bert-classifier", dir.path(), change);
        assert!(error.path.ends_with(file), "{error}");
        for word in words {
            assert!(error.message.contains(word), "{error}\nlacks {word:?}");
        }
    };
    let config = |field: &'static str, value: serde_json::Value| {
        move |folder: &Path| edit_config(folder, field, value.clone())
    };
    refused(
        &config("architectures", serde_json::json!(["GPT2LMHeadModel"])),
        "config.json",
        &[
            "architectures",
            "GPT2LMHeadModel",
            "BertForSequenceClassification",
        ],
    );
    refused(
        &config("hidden_act", serde_json::json!("mish")),
        "config.json",
        &["hidden_act", "mish", "gelu"],
    );
    refused(
        &config("position_embedding_type", serde_json::json!("relative_key")),
        "config.json",
        &["position_embedding_type", "absolute"],
    );
    refused(
        &config("hidden_size", serde_json::json!("wide")),
        "config.json",
        &["hidden_size"],
    );
    refused(
        &config("num_attention_heads", serde_json::json!(5)),
        "config.json",
        &["num_attention_heads", "hidden_size", "divide"],
    );
    refused(
        &config("num_hidden_layers", serde_json::json!(3)),
        WEIGHTS_FILE,
        &["bert.encoder.layer.2", "missing"],
    );
    refused(
        &config("num_hidden_layers", serde_json::json!(1)),
        WEIGHTS_FILE,
        &["bert.encoder.layer.1", "not one that this architecture has"],
    );
    refused(
        &config("vocab_size", serde_json::json!(17)),
        WEIGHTS_FILE,
        &["word_embeddings", "[17, 32]", "found"],
    );
    refused(
        &|folder| {
            edit_config(folder, "vocab_size", serde_json::json!(40));
            edit_tensors(folder, |tensors| {
                let (shape, numbers) = tensors
                    .get_mut("bert.embeddings.word_embeddings.weight")
                    .unwrap();
                shape[0] = 40;
                numbers.truncate(40 * 32);
            });
        },
        "tokenizer.json",
        &["below 40", "word table"],
    );
    refused(
        &|folder| {
            edit_tensors(folder, |tensors| {
                tensors.get_mut("classifier.weight").unwrap().1[3] = f32::NAN;
            });
        },
        WEIGHTS_FILE,
        &["head.output.weight", "NaN", "finite"],
    );
    refused(
        &|folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(),
        "tokenizer.json",
        &["is missing", "save_pretrained"],
    );
    refused(
        &|folder| fs::remove_file(folder.join(WEIGHTS_FILE)).unwrap(),
        WEIGHTS_FILE,
        &["is missing", "save_pretrained"],
    );
    refused(
        &|folder| fs::write(folder.join("tokenizer.json"), "{}").unwrap(),
        "tokenizer.json",
        &["not a tokenizer.json"],
    );
    refused(
        &|folder| {
            let bytes = fs::read(folder.join(WEIGHTS_FILE)).unwrap();
            fs::write(folder.join(WEIGHTS_FILE), &bytes[..bytes.len() / 2]).unwrap();
        },
        WEIGHTS_FILE,
        &["not a whole safetensors file"],
    );
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, version) in [("../x", "1"), ("x", ".."), ("x", "a/b"), ("X", "1")] {
        let error = import(&ImportOptions {
            name: name.to_owned(),
            version: version.to_owned(),
            ..options("bert-base", dir.path())
        });
        assert!(error.is_err(), "{name}@{version}");
    }
    import(&options("bert-base", dir.path())).unwrap();
    let again = import(&options("bert-base", dir.path())).expect_err("a refusal");
    assert!(again.message.contains("is there already"));
}

#[tokio::test]
async fn pairs_are_taken_as_the_folder_says() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&options("bert-cross-encoder", dir.path())).unwrap();
    assert_eq!(
        imported.info.input,
        crate::InputKind::Text {
            pair: PairRule::Required
        }
    );
    let registry = open(dir.path(), Backend::Cpu, 1);
    let model = registry.resolve("bert-cross-encoder").unwrap();
    let alone = TextRow {
        text: "a".to_owned(),
        text_pair: None,
    };
    let error = model
        .score(Rows::Texts(vec![alone]))
        .await
        .expect_err("a refusal");
    assert!(error.to_string().contains("no second text"), "{error}");
}

#[tokio::test]
async fn halves_are_the_same_fresh_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let half = ImportOptions {
        precision: Precision::Half,
        ..options("bert-sentence", dir.path())
    };
    let imported = import(&half).unwrap();
    assert_eq!(imported.info.precision, Precision::Half);
    let registry = open(dir.path(), Backend::Cpu, 1);
    let expected = read_expected("bert-sentence");
    let rows = expected.inputs.iter().map(Input::row).collect();
    let outputs = score(&registry, "bert-sentence", rows).await.outputs;
    assert_near("bert-sentence", &outputs, &expected, 5e-4);
    let prefix = kiln_contract::key::EntryPrefix::new("bert-sentence", "1");
    let codec = kiln_contract::entry::Codec::new(&prefix, 32, Precision::Half);
    for row in outputs.chunks(32) {
        let (bytes, mut back) = (
            codec.encode(&[7; 32], row, kiln_contract::entry::Seal::default()),
            Vec::new(),
        );
        assert_eq!(bytes.len(), 5 + 64);
        assert!(codec.decode(&[7; 32], &bytes, &mut back).is_some());
        assert_eq!(back, row);
    }
    let classifier = ImportOptions {
        precision: Precision::Half,
        ..options("bert-classifier", dir.path())
    };
    let error = import(&classifier).expect_err("a refusal");
    assert!(error.message.contains("output.precision"), "{error}");
}
