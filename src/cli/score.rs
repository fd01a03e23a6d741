//! `kiln score`: scores a file on this machine, with no servers, through the same pipeline as the worker.
//!
//! Promises results in the file's order, a bounded number of bytes in memory, that a bad line costs only itself, and that a run that is killed
//! goes on where it stopped.

mod answer;
mod begin;
mod block;
mod errors;
mod fleet;
mod flow;
mod item;
mod layout;
mod lines;
mod manifest;
mod model;
mod models;
mod output;
mod parsed;
mod part;
mod parts;
mod paths;
mod progress;
mod render;
mod result;
mod resume;
mod run;
mod scorer;
mod source;
mod split;
mod stop;
mod summary;
#[cfg(feature = "parquet")]
mod table;
#[cfg(not(feature = "parquet"))]
#[path = "score/no_table.rs"]
mod table;
mod tally;
mod text;
mod work;

use super::Exit;
use crate::{cli::file::Format, config::Settings};
use clap::Args;
use errors::OnError;
pub(super) use fleet::JobArguments;
use item::{Keep, Pick};
use output::Closed;
use result::EmbeddingType;
use split::Limits;
use std::{path::PathBuf, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Scores a file on this machine, with no servers. Results are stored in a SQLite file (setting
/// `embedded.path`), so that what was scored before is found, not scored again.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is JSONL, each line an input such as {\"key\": \"r1\", \"text\": \"I love this!\"} or a whole job, or CSV or
TSV with a header: a `text` column, or feature columns, and a `key` column if there is one. It may be packed with
gzip or zstd; --output is packed by its name (.gz, .zst). In builds with the feature `parquet`, FILE and --output may be
Parquet, or Arrow's file or stream.

In builds with the feature `remote`, FILE may stand elsewhere: s3://, gs:// and az:// with the credentials of the
environment, http:// and https://.

Several files make one output, in the order in which they are named; those of a pattern or folder are in the order of
their names. All are of one format.

--output appears once it is complete. A run that is killed goes on where it stopped when it is started again with
the same options: FILE.partial and FILE.manifest beside the output say how far it came. Not where standard input is
read, nor where the output is packed with zstd, or Parquet or Arrow: these begin anew, unless the output is split.

With --fleet, jobs go to the workers of a fleet over the broker, and the results come back into the same output
(`kiln submit FILE --output FILE` is the same). Jobs are posted a bounded number at a time. A run that is killed goes on: what is
done isn't posted again. `kiln jobs run ID` shows how far a run is, `kiln jobs cancel --run ID` cancels it.

Examples:
  kiln score examples/reviews.jsonl
  kiln score items.csv --model feed-ranker --output scores.csv
  kiln score reviews.csv.gz --text-column review --key-column id --keep-columns --output scored.jsonl.gz
  cat reviews.jsonl | kiln score - --detail
  kiln score 'reviews/2026-*.csv.gz' --output scored.jsonl.gz
  kiln score reviews --recursive --output scored.jsonl
  kiln score 's3://reviews/2026-*.parquet' --text-column review --output scored.parquet
  kiln score reviews.parquet --text-column review --output scored.parquet --split-rows 1000000
  kiln score reviews.parquet --text-column review --keep-columns --output scored.parquet
  kiln score 'reviews/*.csv' --fleet --model sentiment --output scored.csv
  cat reviews.arrows | kiln score - --input-format arrow --format arrow")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: FileArguments,
    /// Have the workers of a fleet score it, over the broker of the settings.
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    jobs: JobArguments,
}

/// What is said of files, of where results go, and in which form.
#[derive(Debug, Clone, Args)]
pub(super) struct FileArguments {
    /// The files, patterns such as 'data/*.parquet', or folders with --recursive; - for standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// Take all files in a folder, and in those in it, whose names say their format.
    #[arg(long, short)]
    recursive: bool,
    /// A model's name, or name@version [default: the only one that takes such inputs].
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Where results go [default: standard output].
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Split the output into files of so many rows: out-00001.jsonl and so on of out.jsonl.
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    split_rows: Option<u64>,
    /// Split the output into files of about so many bytes, such as 500MB or 64MiB.
    #[arg(long, value_name = "SIZE", value_parser = split::size)]
    split_bytes: Option<u64>,
    /// Format of the results [default: by the output file's name, else jsonl].
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Format of FILE [default: by its name, else jsonl].
    #[arg(long, value_enum)]
    input_format: Option<Format>,
    /// Column, or field of a line, that holds the text.
    #[arg(long, value_name = "COLUMN")]
    text_column: Option<String>,
    /// Column that holds the second text of a pair.
    #[arg(long, value_name = "COLUMN")]
    text_pair_column: Option<String>,
    /// Column that holds the key.
    #[arg(long, value_name = "COLUMN")]
    key_column: Option<String>,
    /// Columns that hold the features, in the model's order.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    feature_columns: Vec<String>,
    /// The feature columns' names are the features' of the model, in any order; what is empty or null there is missing.
    #[arg(long)]
    features_by_name: bool,
    /// Columns that go to the output as they are, before the result's own: those named, or else all others. One that is named as a
    /// result's own gets `input_` before its name.
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        num_args = 0..,
        require_equals = true
    )]
    keep_columns: Option<Vec<String>>,
    /// What a bad row does [default: skip, or quarantine where --quarantine names a file].
    #[arg(long, value_enum)]
    on_error: Option<OnError>,
    /// File for bad rows: a line of JSON each, with its file, line, column, problem and the row itself.
    #[arg(long, value_name = "FILE")]
    quarantine: Option<PathBuf>,
    /// File for a report of the run, as JSON: counts, labels and scores, cost, what the cache was worth, the longest inputs.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Give every label's probability.
    #[arg(long)]
    detail: bool,
    /// Numbers of embeddings in Parquet and Arrow [default: float32]. With int8, column `embedding_scale` says what each is times.
    #[arg(long, value_enum, value_name = "TYPE")]
    embedding_type: Option<EmbeddingType>,
    /// Print the closing summary as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl FileArguments {
    /// Columns that go to the output.
    fn keep(&self) -> Keep {
        match self.keep_columns.as_deref() {
            None => Keep::None,
            Some([]) => Keep::Others,
            Some(names) => Keep::These(names.to_vec()),
        }
    }

    /// The fields of a line that make its input, where lines are to be taken apart.
    fn pick(&self) -> Option<Pick> {
        let pick = Pick {
            text: self.text_column.clone(),
            text_pair: self.text_pair_column.clone(),
            key: self.key_column.clone(),
            features: self.feature_columns.clone(),
            by_name: self.features_by_name,
            keep: self.keep(),
        };
        pick.is_needed().then_some(pick)
    }

    /// An option that means something only where results are written.
    pub(super) fn only_with_output(&self) -> Option<&'static str> {
        let given = [
            ("--recursive", self.recursive),
            ("--split-rows", self.split_rows.is_some()),
            ("--split-bytes", self.split_bytes.is_some()),
            ("--format", self.format.is_some()),
            ("--input-format", self.input_format.is_some()),
            ("--text-column", self.text_column.is_some()),
            ("--text-pair-column", self.text_pair_column.is_some()),
            ("--key-column", self.key_column.is_some()),
            ("--feature-columns", !self.feature_columns.is_empty()),
            ("--features-by-name", self.features_by_name),
            ("--keep-columns", self.keep_columns.is_some()),
            ("--on-error", self.on_error.is_some()),
            ("--quarantine", self.quarantine.is_some()),
            ("--report", self.report.is_some()),
            ("--detail", self.detail),
            ("--embedding-type", self.embedding_type.is_some()),
        ];
        let mut given = given.into_iter();
        given.find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// How long parts of the output are, where it is split.
    fn limits(&self) -> Option<Limits> {
        let (rows, bytes) = (self.split_rows, self.split_bytes);
        (rows.is_some() || bytes.is_some()).then_some(Limits { rows, bytes })
    }

    fn on_error(&self) -> Result<OnError, &'static str> {
        match (self.on_error, &self.quarantine) {
            (None, None) => Ok(OnError::Skip),
            (None | Some(OnError::Quarantine), Some(_)) => Ok(OnError::Quarantine),
            (Some(OnError::Quarantine), None) => {
                Err("--on-error quarantine needs a file: say which with --quarantine FILE")
            }
            (Some(_), Some(_)) => Err("--quarantine goes with --on-error quarantine alone"),
            (Some(other), None) => Ok(other),
        }
    }

    /// Format of the results.
    fn output_format(&self) -> Format {
        let by_name = || Format::of_name(self.output.as_deref()?);
        self.format.or_else(by_name).unwrap_or(Format::Jsonl)
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let Arguments {
        mut file,
        fleet,
        jobs,
    } = arguments;
    file.output.take_if(|path| path.as_os_str() == "-");
    if fleet {
        return over_fleet(&file, &jobs, &settings).await;
    }
    if jobs.are_given() {
        eprintln!(
            "kiln: --in-flight, --namespace, --named, --inputs-per-job and --queue go with --fleet alone"
        );
        return Ok(Exit::Usage);
    }
    score(&file, None, &settings).await
}

