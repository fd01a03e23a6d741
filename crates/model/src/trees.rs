//! `trees`: boosted trees and random forests of LightGBM and XGBoost, from the libraries' own files.
//!
//! Owns reading those files and scoring with them. Promises that a score has the bits that the library's own has, where the same system's
//! exponentials are behind both: sums are taken in the same order and arithmetic (64 bits for LightGBM, 32 for XGBoost), and
//! LightGBM's 64-bit result is rounded once, to the 32 bits that scores have. Runs on the processor on every backend.

mod checked;
mod fault;
mod json;
mod lightgbm;
mod lightgbm_json;
mod objective;
mod pull;
mod ubj;
mod xgboost;
mod xgboost_tree;

use std::path::Path;

use kiln_kernels::trees::Forest;

use super::error::LoadError;
use super::files::read_verified;
use super::manifest::{Manifest, TreesFormat};
use super::network::{Batch, Network, Size};
pub(crate) use checked::Ensemble;
use fault::Fault;
use json::Json;
use objective::Objective;
use pull::Pull;
use ubj::Ubj;

/// Splits on a row's longest ways that take hardly more time than handing the row to a thread: some sixty microseconds.
const QUICK_SPLITS: usize = 60_000;
/// Splits worth waking another thread for.
const SHARE_SPLITS: usize = 400_000;

/// Reads and checks a file of this format.
pub(crate) fn read(bytes: &[u8], format: TreesFormat) -> Result<Ensemble, Fault> {
    if bytes.len() > checked::MAX_FILE_BYTES {
        let max = checked::MAX_FILE_BYTES;
        return Err(Fault::new("", format!("has more than {max} bytes")));
    }
    match format {
        TreesFormat::LightgbmText => lightgbm::text(bytes),
        TreesFormat::LightgbmJson => lightgbm_json::read(Json::new(bytes)?),
        TreesFormat::XgboostJson => xgboost::read(Json::new(bytes)?),
        TreesFormat::XgboostUbj => xgboost::read(Ubj::new(bytes)),
    }
}

/// The format of a file, by how it begins and, in JSON, by its fields.
pub(crate) fn format_of(bytes: &[u8]) -> Result<TreesFormat, Fault> {
    if bytes.starts_with(b"tree") {
        return Ok(TreesFormat::LightgbmText);
    }
    let unknown = || {
        let message = "is no model of LightGBM (text or JSON) or XGBoost (JSON or UBJ)";
        Fault::new("", message)
    };
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let mut marks = bytes.iter().filter(|byte| !is_space(byte));
    match (marks.next(), marks.next()) {
        (Some(b'{'), Some(b'"')) => {
            let mut json = Json::new(bytes)?;
            json.object()?;
            while let Some(key) = json.key()? {
                match key.as_str() {
                    "learner" => return Ok(TreesFormat::XgboostJson),
                    "tree_info" => return Ok(TreesFormat::LightgbmJson),
                    _ => json.skip()?,
                }
            }
            Err(unknown())
        }
        (Some(b'{'), Some(_)) => Ok(TreesFormat::XgboostUbj),
        _ => Err(unknown()),
    }
}

/// Trees that score.
pub(crate) struct TreeNetwork {
    forest: Sums,
    objective: Objective,
    mean_of: Option<usize>,
}

/// A forest in the arithmetic of its library.
enum Sums {
    Double(Forest<f64>),
    Single(Forest<f32>),
}

impl TreeNetwork {
    /// Reads the file beside the manifest, which must be what the manifest says of it; gives its size, too.
    pub fn load(folder: &Path, manifest: &Manifest) -> Result<(Self, Size), LoadError> {
        let declared = manifest.weights_file()?;
        let Some((shape, input)) = manifest.trees.as_ref().zip(manifest.features.as_ref()) else {
            return Err(LoadError::manifest("has no [trees] or no [features] table"));
        };
        let bytes = read_verified(folder, &declared.file, &declared.sha256, "weights")?;
        let refuse = |fault: Fault| LoadError::file(&declared.file, fault.to_string());
        let ensemble = read(&bytes, shape.format).map_err(refuse)?;
        drop(bytes);
        let differs = |field: &str, found: &str| {
            let message = format!("is not what the file says, which is {found}");
            LoadError::field(field, &message)
        };
        if ensemble.features() != input.count {
            return Err(differs("features.count", &ensemble.features().to_string()));
        }
        if ensemble.outputs() != manifest.output_width() {
            let outputs = format!("{} outputs", ensemble.outputs());
            return Err(differs("output", &outputs));
        }
        if ensemble.objective.name != shape.objective {
            let found = format!("\"{}\"", ensemble.objective.name);
            return Err(differs("trees.objective", &found));
        }
        let activation = ensemble.objective.transform.activation();
        if activation != manifest.output.activation {
            let found = format!("{activation:?}").to_lowercase();
            return Err(differs("output.activation", &found));
        }
        let network = Self::of(&ensemble).map_err(refuse)?;
        let size = Size {
            parameters: ensemble.parameters(),
            bytes: network.bytes(),
        };
        Ok((network, size))
    }

    /// Lays an ensemble out.
    pub fn of(ensemble: &Ensemble) -> Result<Self, Fault> {
        let forest = match &ensemble.trees {
            checked::Trees::Double(shape, trees) => {
                Forest::new(shape.clone(), trees).map(Sums::Double)
            }
            checked::Trees::Single(shape, trees) => {
                Forest::new(shape.clone(), trees).map(Sums::Single)
            }
        };
        let forest = forest.map_err(|_| Fault::new("", "has too many different thresholds"))?;
        Ok(Self {
            forest,
            objective: ensemble.objective.clone(),
            mean_of: ensemble.mean_of,
        })
    }

    /// Bytes of its forest.
    fn bytes(&self) -> usize {
        match &self.forest {
            Sums::Double(forest) => forest.bytes(),
            Sums::Single(forest) => forest.bytes(),
        }
    }

    /// Splits on the longest ways of all trees.
    fn depth(&self) -> usize {
        let depth = match &self.forest {
            Sums::Double(forest) => forest.depth(),
            Sums::Single(forest) => forest.depth(),
        };
        depth.max(1)
    }
}

impl Network for TreeNetwork {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Features(data) = batch else {
            unreachable!("rows were checked to be features")
        };
        match &self.forest {
            Sums::Double(forest) => {
                let mut sums = forest.forward(data);
                for row in sums.chunks_exact_mut(forest.outputs()) {
                    self.objective.finish_doubles(row, self.mean_of);
                }
                sums.into_iter().map(|x| x as f32).collect()
            }
            Sums::Single(forest) => {
                let mut sums = forest.forward(data);
                for row in sums.chunks_exact_mut(forest.outputs()) {
                    self.objective.transform.singles(row);
                }
                sums
            }
        }
    }

    fn smallest_share(&self) -> usize {
        (SHARE_SPLITS / self.depth()).max(1)
    }

    fn quick_rows(&self) -> usize {
        QUICK_SPLITS / self.depth()
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
