//! An ONNX file becomes a version: the file itself, the tokenizer beside it if it takes texts, and a manifest with golden inputs.
//!
//! What the file doesn't say is found out by trying, and noted for people: which output is meant, whether its numbers are
//! probabilities, whether features may be missing.

#[cfg(feature = "onnx")]
mod draft;
#[cfg(feature = "onnx")]
mod output;
#[cfg(feature = "onnx")]
mod texts;

use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::options::{ImportOptions, Imported};

/// What such a file is called in a folder.
const FILE: &str = "model.onnx";
/// The weights that the same folder has where it is imported as an encoder.
const OTHER_WEIGHTS: [&str; 3] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "modules.json",
];

/// The ONNX file that is meant: the path itself, or `model.onnx` in a folder without weights of another kind.
pub(super) fn file_of(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        let is_onnx = path
            .extension()
            .is_some_and(|extension| extension == "onnx");
        return is_onnx.then(|| path.to_owned());
    }
    if OTHER_WEIGHTS.iter().any(|file| path.join(file).exists()) {
        return None;
    }
    let places = [path.join(FILE), path.join("onnx").join(FILE)];
    places.into_iter().find(|file| file.is_file())
}

#[cfg(not(feature = "onnx"))]
pub(super) fn import(_: &ImportOptions, file: &Path) -> Result<Imported, ImportError> {
    Err(ImportError::new(file, crate::load::NO_ONNX.to_owned()))
}

#[cfg(feature = "onnx")]
pub(super) use with_runtime::import;

#[cfg(feature = "onnx")]
mod with_runtime {
    use std::fs;

    use super::*;
    use crate::import::{golden, places};
    use crate::model::Model;
    use crate::onnx::{self, Graph};
    use crate::rows::Rows;
    use crate::trial::{Scratch, Trial, unwritable};
    use draft::{Draft, Golden, golden_rows};
    use output::{Chosen, Tried};
    use texts::Texts;

    /// Tokens of a text while no tokenizer says.
    const UNKNOWN_TOKENS: usize = 512;

    /// Imports that file. Blocks on the disk and runs the model on the golden inputs.
    pub(in crate::import) fn import(
        options: &ImportOptions,
        file: &Path,
    ) -> Result<Imported, ImportError> {
        let refuse = |message: String| ImportError::new(file, message);
        let given = [
            ("--pooling", options.pooling.is_some()),
            ("--normalise", options.normalise),
        ];
        options.has_none_of(&given, "does not belong to an ONNX file")?;
        let bytes = fs::read(file).map_err(|error| refuse(format!("cannot be read: {error}")))?;
        let refused = |fault: onnx::Fault| refuse(fault.to_string());
        let model = onnx::decode(&bytes).map_err(refused)?;
        let described = onnx::describe(&model).map_err(refused)?;
        let texts = Texts::read(options, file, described.vocabulary)?;
        let mut notes = Vec::new();
        let output = output::name(&described, options, &mut notes).map_err(refuse)?;
        let max_tokens = texts.as_ref().map_or(UNKNOWN_TOKENS, Texts::max_tokens);
        let graph = onnx::graph(model, &output, max_tokens).map_err(refused)?;
        let rows = tried_rows(&graph, options.missing).map_err(refuse)?;
        let labels = texts.as_ref().map_or(&[][..], |texts| &texts.labels);
        let chosen = Chosen::of(output, &graph, &rows, options, (&described.labels, labels));
        let chosen = chosen.map_err(refuse)?;
        notes.extend(chosen.notes.iter().cloned());

        let texts = texts.filter(|_| graph.features.is_none());
        if texts.is_none() && graph.features.is_none() {
            let message = "takes texts, and has no tokenizer.json beside it";
            return Err(refuse(message.to_owned()));
        }
        let (path, target) = places(options);
        let scratch = Scratch::create(path)?;
        scratch.write(FILE, &bytes)?;
        if let Some(texts) = &texts {
            scratch.write(texts::TOKENIZER_FILE, &texts.bytes)?;
            notes.extend(texts.notes.iter().cloned());
        }
        let mut draft = Draft::of(options, &graph, &chosen, texts.as_ref(), &bytes);
        drop(bytes);
        drop(graph);
        scratch.write_manifest(&draft)?;
        let trial = Trial::start(&options.name, &options.version, &scratch.0)?;
        let model = trial.load()?;
        draft.golden = match texts {
            Some(texts) => {
                let golden = golden(&model, texts.pair).map_err(refuse)?;
                golden.into_iter().map(Golden::Text).collect()
            }
            None => of_rows(&model, rows).map_err(refuse)?,
        };
        scratch.write_manifest(&draft)?;
        let model = trial.load()?;
        fs::rename(&scratch.0, &target).map_err(|error| unwritable(&target, &error))?;
        Ok(Imported {
            path: target,
            info: model.info().clone(),
            notes,
        })
    }

    /// Rows of features, and what the graph gives for each; those for which that isn't finite are left out. None for texts.
    fn tried_rows(graph: &Graph, missing: bool) -> Result<Vec<Tried>, String> {
        let Some(features) = graph.features else {
            return match missing {
                true => Err("--missing: only features can be missing".to_owned()),
                false => Ok(Vec::new()),
            };
        };
        let mut tried = Vec::new();
        for row in golden_rows(features, missing) {
            let scored = onnx::tried(graph, &row).map_err(|fault| fault.to_string())?;
            let is_lacking = row.iter().any(|x| x.is_nan());
            match scored.iter().all(|x| x.is_finite()) {
                true => tried.push((row, scored)),
                false if is_lacking => {
                    let why = "what it gives where features are missing is not finite";
                    return Err(format!("--missing: {why}"));
                }
                false => {}
            }
        }
        match tried.is_empty() {
            true => Err("gives numbers that are not finite for each row that was tried".to_owned()),
            false => Ok(tried),
        }
    }

    fn of_rows(model: &Model, rows: Vec<Tried>) -> Result<Vec<Golden>, String> {
        let golden = rows.into_iter().map(|(features, _)| {
            let rows = Rows::Features {
                width: features.len(),
                data: features.clone(),
            };
            let expect = model
                .score_blocking(rows)
                .map_err(|error| format!("a golden input: {error}"))?;
            Ok(Golden::Features { features, expect })
        });
        golden.collect()
    }
}

#[cfg(test)]
#[cfg(feature = "onnx")]
mod tests;
