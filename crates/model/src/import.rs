//! Brings a Hugging Face folder into the models folder: weights under Kiln's names, the tokenizer, and a manifest with
//! golden inputs.
//!
//! Promises that nothing appears in the models folder before the whole version was written, loaded and checked there,
//! and that what can't be taken is refused with the file and the field or tensor to blame.

mod config;
mod names;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::directory::{is_model_name, is_version};
use super::encoder::Encoder;
use super::hardware::Hardware;
use super::load;
use super::manifest::{
    EncoderShape, Head, MANIFEST_FILE, OutputActivation, Pooling, TokenizerFile,
};
use super::residence::Origin;
use super::runner::{Limits, Runner};
use super::tokens::Cutter;
use super::weights::Expected;
use super::{Backend, Model, ModelInfo, PairRule, Precision, Rows, TextRow};
use config::{Plan, PlannedTask};
use kiln_kernels::Team;
use source::SourceTensors;

/// What to import, and where the folder's own word is not taken.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The Hugging Face folder.
    pub folder: PathBuf,
    /// The models folder.
    pub models_dir: PathBuf,
    pub name: String,
    pub version: String,
    pub pair: Option<PairRule>,
    pub pooling: Option<Pooling>,
    /// Whether an embedding without `modules.json` is scaled to length 1.
    pub normalise: bool,
    pub activation: Option<OutputActivation>,
    pub max_tokens: Option<usize>,
    pub ttl_seconds: Option<u64>,
    /// How exact embeddings are.
    pub precision: Precision,
}

/// An import that went well.
#[derive(Debug)]
pub struct Imported {
    /// The version's folder.
    pub path: PathBuf,
    pub info: ModelInfo,
    /// What was assumed, for people.
    pub notes: Vec<String>,
}

/// Why a folder can't be imported: the file to blame and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", path.display())]
pub struct ImportError {
    pub path: PathBuf,
    pub message: String,
}

impl ImportError {
    fn new(path: &Path, message: String) -> Self {
        Self {
            path: path.to_owned(),
            message,
        }
    }
}

/// Golden inputs are scored one at a time.
const LIMITS: Limits = Limits {
    batch_rows: 1,
    batch_tokens: 1,
    queued_rows: 1,
};

const WEIGHTS_FILE: &str = "model.safetensors";
const TOKENIZER_FILE: &str = "tokenizer.json";

/// Inputs whose scores the manifest keeps: later loads, other backends and other machines must give them again.
const GOLDEN_TEXTS: [(&str, &str); 4] = [
    ("A short text.", "Another one."),
    (
        "It was the best of times, it was the worst of times.",
        "Καλημέρα κόσμε",
    ),
    ("今日は天気がいいですね 🙂", "x"),
    (
        "numbers 1234567890 and (punctuation)!?",
        "a second text that is a good deal longer than the first one was",
    ),
];

/// Imports a folder. Blocks on the disk and runs the model on the golden inputs.
///
/// # Errors
/// Names the file and what was expected; the models folder is then as it was before.
pub fn import(options: &ImportOptions) -> Result<Imported, ImportError> {
    check_names(options)?;
    let home = options.models_dir.join(&options.name);
    let target = home.join(&options.version);
    if target.exists() {
        return Err(ImportError::new(
            &target,
            "is there already; choose another version".to_owned(),
        ));
    }
    let mut plan = config::plan(options)?;
    let tensors = tensors(&plan)?;
    let tokenizer = read_tokenizer(&plan)?;

    // A name with a dot is none that the models folder is searched for.
    let scratch = home.join(format!(
        ".import-{}-{}",
        options.version,
        std::process::id()
    ));
    let failed = |path: &Path, error: std::io::Error| {
        ImportError::new(path, format!("cannot be written: {error}"))
    };
    fs::create_dir_all(&scratch).map_err(|error| failed(&scratch, error))?;
    let scratch = Scratch(scratch);
    let weights_path = scratch.0.join(WEIGHTS_FILE);
    let weights =
        serialise(&tensors).map_err(|message| ImportError::new(&weights_path, message))?;
    fs::write(&weights_path, &weights).map_err(|error| failed(&weights_path, error))?;
    let tokenizer_path = scratch.0.join(TOKENIZER_FILE);
    fs::write(&tokenizer_path, &tokenizer).map_err(|error| failed(&tokenizer_path, error))?;

    let mut draft = Draft::of(options, &plan, &weights, &tokenizer);
    let manifest_path = scratch.0.join(MANIFEST_FILE);
    let write = |draft: &Draft<'_>| {
        let text = toml::to_string(draft)
            .map_err(|error| ImportError::new(&manifest_path, error.to_string()))?;
        fs::write(&manifest_path, text).map_err(|error| failed(&manifest_path, error))
    };
    write(&draft)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let alone =
        |error: &dyn std::fmt::Display| ImportError::new(&options.folder, error.to_string());
    let team = Team::start("kiln-kernel", threads).map_err(|error| alone(&error))?;
    let hardware = Hardware::open(Backend::Flex, Arc::new(team)).map_err(|error| alone(&error))?;
    let runner = Runner::start(1, LIMITS).map_err(|error| alone(&error))?;
    let origin = Origin {
        name: options.name.clone(),
        version: options.version.clone(),
        folder: scratch.0.clone(),
        hardware: Arc::new(hardware),
        queue: Arc::clone(runner.queue()),
    };
    let load = || {
        load::load(&origin)
            .map(|loaded| loaded.model)
            .map_err(|error| ImportError::new(&scratch.0.join(error.file), error.message))
    };
    let model = load()?;
    draft.golden =
        golden(&model, plan.pair).map_err(|message| ImportError::new(&options.folder, message))?;
    write(&draft)?;
    let model = load()?;
    fs::rename(&scratch.0, &target).map_err(|error| failed(&target, error))?;
    Ok(Imported {
        path: target,
        info: model.info().clone(),
        notes: std::mem::take(&mut plan.notes),
    })
}

