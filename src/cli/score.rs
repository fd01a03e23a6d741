//! `kiln score`: scores a file on this machine, with no servers, through the same pipeline as the worker.
//!
//! Promises results in the file's order, a bounded number of jobs in memory, and that a bad line costs only itself.

mod output;
mod source;
mod summary;

use super::Exit;
use crate::{
    cli::file::Format,
    clock,
    config::Settings,
    parts,
    pipeline::{Engine, InputCounts, JobSource, Outcome, outcome_of},
};
use anyhow::Context;
use clap::Args;
use futures_util::{StreamExt, stream};
use output::Output;
use source::{Read, Work, format_of, open, progress, read};
use std::{path::PathBuf, sync::Arc, time::Instant};
use summary::{Summary, take};
use tokio::sync::mpsc;

/// Jobs that are worked on at once.
const IN_FLIGHT: usize = 3;

/// Scores a file on this machine, with no servers. Results are stored in a SQLite file (setting
/// `embedded.path`), so that what was scored before is found, not scored again.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is JSONL, each line an input such as {\"key\": \"r1\", \"text\": \"I love this!\"} or a whole job, or CSV
with a header: a `text` column, or feature columns, and a `key` column if there is one.

Examples:
  kiln score examples/reviews.jsonl
  kiln score items.csv --model feed-ranker --output scores.csv
  cat reviews.jsonl | kiln score - --detail")]
pub(super) struct Arguments {
    /// The file, or - for standard input.
    file: PathBuf,
    /// A model's name, or name@version [default: the only one that takes such inputs].
    #[arg(long)]
    model: Option<String>,
    /// Where results go [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Format of the results [default: by the output file's name, else jsonl].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Format of FILE [default: by its name, else jsonl].
    #[arg(long, value_enum)]
    input_format: Option<Format>,
    /// CSV column that holds the text.
    #[arg(long, value_name = "COLUMN")]
    text_column: Option<String>,
    /// CSV column that holds the second text of a pair.
    #[arg(long, value_name = "COLUMN")]
    text_pair_column: Option<String>,
    /// CSV column that holds the key.
    #[arg(long, value_name = "COLUMN")]
    key_column: Option<String>,
    /// CSV columns that hold the features, in the model's order.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    feature_columns: Vec<String>,
    /// Give every label's probability.
    #[arg(long)]
    detail: bool,
    /// Print the closing summary as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let engine = Arc::new(parts::embedded_engine(&settings).await?);
    let (pieces, bytes) = open(&arguments)?;
    let bar = progress(bytes);
    let reading = bar.clone();
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let run_id = format!(
        "score-{}-{:08x}",
        clock::now().timestamp_millis(),
        rand::random::<u32>()
    );
    let (registry, model, detail) = (
        engine.registry().clone(),
        arguments.model.clone(),
        arguments.detail,
    );
    let reader = tokio::task::spawn_blocking(move || {
        read(pieces(reading)?, &registry, model, &run_id, detail, &sender)
    });
    let mut summary = Summary::default();
    let format = arguments
        .format
        .or_else(|| format_of(arguments.output.as_deref()?))
        .unwrap_or(Format::Jsonl);
    let mut output = Output::open(arguments.output.as_deref(), format)?;
    let work = stream::unfold(receiver, async |mut r| r.recv().await.map(|item| (item, r)));
    let mut done = Box::pin(
        work.map(|item| {
            let engine = engine.clone();
            async move {
                match item {
                    Read::Bad(bad) => Err(bad),
                    Read::Work(work) => Ok(score(&engine, work).await),
                }
            }
        })
        .buffered(IN_FLIGHT),
    );
    while let Some(item) = done.next().await {
        match item {
            Err(bad) => summary.bad_lines.report(&bar, &bad),
            Ok((work, outcome, counts)) => {
                summary.count(counts);
                take(&work, outcome, &mut output, &mut summary, &bar)?;
            }
        }
    }
    drop(done);
    reader.await.context("the reading thread panicked")??;
    output.finish()?;
    bar.finish_and_clear();
    summary.print(begun.elapsed(), arguments.json);
    Ok(if summary.is_partial() {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

/// Runs one job through the engine.
async fn score(engine: &Engine, work: Work) -> (Work, Outcome, InputCounts) {
    let ended = engine.run(work.body.clone(), None, JobSource::without_retry);
    let ended = ended.await;
    let counts = ended.as_ref().map(|ended| ended.counts);
    (work, outcome_of(ended), counts.unwrap_or_default())
}
