//! Writes a model version as `kiln` reads it: weights, manifest, golden inputs that the loaded model itself answered.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kiln_model::{ModelSettings, Registry, Rows, TextRow};
use safetensors::tensor::{Dtype, TensorView, serialize};
use sha2::{Digest, Sha256};

/// A tensor by its name and shape.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub numbers: Vec<f32>,
}

/// A golden input.
#[allow(dead_code, reason = "each builder makes one kind")]
pub enum Input {
    Text(&'static str),
    Features(Vec<f32>),
}

/// Writes `folder/model.safetensors` and `folder/manifest.toml`: the given text, the weights table, and a golden entry
/// per input with what the model answers.
pub fn write(
    models: &Path,
    name: &str,
    version: &str,
    manifest: &str,
    tensors: &[Tensor],
    golden: &[Input],
) -> Result<()> {
    let folder = models.join(name).join(version);
    fs::create_dir_all(&folder)?;
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            tensor
                .numbers
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect()
        })
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(tensor, bytes)| {
            Ok((
                tensor.name.as_str(),
                TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let file = serialize(views, None)?;
    fs::write(folder.join("model.safetensors"), &file)?;
    let mut manifest = format!(
        "{}\n\n[weights]\nfile = \"model.safetensors\"\nsha256 = \"{}\"\n",
        manifest.trim(),
        hex::encode(Sha256::digest(&file))
    );
    let path = folder.join("manifest.toml");
    fs::write(&path, &manifest)?;

    for input in golden {
        let outputs = answer(models, name, version, input)?;
        let shown = match input {
            Input::Text(text) => format!("text = {text:?}"),
            Input::Features(features) => format!("features = {features:?}"),
        };
        manifest += &format!("\n[[golden]]\n{shown}\nexpect = {outputs:?}\n");
    }
    fs::write(&path, &manifest)?;
    let registry = open(models)?;
    registry
        .resolve(&format!("{name}@{version}"))
        .context("the model just written")?;
    Ok(())
}

/// What the written model answers.
pub fn answer(models: &Path, name: &str, version: &str, input: &Input) -> Result<Vec<f32>> {
    let rows = match input {
        Input::Text(text) => return Ok(answers(models, name, version, &[text])?.concat()),
        Input::Features(features) => Rows::Features {
            width: features.len(),
            data: features.clone(),
        },
    };
    score(models, name, version, rows)
}

/// What the written model answers to texts.
pub fn answers(models: &Path, name: &str, version: &str, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    let registry = open(models)?;
    let model = registry.resolve(&format!("{name}@{version}"))?;
    let rows = texts
        .iter()
        .map(|text| TextRow {
            text: model.normalise(text).into_owned(),
            text_pair: None,
        })
        .collect();
    let outputs = score(models, name, version, Rows::Texts(rows))?;
    Ok(outputs
        .chunks_exact(model.info().output_width)
        .map(<[f32]>::to_vec)
        .collect())
}

/// What the written model answers to rows.
pub fn score(models: &Path, name: &str, version: &str, rows: Rows) -> Result<Vec<f32>> {
    let registry = open(models)?;
    let model = registry.resolve(&format!("{name}@{version}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let outputs = runtime.block_on(model.score(rows))?.outputs;
    ensure!(!outputs.is_empty(), "no outputs");
    Ok(outputs)
}

fn open(models: &Path) -> Result<std::sync::Arc<Registry>> {
    Ok(Registry::open(&ModelSettings {
        dir: models.to_owned(),
        ..ModelSettings::default()
    })?)
}
