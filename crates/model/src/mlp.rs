//! `mlp`: dense features through fully connected layers.

use burn_tensor::{Tensor, activation};

use super::dense::{Dense, Tiles, finish};
use super::error::LoadError;
use super::hardware::Hardware;
#[cfg(feature = "cuda")]
use super::hardware::{card_refusal, card_result};
use super::manifest::{FeatureInput, HiddenActivation, Manifest, OutputActivation};
use super::network::{Batch, Network};
use super::weights::{Expected, Weights};
use kiln_kernels::{self as kernels, Finish, PackedLinear, Stack};

/// Multiplications worth waking another thread for.
const SHARE_WORK: usize = 4_000_000;
/// Rows for which kernels of different sizes are chosen.
const WARM_ROWS: [usize; 3] = [1, 128, 1024];
/// Multiplications that take hardly more time than handing them to a thread: some sixty microseconds.
const QUICK_WORK: usize = 7_000_000;

pub(crate) struct Mlp {
    width: usize,
    output_width: usize,
    scaling: Option<Scaling>,
    body: Body,
    output: OutputActivation,
    work_per_row: usize,
}

enum Body {
    /// On the processor's own kernels.
    Kernels(Stack),
    /// On a graphics processor's own kernels.
    #[cfg(feature = "cuda")]
    Card(kiln_cuda::Stack),
    /// As burn operations.
    Graph {
        layers: Vec<Dense>,
        hidden: HiddenActivation,
        tiles: Tiles,
    },
}

struct Scaling {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Mlp {
    /// The tensors of such a manifest: `layers.{i}.weight [out, in]` and `layers.{i}.bias [out]`.
    pub fn expected(manifest: &Manifest) -> Vec<Expected> {
        layer_sizes(manifest)
            .into_iter()
            .enumerate()
            .flat_map(|(i, (inputs, outputs))| {
                [
                    Expected::new(format!("layers.{i}.weight"), [outputs, inputs]),
                    Expected::new(format!("layers.{i}.bias"), [outputs]),
                ]
            })
            .collect()
    }

    /// Builds the layers from weights that were checked against [`Mlp::expected`].
    pub fn build(
        manifest: &Manifest,
        mut weights: Weights,
        hardware: &Hardware,
    ) -> Result<Self, LoadError> {
        let (Some(shape), Some(input)) = (&manifest.mlp, &manifest.features) else {
            return Err(LoadError::manifest("has no [mlp] or no [features] table"));
        };
        let sizes = layer_sizes(manifest);
        let last = sizes.len() - 1;
        let mut layer = |i: usize| {
            (
                weights.take(&format!("layers.{i}.weight")),
                weights.take(&format!("layers.{i}.bias")),
            )
        };
        let finish = |i: usize| match (shape.activation, manifest.output.activation) {
            (_, OutputActivation::Sigmoid) if i == last => Finish::Sigmoid,
            _ if i == last => Finish::Plain,
            (HiddenActivation::Relu, _) => Finish::Relu,
            (HiddenActivation::Gelu, _) => Finish::Gelu,
            (HiddenActivation::Tanh, _) => Finish::Tanh,
        };
        let numbered = sizes.iter().enumerate();
        #[cfg(feature = "cuda")]
        if let Some(card) = hardware.card() {
            let layers = numbered.map(|(i, &size)| {
                let (weight, bias) = layer(i);
                kiln_cuda::Linear::new(card, &weight, Some(&bias), size, finish(i))
            });
            let layers = layers.collect::<Result<_, _>>();
            let layers = layers.map_err(|error| card_refusal(&error))?;
            let body = Body::Card(kiln_cuda::Stack::new(card, input.count, layers));
            return Ok(Self::of(manifest, input, body, weights.parameters()));
        }
        let body = if hardware.has_kernels() {
            let layers = numbered.map(|(i, &(from, to))| {
                let (weight, bias) = layer(i);
                (PackedLinear::new(&weight, Some(&bias), from, to), finish(i))
            });
            Body::Kernels(Stack::new(input.count, layers.collect()))
        } else {
            let layers = sizes.iter().enumerate().map(|(i, &(from, to))| {
                let (weight, bias) = layer(i);
                Dense::new(&weight, bias, from, to, hardware)
            });
            Body::Graph {
                layers: layers.collect(),
                hidden: shape.activation,
                tiles: Tiles::on(hardware),
            }
        };
        Ok(Self::of(manifest, input, body, weights.parameters()))
    }

