//! Owns the rules of dashboards and alerts: every panel says its unit and what it shows, every metric that is named exists, and from each alert a link leads
//! to the panel that shows it, and from there to the runbook.

use super::{read, root, yaml};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

const FOLDER: &str = "ops/grafana/dashboards";
/// What marks a worker's start and a version's being taken into use.
const ANNOTATED: [&str; 2] = [
    "kiln_started_timestamp_seconds",
    "kiln_model_activated_timestamp_seconds",
];
/// Alerts whose limit is no number that a panel could draw, and what it is.
const WITHOUT_A_LINE: [(&str, &str); 3] = [
    ("KilnHitRateDropped", "the last day's mean"),
    (
        "KilnStale",
        "each namespace's objective, a series beside it",
    ),
    (
        "KilnFollowsLate",
        "each namespace's objective, a series beside it",
    ),
];

/// Every dashboard by its uid.
fn dashboards() -> BTreeMap<String, Value> {
    let files = fs::read_dir(root().join(FOLDER)).expect("a folder");
    let read = files.map(|file| {
        let path = file.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a file");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let uid = dashboard["uid"].as_str().expect("a uid").to_owned();
        assert_eq!(path.file_stem().and_then(|s| s.to_str()), Some(&*uid));
        (uid, dashboard)
    });
    read.collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default().trim()
}

/// The metrics that docs/metrics.md lists, which is generated from the catalogue, and what the rules record.
fn known_metrics() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for row in read("docs/metrics.md").lines() {
        let mut cells = row.split(" | ");
        let first = cells.next().unwrap_or_default();
        let name = first.strip_prefix("| `").and_then(|n| n.strip_suffix('`'));
        let (Some(name), Some(kind)) = (name, cells.next()) else {
            continue;
        };
        if kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        } else if ["counter", "gauge"].contains(&kind) {
            known.insert(name.to_owned());
        }
    }
    assert!(known.len() > 80, "{known:?}");
    for rule in rules("ops/prometheus/recording.yml") {
        known.insert(text(&rule, "record").to_owned());
    }
    known
}

fn rules(path: &str) -> Vec<Value> {
    let groups = yaml(&read(path)).remove(0)["groups"].clone();
    let rules = list(&groups).flat_map(|group| list(&group["rules"]).cloned());
    rules.collect()
}

/// Kiln's metrics that a query names.
fn metrics(query: &str) -> impl Iterator<Item = &str> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && !['_', ':'].contains(&c))
        .filter(|word| word.starts_with("kiln_") || word.starts_with("kiln:"))
}

/// The runbook's headings as anchors.
fn anchors() -> BTreeSet<String> {
    let runbook = read("ops/runbook.md");
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    headings.map(str::to_lowercase).collect()
}

/// The anchors that a panel's links to the runbook lead to.
fn runbook_links(panel: &Value) -> Vec<&str> {
    let links = list(&panel["links"]).map(|link| text(link, "url"));
    let anchors = links.map(|url| url.strip_prefix("${runbook}#").expect("the runbook"));
    anchors.collect()
}

#[test]
fn every_panel_says_its_unit_and_what_it_shows_and_names_metrics_that_exist() {
    let (known, anchors) = (known_metrics(), anchors());
    for (uid, dashboard) in dashboards() {
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let panels: Vec<&Value> = list(&dashboard["panels"]).collect();
        assert!(panels.len() > 5, "{uid}");
        for panel in panels {
            let name = format!("{uid}: {} {}", panel["id"], panel["title"]);
            let description = text(panel, "description");
            assert!(description.ends_with('.'), "{name}: {description:?}");
            let unit = text(&panel["fieldConfig"]["defaults"], "unit");
            assert!(!unit.is_empty(), "{name}: no unit");
            assert!(ids.insert(panel["id"].as_i64()), "{name}: twice");
            for link in runbook_links(panel) {
                assert!(anchors.contains(link), "{name}: {link}");
            }
            let targets: Vec<&Value> = list(&panel["targets"]).collect();
            assert!(!targets.is_empty(), "{name}");
            for target in targets {
                assert!(!text(target, "legendFormat").is_empty(), "{name}");
                for metric in metrics(text(target, "expr")) {
                    assert!(known.contains(metric), "{name}: {metric}");
                }
            }
            // No panel lies over another.
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a position");
            assert!(at("x") + at("w") <= 24, "{name}");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{name} lies over another panel");
                }
            }
        }
    }
}