/// Has a fleet score the files.
pub(super) async fn over_fleet(
    file: &FileArguments,
    jobs: &JobArguments,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    if settings.amqp.url.is_none() {
        eprintln!(
            "kiln: no broker is set: give KILN_AMQP_URL. Without --fleet, `kiln score FILE` needs none."
        );
        return Ok(Exit::Usage);
    }
    score(file, Some(jobs), settings).await
}

async fn score(
    file: &FileArguments,
    jobs: Option<&JobArguments>,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let on_error = file.on_error().map_err(str::to_owned);
    let paths = split::check(file).and_then(|()| paths::check(file, &settings.embedded.path));
    let on_error = match on_error.and_then(|on_error| paths.map(|()| on_error)) {
        Ok(on_error) => on_error,
        Err(problem) => {
            eprintln!("kiln: {problem}");
            return Ok(Exit::Usage);
        }
    };
    let file = Arc::new(file.clone());
    // A fleet's jobs go on whoever stops: its run listens for itself.
    let asked = match jobs {
        Some(_) => CancellationToken::new(),
        None => super::stop::token(),
    };
    let ended = tokio::select! {
        ended = run::run(&file, jobs, on_error, settings) => ended,
        () = asked.cancelled() => {
            stop::say(file.output.as_deref());
            return Ok(Exit::Failed);
        }
    };
    match ended {
        // Whoever reads has what they wanted.
        Err(error) if error.is::<Closed>() => Ok(Exit::Ok),
        ended => ended,
    }
}
