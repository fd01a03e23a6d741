//! Makes a version in int8 of one in floats: an encoder's layers in bytes, all else as it was, and what that costs.
//!
//! Promises that nothing appears in the models folder before the whole version was written, loaded and checked there. Refuses
//! whatever isn't an encoder in floats.

mod cost;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use kiln_contract::model::{ModelInfo, PairRule, WeightPrecision};
use kiln_contract::redact;
use kiln_kernels::QuantisedLinear;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::encoder::Encoder;
use super::error::{ImportError, LoadError};
use super::files::read_verified;
use super::import::{GoldenDraft, golden};
use super::manifest::{Architecture, Manifest};
use super::model::Model;
use super::naming::{MANIFEST_FILE, is_model_name, is_version};
use super::rows::{Rows, TextRow};
use super::settings::Backend;
use super::trial::{QUANTISING, Scratch, Trial, scratch, unwritable};
use super::weights::{Expected, Weights};
pub use cost::{CostMeter, QuantisationCost};

/// The file that holds the weights.
const WEIGHTS_FILE: &str = "model.safetensors";
/// What weights are rounded to where little depends on it: processors with AVX2 and no products of bytes of their own are half as fast again as
/// with [`LARGEST`].
const SMALL: i8 = 64;
/// In the feed-forward part, from which most of the loss comes.
const LARGEST: i8 = 127;
/// The layers of that part.
const FEED_FORWARD: [&str; 3] = [".up.weight", ".gate.weight", ".down.weight"];

/// Which version to make of which.
#[derive(Debug, Clone)]
pub struct QuantiseOptions {
    /// The models folder.
    pub models_dir: PathBuf,
    pub name: String,
    /// The version in floats.
    pub from: String,
    /// The version that is made.
    pub version: String,
    /// What the settings have the model run on, and the setting that says so.
    pub runs_on: (String, Backend),
    /// Whether the feed-forward part is rounded to as few steps as the rest: faster on processors without products of bytes, and further off.
    pub coarse: bool,
}

/// A version that was made.
#[derive(Debug)]
pub struct Quantised {
    /// Its folder.
    pub path: PathBuf,
    pub info: ModelInfo,
    /// Bytes of the weights before and after.
    pub bytes: (u64, u64),
}

/// Both versions, of which the one in int8 isn't there yet. Dropped, it leaves nothing behind.
pub struct Quantising {
    before: Model,
    after: Model,
    manifest: Table,
    bytes: (u64, u64),
    target: PathBuf,
    scratch: Scratch,
    _threads: Trial,
    trial: Trial,
}

/// Rounds a version's layers and loads the result beside it. Blocks on the disk, and runs both on golden inputs.
///
/// # Errors
/// Names the file and what was expected; the models folder is then as it was before.
pub fn quantise(options: &QuantiseOptions) -> Result<Quantising, ImportError> {
    check_names(options)?;
    let home = options.models_dir.join(&options.name);
    let (setting, backend) = &options.runs_on;
    if !backend.has_kernels() {
        let (backend, name) = (backend.as_str(), &options.name);
        return Err(ImportError::new(
            &home,
            format!(
                "{setting} is \"{backend}\", and int8 runs on the backend \"cpu\" alone: a worker on a card would refuse the version; \
                 set models.backends.{name} to \"cpu\" first"
            ),
        ));
    }
    let (source, target) = (home.join(&options.from), home.join(&options.version));
    if target.exists() {
        let message = "is there already; choose another version".to_owned();
        return Err(ImportError::new(&target, message));
    }
    let blame = |error: LoadError| ImportError::new(&source.join(error.file), error.message);
    let text = read(&source)?;
    let manifest = Manifest::parse(&text).map_err(blame)?;
    let threads = Trial::start(&options.name, &options.from, &source)?;
    let before = threads.load()?;
    let weights = rounded(&manifest, &source, options.coarse).map_err(blame)?;
    let declared = manifest.weights_file().map_err(blame)?;
    let was = fs::metadata(source.join(&declared.file)).map_or(0, |file| file.len());

    let scratch = Scratch::create(scratch(&home, QUANTISING, &options.version))?;
    scratch.write(WEIGHTS_FILE, &weights)?;
    if let Some(declared) = &manifest.tokenizer {
        let bytes = read_verified(&source, &declared.file, &declared.sha256, "tokenizer");
        scratch.write(&declared.file, &bytes.map_err(blame)?)?;
    }
    let mut table = rewritten(&text, &weights, &source)?;
    scratch.write_manifest(&table)?;
    let trial = Trial::start(&options.name, &options.version, &scratch.0)?;
    let after = trial.load()?;
    let golden = answers(&after, &manifest)
        .and_then(|golden| Value::try_from(golden).map_err(|_| "can't be written".to_owned()))
        .map_err(|message| ImportError::new(&source, message))?;
    table.insert("golden".to_owned(), golden);
    Ok(Quantising {
        before,
        after,
        manifest: table,
        bytes: (was, weights.len() as u64),
        target,
        scratch,
        _threads: threads,
        trial,
    })
}

