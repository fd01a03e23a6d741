//! Owns docs/metrics.md: every metric with its kind, unit, labels and meaning, as Markdown.
//!
//! Promises that the file follows from the catalogue and the labels' own values.

use super::{
    catalogue::{GROUPS, SECONDS, SIZES, all},
    labels::CODE,
    metric::{Kind, Label, Metric, Values},
};
use kiln_contract::failure::Code;
use std::fmt::Write;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");

const HEAD: &str = "\
# Metrics

Every worker serves its metrics at `/metrics` of its HTTP port (127.0.0.1:9464), in Prometheus' text format, or in OpenMetrics' for who asks for it; `kiln run` is the only command that has
any. The values of a label come from a list, from manifests or from the settings, never from a job, so that their number stays bounded. Series with
listed values are there from the start, at 0 (histograms once they have recorded something). [ops/](../ops) holds dashboards and alerts that use them.
This file is generated: see [CONTRIBUTING.md](../CONTRIBUTING.md#how-to-add).
";

/// The whole file.
fn reference() -> String {
    let mut text = HEAD.to_owned();
    for (heading, metrics) in GROUPS {
        write!(text, "\n## {heading}\n\n").expect("text");
        text.push_str(
            "| metric | kind | unit | labels | meaning |\n| --- | --- | --- | --- | --- |\n",
        );
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(name).collect();
            writeln!(
                text,
                "| `{}` | {} | {} | {} | {} |",
                metric.name,
                kind(metric.kind),
                metric.unit,
                labels.join(", "),
                metric.help
            )
            .expect("text");
        }
        labels(&mut text, metrics);
    }
    text.push_str("\n## Buckets\n\nUpper bounds of the histograms' buckets, beside `+Inf`.\n\n");
    text.push_str("| unit | bounds |\n| --- | --- |\n");
    writeln!(text, "| seconds | {} |", bounds(&SECONDS)).expect("text");
    writeln!(text, "| jobs, rows | {} |", bounds(&SIZES)).expect("text");
    text
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn name(label: &Label) -> String {
    format!("`{}`", label.name)
}

fn bounds(buckets: &[f64]) -> String {
    let all: Vec<String> = buckets.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// The values of the labels of some metrics.
fn labels(text: &mut String, metrics: &[Metric]) {
    // Each label once, with all metrics that have it.
    let mut all: Vec<(Label, Vec<&Metric>)> = Vec::new();
    for metric in metrics {
        for label in metric.labels {
            let known = all.iter_mut().find(|(one, _)| same(one, label));
            match known {
                Some((_, of)) => of.push(metric),
                None => all.push((*label, vec![metric])),
            }
        }
    }
    if all.is_empty() {
        return;
    }
    text.push_str("\n| label | of | value | meaning |\n| --- | --- | --- | --- |\n");
    for (label, of) in all {
        let of: Vec<String> = of
            .iter()
            .map(|metric| format!("`{}`", metric.name))
            .collect();
        let head = format!("{} | {}", name(&label), of.join(", "));
        match label.values {
            Values::Named(what) => writeln!(text, "| {head} | | {what} |").expect("text"),
            Values::Listed(values) => {
                // The label stands in the first of its rows.
                let heads = std::iter::once(head.as_str()).chain(std::iter::repeat(" | "));
                for (head, (value, meaning)) in heads.zip(values()) {
                    let meaning = meaning.trim();
                    writeln!(text, "| {head} | `{value}` | {meaning} |").expect("text");
                }
            }
        }
    }
}

fn same(one: &Label, other: &Label) -> bool {
    let values = |label: &Label| match label.values {
        Values::Listed(values) => values(),
        Values::Named(what) => vec![("", what)],
    };
    one.name == other.name && values(one) == values(other)
}

#[test]
fn the_reference_is_what_the_catalogue_says() {
    let text = reference();
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(FILE, &text).expect("docs/metrics.md can be written");
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == text,
        "docs/metrics.md isn't what the catalogue says: KILN_BLESS=1 cargo test -p kiln --lib metrics::reference"
    );
}

#[test]
fn names_follow_the_convention_and_nothing_is_left_unsaid() {
    for metric in all() {
        let name = metric.name;
        assert!(name.starts_with("kiln_"), "{name}");
        let counts = metric.kind == Kind::Counter;
        assert_eq!(name.ends_with("_total"), counts, "{name}");
        let measures = metric.kind == Kind::Histogram;
        assert_eq!(!metric.buckets.is_empty(), measures, "{name}");
        let seconds = metric.unit == "seconds";
        assert_eq!(name.ends_with("_seconds"), seconds, "{name}");
        assert!(
            metric.help.ends_with('.') && !metric.unit.is_empty(),
            "{name}"
        );
        assert_eq!(
            all().filter(|other| other.name == name).count(),
            1,
            "{name}"
        );
    }
}

/// Series are found by the values' numbers.
#[test]
fn the_codes_have_the_order_of_their_numbers() {
    for (number, code) in Code::ALL.iter().enumerate() {
        assert_eq!(*code as usize, number);
    }
    let Values::Listed(values) = CODE.values else {
        panic!("the codes are listed");
    };
    let codes = values().into_iter().map(|(code, _)| code);
    assert!(codes.eq(Code::ALL.iter().map(|code| code.as_str())));
}
