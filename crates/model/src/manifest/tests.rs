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
