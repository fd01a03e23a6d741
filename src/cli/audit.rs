//! `kiln audit`: whether what is in Redis is right, and young enough, as measured on a sample.
//!
//! Only reads, but that it brings the database's tables up to date first, as every command does that needs them.

use super::{Exit, plain::plain};
use crate::{
    audit::{Auditor, Counts, Finding, Pace, Report, Verdict, Wanted},
    cache::Samples,
    config::Settings,
    parts,
};
use anyhow::{anyhow, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_contract::name;
use rand::Rng;
use serde_json::json;
use std::sync::Arc;

/// Measures whether what is in Redis is right: recomputes a sample, compares it with its rows and its namespace's objective for age.
#[derive(Debug, Args)]
#[command(after_help = "\
Samples named entries, rankings and score entries. Each is scored again by the version that it names, where that is installed and its input
is stored, and compared with its rows in `scores` and `served`. Changes nothing, but that the database's tables are brought up to date first.
Exits with 3 if something is wrong or has no row, if nothing of what was found could be compared, or if a namespace misses its objective
(`namespaces.NAME.max_age_seconds`).

Examples:
  kiln audit
  kiln audit --namespace reviews --sample 10000 --json")]
pub(super) struct Arguments {
    /// Only this namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// Named entries and rankings, and as many score entries, to look at.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sample: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Steps of the walk through Redis, at 200 keys each.
const MAX_STEPS: usize = 100_000;

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if let Some(namespace) = &arguments.namespace
        && !name::is_name(namespace)
    {
        bail!("namespace: {}", name::EXPECTED_NAME);
    }
    let url = settings.redis.url.clone();
    let url = url.ok_or_else(|| anyhow!("no cache is set: give KILN_REDIS_URL"))?;
    let store = parts::postgres(&settings)?;
    store.migrate().await?;
    let registry = parts::open_registry(&settings)?;
    registry.choose(store.choices().await?);
    let settings = Arc::new(settings);
    let mut auditor = Auditor {
        samples: Samples::new(&url, &settings.redis, rand::rng().random()),
        store,
        registry,
        settings: settings.clone(),
        pace: Pace::hurried(),
    };
    let wanted = Wanted {
        namespace: arguments.namespace.clone(),
        sample: arguments.sample as usize,
        max_steps: MAX_STEPS,
    };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} entries looked at, {per_sec}",
    )?);
    let mut report = Report::default();
    let audited = auditor.run(&wanted, |finding| {
        bar.inc(1);
        report.add(finding);
    });
    audited.await.map_err(|reason| anyhow!(reason))?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", as_json(&report, &settings));
    } else {
        show(&report, &settings, arguments.namespace.as_deref());
    }
    let is_good = is_good(&report.all()) && missed(&report, &settings).is_empty();
    Ok(if is_good { Exit::Ok } else { Exit::Partial })
}

/// Whether all that was found is as it should be, and some of it could be compared.
fn is_good(all: &Counts) -> bool {
    all.wrong == 0 && all.without_row == 0 && (all.compared() > 0 || all.sampled == 0)
}

/// The namespaces that miss their objective: the share that they want, and the one that was measured.
fn missed<'a>(report: &'a Report, settings: &Settings) -> Vec<(&'a str, f64, f64)> {
    let sums = report.by_namespace().into_iter();
    let missed = sums.filter_map(|(namespace, sum)| {
        let (_, wanted) = settings.namespaces.get(namespace)?.objective()?;
        let measured = sum.in_time()?;
        (measured < wanted).then_some((namespace, wanted, measured))
    });
    missed.collect()
}

