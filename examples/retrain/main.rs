//! Trains a ranker again, with burn, on what it scored and what became of that, and writes it as a new version:
//! `cargo run --release --example retrain -- --model ranker --version 20261127`
//!
//! Needs KILN_DATABASE_URL (or KILN_DATABASE_URL_FILE) and KILN_MODELS_DIR as workers have them. What it reads is in `data.sql`. It switches
//! nothing: `kiln models activate` does.

#![allow(
    clippy::indexing_slicing,
    reason = "what it indexes, it has cut itself"
)]

mod figures;
mod network;
#[path = "../writing/mod.rs"]
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Duration, Utc};
use clap::Parser;
use kiln_model::{InputKind, ModelInfo, ModelSettings, Registry, Task, Training};
use network::{HIDDEN, Learnt, Rows};
use sqlx::{Connection, PgConnection, Row};
use writing::{Input, Tensor};

/// Fewer labels say nothing.
const MIN_ROWS: usize = 200;
/// The newest of them, a fifth, judge the model that the others made.
const HELD_OUT: usize = 5;
/// Golden inputs of the new version.
const GOLDEN: usize = 4;

/// Trains a ranker again on what it scored and what became of that.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: String,
    /// Of the new one.
    #[arg(long)]
    version: String,
    /// How old labels may be.
    #[arg(long, default_value_t = 30)]
    days: i64,
}

/// What the serving version is, and labels with what they are of, oldest first.
struct Data {
    info: ModelInfo,
    width: usize,
    at: Vec<DateTime<Utc>>,
    labels: Vec<f32>,
    features: Vec<f32>,
    /// The serving version's.
    scores: Vec<Option<f32>>,
    /// Where the rows begin that are held out.
    held_out: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let models = std::env::var_os("KILN_MODELS_DIR").map_or_else(|| "models".into(), PathBuf::from);
    let home = models.join(&arguments.model);
    let target = home.join(&arguments.version);
    ensure!(!target.exists(), "{} is there already", target.display());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let data = runtime.block_on(read(&arguments, &models))?;
    data.check()?;

    let begun = Instant::now();
    let learnt = network::train(Rows {
        width: data.width,
        features: &data.features[..data.held_out * data.width],
        labels: &data.labels[..data.held_out],
    })?;
    let training_seconds = begun.elapsed().as_secs_f64();
    // Whole before it is where workers look: names with a dot are none that they load.
    let scratch = home.join(format!(".retrain-{}", arguments.version));
    let written = write(
        &scratch,
        &arguments.version,
        &learnt,
        &data,
        training_seconds,
    );
    let moved = written.and_then(|metrics| {
        let made = scratch.join(&data.info.name).join(&arguments.version);
        std::fs::rename(made, &target)?;
        Ok(metrics)
    });
    std::fs::remove_dir_all(&scratch)?;
    let metrics = moved?;
    let metrics = metrics.iter().map(|(name, x)| format!("{name} {x:.4}"));
    let metrics: Vec<String> = metrics.collect();
    println!("written to {}", target.display());
    println!("{} labels: {}", data.labels.len(), metrics.join(", "));
    Ok(())
}

/// A setting of Kiln's, from the environment or from a file that it names.
fn setting(name: &str) -> Result<String> {
    if let Ok(file) = std::env::var(format!("{name}_FILE")) {
        return Ok(std::fs::read_to_string(file)?.trim().to_owned());
    }
    std::env::var(name).with_context(|| format!("{name} isn't set"))
}

async fn read(arguments: &Arguments, models: &Path) -> Result<Data> {
    let mut database = PgConnection::connect(&setting("KILN_DATABASE_URL")?).await?;
    let name = &arguments.model;
    let chosen = sqlx::query_scalar("SELECT version FROM active_models WHERE name = $1");
    let chosen: Option<String> = chosen.bind(name).fetch_optional(&mut database).await?;
    let chosen = chosen.with_context(|| {
        format!("no version of {name} is chosen: `kiln models activate {name}@VERSION` first, or the new one would serve as soon as it is there")
    })?;
    let registry = Registry::open(&ModelSettings {
        dir: models.to_owned(),
        ..ModelSettings::default()
    })?;
    let info = registry
        .resolve(&format!("{name}@{chosen}"))?
        .info()
        .clone();
    let (InputKind::Features { count: width }, Task::Scalar) = (info.input, &info.task) else {
        bail!("{name}@{chosen} doesn't give one number for features");
    };
    let until = Utc::now();
    let rows = sqlx::query(include_str!("data.sql"))
        .bind(name)
        .bind(until - Duration::days(arguments.days))
        .bind(until)
        .bind(&chosen)
        .fetch_all(&mut database)
        .await?;
    let mut data = Data {
        info,
        width,
        at: Vec::new(),
        labels: Vec::new(),
        features: Vec::new(),
        scores: Vec::new(),
        held_out: 0,
    };
    for row in rows {
        let bytes: Vec<u8> = row.try_get("features")?;
        if bytes.len() != 4 * width {
            continue;
        }
        let numbers = bytes.as_chunks::<4>().0.iter();
        data.features
            .extend(numbers.map(|bytes| f32::from_le_bytes(*bytes)));
        data.at.push(row.try_get("labelled_at")?);
        data.labels.push(row.try_get("label")?);
        data.scores.push(row.try_get("score")?);
    }
    data.held_out = data.labels.len() - data.labels.len() / HELD_OUT;
    Ok(data)
}

