//! `kiln models quantize`: a version in int8 beside one in floats, and what it costs on the user's own texts.

use super::making::Making;
use crate::{cli::Exit, config::Settings};
use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_model::{
    CostMeter, InputKind, Model, PairRule, QuantisationCost, QuantiseOptions, Quantised,
    Quantising, Rows, TextRow, quantise,
};
use serde::Deserialize;
use serde_json::json;
use std::{fs, path::Path, path::PathBuf, time::Duration};

/// Texts that are scored at a time.
const BATCH: usize = 16;
/// Texts of a file that are measured, its first ones.
const MAX_TEXTS: usize = 10_000;
/// Largest file of texts.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Makes a version in int8 of an encoder in floats, beside it, and measures what that costs on your texts.
#[derive(Debug, Args)]
#[command(after_help = "\
The layers' weights become bytes with a scale for each output, and what they are multiplied with becomes bytes with a scale for
each token, so that a text's score still depends on that text alone. The new version is one like any other: try it with
`kiln models check` or `bench`, switch to it with `kiln models activate --warm`, and back. It runs on the backend cpu.

FILE has a text a line, or is JSONL with `text` and `text_pair` if its name ends in .jsonl; the first 10,000 are measured. What it
cost is kept in the version's manifest, and `kiln models inspect` shows it.

Examples:
  kiln models quantize sentiment@2 --version 2-int8 --texts texts.txt
  kiln models quantize reranker@1 --version 1-int8 --texts pairs.jsonl --json
  kiln models quantize sentiment@2 --version 2-coarse --coarse --texts texts.txt")]
pub(super) struct Arguments {
    /// The version in floats, name@version.
    model: String,
    /// The version that is made: A-Z, a-z, 0-9, ., _ and -.
    #[arg(long)]
    version: String,
    /// Texts such as the model will get, to measure the cost on.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Round the feed-forward layers to 129 steps instead of 255: faster on processors with AVX2 alone, and further off.
    #[arg(long)]
    coarse: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let Some((name, from)) = arguments.model.split_once('@') else {
        bail!("{}: expected name@version", arguments.model);
    };
    let options = QuantiseOptions {
        runs_on: settings.models.backend_of(name),
        models_dir: settings.models.dir,
        name: name.to_owned(),
        from: from.to_owned(),
        version: arguments.version,
        coarse: arguments.coarse,
    };
    let texts = match &arguments.texts {
        Some(file) => read(file).with_context(|| file.display().to_string())?,
        None => Vec::new(),
    };
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
    spinner.set_message("rounding, writing and checking");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let making = Making::of(&options.models_dir, &options.name, &options.version);
    let work = async {
        let quantising = tokio::task::spawn_blocking(move || quantise(&options)).await;
        spinner.finish_and_clear();
        let quantising = quantising??;
        let cost = measure(&quantising, &texts).await?;
        tokio::task::spawn_blocking(move || {
            let made = quantising.finish(cost.as_ref())?;
            Ok::<_, anyhow::Error>((made, cost))
        })
        .await?
    };
    let Some(done) = making.or_stopped(work).await? else {
        return Ok(Exit::Failed);
    };
    let (made, cost) = done?;
    if arguments.json {
        let line = json!({
            "path": made.path, "model": made.info, "cost": cost,
            "weights_bytes": {"before": made.bytes.0, "after": made.bytes.1},
        });
        reported!("{line}");
    } else {
        print(&made, cost.as_ref());
    }
    Ok(Exit::Ok)
}

/// An input of a file, and the number of its line.
struct Line {
    number: usize,
    text: String,
    text_pair: Option<String>,
}

#[derive(Deserialize)]
struct Input {
    text: String,
    text_pair: Option<String>,
}

fn read(file: &Path) -> anyhow::Result<Vec<Line>> {
    let bytes = fs::metadata(file)?.len();
    if bytes > MAX_FILE_BYTES {
        bail!("has {bytes} bytes, expected at most {MAX_FILE_BYTES}");
    }
    let source = fs::read_to_string(file)?;
    let is_json = file.extension().is_some_and(|name| name == "jsonl");
    let lines = parse(&source, is_json)?;
    if lines.is_empty() {
        bail!("has no texts");
    }
    Ok(lines)
}

fn parse(source: &str, is_json: bool) -> anyhow::Result<Vec<Line>> {
    let lines = source.lines().zip(1..);
    lines
        .filter(|(line, _)| !line.trim().is_empty())
        .take(MAX_TEXTS)
        .map(|(line, number)| {
            let (text, text_pair) = if is_json {
                let input: Input = serde_json::from_str(line).map_err(|error| {
                    let reason = kiln_contract::redact::json(&error);
                    anyhow::anyhow!("line {number}: {reason}")
                })?;
                (input.text, input.text_pair)
            } else {
                (line.to_owned(), None)
            };
            Ok(Line {
                number,
                text,
                text_pair,
            })
        })
        .collect()
}

