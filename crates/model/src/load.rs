//! From a version's folder to a model that may serve: manifest, weights, layers, golden inputs, in that order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kiln_contract::model::{ModelError, ModelInfo};
use sha2::{Digest, Sha256};

use super::cost::Cost;
use super::encoder::Encoder;
use super::error::LoadError;
#[cfg(feature = "faults")]
use super::fault::Fault;
use super::hardware::Hardware;
use super::lazy_network::LazyNetwork;
use super::manifest::{Architecture, Golden, Manifest};
use super::mlp::Mlp;
use super::model::{Model, score_blocking};
use super::naming::MANIFEST_FILE;
use super::network::{Network, Size};
use super::ngram::NgramText;
#[cfg(feature = "onnx")]
use super::onnx::OnnxNetwork;
use super::rounding::Rounding;
use super::rows::{Rows, TextRow};
use super::runner::Queue;
use super::text::TextRules;
use super::trees::TreeNetwork;
use super::weights::{Expected, Weights};

/// What it takes to load a version, again and again.
#[derive(Clone)]
pub(crate) struct ModelSource {
    pub name: String,
    pub version: String,
    pub folder: PathBuf,
    pub hardware: Arc<Hardware>,
    pub queue: Arc<Queue>,
}

/// What a build says that has no runtime for ONNX files.
#[cfg(not(feature = "onnx"))]
pub(crate) const NO_ONNX: &str = "\"onnx\" is not compiled in; build with `--features onnx`";

/// A model that passed every check.
pub(crate) struct Loaded {
    pub model: Model,
    /// The SHA-256 of the manifest, which holds the weights' own: equal identities score alike.
    pub identity: [u8; 32],
}

/// Loads and checks a version. Blocks on the disk and on a model thread.
pub(crate) fn load(source: &ModelSource) -> Result<Loaded, LoadError> {
    let Checked {
        info,
        rules,
        rounding,
        network,
        size,
        identity,
        costs,
    } = check(source)?;
    let again = source.clone();
    let loader = move || {
        let checked = check(&again)?;
        if checked.identity == identity {
            Ok(checked.network)
        } else {
            Err(LoadError::manifest("is another one now"))
        }
    };
    let reference = format!("{}@{}", info.name, info.version);
    let network = (network, size.bytes as u64);
    let network = LazyNetwork::new(reference, network, Arc::new(loader));
    let queue = Arc::clone(&source.queue);
    let machine = source.hardware.machine();
    let model = Model::new(info, (rules, rounding), network, queue, machine, &costs);
    Ok(Loaded { model, identity })
}

/// What a version's folder holds, whole and with golden inputs that hold.
struct Checked {
    info: ModelInfo,
    rules: TextRules,
    rounding: Rounding,
    network: Arc<dyn Network>,
    size: Size,
    identity: [u8; 32],
    /// The units of each golden input, and the seconds that it took.
    costs: Vec<(f64, f64)>,
}

fn check(source: &ModelSource) -> Result<Checked, LoadError> {
    let folder = &source.folder;
    let bytes = fs::read(folder.join(MANIFEST_FILE))
        .map_err(|error| LoadError::unreadable(MANIFEST_FILE, &error))?;
    let identity = Sha256::digest(&bytes).into();
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| LoadError::manifest(&format!("is not UTF-8: {error}")))?;
    let manifest = Manifest::parse(text)?;
    let hardware = &source.hardware;
    let mut size = Size::default();
    let network = hardware.build(|| {
        let (network, found) = build(folder, &manifest, hardware)?;
        size = found;
        Ok(network)
    })?;
    let mut checked = Checked {
        info: ModelInfo {
            name: source.name.clone(),
            version: source.version.clone(),
            architecture: manifest.architecture.name().to_owned(),
            task: manifest.task(),
            input: manifest.input_kind(),
            feature_names: manifest.feature_names(),
            takes_missing: manifest.takes_missing(),
            output_width: manifest.result_width(),
            precision: manifest.output.precision,
            max_text_bytes: manifest.text.as_ref().map_or(0, |text| text.max_bytes),
            ttl_seconds: manifest.ttl_seconds,
            parameters: size.parameters,
            weights: manifest.weight_precision(),
            golden: manifest.golden.len(),
            training: manifest.training.clone().map(Arc::new),
        },
        rules: manifest.text_rules(),
        rounding: Rounding::of(&manifest),
        network,
        size,
        identity,
        costs: Vec::with_capacity(manifest.golden.len()),
    };
    // The first pass over new weights is slow: the same again says what it costs.
    let goldens = manifest.golden.iter().enumerate();
    for (i, golden) in goldens.clone().chain(goldens.take(1)) {
        let field = format!("golden[{i}]");
        let cost = check_golden(
            &checked,
            &source.queue,
            golden,
            &field,
            hardware.tolerance(),
        )?;
        checked.costs.push(cost);
    }
    Ok(checked)
}

