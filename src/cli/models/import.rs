//! `kiln models import`: a Hugging Face folder, or a file of trees or of ONNX, becomes a version in the models folder.

use super::making::Making;
use crate::{cli::Exit, config::Settings};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_model::{
    ImportOptions, OutputActivation, PairRule, Pooling, Precision, Task, Training, import,
    read_training,
};
use std::{path::PathBuf, time::Duration};

/// Copies a Hugging Face folder, or a model file of LightGBM, XGBoost or ONNX, into the models folder and checks it there.
#[derive(Debug, Args)]
#[command(after_help = "\
FOLDER is what `save_pretrained` of a model and its tokenizer wrote, or a sentence-transformers folder. Supported are BERT,
DistilBERT, RoBERTa, XLM-RoBERTa, MPNet, ModernBERT and DeBERTa of versions 2 and 3: classifiers, regressions, cross-encoders and embeddings; and
Nomic's rotary BERT: embeddings. Or it is a file that LightGBM's `save_model` or
`dump_model`, or XGBoost's `save_model` (JSON or UBJ) wrote; of the options, only --ttl-seconds and --training are for those, too. Or it is an ONNX file,
of features or, with tokenizer.json beside it, of texts (in builds with the cargo feature `onnx`, which the image has).

Examples:
  kiln models import ./finetuned-sentiment --name sentiment --version 2
  kiln models import ./ms-marco-reranker --name reranker --version 1 --pair required
  kiln models import ./all-MiniLM-L6-v2 --name minilm --version 1 --ttl-seconds 86400
  kiln models import ./nomic-embed-text --name nomic-query --version 1 --prompt search_query --width 256 --precision binary
  kiln models import ./model.txt --name ranker --version 1
  kiln models import ./model.txt --name ranker --version 2 --training training.toml
  kiln models import ./pipeline.onnx --name churn --version 1 --column 1")]