#[test]
fn every_dashboard_marks_starts_and_activations() {
    let known = known_metrics();
    let all = dashboards();
    for uid in [
        "kiln-overview",
        "kiln-lanes",
        "kiln-consistency",
        "kiln-warming",
    ] {
        assert!(all.contains_key(uid), "{uid}");
    }
    for (uid, dashboard) in &all {
        let marks: Vec<&Value> = list(&dashboard["annotations"]["list"]).collect();
        let queries = marks.iter().map(|mark| text(mark, "expr"));
        let named: BTreeSet<&str> = queries.flat_map(metrics).collect();
        for metric in ANNOTATED {
            assert!(named.contains(metric), "{uid}: {metric}");
        }
        for metric in named {
            assert!(known.contains(metric), "{uid}: {metric}");
        }
        for mark in marks {
            // The value is the time, in milliseconds.
            assert_eq!(mark["useValueForTime"], true, "{uid}");
            assert!(text(mark, "expr").starts_with("1000 * "), "{uid}");
            assert!(text(mark, "titleFormat").contains("{{"), "{uid}");
        }
        let variables: Vec<&str> = list(&dashboard["templating"]["list"])
            .map(|variable| text(variable, "name"))
            .collect();
        assert_eq!(variables, ["datasource", "instance", "runbook"], "{uid}");
    }
    let warming = all["kiln-warming"].to_string();
    for metric in ["runs_total", "inputs_total", "done_timestamp_seconds"] {
        assert!(
            warming.contains(&format!("kiln_schedule_{metric}")),
            "{metric}"
        );
    }
}

#[test]
fn links_lead_from_each_alert_to_its_panel_and_on_to_the_runbook() {
    let (known, anchors, all) = (known_metrics(), anchors(), dashboards());
    let alerts = rules("ops/prometheus/alerts.yml");
    assert!(alerts.len() > 30);
    for alert in alerts {
        let name = text(&alert, "alert");
        for metric in metrics(text(&alert, "expr")) {
            assert!(known.contains(metric), "{name}: {metric}");
        }
        let notes = &alert["annotations"];
        let anchor = text(notes, "runbook_url").strip_prefix("ops/runbook.md#");
        let anchor = anchor.unwrap_or_else(|| panic!("{name}: no runbook"));
        assert!(anchors.contains(anchor), "{name}: {anchor}");
        let url = text(notes, "dashboard_url").strip_prefix("/d/");
        let parts = url.and_then(|url| url.split_once("?viewPanel="));
        let (uid, id) = parts.unwrap_or_else(|| panic!("{name}: no panel"));
        let dashboard = all.get(uid).unwrap_or_else(|| panic!("{name}: {uid}"));
        let panel = list(&dashboard["panels"]).find(|panel| panel["id"].to_string() == id);
        let panel = panel.unwrap_or_else(|| panic!("{name}: {uid} has no panel {id}"));
        assert!(
            runbook_links(panel).contains(&anchor),
            "{name}: {} doesn't lead on",
            panel["title"]
        );
        let defaults = &panel["fieldConfig"]["defaults"];
        let draws = list(&defaults["thresholds"]["steps"]).count() > 1;
        let has_none = WITHOUT_A_LINE.iter().any(|(one, _)| *one == name);
        assert!(
            draws != has_none,
            "{name}: {} draws no limit",
            panel["title"]
        );
    }
}
