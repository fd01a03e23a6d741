//! A model file of LightGBM or XGBoost becomes a version: the file itself, and a manifest with its features' names and golden inputs.
//!
//! Golden inputs are scored split by split, by the plain reading of the trees, so that loading compares the fast one with it.

use std::fs;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::draft::WeightsDraft;
use super::error::ImportError;
use super::options::{ImportOptions, Imported};
use crate::manifest::{OutputActivation, TreesFormat, TreesShape};
use crate::trees::{self, Ensemble};
use crate::trial::{Scratch, Trial, unwritable};
use kiln_contract::model::{Precision, Training};

/// Features beyond which golden inputs are few, to keep the manifest small.
const MANY_FEATURES: usize = 1_000;

/// The manifest as it is written.
#[derive(Serialize)]
struct Draft<'a> {
    architecture: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    features: Features<'a>,
    output: Output,
    trees: TreesShape,
    weights: WeightsDraft,
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<&'a Training>,
    golden: Vec<Golden>,
}

#[derive(Serialize)]
struct Features<'a> {
    count: usize,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    names: &'a [String],
}

#[derive(Serialize)]
struct Output {
    task: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    activation: OutputActivation,
}

#[derive(Serialize)]
struct Golden {
    features: Vec<f32>,
    expect: Vec<f32>,
}

/// Imports the file that the options name. Blocks on the disk and runs the model on the golden inputs.
pub(super) fn import(options: &ImportOptions) -> Result<Imported, ImportError> {
    let refuse = |message: String| ImportError::new(&options.folder, message);
    has_no_other_options(options)?;
    let bytes =
        fs::read(&options.folder).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let format = trees::format_of(&bytes).map_err(|fault| refuse(fault.to_string()))?;
    let mut ensemble = trees::read(&bytes, format).map_err(|fault| refuse(fault.to_string()))?;
    let file = match format {
        TreesFormat::LightgbmText => "model.txt",
        TreesFormat::LightgbmJson | TreesFormat::XgboostJson => "model.json",
        TreesFormat::XgboostUbj => "model.ubj",
    };
    let (path, target) = super::places(options);
    let scratch = Scratch::create(path)?;
    scratch.write(file, &bytes)?;
    let mut draft = draft(options, &ensemble, format);
    draft.weights = WeightsDraft {
        file,
        sha256: hex::encode(Sha256::digest(&bytes)),
    };
    scratch.write_manifest(&draft)?;
    drop(draft);
    drop(bytes);
    let notes = std::mem::take(&mut ensemble.notes);
    drop(ensemble);
    let model = Trial::start(&options.name, &options.version, &scratch.0)?.load()?;
    fs::rename(&scratch.0, &target).map_err(|error| unwritable(&target, &error))?;
    Ok(Imported {
        path: target,
        info: model.info().clone(),
        notes,
    })
}

/// What only models of texts have.
fn has_no_other_options(options: &ImportOptions) -> Result<(), ImportError> {
    let given = [
        ("--pair", options.pair.is_some()),
        ("--pooling", options.pooling.is_some()),
        ("--normalise", options.normalise),
        ("--activation", options.activation.is_some()),
        ("--max-tokens", options.max_tokens.is_some()),
        ("--half", options.precision == Precision::Half),
        ("--precision", options.precision != Precision::Single),
        ("--prompt", options.prompt.is_some()),
        ("--width", options.width.is_some()),
        ("--range", options.range.is_some()),
    ];
    options.has_none_of(&given, "does not belong to a model of trees")
}

fn draft<'a>(options: &'a ImportOptions, ensemble: &'a Ensemble, format: TreesFormat) -> Draft<'a> {
    let source = options.folder.file_name().unwrap_or_default();
    let outputs = ensemble.outputs();
    let labels = match outputs {
        1 => Vec::new(),
        _ => (0..outputs).map(|class| class.to_string()).collect(),
    };
    let golden = golden_rows(ensemble).into_iter().map(|features| Golden {
        expect: ensemble.plainly(&features),
        features,
    });
    Draft {
        architecture: "trees",
        description: format!("Imported from {}", source.to_string_lossy()),
        ttl_seconds: options.ttl_seconds,
        features: Features {
            count: ensemble.features(),
            names: &ensemble.names,
        },
        output: Output {
            task: if outputs == 1 {
                "scalar"
            } else {
                "classification"
            },
            labels,
            activation: ensemble.objective.transform.activation(),
        },
        trees: TreesShape {
            format,
            objective: ensemble.objective.name.clone(),
        },
        weights: WeightsDraft::default(),
        training: options.training.as_ref(),
        golden: golden.collect(),
    }
}

/// Rows around the trees' own thresholds, and one that lacks every second feature.
fn golden_rows(ensemble: &Ensemble) -> Vec<Vec<f32>> {
    let features = ensemble.features();
    let mut thresholds = ensemble.thresholds();
    let at = |thresholds: &[f32], part: usize| {
        let last = thresholds.len().saturating_sub(1);
        thresholds.get(last * part / 4).copied().unwrap_or_default()
    };
    let mut rows = vec![vec![0.0; features]];
    if features <= MANY_FEATURES {
        for part in 0..5 {
            let row = thresholds.iter_mut().enumerate();
            // Neighbours look at different parts of their thresholds.
            rows.push(row.map(|(i, known)| at(known, (part + i) % 5)).collect());
        }
    }
    let lacking = (0..features).map(|i| if i % 2 == 0 { f32::NAN } else { 1.0 });
    rows.push(lacking.collect());
    rows
}

#[cfg(test)]
mod tests;
