//! `kiln models check`: how far a model's scores are from scores that are known from elsewhere.

use super::{open, resolve};
use crate::{cli::Exit, config::Settings};
use anyhow::{Context, bail};
use clap::Args;
use kiln_contract::model::ModelInfo;
use kiln_model::{InputKind, Model, Rows, TextRow};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Compares a model's scores with expected ones, and prints the differences.
#[derive(Debug, Args)]
#[command(after_help = "\
The file is JSON, {\"inputs\": [{\"text\": \"...\"}], \"outputs\": [[0.1, 0.9]]}, or JSONL with one
{\"text\": \"...\", \"expect\": [0.1, 0.9]} a line; inputs have `text`, `text_pair` or `features` as a job's do.
A classifier's outputs are its labels' probabilities, in the manifest's order.

Example:
  kiln models check sentiment@2 --golden expected.jsonl")]
pub(super) struct Arguments {
    /// The model's name, or name@version.
    model: String,
    /// The inputs with their expected scores.
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// The largest difference that passes.
    #[arg(long, default_value_t = 1e-5)]
    tolerance: f32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Whole {
    inputs: Vec<Input>,
    outputs: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    input: Input,
    expect: Vec<f32>,
}

#[derive(Deserialize)]
struct Input {
    text: Option<String>,
    text_pair: Option<String>,
    features: Option<Features>,
}

/// Numbers in the model's order, or by their features' names; null is a missing one.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected `features` to be an array of numbers, or an object of numbers by feature"
)]
enum Features {
    Ordered(Vec<Option<f32>>),
    Named(BTreeMap<String, Option<f32>>),
}

/// How far apart the model and the file are.
#[derive(Default)]
struct Differences {
    largest: f32,
    /// Number of the input with the largest one, from 0.
    worst: usize,
    sum: f64,
    values: usize,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let file = arguments.golden.display().to_string();
    let source = fs::read_to_string(&arguments.golden).with_context(|| file.clone())?;
    let golden = parse(&source).with_context(|| file.clone())?;
    if golden.is_empty() {
        bail!("{file}: has no inputs");
    }
    let registry = open(&settings).await?;
    let model = resolve(&registry, &arguments.model)?;
    let mut differences = Differences::default();
    for (number, (input, expected)) in golden.iter().enumerate() {
        let rows = rows(&model, input).with_context(|| format!("{file}: input {number}"))?;
        let scored = model
            .score(rows)
            .await
            .with_context(|| format!("{file}: input {number}"))?;
        if scored.outputs.len() != expected.len() {
            bail!(
                "{file}: input {number}: expects {} numbers, the model gives {}",
                expected.len(),
                scored.outputs.len()
            );
        }
        for (found, expected) in scored.outputs.iter().zip(expected) {
            differences.add(number, (found - expected).abs());
        }
    }
    let mean = differences.sum / differences.values.max(1) as f64;
    let holds = differences.largest <= arguments.tolerance;
    if arguments.json {
        let result = json!({
            "inputs": golden.len(), "largest": differences.largest, "worst": differences.worst,
            "mean": mean, "tolerance": arguments.tolerance, "holds": holds,
        });
        reported!("{result}");
    } else {
        reported!("inputs               {:>12}", golden.len());
        reported!(
            "largest difference   {:>12.3e}  (input {})",
            differences.largest,
            differences.worst
        );
        reported!("mean difference      {mean:>12.3e}");
        reported!(
            "tolerance            {:>12.3e}  {}",
            arguments.tolerance,
            if holds { "holds" } else { "exceeded" }
        );
    }
    Ok(if holds { Exit::Ok } else { Exit::Failed })
}

impl Differences {
    fn add(&mut self, number: usize, difference: f32) {
        if difference > self.largest || difference.is_nan() {
            (self.largest, self.worst) = (difference, number);
        }
        self.sum += f64::from(difference);
        self.values += 1;
    }
}

/// The inputs of a file with what is expected of them.
fn parse(source: &str) -> anyhow::Result<Vec<(Input, Vec<f32>)>> {
    if let Ok(whole) = serde_json::from_str::<Whole>(source) {
        if whole.inputs.len() != whole.outputs.len() {
            bail!(
                "has {} inputs and {} outputs",
                whole.inputs.len(),
                whole.outputs.len()
            );
        }
        return Ok(whole.inputs.into_iter().zip(whole.outputs).collect());
    }
    let lines = source
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("line {}: expected an input with `expect`", number + 1))?;
            Ok((line.input, line.expect))
        })
        .collect()
}

fn rows(model: &Model, input: &Input) -> anyhow::Result<Rows> {
    match (model.info().input, &input.features, &input.text) {
        (InputKind::Features { .. }, Some(features), None) => {
            let data = in_order(model.info(), features)?;
            let width = data.len();
            Ok(Rows::Features { width, data })
        }
        (InputKind::Text { .. }, None, Some(text)) => Ok(Rows::Texts(vec![TextRow {
            text: model.normalise(text).into_owned(),
            text_pair: input
                .text_pair
                .as_deref()
                .map(|pair| model.normalise(pair).into_owned()),
        }])),
        (InputKind::Features { count }, ..) => {
            bail!("expected `features`, {count} numbers, and no `text`")
        }
        (InputKind::Text { .. }, ..) => bail!("expected `text` and no `features`"),
    }
}

/// The numbers in the model's order.
fn in_order(info: &ModelInfo, features: &Features) -> anyhow::Result<Vec<f32>> {
    let row: Vec<f32> = match features {
        Features::Ordered(row) => row.iter().map(|x| x.unwrap_or(f32::NAN)).collect(),
        Features::Named(named) => {
            if let Some(unknown) = named.keys().find(|n| !info.feature_names.contains(n)) {
                bail!("features.{unknown}: the model has no feature of that name");
            }
            let number = |name| named.get(name).copied().flatten().unwrap_or(f32::NAN);
            info.feature_names.iter().map(number).collect()
        }
    };
    if !info.takes_missing && row.iter().any(|x| x.is_nan()) {
        bail!("features: no feature of the model may be missing");
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_the_file() {
        let whole = r#"{"inputs": [{"text": "a"}, {"text": "b", "text_pair": "c"}], "outputs": [[1], [0.5]], "tokens": []}"#;
        let lines = "{\"text\":\"a\",\"expect\":[1]}\n\n{\"text\":\"b\",\"text_pair\":\"c\",\"expect\":[0.5]}\n";
        for source in [whole, lines] {
            let golden = parse(source).unwrap();
            assert_eq!(golden.len(), 2);
            assert_eq!(golden[1].0.text_pair.as_deref(), Some("c"));
            assert_eq!(golden[1].1, [0.5]);
        }
        let features =
            "{\"features\":[1, null],\"expect\":[1]}\n{\"features\":{\"b\":2},\"expect\":[1]}";
        let golden = parse(features).unwrap();
        assert!(
            matches!(&golden[0].0.features, Some(Features::Ordered(row)) if row == &[Some(1.0), None])
        );
        assert!(
            matches!(&golden[1].0.features, Some(Features::Named(row)) if row["b"] == Some(2.0))
        );
        let error = |source: &str| format!("{:#}", parse(source).err().expect("an error"));
        assert!(error("{\"text\":\"a\",\"expect\":[1]}\n{\"text\":\"a\"}").contains("line 2"));
        assert!(
            error(r#"{"inputs": [{"text": "a"}], "outputs": []}"#)
                .contains("1 inputs and 0 outputs")
        );
    }
}
