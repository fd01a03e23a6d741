//! Files become versions that serve, and what isn't said is found out or asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::*;
use crate::rows::{Rows, TextRow};
use crate::settings::{Backend, ModelSettings};
use crate::{OutputActivation, PairRule, Precision, Registry, import};

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/onnx/fixtures")
        .join(file)
}

fn options(file: &Path, models_dir: &Path) -> ImportOptions {
    ImportOptions {
        folder: file.to_owned(),
        models_dir: models_dir.to_owned(),
        name: "graph".to_owned(),
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
        ttl_seconds: Some(60),
        training: None,
        prompt: None,
        width: None,
        range: None,
        precision: Precision::Single,
    }
}

fn floats(file: &str) -> Vec<f32> {
    let bytes = fs::read(fixture(file)).unwrap();
    let each = bytes.as_chunks::<4>().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn open(dir: &Path, backend: Backend) -> Arc<Registry> {
    let registry = Registry::open(&ModelSettings {
        dir: dir.to_owned(),
        threads: 2,
        backend,
        ..ModelSettings::default()
    });
    let registry = registry.unwrap();
    assert_eq!(registry.problems(), []);
    registry
}

fn is_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = 1e-5 * expected.abs().max(1.0);
        assert!(
            (found - expected).abs() <= allowed,
            "{i}: {found} for {expected}"
        );
    }
}

#[tokio::test]
async fn a_pipeline_becomes_a_version_that_gives_its_probabilities_on_every_backend() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&ImportOptions {
        missing: true,
        ..options(&fixture("imputed.onnx"), dir.path())
    });
    let imported = imported.unwrap();
    assert_eq!(imported.info.architecture, "onnx");
    assert!(imported.info.takes_missing);
    assert_eq!(imported.info.golden, 6);
    assert_eq!(imported.notes, Vec::<String>::new());
    let manifest = fs::read_to_string(imported.path.join("manifest.toml")).unwrap();
    for line in [
        "labels = [\"cold\", \"tepid\", \"warm\"]",
        "activation = \"identity\"",
        "output = \"probabilities\"",
        "missing = true",
    ] {
        assert!(manifest.contains(line), "{line}: {manifest}");
    }
    for backend in [Backend::Cpu, Backend::Flex] {
        let registry = open(dir.path(), backend);
        let rows = Rows::Features {
            width: 5,
            data: floats("imputed.in"),
        };
        let scored = registry
            .resolve("graph")
            .unwrap()
            .score(rows)
            .await
            .unwrap();
        is_near(&scored.outputs, &floats("imputed.out"));
    }
}

#[tokio::test]
async fn one_column_is_the_score_and_missing_features_are_refused_where_they_have_no_meaning() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&ImportOptions {
        column: Some(1),
        ..options(&fixture("logistic.onnx"), dir.path())
    });
    let imported = imported.unwrap();
    assert!(!imported.info.takes_missing);
    assert_eq!((imported.info.output_width, imported.info.golden), (1, 4));
    let registry = open(dir.path(), Backend::Cpu);
    let rows = Rows::Features {
        width: 5,
        data: floats("logistic.in"),
    };
    let scored = registry
        .resolve("graph")
        .unwrap()
        .score(rows)
        .await
        .unwrap();
    let expected: Vec<f32> = floats("logistic.out").chunks(2).map(|row| row[1]).collect();
    is_near(&scored.outputs, &expected);
}

#[derive(Deserialize)]
struct Expected {
    text: String,
    text_pair: Option<String>,
    expect: Vec<f32>,
}

#[tokio::test]
async fn a_folder_with_a_tokenizer_becomes_a_version_that_scores_texts_alike_in_any_batch() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&ImportOptions {
        pair: Some(PairRule::Optional),
        ..options(&fixture("texts"), dir.path())
    });
    let imported = imported.unwrap();
    assert_eq!((imported.info.golden, imported.info.output_width), (4, 3));
    let notes = imported.notes.join("\n");
    for note in [
        "softmax",
        "64 tokens",
        "its output \"logits\" is taken, of last_hidden_state, logits",
    ] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    let registry = open(dir.path(), Backend::Cpu);
    let model = registry.resolve("graph").unwrap();
    let expected = fs::read(fixture("texts/expected.json")).unwrap();
    let expected: Vec<Expected> = serde_json::from_slice(&expected).unwrap();
    let row = |input: &Expected| TextRow {
        text: input.text.clone(),
        text_pair: input.text_pair.clone(),
    };
    let rows: Vec<TextRow> = expected.iter().map(row).collect();
    let together = model
        .score(Rows::Texts(rows.clone()))
        .await
        .unwrap()
        .outputs;
    let all: Vec<f32> = expected
        .iter()
        .flat_map(|input| input.expect.clone())
        .collect();
    is_near(&together, &all);
    for (i, row) in rows.into_iter().enumerate() {
        let alone = model.score(Rows::Texts(vec![row])).await.unwrap().outputs;
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        assert_eq!(bits(&alone), bits(&together[i * 3..i * 3 + 3]), "text {i}");
    }
}