/// Scores the texts with both versions.
async fn measure(
    quantising: &Quantising,
    lines: &[Line],
) -> anyhow::Result<Option<QuantisationCost>> {
    let (before, after) = (quantising.before(), quantising.after());
    let width = before.info().output_width.max(1);
    let mut meter = CostMeter::new(before.info().task.clone(), before.info().precision);
    let bar = ProgressBar::new(lines.len() as u64);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {pos}/{len} texts {eta}",
    )?);
    for batch in lines.chunks(BATCH) {
        let rows = batch.iter().map(|line| row(before, line));
        let rows = Rows::Texts(rows.collect::<anyhow::Result<_>>()?);
        let old = before.score(rows.clone()).await?.outputs;
        let new = after.score(rows).await?.outputs;
        for (old, new) in old.chunks_exact(width).zip(new.chunks_exact(width)) {
            meter.add(old, new);
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(meter.cost())
}

fn row(model: &Model, line: &Line) -> anyhow::Result<TextRow> {
    let info = model.info();
    let Line {
        number,
        text,
        text_pair,
    } = line;
    let longest = text.len().max(text_pair.as_ref().map_or(0, String::len));
    if longest > info.max_text_bytes {
        bail!(
            "line {number}: a text of {longest} bytes, the model takes {}",
            info.max_text_bytes
        );
    }
    let InputKind::Text { pair } = info.input else {
        bail!("expected a model that takes texts");
    };
    if !pair.admits(text_pair.is_some()) {
        match pair {
            PairRule::Required => bail!("line {number}: expected `text_pair` beside `text`"),
            _ => bail!("line {number}: the model takes no `text_pair`"),
        }
    }
    Ok(TextRow {
        text: model.normalise(text).into_owned(),
        text_pair: text_pair
            .as_deref()
            .map(|text| model.normalise(text).into_owned()),
    })
}

fn print(made: &Quantised, cost: Option<&QuantisationCost>) {
    let info = &made.info;
    reported!("{}@{}: int8", info.name, info.version);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    table.add_row(["weights before".to_owned(), megabytes(made.bytes.0)]);
    table.add_row(["weights now".to_owned(), megabytes(made.bytes.1)]);
    for (name, value) in cost.map(rows).unwrap_or_default() {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    reported!("{table}");
    if cost.is_none() {
        reported!("note: not measured; `--texts` says what it costs on your texts");
    }
    reported!("written to {}", made.path.display());
}

/// A cost in words and numbers, for people.
pub(super) fn rows(cost: &QuantisationCost) -> Vec<(&'static str, String)> {
    let number = |value: f32| format!("{value:.5}");
    let share = |value: f32| format!("{:.2} %", value * 100.0);
    let always = [
        ("texts measured", Some(cost.texts.to_string())),
        ("largest difference", Some(number(cost.largest_difference))),
        ("mean difference", Some(number(cost.mean_difference))),
        ("rank correlation", cost.rank_correlation.map(number)),
        ("mean cosine", cost.mean_cosine.map(number)),
        ("lowest cosine", cost.lowest_cosine.map(number)),
        ("labels that flip", cost.flips.map(share)),
        ("of clear ones", cost.clear_flips.map(share)),
    ];
    let there = always.into_iter();
    there
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_file() {
        let lines = parse("a text\n\n another \n", false).unwrap();
        let found: Vec<_> = lines.iter().map(|l| (l.number, l.text.as_str())).collect();
        assert_eq!(found, [(1, "a text"), (3, " another ")]);
        let lines = parse(
            "{\"text\":\"a\",\"text_pair\":\"b\"}\n{\"text\":\"c\"}",
            true,
        );
        let lines = lines.unwrap();
        assert_eq!(lines[0].text_pair.as_deref(), Some("b"));
        assert_eq!(lines[1].text_pair, None);
        let error = parse("{\"text\":\"a\"}\n\n{\"txt\":\"secret\"}", true)
            .err()
            .unwrap();
        let error = format!("{error:#}");
        assert!(
            error.contains("line 3") && !error.contains("secret"),
            "{error}"
        );
        let many = "a\n".repeat(MAX_TEXTS + 5);
        assert_eq!(parse(&many, false).unwrap().len(), MAX_TEXTS);
    }

    #[test]
    fn a_cost_is_shown_as_far_as_it_was_measured() {
        let cost = QuantisationCost {
            texts: 7,
            flips: Some(0.005),
            ..QuantisationCost::default()
        };
        let rows = rows(&cost);
        let names: Vec<_> = rows.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "texts measured",
                "largest difference",
                "mean difference",
                "labels that flip"
            ]
        );
        assert_eq!(rows.last().unwrap().1, "0.50 %");
    }
}
