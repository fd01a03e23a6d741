//! `mlp`: dense features through fully connected layers.

use burn::tensor::{Device, Tensor, activation};

use super::dense::{Dense, finish, in_tiles};
use super::error::LoadError;
use super::manifest::{HiddenActivation, Manifest, OutputActivation};
use super::network::{Batch, Network};
use super::weights::{Expected, Weights};

/// Multiplications worth waking another thread for.
const SHARE_WORK: usize = 8_000_000;

pub(crate) struct Mlp {
    width: usize,
    output_width: usize,
    scaling: Option<Scaling>,
    layers: Vec<Dense>,
    hidden: HiddenActivation,
    output: OutputActivation,
    work_per_row: usize,
    device: Device,
}

struct Scaling {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Mlp {
    /// The tensors of such a manifest: `layers.{i}.weight [out, in]` and `layers.{i}.bias [out]`.
    pub fn expected(manifest: &Manifest) -> Vec<Expected> {
        sizes(manifest)
            .windows(2)
            .enumerate()
            .flat_map(|(i, pair)| {
                [
                    Expected::new(format!("layers.{i}.weight"), [pair[1], pair[0]]),
                    Expected::new(format!("layers.{i}.bias"), [pair[1]]),
                ]
            })
            .collect()
    }

    /// Builds the layers from weights that were checked against [`Mlp::expected`].
    pub fn build(
        manifest: &Manifest,
        mut weights: Weights,
        device: &Device,
    ) -> Result<Self, LoadError> {
        let (Some(shape), Some(input)) = (&manifest.mlp, &manifest.features) else {
            return Err(LoadError::manifest("has no [mlp] or no [features] table"));
        };
        let layers = sizes(manifest)
            .windows(2)
            .enumerate()
            .map(|(i, pair)| {
                let weight = weights.take(&format!("layers.{i}.weight"));
                let bias = weights.take(&format!("layers.{i}.bias"));
                Dense::new(&weight, bias, pair[0], pair[1], device)
            })
            .collect();
        let scaling = match (&input.mean, &input.std) {
            (Some(mean), Some(std)) => Some(Scaling {
                mean: mean.clone(),
                std: std.clone(),
            }),
            _ => None,
        };
        Ok(Self {
            width: input.count,
            output_width: manifest.output_width(),
            scaling,
            layers,
            hidden: shape.activation,
            output: manifest.output.activation,
            work_per_row: weights.parameters(),
            device: device.clone(),
        })
    }

    fn layers(&self, mut x: Tensor<2>) -> Tensor<2> {
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            x = match self.hidden {
                _ if i == last => finish(x, self.output),
                HiddenActivation::Relu => activation::relu(x),
                HiddenActivation::Gelu => activation::gelu(x),
                HiddenActivation::Tanh => activation::tanh(x),
            };
        }
        x
    }
}

impl Network for Mlp {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Features(data) = batch else {
            unreachable!("rows were checked to be features")
        };
        let width = self.width;
        let fill = |rows: std::ops::Range<usize>, tile: &mut [f32]| {
            tile.copy_from_slice(&data[rows.start * width..rows.end * width]);
            if let Some(Scaling { mean, std }) = &self.scaling {
                for row in tile.chunks_exact_mut(width) {
                    for ((x, mean), std) in row.iter_mut().zip(mean).zip(std) {
                        *x = (*x - mean) / std;
                    }
                }
            }
        };
        in_tiles(
            data.len() / width,
            width,
            self.output_width,
            &self.device,
            fill,
            |x| self.layers(x),
        )
    }

    fn smallest_share(&self) -> usize {
        (SHARE_WORK / self.work_per_row.max(1)).max(1)
    }
}

fn sizes(manifest: &Manifest) -> Vec<usize> {
    let mut sizes = vec![manifest.features.as_ref().map_or(0, |input| input.count)];
    sizes.extend(manifest.mlp.iter().flat_map(|mlp| &mlp.hidden));
    sizes.push(manifest.output_width());
    sizes
}

#[cfg(test)]
mod tests;
