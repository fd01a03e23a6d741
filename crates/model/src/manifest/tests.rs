//! Every wrong field of a manifest is named, and the example manifests parse.

use kiln_contract::model::{InputKind, PairRule, Task};

use super::*;
use crate::fixtures::{mlp_manifest, ngram};

const WEIGHTS: &str =
    "[weights]\nsha256 = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n";

fn mlp() -> String {
    mlp_manifest(&[4, 3, 1]) + WEIGHTS
}

fn text() -> String {
    ngram(100, 4).0 + WEIGHTS
}

fn refusal(source: &str) -> String {
    Manifest::parse(source).expect_err(source).to_string()
}

#[test]
fn says_what_the_model_is() {
    let manifest =
        Manifest::parse(&format!("ttl_seconds = 60\ndescription = \"d\"\n{}", mlp())).unwrap();
    assert_eq!(manifest.input_kind(), InputKind::Features { count: 4 });
    assert_eq!(manifest.task(), Task::Scalar);
    assert_eq!(manifest.output_width(), 1);
    assert_eq!(manifest.ttl_seconds, Some(60));

    let manifest = Manifest::parse(&text()).unwrap();
    assert_eq!(
        manifest.input_kind(),
        InputKind::Text {
            pair: PairRule::None
        }
    );
    assert_eq!(manifest.output_width(), 3);
    assert_eq!(manifest.text_rules().apply("  A "), "a");
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of refusals")]
fn every_wrong_field_is_named() {
    let golden = |body: &str| format!("{}[[golden]]\n{body}\n", mlp());
    let cases = [
        (mlp().replace("hidden", "hiden"), "mlp.hiden: unknown field"),
        (format!("colour = 1\n{}", mlp()), "colour: unknown field"),
        (mlp().replace("[mlp]", "[ngram]"), "ngram"),
        (
            mlp().replace("\"relu\"", "\"swish\""),
            "mlp.activation: unknown variant `swish`",
        ),
        (
            mlp().replace("\"mlp\"", "\"resnet\""),
            "architecture: unknown variant `resnet`",
        ),
        (
            mlp().replace("count = 4", "count = 0"),
            "features.count: must be between",
        ),
        (
            mlp().replace("count = 4", "count = \"4\""),
            "features.count: invalid type",
        ),
        (
            mlp().replace("count = 4", "count = 4\nmean = [0, 0, 0, 0]"),
            "features.std go together",
        ),
        (
            mlp().replace("count = 4", "count = 4\nmean = [0, 0]\nstd = [1, 1]"),
            "features.mean: has 2 numbers, expected 4",
        ),
        (
            mlp().replace(
                "count = 4",
                "count = 4\nmean = [0, 0, 0, 0]\nstd = [1, 1, 0, 1]",
            ),
            "features.std: must be positive",
        ),
        (
            mlp().replace("hidden = [3]", "hidden = [3, 0]"),
            "mlp.hidden[1]: must be between",
        ),
        (
            mlp().replace("\"sigmoid\"", "\"softmax\""),
            "output.activation: softmax over one number",
        ),
        (
            mlp().replace("\"scalar\"", "\"scalar\"\nlabels = [\"a\"]"),
            "output.labels: only a classification",
        ),
        (
            mlp().replace("\"scalar\"", "\"embedding\""),
            "output.width: must be between",
        ),
        (
            format!("ttl_seconds = 0\n{}", mlp()),
            "ttl_seconds: must be at least 1",
        ),
        (
            mlp().replace("sha256 = \"aaa", "sha256 = \""),
            "weights.sha256: must be 64",
        ),
        (
            mlp() + "file = \"../other\"\n",
            "weights.file: must be the plain name",
        ),
        (mlp_manifest(&[4, 3, 1]), "weights: this table is missing"),
        (
            mlp().replace("[features]\ncount = 4", "[text]"),
            "features: this table is missing",
        ),
        (
            mlp().replace("[features]", "[text]\n[features]"),
            "both [features] and [text]",
        ),
        (
            text().replace("[\"a\", \"b\", \"c\"]", "[\"a\"]"),
            "output.labels: must name 2",
        ),
        (
            text().replace("[\"a\", \"b\", \"c\"]", "[\"a\", \"b\", \"a\"]"),
            "output.labels[2]: is there twice",
        ),
        (
            text().replace("\"softmax\"", "\"identity\""),
            "output.activation: must be",
        ),
        (
            text().replace("buckets = 100", "buckets = 0"),
            "ngram.buckets: must be between",
        ),
        (
            text().replace("min_chars = 3", "min_chars = 5"),
            "ngram.min_chars: must be between 1 and 4",
        ),
        (
            text().replace("[text]", "[text]\nmax_bytes = 0"),
            "text.max_bytes: must be between",
        ),
        (
            golden("features = [1, 2, 3]\nexpect = [0.5]"),
            "golden[0].features: has 3 numbers, expected 4",
        ),
        (
            golden("features = [1, 2, 3, 4]\nexpect = []"),
            "golden[0].expect: has 0 numbers, expected 1",
        ),
        (
            golden("text = \"x\"\nexpect = [0.5]"),
            "golden[0].features: this model's golden inputs",
        ),
        (
            golden("features = [1, 2, 3, nan]\nexpect = [0.5]"),
            "golden[0].features: has a number that is not finite",
        ),
    ];
    for (source, expected) in cases {
        let refusal = refusal(&source);
        assert!(
            refusal.starts_with("manifest.toml: ") && refusal.contains(expected),
            "expected {expected:?}, got {refusal:?} for\n{source}"
        );
    }
}

const TRAINING: &str = "from = \"2026-10-28T00:00:00Z\"
to = \"2026-11-27T02:00:00.5+02:00\"
rows = 120000
training_seconds = 41.25
evaluation_seconds = 0
[metrics]
auc = 0.81
auc_before = 0.8
";

/// The same as a manifest's table.
fn with_training(training: &str) -> String {
    let table = training.replace("[metrics]", "[training.metrics]");
    format!("{}[training]\n{table}", mlp())
}

#[test]
fn a_training_is_read_in_a_manifest_and_alone() {
    let alone = parse_training(TRAINING).unwrap();
    let manifest = Manifest::parse(&with_training(TRAINING)).unwrap();
    assert_eq!(manifest.training, Some(alone.clone()));
    assert_eq!((alone.rows, alone.training_seconds), (120_000, 41.25));
    assert_eq!(alone.metrics["auc_before"], 0.8);
    // Another reader of the manifest that an import writes sees the same.
    let written = toml::to_string(&alone).unwrap();
    assert_eq!(parse_training(&written).unwrap(), alone);
    let without_metrics = TRAINING.split("[metrics]").next().unwrap();
    assert!(parse_training(without_metrics).unwrap().metrics.is_empty());
}

#[test]
fn every_figure_of_a_training_is_bounded_and_named_where_it_is_wrong() {
    let many = |count: usize| {
        let figures = (0..count).map(|i| format!("figure_{i} = {i}\n"));
        TRAINING.to_owned() + &figures.collect::<String>()
    };
    assert!(parse_training(&many(14)).is_ok());
    let long = "a".repeat(33);
    for (source, expected) in [
        (many(15), "metrics: has 17 figures, at most 16"),
        (many(100_000), "metrics: has 100002 figures"),
        (TRAINING.replace("auc =", "Auc ="), "metrics: has a name"),
        (TRAINING.replace("auc =", "\"\" ="), "metrics: has a name"),
        (
            TRAINING.replace("auc =", "\"a\\nb\" ="),
            "metrics: has a name",
        ),
        (
            TRAINING.replace("auc =", &format!("{long} =")),
            "metrics: has a name",
        ),
        (
            TRAINING.replace("0.81", "nan"),
            "metrics.auc: must be a finite number",
        ),
        (
            TRAINING.replace("0.81", "inf"),
            "metrics.auc: must be a finite number",
        ),
        (
            TRAINING.replace("0.81", "\"0.81\""),
            "metrics.auc: invalid type",
        ),
        (
            TRAINING.replace("0.81", "{ a = 1 }"),
            "metrics.auc: invalid type",
        ),
        (TRAINING.replace("120000", "0"), "rows: must be between"),
        (TRAINING.replace("120000", "-1"), "rows: invalid value"),
        (
            TRAINING.replace("120000", "1000000000000001"),
            "rows: must be between",
        ),
        (
            TRAINING.replace("41.25", "-1.0"),
            "training_seconds: must be between",
        ),
        (
            TRAINING.replace("41.25", "nan"),
            "training_seconds: must be between",
        ),
        (
            TRAINING.replace("evaluation_seconds = 0", "evaluation_seconds = inf"),
            "evaluation_seconds: must be between",
        ),
    ] {
        expect_refusal(&source, expected);
    }
}

#[test]
fn the_time_and_the_fields_of_a_training_are_checked() {
    for (source, expected) in [
        (
            TRAINING.replace("2026-10-28T00", "2026-10-28 at 00"),
            "from: must be an instant",
        ),
        (
            TRAINING.replace("2026-10-28T", &" ".repeat(100_000)),
            "from: must be an instant",
        ),
        (
            TRAINING.replace("2026-10-28", "2027-10-28"),
            "to: is earlier than `from`",
        ),
        (TRAINING.replace("rows", "lines"), "lines: unknown field"),
        (
            TRAINING.replace("rows = 120000\n", ""),
            "missing field `rows`",
        ),
    ] {
        expect_refusal(&source, expected);
    }
}

/// That what is said of a training is refused, in a file of its own and within a manifest.
fn expect_refusal(training: &str, expected: &str) {
    let alone = parse_training(training).expect_err(expected).message;
    assert!(
        alone.contains(expected) && alone.len() < 300,
        "{expected}: {alone}"
    );
    let within = refusal(&with_training(training));
    assert!(within.contains("training"), "{expected}: {within}");
    assert!(
        within.contains(expected) && within.len() < 300,
        "{expected}: {within}"
    );
}

#[test]
fn what_is_no_toml_says_where() {
    let refusal = refusal("architecture = \"mlp\"\n[features\n");
    assert!(refusal.contains("line 2"), "{refusal}");
}

#[test]
fn the_guides_manifests_are_good() {
    let guide = include_str!("../../../../models/README.md");
    let manifests: Vec<&str> = guide
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(manifests.len() >= 5, "{}", manifests.len());
    for manifest in manifests {
        Manifest::parse(manifest).unwrap();
    }
}
