//! Owns reading the file: on a thread of its own, cut into jobs, with its progress.
//!
//! Promises to hold a few jobs of the file at a time. Refuses inputs for which no model, or more than one, could be meant.

use super::Arguments;
use crate::cli::{
    file::{BadLine, Columns, Format, Piece, Pieces, job_body},
    progress::on_terminal,
};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use kiln_model::{InputKind, Registry};
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};
use tokio::sync::mpsc;

/// Inputs of one job that a file is cut into.
const INPUTS: usize = 4_096;

/// A job on its way through the engine.
pub(super) struct Work {
    pub(super) body: Vec<u8>,
    /// The line of each input; one for a whole job.
    pub(super) lines: Vec<u64>,
    pub(super) whole: bool,
}

impl Work {
    /// The line that an input stands in.
    pub(super) fn line(&self, input: usize) -> u64 {
        let line = self.lines.get(input).or(self.lines.first());
        line.copied().unwrap_or_default()
    }
}

/// What the reading thread hands over.
pub(super) enum Read {
    Work(Work),
    Bad(BadLine),
}

pub(super) type OpenPieces =
    Box<dyn FnOnce(ProgressBar) -> anyhow::Result<Box<dyn Iterator<Item = Piece>>> + Send>;

/// The file's pieces, to be opened on the reading thread, and its size where that is known.
pub(super) fn open(arguments: &Arguments) -> anyhow::Result<(OpenPieces, Option<u64>)> {
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
            Format::Csv => Box::new(Pieces::csv(source, INPUTS, &columns)?),
        })
    };
    Ok((Box::new(open), bytes))
}

/// A file's format by its name.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "csv" => Some(Format::Csv),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        _ => None,
    }
}

/// A bar over the file's bytes, on a terminal.
pub(super) fn progress(bytes: Option<u64>) -> ProgressBar {
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
    on_terminal(bar, template)
}

/// Cuts the file into jobs. Ends early where nobody takes them any more.
pub(super) fn read(
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