fn as_json(report: &Report, settings: &Settings) -> serde_json::Value {
    let rows = report.counts.iter().map(|((namespace, kind), counts)| {
        let own = settings.namespaces.get(namespace);
        let objective = own.and_then(|own| own.objective());
        json!({
            "namespace": namespace, "kind": kind.as_str(), "counts": counts, "consistency": counts.consistency(), "in_time": counts.in_time(),
            "max_age_seconds": objective.map(|(seconds, _)| seconds), "max_age_share": objective.map(|(_, share)| share),
        })
    });
    let bad = report.examples.iter().map(|finding| {
        json!({"namespace": finding.namespace, "kind": finding.kind.as_str(), "name": finding.name, "why": why(finding)})
    });
    let all = report.all();
    json!({
        "rows": rows.collect::<Vec<_>>(), "all": all, "compared": all.compared(), "consistency": all.consistency(), "in_time": all.in_time(),
        "missed": missed(report, settings).iter().map(|(namespace, ..)| namespace).collect::<Vec<_>>(), "examples": bad.collect::<Vec<_>>(),
    })
}

fn why(finding: &Finding) -> &'static str {
    match finding.verdict {
        Verdict::Wrong(why) | Verdict::WithoutRow(why) => why,
        Verdict::Right | Verdict::ByRows(_) | Verdict::Unchecked(_) => "",
    }
}

fn show(report: &Report, settings: &Settings, namespace: Option<&str>) {
    if report.counts.is_empty() {
        match namespace {
            Some(namespace) => {
                println!("nothing was checked: no key of {namespace} was found in Redis")
            }
            None => println!("nothing was checked: no key of Kiln's was found in Redis"),
        }
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "namespace",
        "kind",
        "sampled",
        "right",
        "by rows",
        "wrong",
        "no row",
        "unchecked",
        "other version",
        "too old",
        "consistency",
        "in time",
    ]);
    for ((namespace, kind), counts) in &report.counts {
        let numbers = [
            counts.sampled,
            counts.right,
            counts.by_rows,
            counts.wrong,
            counts.without_row,
            counts.unchecked,
            counts.other_version,
            counts.too_old,
        ];
        let numbers = numbers.iter().map(u64::to_string);
        let shares = [counts.consistency(), counts.in_time()];
        let shares = shares
            .iter()
            .map(|share| share.map_or_else(|| "-".into(), percent));
        let head = [plain(namespace), kind.as_str().to_owned()];
        table.add_row(head.into_iter().chain(numbers).chain(shares));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    for line in words(&report.all()) {
        println!("{line}");
    }
    for (namespace, wanted, measured) in missed(report, settings) {
        println!(
            "{namespace} misses its objective: {} is young enough, {} wanted",
            percent(measured),
            percent(wanted)
        );
    }
    for finding in &report.examples {
        println!(
            "{} {} {}: {}",
            finding.kind.as_str(),
            plain(&finding.namespace),
            plain(&finding.name),
            why(finding)
        );
    }
}

/// What the sums mean.
fn words(all: &Counts) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(consistency) = all.consistency() {
        let compared = all.compared();
        let bound = if all.wrong == 0 {
            // The rule of three: what a sample without a fault allows to say.
            let share = (1.0 - 3.0 / compared as f64).max(0.0);
            format!("; with 95 % confidence at least {}", percent(share))
        } else {
            String::new()
        };
        lines.push(format!(
            "\nmeasured consistency: {} of {compared} compared{bound}",
            percent(consistency)
        ));
    } else {
        lines.push("\nnothing could be compared: this says nothing of whether it is right".into());
    }
    let not = all.by_rows + all.unchecked;
    if not > 0 {
        lines.push(format!(
            "{not} were not recomputed: {} of versions that aren't installed here, {} without a stored input (`store.inputs`)",
            all.version_not_here, all.input_not_stored
        ));
    }
    lines
}

fn percent(share: f64) -> String {
    let percent = format!("{:.4}", 100.0 * share);
    let short = percent.trim_end_matches('0').trim_end_matches('.');
    format!("{short} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_which_nothing_was_compared_is_no_good_news() {
        let unchecked = Counts {
            sampled: 5,
            unchecked: 5,
            ..Counts::default()
        };
        assert!(!is_good(&unchecked));
        assert!(
            words(&unchecked)
                .iter()
                .any(|line| line.contains("nothing could be compared"))
        );
        assert!(is_good(&Counts {
            right: 1,
            ..unchecked
        }));
        assert!(!is_good(&Counts {
            right: 1,
            wrong: 1,
            ..unchecked
        }));
        assert!(is_good(&Counts::default()));
    }
}