fn build(
    folder: &Path,
    manifest: &Manifest,
    hardware: &Hardware,
) -> Result<(Arc<dyn Network>, Size), LoadError> {
    let read = |expected: &[Expected]| Weights::read(folder, manifest.weights_file()?, expected);
    Ok(match manifest.architecture {
        Architecture::Mlp => {
            let weights = read(&Mlp::expected(manifest))?;
            let size = weights.size();
            (Arc::new(Mlp::build(manifest, weights, hardware)?), size)
        }
        Architecture::NgramText => {
            let weights = read(&NgramText::expected(manifest))?;
            let size = weights.size();
            (
                Arc::new(NgramText::build(manifest, weights, hardware)?),
                size,
            )
        }
        Architecture::Encoder => {
            let weights = read(&Encoder::expected(manifest)?)?;
            let size = weights.size();
            let encoder = Encoder::build(manifest, weights, folder, hardware)?;
            (Arc::new(encoder), size)
        }
        Architecture::Trees => {
            let (network, size) = TreeNetwork::load(folder, manifest)?;
            (Arc::new(network), size)
        }
        #[cfg(feature = "onnx")]
        Architecture::Onnx => {
            let (network, size) = OnnxNetwork::load(folder, manifest)?;
            (Arc::new(network), size)
        }
        #[cfg(not(feature = "onnx"))]
        Architecture::Onnx => return Err(LoadError::field("architecture", NO_ONNX)),
        #[cfg(feature = "faults")]
        Architecture::Fault => (Arc::new(Fault), Size::default()),
    })
}

fn check_golden(
    checked: &Checked,
    queue: &Queue,
    golden: &Golden,
    field: &str,
    tolerance: f32,
) -> Result<(f64, f64), LoadError> {
    let normalised = |text: &str| checked.rules.apply(text).into_owned();
    let rows = match (&golden.features, &golden.text) {
        (Some(features), _) => Rows::Features {
            width: features.len(),
            data: features.clone(),
        },
        (None, text) => Rows::Texts(vec![TextRow {
            text: normalised(text.as_deref().unwrap_or_default()),
            text_pair: golden.text_pair.as_deref().map(normalised),
        }]),
    };
    let (units, begun) = (Cost::units(&rows), Instant::now());
    let outputs = score_blocking(
        &checked.info,
        checked.rounding,
        &checked.network,
        queue,
        rows,
    )
    .map_err(|error| {
        let refused = LoadError::field(field, &error.to_string());
        match error {
            // For want of memory, say: what answers wrongly does so for ever.
            ModelError::Panicked { .. } | ModelError::Stopped => refused.passing(),
            _ => refused,
        }
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    for (i, (found, expected)) in outputs.iter().zip(&golden.expect).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        if (found - expected).abs() > allowed {
            let message = format!(
                "output {i}: expected {expected}, found {found} (allowed difference {allowed:e})"
            );
            return Err(LoadError::field(field, &message));
        }
    }
    Ok((units, seconds))
}