/// A folder that is gone when it is dropped, unless it was renamed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; a scratch folder that stays is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn check_names(options: &ImportOptions) -> Result<(), ImportError> {
    let refuse = |message: &str| Err(ImportError::new(&options.models_dir, message.to_owned()));
    if !is_model_name(&options.name) {
        return refuse("--name: expected 1 to 64 of a-z, 0-9, _ and -");
    }
    if !is_version(&options.version) || options.version.starts_with('.') {
        return refuse(
            "--version: expected 1 to 32 of A-Z, a-z, 0-9, ., _ and -, not beginning with a dot",
        );
    }
    if !options.folder.is_dir() {
        return Err(ImportError::new(
            &options.folder,
            "is not a folder".to_owned(),
        ));
    }
    Ok(())
}

/// Shapes and numbers by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The model's tensors under Kiln's names, each with the shape that the encoder expects.
fn tensors(plan: &Plan) -> Result<Tensors, ImportError> {
    let mut found = source::read(&plan.transformer)?;
    let mut tensors = BTreeMap::new();
    let outputs = match &plan.task {
        PlannedTask::Classification(labels) => Some(labels.len()),
        PlannedTask::Scalar => Some(1),
        PlannedTask::Embedding { .. } => None,
    };
    let mut dense = match &plan.dense_folder {
        Some(folder) => Some((folder, source::read(folder)?)),
        None => None,
    };
    for expected in Encoder::tensors(&plan.shape, &plan.head, outputs) {
        let numbers = match (&mut dense, expected.name.strip_prefix("head.dense.")) {
            (Some((folder, found)), Some(kind)) => {
                take(found, folder, &[format!("linear.{kind}")], &expected)?
            }
            _ => {
                let (name, encoder) = plan.family.source_name(&expected.name).ok_or_else(|| {
                    ImportError::new(
                        &plan.transformer,
                        format!("this architecture has no tensor for \"{}\"", expected.name),
                    )
                })?;
                let mut names = Vec::new();
                for name in [Some(name.clone()), names::older(&name)]
                    .into_iter()
                    .flatten()
                {
                    if encoder {
                        names.push(format!("{}{name}", plan.family.prefix()));
                    }
                    names.push(name);
                }
                take(&mut found, &plan.transformer, &names, &expected)?
            }
        };
        tensors.insert(expected.name, (expected.shape, numbers));
    }
    let rest = found
        .into_iter()
        .chain(dense.into_iter().flat_map(|(_, found)| found))
        .find(|(name, _)| !plan.family.is_left_out(name));
    if let Some((name, tensor)) = rest {
        return Err(ImportError::new(
            &tensor.file,
            format!(
                "tensor \"{name}\" {:?} is not one that this architecture has by its config.json",
                tensor.shape
            ),
        ));
    }
    Ok(tensors)
}

/// Takes the tensor that has one of these names out of what was read.
fn take(
    found: &mut SourceTensors,
    folder: &Path,
    names: &[String],
    expected: &Expected,
) -> Result<Vec<f32>, ImportError> {
    let Some(tensor) = names.iter().find_map(|name| found.remove(name)) else {
        let some: Vec<&str> = found.keys().map(String::as_str).take(6).collect();
        return Err(ImportError::new(
            &folder.join(WEIGHTS_FILE),
            format!(
                "tensor \"{}\" is missing, expected {:?}; of the others, it has {}",
                names.first().map(String::as_str).unwrap_or_default(),
                expected.shape,
                some.join(", ")
            ),
        ));
    };
    if tensor.shape != expected.shape || tensor.numbers.is_empty() {
        return Err(ImportError::new(
            &tensor.file,
            format!(
                "tensor \"{}\": expected floats {:?} by config.json, found {:?}",
                names.first().map(String::as_str).unwrap_or_default(),
                expected.shape,
                tensor.shape
            ),
        ));
    }
    Ok(tensor.numbers)
}

