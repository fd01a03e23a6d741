//! `kiln score`

mod output;

use super::Exit;
use crate::{
    cli::file::{BadLine, Columns, Format, Piece, Pieces, job_body},
    clock,
    config::Settings,
    model::{InputKind, Registry},
    parts,
    pipeline::{Engine, InputCounts, JobSource, Outcome},
    result,
};
use anyhow::{Context, bail};
use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use output::Output;
use serde_json::value::RawValue;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Inputs of one job that a file is cut into.
const INPUTS: usize = 4_096;
/// Jobs that are worked on at once.
const IN_FLIGHT: usize = 3;
/// Bad lines that are printed; the rest is counted.
const SHOWN: u64 = 20;

/// Scores a file on this machine, with no servers. Results are kept in a SQLite file (setting
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

/// A job on its way through the engine.
struct Work {
    body: Vec<u8>,
    /// The line of each input; one for a whole job.
    lines: Vec<u64>,
    whole: bool,
}

/// What the reading thread hands over.
enum Read {
    Work(Work),
    Bad(BadLine),
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
            Err(bad) => summary.bad(&bar, &bad),
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
    Ok(if summary.bad_lines > 0 {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

type OpenPieces =
    Box<dyn FnOnce(ProgressBar) -> anyhow::Result<Box<dyn Iterator<Item = Piece>>> + Send>;

/// The file's pieces, to be opened on the reading thread, and its size where that is known.
fn open(arguments: &Arguments) -> anyhow::Result<(OpenPieces, Option<u64>)> {
    let path = arguments.file.clone();
    let stdin = path.as_os_str() == "-";
    let file = if stdin {
        None
    } else {
        Some(File::open(&path).with_context(|| format!("{} can't be opened", path.display()))?)
    };
    let bytes = file
        .as_ref()
        .and_then(|f| f.metadata().ok())
        .map(|m| m.len());
    let format = arguments
        .input_format
        .or_else(|| format_of(&path))
        .unwrap_or(Format::Jsonl);
    let columns = Columns {
        text: arguments.text_column.clone(),
        text_pair: arguments.text_pair_column.clone(),
        key: arguments.key_column.clone(),
        features: arguments.feature_columns.clone(),
    };
    let open = move |bar: ProgressBar| -> anyhow::Result<Box<dyn Iterator<Item = Piece>>> {
        let source: Box<dyn BufRead> = match file {
            Some(file) => Box::new(BufReader::new(bar.wrap_read(file))),
            None => Box::new(BufReader::new(bar.wrap_read(io::stdin()))),
        };
        Ok(match format {
            Format::Jsonl => Box::new(Pieces::jsonl(source, INPUTS)),
            Format::Csv => {
                Box::new(Pieces::csv(source, INPUTS, &columns).map_err(anyhow::Error::msg)?)
            }
        })
    };
    Ok((Box::new(open), bytes))
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        _ => None,
    }
}

/// A bar over the file's bytes, on a terminal.
fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {percent:>3} %  {bytes_per_sec}  {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} read  {bytes_per_sec}",
        ),
    };
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Cuts the file into jobs. Ends early where nobody takes them any more.
fn read(
    pieces: Box<dyn Iterator<Item = Piece>>,
    registry: &Registry,
    mut model: Option<String>,
    run_id: &str,
    detail: bool,
    sender: &mpsc::Sender<Read>,
) -> anyhow::Result<()> {
    for (number, piece) in pieces.enumerate() {
        let item = match piece {
            Piece::Bad(bad) => Read::Bad(bad),
            Piece::Job { line, body } => Read::Work(Work {
                body: body.into_bytes(),
                lines: vec![line],
                whole: true,
            }),
            Piece::Inputs(inputs) => {
                let name = match &model {
                    Some(name) => name.clone(),
                    None => model.insert(choose(registry, &inputs)?).clone(),
                };
                let body = job_body(&format!("{run_id}-{number}"), &name, &inputs, detail);
                Read::Work(Work {
                    body,
                    lines: inputs.iter().map(|(line, _)| *line).collect(),
                    whole: false,
                })
            }
        };
        if sender.blocking_send(item).is_err() {
            break;
        }
    }
    Ok(())
}

/// The only active model that takes such inputs.
fn choose(registry: &Registry, inputs: &[(u64, String)]) -> anyhow::Result<String> {
    let features = inputs.iter().any(|(_, input)| {
        serde_json::from_str::<serde_json::Value>(input).is_ok_and(|v| v.get("features").is_some())
    });
    let kind = if features { "features" } else { "text" };
    let fits = |input: &InputKind| matches!(input, InputKind::Features { .. }) == features;
    let active: Vec<String> = registry
        .list()
        .into_iter()
        .filter(|m| m.active && fits(&m.info.input))
        .map(|m| m.info.name)
        .collect();
    match active.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("no model takes `{kind}`{}", refused(registry)),
        many => bail!(
            "several models take `{kind}`: choose one of {} with --model",
            many.join(", ")
        ),
    }
}

