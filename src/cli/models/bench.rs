//! `kiln models bench`: how fast a model scores, by sizes of requests and texts.
//!
//! Measures the way of a request through tokenizer and model threads, without caches or servers.

use super::{open, resolve};
use crate::{cli::Exit, config::Settings};
use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_model::{Backend, InputKind, Model, PairRule, Rows, TextRow};
use serde_json::json;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Words that every tokenizer for a natural language knows.
const WORDS: [&str; 8] = ["the", "of", "and", "in", "to", "a", "is", "for"];

/// Measures how fast a model scores, from texts or features to outputs, by size of request and text.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln models bench feed-ranker --batch 1,32,1024
  kiln models bench minilm --batch 1,32 --words 30,126 --threads 2
  kiln models bench minilm --batch 32 --file texts.txt")]
pub(super) struct Arguments {
    /// The model's name, or name@version.
    model: String,
    /// Inputs per request.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256, 1024], value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: Vec<u64>,
    /// Words per text.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 32, 128], value_parser = clap::value_parser!(u64).range(1..=100_000))]
    words: Vec<u64>,
    /// Texts to use instead, one per line, cut into requests in their order.
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    file: Option<PathBuf>,
    /// Threads that run the model [default: the settings'].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    threads: Option<u64>,
    /// Backend that runs the model [default: the settings'].
    #[arg(long, value_parser = backend)]
    backend: Option<Backend>,
    /// Seconds per size.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Print one JSON object per size.
    #[arg(long)]
    json: bool,
}

fn backend(name: &str) -> Result<Backend, String> {
    let value = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(name);
    serde::Deserialize::deserialize(value).map_err(|error| error.to_string())
}

/// Requests of one size.
struct Load {
    batch: usize,
    /// What the texts are, for people.
    length: String,
    requests: Vec<Rows>,
}

struct Measured {
    inputs_per_second: f64,
    tokens_per_second: f64,
    median: f64,
    p95: f64,
}

pub(super) async fn run(arguments: Arguments, mut settings: Settings) -> anyhow::Result<Exit> {
    if !(arguments.seconds > 0.0 && arguments.seconds <= 3_600.0) {
        bail!("--seconds: expected more than 0 and at most 3600");
    }
    if let Some(threads) = arguments.threads {
        settings.models.threads = threads as usize;
    }
    if let Some(backend) = arguments.backend {
        // What is asked for is measured or refused.
        settings.models.backend = backend;
        settings.models.backends.clear();
        settings.models.fall_back = false;
    }
    let texts = match &arguments.file {
        None => None,
        Some(file) => {
            let source = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let texts: Vec<String> = source
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(str::to_owned)
                .collect();
            if texts.is_empty() {
                bail!("{}: has no texts", file.display());
            }
            Some(texts)
        }
    };
    let registry = open(&settings).await?;
    let model = resolve(&registry, &arguments.model)?;
    let loads = loads(&model, &arguments, texts.as_deref());
    let bar = ProgressBar::new(loads.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}")?);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "weights",
        "batch",
        "length",
        "inputs/s",
        "tokens/s",
        "median ms",
        "p95 ms",
    ]);
    for load in loads {
        bar.set_message(format!("batch {} {}", load.batch, load.length));
        let found = measure(&model, &load, Duration::from_secs_f64(arguments.seconds)).await?;
        bar.inc(1);
        if arguments.json {
            let line = json!({
                "batch": load.batch, "length": load.length, "weights": model.info().weights, "inputs_per_s": found.inputs_per_second,
                "tokens_per_s": found.tokens_per_second, "median_ms": found.median * 1e3, "p95_ms": found.p95 * 1e3,
            });
            println!("{line}");
        }
        table.add_row([
            model.info().weights.name().to_owned(),
            load.batch.to_string(),
            load.length,
            format!("{:.0}", found.inputs_per_second),
            format!("{:.0}", found.tokens_per_second),
            format!("{:.3}", found.median * 1e3),
            format!("{:.3}", found.p95 * 1e3),
        ]);
    }
    bar.finish_and_clear();
    if !arguments.json {
        println!("{table}");
    }
    Ok(Exit::Ok)
}

fn loads(model: &Model, arguments: &Arguments, texts: Option<&[String]>) -> Vec<Load> {
    let mut loads = Vec::new();
    for &batch in &arguments.batch {
        let batch = batch as usize;
        match (model.info().input, texts) {
            (InputKind::Features { count }, _) => {
                let data = (0..batch * count).map(|i| (i % 97) as f32 / 97.0).collect();
                loads.push(Load {
                    batch,
                    length: String::new(),
                    requests: vec![Rows::Features { width: count, data }],
                });
            }
            (InputKind::Text { pair }, Some(texts)) => loads.push(Load {
                batch,
                length: "file".to_owned(),
                requests: texts
                    .chunks(batch)
                    .map(|texts| {
                        Rows::Texts(texts.iter().map(|text| row(model, text, pair)).collect())
                    })
                    .collect(),
            }),
            (InputKind::Text { pair }, None) => {
                loads.extend(arguments.words.iter().map(|&words| {
                    let text: Vec<&str> =
                        WORDS.iter().copied().cycle().take(words as usize).collect();
                    let row = row(model, &text.join(" "), pair);
                    Load {
                        batch,
                        length: format!("{words} words"),
                        requests: vec![Rows::Texts(vec![row; batch])],
                    }
                }))
            }
        }
    }
    loads
}

fn row(model: &Model, text: &str, pair: PairRule) -> TextRow {
    TextRow {
        text: model.normalise(text).into_owned(),
        text_pair: (pair == PairRule::Required).then(|| "the".to_owned()),
    }
}

/// Sends the load's requests, one after the other, over and over.
async fn measure(model: &Model, load: &Load, limit: Duration) -> anyhow::Result<Measured> {
    for rows in load.requests.iter().take(3) {
        model.score(rows.clone()).await?;
    }
    let (mut seconds, mut inputs, mut tokens) = (Vec::new(), 0, 0);
    let mut spent = Duration::ZERO;
    // A file is gone through to its end, so that every run measures the same texts.
    while spent < limit {
        for rows in &load.requests {
            let rows = rows.clone();
            inputs += rows.len();
            let begun = Instant::now();
            let scored = model.score(rows).await?;
            let took = begun.elapsed();
            tokens += scored.calls.iter().map(|call| call.tokens).sum::<usize>();
            spent += took;
            seconds.push(took.as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (seconds.len() as f64 * share) as usize;
        seconds
            .get(index.min(seconds.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    Ok(Measured {
        inputs_per_second: inputs as f64 / spent.as_secs_f64(),
        tokens_per_second: tokens as f64 / spent.as_secs_f64(),
        median: at(0.5),
        p95: at(0.95),
    })
}
