//! Versions in int8 of imported encoders, whole and broken.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::fixtures::{ModelsDir, same_bits, score, texts};
use crate::{Backend, ImportOptions, ModelSettings, Precision, Registry, import};

fn options(dir: &ModelsDir, name: &str) -> QuantiseOptions {
    QuantiseOptions {
        models_dir: dir.path().to_owned(),
        name: name.to_owned(),
        from: "1".to_owned(),
        version: "1-int8".to_owned(),
        runs_on: ModelSettings::default().backend_of(name),
        coarse: false,
    }
}

/// One of the encoders that the reference libraries made, as version 1.
fn imported(name: &str) -> ModelsDir {
    let dir = ModelsDir::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/models");
    import(&ImportOptions {
        folder: fixtures.join(name),
        models_dir: dir.path().to_owned(),
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
        width: None,
        range: None,
        precision: Precision::Single,
    })
    .unwrap();
    dir
}

fn refusal(options: &QuantiseOptions) -> String {
    match quantise(options) {
        Ok(_) => "not refused".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Of a registry that refuses the version in int8: why.
fn problem(registry: &Arc<Registry>) -> String {
    let problems = registry.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

const TEXTS: [&str; 3] = [
    "A short text.",
    "It was the best of times, it was the worst of times, it was the age of wisdom",
    "x",
];

#[test]
fn a_version_in_int8_stands_beside_the_one_in_floats_with_its_cost() {
    for name in [
        "bert-classifier",
        "bert-sentence",
        "mpnet-sentence",
        "nomic-hub",
    ] {
        let dir = imported(name);
        let quantising = quantise(&options(&dir, name)).unwrap();
        assert!(!dir.folder(name, "1-int8").exists());
        let mut meter = CostMeter::new(
            quantising.before().info().task.clone(),
            quantising.before().info().precision,
        );
        for text in TEXTS {
            let both = [quantising.before(), quantising.after()];
            let [before, after] = both.map(|model| score(model, texts(&[text])));
            assert!(!same_bits(&before, &after), "nothing was rounded");
            meter.add(&before, &after);
        }
        let cost = meter.cost().unwrap();
        assert!(cost.largest_difference < 0.1, "{cost:?}");
        let made = quantising.finish(Some(&cost)).unwrap();
        assert!(made.bytes.1 < made.bytes.0);
        assert_eq!(made.info.weights, WeightPrecision::Int8);

        let registry = dir.open();
        assert_eq!(registry.problems(), []);
        let model = registry.resolve(&format!("{name}@1-int8")).unwrap();
        assert_eq!(model.info().golden, 4);
        let folder = dir.folder(name, "1-int8");
        assert_eq!(quantisation_cost(&folder).unwrap(), Some(cost));
        let all = score(&model, texts(&TEXTS));
        for (text, found) in TEXTS.iter().zip(all.chunks(model.info().output_width)) {
            assert!(same_bits(&score(&model, texts(&[text])), found), "{text}");
        }
        let left: Vec<_> = fs::read_dir(dir.path().join(name)).unwrap().collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn every_family_has_versions_in_int8() {
    for name in [
        "modernbert-sentence",
        "modernbert-biased",
        "deberta-classifier",
    ] {
        let dir = imported(name);
        let quantising = quantise(&options(&dir, name)).unwrap();
        let rows = || match quantising.before().info().input {
            kiln_contract::model::InputKind::Text {
                pair: PairRule::Required,
            } => Rows::Texts(vec![TextRow {
                text: TEXTS[0].to_owned(),
                text_pair: Some(TEXTS[1].to_owned()),
            }]),
            _ => texts(&TEXTS),
        };
        let before = score(quantising.before(), rows());
        let after = score(quantising.after(), rows());
        let furthest = crate::fixtures::furthest(&before, &after);
        assert!(furthest > 0.0 && furthest < 0.5, "{name}: {furthest}");
        quantising.finish(None).unwrap();
        assert_eq!(dir.open().problems(), []);
    }
}

#[test]
fn what_is_given_up_leaves_nothing_behind() {
    let dir = imported("bert-classifier");
    drop(quantise(&options(&dir, "bert-classifier")).unwrap());
    let left: Vec<_> = fs::read_dir(dir.path().join("bert-classifier"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn what_has_no_version_in_int8_is_refused_with_the_reason() {
    let dir = imported("bert-classifier");
    let good = options(&dir, "bert-classifier");
    quantise(&good).unwrap().finish(None).unwrap();
    assert!(refusal(&good).contains("is there already"));
    let again = QuantiseOptions {
        from: good.version.clone(),
        version: "2".to_owned(),
        ..good.clone()
    };
    assert!(
        refusal(&again).contains("is int8 already"),
        "{}",
        refusal(&again)
    );
    let hidden = QuantiseOptions {
        version: ".2".to_owned(),
        ..good.clone()
    };
    assert!(refusal(&hidden).contains("--version"));
    let none = QuantiseOptions {
        from: "9".to_owned(),
        version: "2".to_owned(),
        ..good
    };
    assert!(refusal(&none).contains("manifest.toml: cannot be read"));
    let sizes = [3, 2];
    let manifest = crate::fixtures::mlp_manifest(&sizes);
    dir.put(
        "ranker",
        "1",
        &manifest,
        &crate::fixtures::layers(&sizes, 5),
    );
    assert!(refusal(&options(&dir, "ranker")).contains("only the architecture \"encoder\""));
}

#[test]
fn a_broken_version_in_int8_is_refused_by_its_tensor_or_field() {
    let dir = imported("bert-classifier");
    quantise(&options(&dir, "bert-classifier"))
        .unwrap()
        .finish(None)
        .unwrap();
    let folder = dir.folder("bert-classifier", "1-int8");
    let manifest = fs::read_to_string(folder.join("manifest.toml")).unwrap();
    let rewrite = |text: &str| {
        fs::write(folder.join("manifest.toml"), text).unwrap();
        problem(&dir.open())
    };
    let found = rewrite(&manifest.replace("precision = \"int8\"", "precision = \"single\""));
    assert!(
        found.contains("layers.0.query.weight")
            && found.contains("expected F32")
            && found.contains("found I8"),
        "{found}"
    );
    let found = rewrite(&manifest.replace("precision = \"int8\"", "precision = \"int4\""));
    assert!(found.contains("weights.precision"), "{found}");
    let cost =
        "\n[quantised]\ntexts = 3\nlargest_difference = 0.1\nmean_difference = 0.1\nflips = 2.0\n";
    let found = rewrite(&format!("{manifest}{cost}"));
    assert!(found.contains("quantised.flips"), "{found}");
    fs::write(folder.join("manifest.toml"), &manifest).unwrap();
    let mut bytes = fs::read(folder.join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(folder.join("model.safetensors"), &bytes).unwrap();
    let found = problem(&dir.open());
    assert!(found.contains("has SHA-256"), "{found}");
}

#[test]
fn int8_is_refused_where_a_graph_runs() {
    let dir = imported("bert-classifier");
    let mut settings = dir.settings();
    settings.backend = Backend::Cuda;
    let on = |settings: &ModelSettings| {
        let runs_on = settings.backend_of("bert-classifier");
        refusal(&QuantiseOptions {
            runs_on,
            ..options(&dir, "bert-classifier")
        })
    };
    let found = on(&settings);
    assert!(found.contains("models.backend is \"cuda\""), "{found}");
    let own = ("bert-classifier".to_owned(), Backend::Flex);
    settings.backends.extend([own]);
    let found = on(&settings);
    let setting = "models.backends.bert-classifier is \"flex\"";
    assert!(found.contains(setting), "{found}");
    let own = ("bert-classifier".to_owned(), Backend::Cpu);
    settings.backends.extend([own]);
    assert_eq!(on(&settings), "not refused");
    assert!(!dir.folder("bert-classifier", "1-int8").exists());
    quantise(&options(&dir, "bert-classifier"))
        .unwrap()
        .finish(None)
        .unwrap();
    let registry = Registry::open(&ModelSettings {
        backend: Backend::Flex,
        ..dir.settings()
    });
    let found = problem(&registry.unwrap());
    assert!(
        found.contains("weights.precision") && found.contains("\"cpu\""),
        "{found}"
    );
}

#[test]
fn the_feed_forward_part_has_finer_steps_unless_they_are_to_be_coarse() {
    for (coarse, expected) in [(false, 127), (true, 64)] {
        let dir = imported("bert-sentence");
        let options = QuantiseOptions {
            coarse,
            ..options(&dir, "bert-sentence")
        };
        let made = quantise(&options).unwrap().finish(None).unwrap();
        let bytes = fs::read(made.path.join(WEIGHTS_FILE)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let largest = |name: &str| {
            let tensor = tensors.tensor(&format!("layers.0.{name}.weight")).unwrap();
            let bytes = tensor
                .data()
                .iter()
                .map(|byte| byte.cast_signed().unsigned_abs());
            bytes.max().unwrap()
        };
        assert_eq!(["up", "down"].map(largest), [expected; 2]);
        assert_eq!(["query", "key", "value", "attended"].map(largest), [64; 4]);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let dir = imported("bert-classifier");
    let good = options(&dir, "bert-classifier");
    for (name, from, word) in [
        ("../bert-classifier", "1", "the model"),
        ("bert-classifier", "../bert-classifier/1", "the version"),
        ("bert-classifier", "..", "the version"),
    ] {
        let refused = refusal(&QuantiseOptions {
            name: name.to_owned(),
            from: from.to_owned(),
            ..good.clone()
        });
        assert!(refused.contains(word), "{refused}");
    }
}