fn refused(registry: &Registry) -> String {
    registry
        .problems()
        .iter()
        .map(|p| format!("\n  refused: {p}"))
        .collect()
}

/// Runs one job through the engine.
async fn score(engine: &Engine, work: Work) -> (Work, Outcome, InputCounts) {
    let source = JobSource::new(&work.body).without_retry();
    let (outcomes, counts) = engine.run(std::slice::from_ref(&source)).await;
    (
        work,
        outcomes.into_iter().next().unwrap_or(Outcome::Abandoned),
        counts,
    )
}

/// Writes a job's results, and reports its bad inputs by line.
fn take(
    work: &Work,
    outcome: Outcome,
    output: &mut Output,
    summary: &mut Summary,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let line = work.lines.first().copied().unwrap_or_default();
    match outcome {
        Outcome::Done { job_id, result, .. } => {
            let results: Vec<&RawValue> = serde_json::from_str(&result.results)?;
            for (index, raw) in results.iter().enumerate() {
                let result: serde_json::Value = serde_json::from_str(raw.get())?;
                let line = if work.whole {
                    line
                } else {
                    work.lines.get(index).copied().unwrap_or(line)
                };
                if let Some(error) = result.get("error") {
                    let part =
                        |name: &str| error.get(name).and_then(|v| v.as_str()).unwrap_or_default();
                    // Within a file the line says which input it is.
                    let field = if work.whole {
                        part("field")
                    } else {
                        part("field").split_once('.').map_or("", |f| f.1)
                    };
                    let named = if field.is_empty() {
                        String::new()
                    } else {
                        format!("`{field}`: ")
                    };
                    summary.bad(
                        bar,
                        &BadLine {
                            line,
                            problem: format!("{named}{}", part("message")),
                        },
                    );
                }
                if let Some(label) = result.get("label").and_then(|l| l.as_str()) {
                    *summary.labels.entry(label.to_owned()).or_default() += 1;
                }
            }
            if work.whole && output.format() == Format::Jsonl {
                output.line(&result::ok_reply(&job_id, &result))?;
            } else {
                for result in results {
                    output.result(result)?;
                }
            }
        }
        Outcome::Rejected { job_id, rejection } => {
            let problem = rejection.to_string();
            summary.bad(bar, &BadLine { line, problem });
            if work.whole && output.format() == Format::Jsonl {
                output.line(&result::rejected_reply(
                    &job_id.unwrap_or_default(),
                    &rejection,
                ))?;
            }
        }
        Outcome::Retry { reason, .. } => summary.bad(
            bar,
            &BadLine {
                line,
                problem: reason,
            },
        ),
        Outcome::Abandoned => bail!("the model threads have stopped"),
    }
    Ok(())
}

/// What is said at the end.
#[derive(Debug, Default)]
struct Summary {
    counts: InputCounts,
    bad_lines: u64,
    labels: std::collections::BTreeMap<String, u64>,
}

impl Summary {
    fn count(&mut self, counts: InputCounts) {
        self.counts.hits += counts.hits;
        self.counts.misses += counts.misses;
        self.counts.coalesced += counts.coalesced;
        self.counts.skipped += counts.skipped;
    }

    fn bad(&mut self, bar: &ProgressBar, bad: &BadLine) {
        self.bad_lines += 1;
        if self.bad_lines <= SHOWN {
            bar.suspend(|| eprintln!("line {}: {}", bad.line, bad.problem));
        }
    }

    fn print(&self, elapsed: Duration, json: bool) {
        let InputCounts {
            hits,
            misses,
            coalesced,
            ..
        } = self.counts;
        let inputs = hits + misses + coalesced;
        let per_second = (inputs as f64 / elapsed.as_secs_f64().max(1e-9)).round();
        if json {
            let summary = serde_json::json!({
                "inputs": inputs, "hits": hits, "misses": misses, "coalesced": coalesced, "bad_lines": self.bad_lines,
                "seconds": (elapsed.as_secs_f64() * 1e3).round() / 1e3, "inputs_per_s": per_second, "labels": self.labels,
            });
            eprintln!("{summary}");
            return;
        }
        if self.bad_lines > SHOWN {
            eprintln!("… and {} more bad lines", self.bad_lines - SHOWN);
        }
        let line = |name: &str, value: String| eprintln!("{name:<12}{value:>12}");
        line("inputs", inputs.to_string());
        line("hits", hits.to_string());
        line("misses", misses.to_string());
        line("coalesced", coalesced.to_string());
        line("bad lines", self.bad_lines.to_string());
        line("seconds", format!("{:.3}", elapsed.as_secs_f64()));
        line("inputs/s", per_second.to_string());
        for (label, count) in &self.labels {
            line(label, count.to_string());
        }
    }
}