#[test]
fn what_isnt_said_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut ImportOptions), file: &str| {
        let mut options = options(&fixture(file), dir.path());
        change(&mut options);
        import(&options).unwrap_err().to_string()
    };
    let cases = [
        (
            refused(&|o| o.output = Some("scores".to_owned()), "logistic.onnx"),
            "--output: there is no such output; there are output_label, output_probability",
        ),
        (
            refused(
                &|o| o.output = Some("output_label".to_owned()),
                "logistic.onnx",
            ),
            "its output holds",
        ),
        (
            refused(&|o| o.column = Some(2), "logistic.onnx"),
            "--column: its output has 2 columns, the first is 0",
        ),
        (
            refused(&|o| o.labels = vec!["a".to_owned(); 3], "logistic.onnx"),
            "its output has 2 numbers and 3 labels; name them with `--labels`, or choose one with `--column`",
        ),
        (
            refused(&|o| o.missing = true, "columns.onnx"),
            "--missing: what it gives where features are missing is not finite",
        ),
        (
            refused(&|o| o.missing = true, "texts"),
            "--missing: only features can be missing",
        ),
        (
            refused(&|o| o.normalise = true, "logistic.onnx"),
            "--normalise: does not belong to an ONNX file",
        ),
        (
            refused(
                &|o| o.column = Some(0),
                "../../trees/fixtures/lightgbm-forest.txt",
            ),
            "--column: is for ONNX files",
        ),
    ];
    for (refused, expected) in cases {
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_manifest_that_says_other_than_its_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let imported = import(&options(&fixture("logistic.onnx"), dir.path())).unwrap();
    assert_eq!(imported.info.feature_names, Vec::<String>::new());
    let path = imported.path.join("manifest.toml");
    let manifest = fs::read_to_string(&path).unwrap();
    for (old, new, expected) in [
        (
            "count = 5",
            "count = 4",
            "golden[0].features: has 5 numbers, expected 4",
        ),
        (
            "output = \"output_probability\"",
            "output = \"scores\"",
            "has no output \"scores\"",
        ),
        (
            "[onnx]",
            "[onnx]\ncolumn = 1",
            "onnx.column: one column is a scalar",
        ),
        (
            "[onnx]",
            "[onnx]\nruntime = 1",
            "onnx.runtime: unknown field",
        ),
        (
            "expect = [",
            "expect = [0.25, 0.75] # ",
            "golden[0]: output 0: expected 0.25",
        ),
        (
            "file = \"model.onnx\"",
            "file = \"../model.onnx\"",
            "weights.file: must be the plain name",
        ),
        (
            "file = \"model.onnx\"",
            "file = \"model.onnx\"\nprefix = \"x\"",
            "weights.prefix: does not belong to the architecture \"onnx\"",
        ),
    ] {
        assert!(manifest.contains(old), "{old}: {manifest}");
        fs::write(&path, manifest.replacen(old, new, 1)).unwrap();
        let registry = Registry::open(&ModelSettings {
            dir: dir.path().to_owned(),
            ..ModelSettings::default()
        });
        let problems = registry.unwrap().problems().to_vec();
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{new}: {problems:?}"
        );
    }
}

#[test]
fn numbers_without_labels_are_an_embedding_unless_an_activation_makes_them_classes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for file in ["model.onnx", "tokenizer.json"] {
        fs::copy(fixture("texts").join(file), folder.path().join(file)).unwrap();
    }
    let imported = import(&options(folder.path(), dir.path())).unwrap();
    assert!(
        imported
            .notes
            .iter()
            .any(|note| note.contains("are an embedding"))
    );
    let imported = import(&ImportOptions {
        version: "2".to_owned(),
        activation: Some(OutputActivation::Sigmoid),
        ..options(folder.path(), dir.path())
    });
    let task = imported.unwrap().info.task;
    assert!(
        matches!(&task, crate::Task::Classification { labels } if labels[2] == "2"),
        "{task:?}"
    );
}