/// Refuses names that lead out of the models folder.
fn check_names(options: &QuantiseOptions) -> Result<(), ImportError> {
    let refuse = |message: String| Err(ImportError::new(&options.models_dir, message));
    if !is_model_name(&options.name) {
        let name = &options.name;
        return refuse(format!(
            "found the model {name:?}, expected 1 to 64 of a-z, 0-9, _ and -"
        ));
    }
    for (what, version) in [
        ("the version", &options.from),
        ("--version", &options.version),
    ] {
        if !is_version(version) || version.starts_with('.') {
            return refuse(format!(
                "{what}: found {version:?}, expected 1 to 32 of A-Z, a-z, 0-9, ., _ and -, not beginning with a dot"
            ));
        }
    }
    Ok(())
}

/// What a version's manifest says that int8 cost, if it does.
///
/// # Errors
/// Those of a manifest that can't be read.
pub fn quantisation_cost(folder: &Path) -> Result<Option<QuantisationCost>, ImportError> {
    let manifest = Manifest::parse(&read(folder)?)
        .map_err(|error| ImportError::new(&folder.join(error.file), error.message))?;
    Ok(manifest.quantised)
}

impl Quantising {
    /// The version in floats.
    pub fn before(&self) -> &Model {
        &self.before
    }

    /// The version in int8.
    pub fn after(&self) -> &Model {
        &self.after
    }

    /// Puts the version into the models folder, with what it costs in its manifest.
    ///
    /// # Errors
    /// If it can't be written, or isn't what it was a moment ago; the models folder is then as it was before.
    pub fn finish(mut self, cost: Option<&QuantisationCost>) -> Result<Quantised, ImportError> {
        if let Some(cost) = cost {
            let value = Value::try_from(cost)
                .map_err(|_| ImportError::new(&self.scratch.0, "can't be written".to_owned()))?;
            self.manifest.insert("quantised".to_owned(), value);
        }
        self.scratch.write_manifest(&self.manifest)?;
        let model = self.trial.load()?;
        fs::rename(&self.scratch.0, &self.target)
            .map_err(|error| unwritable(&self.target, &error))?;
        Ok(Quantised {
            path: self.target.clone(),
            info: model.info().clone(),
            bytes: self.bytes,
        })
    }
}

fn read(folder: &Path) -> Result<String, ImportError> {
    let file = folder.join(MANIFEST_FILE);
    fs::read_to_string(&file)
        .map_err(|error| ImportError::new(&file, format!("cannot be read: {error}")))
}

