//! The weights: a checkpoint's tensors under the manifest's names, as a safetensors file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use kiln_contract::redact;
use safetensors::tensor::{Dtype, TensorView};

use super::config::PlannedTask;
use super::error::ImportError;
use super::names;
use super::plan::Plan;
use super::source::{self, SourceTensors};
use crate::encoder::Encoder;
use crate::weights::{Expected, shown};

/// The file that holds them.
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";

/// Shapes and numbers by name.
pub(super) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The model's tensors under Kiln's names, each with the shape that the encoder expects.
pub(super) fn tensors(plan: &Plan) -> Result<Tensors, ImportError> {
    let mut found = names::prepare(source::read(&plan.transformer)?, plan.family)?;
    let mut tensors = BTreeMap::new();
    let outputs = match &plan.purpose.task {
        PlannedTask::Classification(labels) => Some(labels.len()),
        PlannedTask::Scalar => Some(1),
        PlannedTask::Embedding { .. } => None,
    };
    let mut dense = match &plan.purpose.dense_folder {
        Some(folder) => Some((folder, source::read(folder)?)),
        None => None,
    };
    let source_name = |ours: &str| plan.family.source_name(ours, plan.shape.layers);
    for expected in Encoder::tensors(&plan.shape, &plan.purpose.head, outputs) {
        let numbers = match (&mut dense, expected.name.strip_prefix("head.dense.")) {
            (Some((folder, found)), Some(kind)) => {
                take(found, folder, &[format!("linear.{kind}")], &expected)?
            }
            _ if plan.lacking.has(&expected.name) => vec![0.0; expected.shape.iter().product()],
            _ => {
                let (name, encoder) = source_name(&expected.name).ok_or_else(|| {
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
                "tensor \"{}\" {:?} is not one that this architecture has by its config.json",
                shown(&name),
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
        let some: Vec<&str> = found.keys().map(|name| shown(name)).take(6).collect();
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

/// The file's bytes.
pub(super) fn serialise(tensors: &Tensors) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&String, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, numbers))| (name, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, (shape, _)), data) in tensors.iter().zip(bytes.values()) {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|error| {
            format!(
                "tensor \"{name}\": {}",
                redact::names_only(&error.to_string())
            )
        })?;
        views.push((name, view));
    }
    safetensors::serialize(views, None::<HashMap<String, String>>)
        .map_err(|error| redact::names_only(&error.to_string()))
}