    fn of(manifest: &Manifest, input: &FeatureInput, body: Body, parameters: usize) -> Self {
        let scaling = match (&input.mean, &input.std) {
            (Some(mean), Some(std)) => Some(Scaling {
                mean: mean.clone(),
                std: std.clone(),
            }),
            _ => None,
        };
        Self {
            width: input.count,
            output_width: manifest.output_width(),
            scaling,
            body,
            output: manifest.output.activation,
            work_per_row: parameters,
        }
    }

    /// Subtracts the means and divides by the deviations, if the manifest has them.
    fn scale(&self, rows: &mut [f32]) {
        let Some(Scaling { mean, std }) = &self.scaling else {
            return;
        };
        for row in rows.chunks_exact_mut(self.width) {
            for ((x, mean), std) in row.iter_mut().zip(mean).zip(std) {
                *x = (*x - mean) / std;
            }
        }
    }

    /// On kernels that take rows as they are.
    fn on_kernels(&self, stack: impl Fn(&[f32]) -> Vec<f32>, data: &[f32]) -> Vec<f32> {
        let mut outputs = if self.scaling.is_some() {
            let mut scaled = data.to_vec();
            self.scale(&mut scaled);
            stack(&scaled)
        } else {
            stack(data)
        };
        if self.output == OutputActivation::Softmax {
            outputs
                .chunks_exact_mut(self.output_width)
                .for_each(kernels::softmax);
        }
        outputs
    }
}

fn graph(
    layers: &[Dense],
    hidden: HiddenActivation,
    output: OutputActivation,
    mut x: Tensor<2>,
) -> Tensor<2> {
    let last = layers.len() - 1;
    for (i, layer) in layers.iter().enumerate() {
        x = layer.forward(x);
        x = match hidden {
            _ if i == last => finish(x, output),
            HiddenActivation::Relu => activation::relu(x),
            HiddenActivation::Gelu => activation::gelu(x),
            HiddenActivation::Tanh => activation::tanh(x),
        };
    }
    x
}

impl Network for Mlp {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Features(data) = batch else {
            unreachable!("rows were checked to be features")
        };
        let width = self.width;
        match &self.body {
            Body::Kernels(stack) => self.on_kernels(|rows| stack.forward(rows), data),
            #[cfg(feature = "cuda")]
            Body::Card(stack) => self.on_kernels(|rows| card_result(stack.forward(rows)), data),
            Body::Graph {
                layers,
                hidden,
                tiles,
            } => tiles.run(
                data.len() / width,
                width,
                self.output_width,
                |rows, tile| {
                    let from = data.chunks_exact(width).skip(rows.start);
                    for (into, row) in tile.chunks_exact_mut(width).zip(from) {
                        into.copy_from_slice(row);
                    }
                    self.scale(tile);
                },
                |x| graph(layers, *hidden, self.output, x),
            ),
        }
    }

    fn is_on_device(&self) -> bool {
        !matches!(self.body, Body::Kernels(_))
    }

    fn warm(&self, pass: usize) -> bool {
        if !matches!(self.body, Body::Graph { .. }) {
            return false;
        }
        let rows = WARM_ROWS.get(pass);
        if let Some(rows) = rows {
            self.forward(Batch::Features(&vec![0.0; rows * self.width]));
        }
        rows.is_some()
    }

    fn smallest_share(&self) -> usize {
        (SHARE_WORK / self.work_per_row.max(1)).max(1)
    }

    fn quick_rows(&self) -> usize {
        match self.body {
            Body::Kernels(_) => QUICK_WORK / self.work_per_row.max(1),
            _ => 0,
        }
    }
}

/// The layers' inputs and outputs.
fn layer_sizes(manifest: &Manifest) -> Vec<(usize, usize)> {
    let count = manifest.features.as_ref().map_or(0, |input| input.count);
    let hidden = manifest.mlp.iter().flat_map(|mlp| mlp.hidden.clone());
    let outputs: Vec<usize> = hidden.chain([manifest.output_width()]).collect();
    let inputs = [count].into_iter().chain(outputs.iter().copied());
    inputs.zip(outputs.iter().copied()).collect()
}

#[cfg(test)]
mod tests;
