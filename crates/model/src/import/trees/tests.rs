//! Files of both libraries become versions that serve, and what doesn't belong is refused.

use super::*;
use crate::rows::Rows;
use crate::settings::{Backend, ModelSettings};
use crate::{Registry, import};
use std::path::{Path, PathBuf};

fn fixture(file: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/trees/fixtures");
    fixtures.join(file)
}

fn options(file: &Path, models_dir: &Path, version: &str) -> ImportOptions {
    ImportOptions {
        folder: file.to_owned(),
        models_dir: models_dir.to_owned(),
        name: "ranker".to_owned(),
        version: version.to_owned(),
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

fn open(dir: &Path, backend: Backend) -> std::sync::Arc<Registry> {
    Registry::open(&ModelSettings {
        dir: dir.to_owned(),
        threads: 2,
        backend,
        ..ModelSettings::default()
    })
    .unwrap()
}

#[tokio::test]
async fn a_file_of_each_library_becomes_a_version_that_gives_its_scores() {
    let dir = tempfile::tempdir().unwrap();
    for (version, file) in [
        ("1", "lightgbm-forest.txt"),
        ("2", "lightgbm-multiclass.dump.json"),
        ("3", "xgboost-dart.json"),
        ("4", "xgboost-multiclass.ubj"),
    ] {
        let imported = import(&options(&fixture(file), dir.path(), version)).unwrap();
        assert_eq!(imported.info.architecture, "trees");
        assert_eq!(imported.info.golden, 7);
        assert!(imported.info.takes_missing);
        for backend in [Backend::Cpu, Backend::Flex] {
            let registry = open(dir.path(), backend);
            let model = registry.resolve(&format!("ranker@{version}")).unwrap();
            let name = file.split('.').next().unwrap();
            let rows = Rows::Features {
                width: 5,
                data: floats(&format!("{name}.in")),
            };
            let scored = model.score(rows).await.unwrap();
            assert_eq!(scored.outputs, floats(&format!("{name}.out")), "{file}");
        }
    }
}

#[test]
fn names_and_the_objective_are_in_the_manifest_and_the_file_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = fixture("lightgbm-multiclass.txt");
    let imported = import(&options(&file, dir.path(), "1")).unwrap();
    assert_eq!(imported.info.feature_names[4], "Column_4");
    assert_eq!(imported.info.output_width, 3);
    let kept = fs::read(imported.path.join("model.txt")).unwrap();
    assert_eq!(kept, fs::read(file).unwrap());
    let manifest = fs::read_to_string(imported.path.join("manifest.toml")).unwrap();
    assert!(
        manifest.contains("objective = \"multiclass num_class:3\""),
        "{manifest}"
    );
    assert!(
        manifest.contains("labels = [\"0\", \"1\", \"2\"]"),
        "{manifest}"
    );
    assert!(manifest.contains("nan"), "{manifest}");
}

#[test]
fn how_it_was_trained_is_kept_from_a_file_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("training.toml");
    let text = "from = \"2026-10-28T00:00:00Z\"\nto = \"2026-11-27T00:00:00Z\"\nrows = 4\ntraining_seconds = 1.5\nevaluation_seconds = 0.1\nmetrics = { auc = 0.75 }\n";
    fs::write(&file, text).unwrap();
    let training = crate::read_training(&file).unwrap();
    let mut options = options(&fixture("lightgbm-forest.txt"), dir.path(), "1");
    options.training = Some(training.clone());
    let imported = import(&options).unwrap();
    let found = imported.info.training.as_deref();
    assert_eq!(found, Some(&training));

    for (text, expected) in [
        (text.replace("rows = 4", "rows = 0"), "rows: must be"),
        (text.replace("rows = 4", "rows = [4"), "line 4: "),
        ("# ".repeat(40_000), "has more than 65536 bytes"),
    ] {
        fs::write(&file, text).unwrap();
        let refused = crate::read_training(&file).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains("training.toml: "), "{refused}");
    }
    fs::write(&file, [0xff, 0xfe]).unwrap();
    let refused = crate::read_training(&file).unwrap_err().to_string();
    assert!(refused.ends_with("is not UTF-8"), "{refused}");
    let refused = crate::read_training(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("cannot be read"), "{refused}");
}

#[test]
fn a_manifest_that_says_other_than_its_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = fixture("lightgbm-forest.txt");
    let imported = import(&options(&file, dir.path(), "1")).unwrap();
    let path = imported.path.join("manifest.toml");
    let manifest = fs::read_to_string(&path).unwrap();
    for (old, new, expected) in [
        (
            "binary sigmoid:1.7",
            "binary sigmoid:1",
            "trees.objective: is not what the file says, which is \"binary sigmoid:1.7\"",
        ),
        (
            "\"sigmoid\"",
            "\"identity\"",
            "output.activation: is not what the file says, which is sigmoid",
        ),
        (
            "lightgbm-text",
            "xgboost-ubj",
            "model.txt: expected an object at byte 0",
        ),
        ("lightgbm-text", "pickle", "trees.format: "),
        (
            "\"Column_4\"",
            "\"Column_3\"",
            "features.names[4]: is there twice",
        ),
        (
            "file = \"model.txt\"",
            "file = \"model.txt\"\nprefix = \"x\"",
            "weights.prefix: does not belong to the architecture",
        ),
        (
            "expect = [0.",
            "expect = [5.",
            "golden[0]: output 0: expected 5",
        ),
    ] {
        assert!(manifest.contains(old), "{old}");
        fs::write(&path, manifest.replacen(old, new, 1)).unwrap();
        let registry = open(dir.path(), Backend::Cpu);
        let problems: Vec<_> = registry
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            problems.iter().any(|problem| problem.contains(expected)),
            "{new}: {problems:?}"
        );
    }
}

#[test]
fn what_is_no_model_file_leaves_the_models_folder_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.txt");
    fs::write(&file, "tree\nversion=v4\n").unwrap();
    let models = dir.path().join("models");
    let refused = import(&options(&file, &models, "1"))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("model.txt: the line \"end of trees\" is missing"),
        "{refused}"
    );
    let mut options = options(&fixture("xgboost-dart.ubj"), &models, "1");
    options.max_tokens = Some(5);
    let refused = import(&options).unwrap_err().to_string();
    assert!(
        refused.ends_with("--max-tokens: does not belong to a model of trees"),
        "{refused}"
    );
    assert!(!models.exists());
}
