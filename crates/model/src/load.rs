//! From a version's folder to a model that may serve: manifest, weights, layers, golden inputs, in that order.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::encoder::Encoder;
use super::error::LoadError;
#[cfg(feature = "faults")]
use super::fault::Fault;
use super::hardware::Hardware;
use super::manifest::{Architecture, Golden, MANIFEST_FILE, Manifest};
use super::mlp::Mlp;
use super::network::Network;
use super::ngram::NgramText;
use super::residence::{Origin, Residence};
use super::weights::{Expected, Weights};
use super::{Model, ModelInfo, Rows, TextRow};

/// A model that passed every check.
pub(crate) struct Loaded {
    pub model: Model,
    /// The SHA-256 of the manifest, which holds the weights' own: equal identities score alike.
    pub identity: [u8; 32],
}

/// Loads and checks a version. Blocks on the disk and on a model thread.
pub(crate) fn load(origin: &Origin) -> Result<Loaded, LoadError> {
    let folder = &origin.folder;
    let source = fs::read(folder.join(MANIFEST_FILE)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::manifest("is missing"),
        _ => LoadError::manifest(&format!("cannot be read: {error}")),
    })?;
    let identity = Sha256::digest(&source).into();
    let text = std::str::from_utf8(&source)
        .map_err(|error| LoadError::manifest(&format!("is not UTF-8: {error}")))?;
    let manifest = Manifest::parse(text)?;
    let hardware = &origin.hardware;
    let mut parameters = 0;
    let network = hardware.place(|| {
        let (network, count) = build(folder, &manifest, hardware)?;
        parameters = count;
        Ok(network)
    })?;
    let model = Model {
        info: ModelInfo {
            name: origin.name.clone(),
            version: origin.version.clone(),
            architecture: manifest.architecture.name().to_owned(),
            task: manifest.task(),
            input: manifest.input_kind(),
            output_width: manifest.output_width(),
            precision: manifest.output.precision,
            max_text_bytes: manifest.text.as_ref().map_or(0, |text| text.max_bytes),
            ttl_seconds: manifest.ttl_seconds,
            parameters,
            golden: manifest.golden.len(),
        },
        rules: manifest.text_rules(),
        residence: Residence::new(network, origin.clone(), identity),
        cost: super::cost::Cost::default(),
    };
    for (i, golden) in manifest.golden.iter().enumerate() {
        check_golden(&model, golden, hardware.tolerance())
            .map_err(|message| LoadError::field(&format!("golden[{i}]"), &message))?;
    }
    Ok(Loaded { model, identity })
}

fn build(
    folder: &Path,
    manifest: &Manifest,
    hardware: &Hardware,
) -> Result<(Arc<dyn Network>, usize), LoadError> {
    let read = |expected: &[Expected]| Weights::read(folder, manifest.weights_file()?, expected);
    let device = &hardware.device;
    Ok(match manifest.architecture {
        Architecture::Mlp => {
            let weights = read(&Mlp::expected(manifest))?;
            let parameters = weights.parameters();
            (
                Arc::new(Mlp::build(manifest, weights, hardware)?),
                parameters,
            )
        }
        Architecture::NgramText => {
            let weights = read(&NgramText::expected(manifest))?;
            let parameters = weights.parameters();
            (
                Arc::new(NgramText::build(manifest, weights, device)?),
                parameters,
            )
        }
        Architecture::Encoder => {
            let weights = read(&Encoder::expected(manifest)?)?;
            let parameters = weights.parameters();
            let encoder = Encoder::build(manifest, weights, folder, hardware)?;
            (Arc::new(encoder), parameters)
        }
        #[cfg(feature = "faults")]
        Architecture::Fault => (Arc::new(Fault), 0),
    })
}

fn check_golden(model: &Model, golden: &Golden, tolerance: f32) -> Result<(), String> {
    let rows = match (&golden.features, &golden.text) {
        (Some(features), _) => Rows::Features {
            width: features.len(),
            data: features.clone(),
        },
        (None, text) => Rows::Texts(vec![TextRow {
            text: model
                .normalise(text.as_deref().unwrap_or_default())
                .into_owned(),
            text_pair: golden
                .text_pair
                .as_deref()
                .map(|pair| model.normalise(pair).into_owned()),
        }]),
    };
    let outputs = model
        .score_blocking(rows)
        .map_err(|error| error.to_string())?;
    for (i, (found, expected)) in outputs.iter().zip(&golden.expect).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        if (found - expected).abs() > allowed {
            return Err(format!(
                "output {i}: expected {expected}, found {found} (allowed difference {allowed:e})"
            ));
        }
    }
    Ok(())
}