impl Data {
    /// Refuses what nothing can be learnt from.
    fn check(&self) -> Result<()> {
        let rows = self.labels.len();
        ensure!(
            rows >= MIN_ROWS,
            "{rows} labels have an input of {} features: at least {MIN_ROWS} are needed",
            self.width
        );
        let (older, newest) = self.labels.split_at(self.held_out);
        for part in [older, newest] {
            let is_label = |label: &f32| *label == 0.0 || *label == 1.0;
            ensure!(
                part.contains(&0.0) && part.contains(&1.0) && part.iter().all(is_label),
                "labels are 0 or 1, and there are both among the older ones and among the newest"
            );
        }
        ensure!(
            self.features.iter().all(|x| x.is_finite()),
            "inputs lack features, which a network can't score"
        );
        Ok(())
    }
}

/// Writes the version under the folder, scores with it what was held out, and writes it again with what that says of it.
fn write(
    folder: &Path,
    version: &str,
    learnt: &Learnt,
    data: &Data,
    training_seconds: f64,
) -> Result<BTreeMap<String, f64>> {
    let name = &data.info.name;
    let tensors = [(HIDDEN, data.width), (1, HIDDEN)];
    let tensors: Vec<Tensor> = (tensors.iter().zip(&learnt.weights).zip(&learnt.biases))
        .enumerate()
        .flat_map(|(i, ((&(outputs, inputs), weights), bias))| {
            let tensor = |part: &str, shape, numbers: &Vec<f32>| Tensor {
                name: format!("layers.{i}.{part}"),
                shape,
                numbers: numbers.clone(),
            };
            [
                tensor("weight", vec![outputs, inputs], weights),
                tensor("bias", vec![outputs], bias),
            ]
        })
        .collect();
    let held_out = &data.features[data.held_out * data.width..];
    let golden: Vec<Input> = (held_out.chunks_exact(data.width).take(GOLDEN))
        .map(|row| Input::Features(row.to_vec()))
        .collect();
    let manifest = manifest(learnt, data);
    writing::write(folder, name, version, &manifest, &tensors, &golden)?;

    let begun = Instant::now();
    let rows = kiln_model::Rows::Features {
        width: data.width,
        data: held_out.to_vec(),
    };
    let scores = writing::score(folder, name, version, rows)?;
    let metrics = evaluate(data, &scores);
    let training = Training {
        from: data.at[0].to_rfc3339(),
        to: data.at[data.at.len() - 1].to_rfc3339(),
        rows: data.labels.len() as u64,
        training_seconds,
        evaluation_seconds: begun.elapsed().as_secs_f64(),
        metrics,
    };
    let table = toml::to_string(&BTreeMap::from([("training", &training)]))?;
    let manifest = format!("{manifest}\n\n{table}");
    writing::write(folder, name, version, &manifest, &tensors, &golden)?;
    Ok(training.metrics)
}

/// Figures of the labels that were held out, for the new scores and for those that were served.
fn evaluate(data: &Data, scores: &[f32]) -> BTreeMap<String, f64> {
    let labels = &data.labels[data.held_out..];
    let mut metrics = BTreeMap::from([
        ("held_out_rows".to_owned(), labels.len() as f64),
        ("auc".to_owned(), figures::area(labels, scores)),
        ("log_loss".to_owned(), figures::log_loss(labels, scores)),
    ]);
    let before: Option<Vec<f32>> = data.scores[data.held_out..].iter().copied().collect();
    if let Some(before) = before {
        metrics.insert("auc_before".to_owned(), figures::area(labels, &before));
    }
    metrics
}

/// The manifest's head. Features have names where the serving version's have, so that inputs by name go on working.
fn manifest(learnt: &Learnt, data: &Data) -> String {
    let ttl = data.info.ttl_seconds;
    let ttl = ttl.map_or_else(String::new, |seconds| format!("ttl_seconds = {seconds}\n"));
    let names = match data.info.feature_names.as_slice() {
        [] => String::new(),
        names => format!("names = {}\n", toml::Value::from(names.to_vec())),
    };
    format!(
        r#"description = "Trained by examples/retrain"
architecture = "mlp"
{ttl}
[features]
count = {}
{names}mean = {:?}
std = {:?}

[output]
task = "scalar"
activation = "sigmoid"

[mlp]
hidden = [{HIDDEN}]
activation = "relu""#,
        data.width, learnt.mean, learnt.std
    )
}