pub(super) struct Arguments {
    /// The Hugging Face folder, or the model file.
    folder: PathBuf,
    /// The model's name: a-z, 0-9, _ and -.
    #[arg(long)]
    name: String,
    /// The version: A-Z, a-z, 0-9, ., _ and -.
    #[arg(long)]
    version: String,
    /// Whether inputs have a second text [default: by the task].
    #[arg(long, value_enum)]
    pair: Option<PairChoice>,
    /// How token vectors become one vector, if the folder doesn't say.
    #[arg(long, value_enum)]
    pooling: Option<PoolingChoice>,
    /// Scale embeddings to length 1, if the folder doesn't say.
    #[arg(long)]
    normalise: bool,
    /// Activation of the output [default: by the folder's config.json].
    #[arg(long, value_enum)]
    activation: Option<ActivationChoice>,
    /// Tokens after which a text is truncated [default: by the folder].
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Of an ONNX file: the output that is taken [default: the likeliest].
    #[arg(long, value_name = "NAME")]
    output: Option<String>,
    /// Of an ONNX file: which of the output's numbers is the score, from 0.
    #[arg(long)]
    column: Option<usize>,
    /// Of an ONNX file: the labels of the output's numbers [default: as it lists them].
    #[arg(long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Of an ONNX file: inputs may lack features; the graph fills them or knows what NaN means.
    #[arg(long)]
    missing: bool,
    /// TTL of this model's scores.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    ttl_seconds: Option<u64>,
    /// A file with the fields of the manifest's [training], which says how the version was trained.
    #[arg(long, value_name = "FILE")]
    training: Option<PathBuf>,
    /// Which of the folder's prompts stands before texts, or `none` [default: the folder's own choice].
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// How many of an embedding's numbers are kept, from the first on [default: all].
    #[arg(long, value_name = "NUMBERS")]
    width: Option<usize>,
    /// Return and store embeddings as 16-bit floats: half the memory in Redis, three decimal digits.
    #[arg(long, conflicts_with = "precision")]
    half: bool,
    /// What embeddings are returned and stored as.
    #[arg(long, value_enum)]
    precision: Option<PrecisionChoice>,
    /// What 127 stands for with `--precision int8` [default: 8 by the root of the width, at most 1, where embeddings have length 1].
    #[arg(long, value_name = "NUMBER")]
    range: Option<f32>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PairChoice {
    None,
    Optional,
    Required,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PoolingChoice {
    Mean,
    Cls,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PrecisionChoice {
    /// 32-bit floats
    Single,
    /// 16-bit floats
    Half,
    /// whole numbers from -127 to 127
    Int8,
    /// whether numbers are above 0, eight in a byte
    Binary,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationChoice {
    Sigmoid,
    Softmax,
    Identity,
}

fn precision(asked: Option<PrecisionChoice>, half: bool) -> Precision {
    match asked {
        Some(PrecisionChoice::Int8) => Precision::Int8,
        Some(PrecisionChoice::Binary) => Precision::Binary,
        Some(PrecisionChoice::Half) => Precision::Half,
        None if half => Precision::Half,
        Some(PrecisionChoice::Single) | None => Precision::Single,
    }
}

fn options(arguments: Arguments, training: Option<Training>, models_dir: PathBuf) -> ImportOptions {
    ImportOptions {
        folder: arguments.folder,
        models_dir,
        name: arguments.name,
        version: arguments.version,
        pair: arguments.pair.map(|pair| match pair {
            PairChoice::None => PairRule::None,
            PairChoice::Optional => PairRule::Optional,
            PairChoice::Required => PairRule::Required,
        }),
        pooling: arguments.pooling.map(|pooling| match pooling {
            PoolingChoice::Mean => Pooling::Mean,
            PoolingChoice::Cls => Pooling::Cls,
        }),
        normalise: arguments.normalise,
        activation: arguments.activation.map(|activation| match activation {
            ActivationChoice::Sigmoid => OutputActivation::Sigmoid,
            ActivationChoice::Softmax => OutputActivation::Softmax,
            ActivationChoice::Identity => OutputActivation::Identity,
        }),
        max_tokens: arguments.max_tokens,
        output: arguments.output,
        column: arguments.column,
        labels: arguments.labels,
        missing: arguments.missing,
        ttl_seconds: arguments.ttl_seconds,
        training,
        prompt: arguments.prompt,
        width: arguments.width,
        range: arguments.range,
        precision: precision(arguments.precision, arguments.half),
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let is_json = arguments.json;
    let training = arguments.training.as_deref().map(read_training);
    let options = options(arguments, training.transpose()?, settings.models.dir);
    let making = Making::of(&options.models_dir, &options.name, &options.version);
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
    spinner.set_message("reading, writing and checking");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let imported = tokio::task::spawn_blocking(move || import(&options));
    let Some(imported) = making.or_stopped(imported).await? else {
        return Ok(Exit::Failed);
    };
    spinner.finish_and_clear();
    let imported = imported??;
    if is_json {
        let line = serde_json::json!({
            "path": imported.path,
            "model": imported.info,
            "notes": imported.notes,
        });
        reported!("{line}");
        return Ok(Exit::Ok);
    }
    let info = &imported.info;
    let gives = match &info.task {
        Task::Classification { labels } => format!("one of {}", labels.join(", ")),
        Task::Scalar => "one number".to_owned(),
        Task::Embedding => format!("an embedding of {} numbers", info.output_width),
    };
    reported!(
        "{}@{}: {:.1} million parameters, gives {gives}",
        info.name,
        info.version,
        info.parameters as f64 / 1e6
    );
    if !info.feature_names.is_empty() {
        reported!(
            "takes {} features, by place or by name",
            info.feature_names.len()
        );
    }
    for note in &imported.notes {
        reported!("note: {note}");
    }
    reported!("written to {}", imported.path.display());
    Ok(Exit::Ok)
}