/// The weights file of the version in int8.
fn rounded(manifest: &Manifest, folder: &Path, coarse: bool) -> Result<Vec<u8>, LoadError> {
    if manifest.architecture != Architecture::Encoder {
        return Err(LoadError::field(
            "architecture",
            "only the architecture \"encoder\" has a version in int8",
        ));
    }
    if manifest.weight_precision() != WeightPrecision::Single {
        return Err(LoadError::field(
            "weights.precision",
            "is int8 already; expected a version in floats",
        ));
    }
    let declared = manifest.weights_file()?;
    let mut weights = Weights::read(folder, declared, &Encoder::expected(manifest)?)?;
    let mut scales = BTreeMap::new();
    let mut tensors = Vec::new();
    for expected in Encoder::expected_in(manifest, WeightPrecision::Int8)? {
        let bytes: Vec<u8> = if expected.is_bytes() {
            let inputs = expected.shape.last().copied().unwrap_or(1);
            let of_part = FEED_FORWARD.iter().any(|end| expected.name.ends_with(end));
            let largest = if of_part && !coarse { LARGEST } else { SMALL };
            let numbers = weights.take(&expected.name);
            let (bytes, scale) = QuantisedLinear::round(&numbers, inputs, largest);
            scales.insert(expected.name.replace(".weight", ".scale"), scale);
            bytes.iter().map(|byte| byte.cast_unsigned()).collect()
        } else {
            let numbers = match scales.remove(&expected.name) {
                Some(scale) => scale,
                None => weights.take(&expected.name),
            };
            numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
        };
        tensors.push((expected, bytes));
    }
    serialise(&tensors).map_err(|message| LoadError::file(WEIGHTS_FILE, message))
}

fn serialise(tensors: &[(Expected, Vec<u8>)]) -> Result<Vec<u8>, String> {
    let failed = |error: safetensors::SafeTensorError| redact::names_only(&error.to_string());
    let views: Result<Vec<_>, String> = tensors
        .iter()
        .map(|(expected, bytes)| {
            let kind = if expected.is_bytes() {
                Dtype::I8
            } else {
                Dtype::F32
            };
            let view = TensorView::new(kind, expected.shape.clone(), bytes).map_err(failed)?;
            Ok((&expected.name, view))
        })
        .collect();
    safetensors::serialize(views?, None::<HashMap<String, String>>).map_err(failed)
}

/// The manifest of the version in int8, without golden inputs.
fn rewritten(text: &str, weights: &[u8], folder: &Path) -> Result<Table, ImportError> {
    let refuse = |message: &str| ImportError::new(&folder.join(MANIFEST_FILE), message.to_owned());
    let mut table: Table = text.parse().map_err(|_| refuse("is no table"))?;
    table.remove("golden");
    let mut declared = Table::new();
    for (key, value) in [
        ("file", WEIGHTS_FILE.to_owned()),
        ("sha256", hex::encode(Sha256::digest(weights))),
        ("precision", WeightPrecision::Int8.name().to_owned()),
    ] {
        declared.insert(key.to_owned(), Value::String(value));
    }
    table.insert("weights".to_owned(), Value::Table(declared));
    Ok(table)
}

/// What the version in int8 answers to the golden inputs of the one in floats, or to others if it has none.
fn answers(model: &Model, manifest: &Manifest) -> Result<Vec<GoldenDraft>, String> {
    if manifest.golden.is_empty() {
        let pair = match model.info().input {
            kiln_contract::model::InputKind::Text { pair } => pair,
            kiln_contract::model::InputKind::Features { .. } => PairRule::None,
        };
        return golden(model, pair);
    }
    let inputs = manifest.golden.iter();
    inputs
        .map(|input| {
            let text = input.text.clone().unwrap_or_default();
            let normalised = |text: &str| model.normalise(text).into_owned();
            let row = TextRow {
                text: normalised(&text),
                text_pair: input.text_pair.as_deref().map(normalised),
            };
            let expect = model
                .score_blocking(Rows::Texts(vec![row]))
                .map_err(|error| format!("a golden input: {error}"))?;
            Ok(GoldenDraft::new(text, input.text_pair.clone(), expect))
        })
        .collect()
}

#[cfg(test)]
mod tests;
