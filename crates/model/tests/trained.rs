//! Models that both libraries train while the test runs, of every objective and kind of boosting: their own scores, to the last bit, for tens of
//! thousands of rows of each.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_model::{ImportOptions, Model, ModelSettings, Precision, Registry, Rows, import};

/// Rows that each model scores; fewer in builds that aren't optimised.
const ROWS: usize = if cfg!(debug_assertions) {
    2_000
} else {
    20_000
};
const WIDTH: usize = 8;

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let each = bytes.as_chunks::<4>().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Trains the models in a folder, and gives their files.
fn trained(folder: &Path) -> Vec<PathBuf> {
    let python = std::env::var("CLIENTS_PYTHON").expect("CLIENTS_PYTHON: see scripts/test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/trained_trees.py");
    let ended = Command::new(python)
        .arg(script)
        .arg(folder)
        .arg(ROWS.to_string())
        .output()
        .unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_model = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("txt" | "json" | "ubj"))
    };
    let mut files: Vec<PathBuf> = files.filter(is_model).collect();
    files.sort();
    files
}

/// A version for each file, and what each is called.
fn imported(files: &[PathBuf], models: &Path) -> Vec<String> {
    let mut versions = Vec::new();
    for file in files {
        let version = file.file_name().unwrap().to_str().unwrap().to_owned();
        import(&ImportOptions {
            folder: file.clone(),
            models_dir: models.to_owned(),
            name: "trees".to_owned(),
            version: version.clone(),
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
            width: None,
            range: None,
            precision: Precision::Single,
        })
        .unwrap_or_else(|error| panic!("{version}: {error}"));
        versions.push(version);
    }
    versions
}

async fn scored(model: &Arc<Model>, rows: &[f32]) -> Vec<f32> {
    let rows = Rows::Features {
        width: WIDTH,
        data: rows.to_vec(),
    };
    model.score(rows).await.unwrap().outputs
}

#[tokio::test]
async fn models_of_every_objective_score_as_the_library_that_trained_them() {
    let folder = tempfile::tempdir().unwrap();
    let models = tempfile::tempdir().unwrap();
    let files = trained(folder.path());
    // 25 models of LightGBM, two of which in both notations, and 21 of XGBoost, all of which in both.
    assert_eq!(files.len(), 27 + 42);
    let versions = imported(&files, models.path());
    let registry = Registry::open(&ModelSettings {
        dir: models.path().to_owned(),
        threads: 2,
        ..ModelSettings::default()
    });
    let registry = registry.unwrap();
    assert_eq!(registry.problems(), []);
    for version in versions {
        let (name, _) = version.rsplit_once('.').unwrap();
        let rows = floats(&folder.path().join(format!("{name}.in")));
        let expected = floats(&folder.path().join(format!("{name}.out")));
        assert_eq!(rows.len(), ROWS * WIDTH);
        let model = registry.resolve(&format!("trees@{version}")).unwrap();
        let found = scored(&model, &rows).await;
        assert_eq!(found.len(), expected.len(), "{version}");
        let differs = |(found, expected): (&f32, &f32)| found.to_bits() != expected.to_bits();
        if let Some(at) = found.iter().zip(&expected).position(differs) {
            panic!(
                "{version}: number {at} is {}, expected {}",
                found[at], expected[at]
            );
        }
    }
}