fn read_tokenizer(plan: &Plan) -> Result<Vec<u8>, ImportError> {
    let path = plan.transformer.join(TOKENIZER_FILE);
    let bytes = fs::read(&path).map_err(|error| {
        let message = if error.kind() == std::io::ErrorKind::NotFound {
            "is missing; write it with `AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`".to_owned()
        } else {
            format!("cannot be read: {error}")
        };
        ImportError::new(&path, message)
    })?;
    Cutter::parse(&bytes, &tokenizer_file(plan, &bytes), plan.shape.vocabulary)
        .map_err(|message| ImportError::new(&path, message))?;
    Ok(bytes)
}

fn tokenizer_file(plan: &Plan, bytes: &[u8]) -> TokenizerFile {
    TokenizerFile {
        file: TOKENIZER_FILE.to_owned(),
        sha256: hex::encode(Sha256::digest(bytes)),
        max_tokens: plan.max_tokens,
        truncate: plan.truncate,
    }
}

fn serialise(tensors: &Tensors) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, numbers))| (name, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, (shape, _)), data) in tensors.iter().zip(bytes.values()) {
        let view = TensorView::new(Dtype::F32, shape.clone(), data)
            .map_err(|error| format!("tensor \"{name}\": {error}"))?;
        views.push((name, view));
    }
    safetensors::serialize(views, None::<HashMap<String, String>>)
        .map_err(|error| error.to_string())
}

fn golden(model: &Model, pair: PairRule) -> Result<Vec<GoldenDraft>, String> {
    let mut golden = Vec::new();
    for (text, second) in GOLDEN_TEXTS {
        let text_pair = (pair != PairRule::None).then(|| second.to_owned());
        let row = TextRow {
            text: model.normalise(text).into_owned(),
            text_pair: text_pair
                .as_deref()
                .map(|pair| model.normalise(pair).into_owned()),
        };
        let expect = model
            .score_blocking(Rows::Texts(vec![row]))
            .map_err(|error| format!("the golden input {text:?}: {error}"))?;
        golden.push(GoldenDraft {
            text: text.to_owned(),
            text_pair,
            expect,
        });
    }
    Ok(golden)
}

/// The manifest as it is written.
#[derive(Serialize)]
struct Draft<'a> {
    architecture: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    text: TextDraft,
    output: OutputDraft<'a>,
    tokenizer: TokenizerFile,
    encoder: &'a EncoderShape,
    head: &'a Head,
    weights: WeightsDraft,
    golden: Vec<GoldenDraft>,
}

#[derive(Serialize)]
struct TextDraft {
    max_bytes: usize,
    lowercase: bool,
    pair: PairRule,
}

#[derive(Serialize)]
struct OutputDraft<'a> {
    task: &'static str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    labels: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<usize>,
    activation: OutputActivation,
    precision: Precision,
}

#[derive(Serialize)]
struct WeightsDraft {
    file: &'static str,
    sha256: String,
}

#[derive(Serialize)]
struct GoldenDraft {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<String>,
    expect: Vec<f32>,
}

/// Bytes of a text that a token may stand for, at the most: beyond, a text is cut in any case.
const BYTES_PER_TOKEN: usize = 64;

impl<'a> Draft<'a> {
    fn of(options: &ImportOptions, plan: &'a Plan, weights: &[u8], tokenizer: &[u8]) -> Self {
        let (task, labels, width): (_, &[String], _) = match &plan.task {
            PlannedTask::Classification(labels) => ("classification", labels, None),
            PlannedTask::Scalar => ("scalar", &[], None),
            PlannedTask::Embedding { width } => ("embedding", &[], Some(*width)),
        };
        let source = options
            .folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        Self {
            architecture: "encoder",
            description: format!("Imported from {source}"),
            ttl_seconds: options.ttl_seconds,
            text: TextDraft {
                max_bytes: (plan.max_tokens * BYTES_PER_TOKEN).clamp(8192, 1 << 20),
                lowercase: plan.lowercase,
                pair: plan.pair,
            },
            output: OutputDraft {
                task,
                labels,
                width,
                activation: plan.activation,
                precision: options.precision,
            },
            tokenizer: tokenizer_file(plan, tokenizer),
            encoder: &plan.shape,
            head: &plan.head,
            weights: WeightsDraft {
                file: WEIGHTS_FILE,
                sha256: hex::encode(Sha256::digest(weights)),
            },
            golden: Vec::new(),
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ImportError> {
    let bytes = fs::read(path).map_err(|error| {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => "is missing".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        ImportError::new(path, message)
    })?;
    let mut json = serde_json::Deserializer::from_slice(&bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let at = error.path().to_string();
        let message = error.into_inner().to_string();
        match at.as_str() {
            "." => ImportError::new(path, message),
            at => ImportError::new(path, format!("{at}: {message}")),
        }
    })
}

#[cfg(test)]
mod tests;
