//! Fully connected layers in burn, in tiles of rows whose results don't depend on their neighbours.
//!
//! The product's kernels choose how they order their sums by the shape they are given: over 64 rows a long inner sum is
//! cut differently than under, over 256 rows a single output column takes another path, and one row alone takes a third.
//! Tiles of 2 to 64 rows stay on one path, so that a row's result is the same bits in every batch; they are also
//! the fastest size, since a tile's activations stay in the processor's nearest caches. A graphics processor takes a whole
//! pass as one tile, and may round a row otherwise beside others.

use burn_tensor::{Device, Tensor, TensorData, activation};

use super::hardware::Hardware;
use super::manifest::OutputActivation;
use super::product::{Parts, Products};

/// Maximum of rows in a tile.
const MAX_TILE_ROWS: usize = 64;
/// Minimum: a tile of one row is filled up with zeros.
const MIN_TILE_ROWS: usize = 2;
/// Maximum on a graphics processor, where each tile costs a way there and back.
const MAX_GRAPHICS_ROWS: usize = 16_384;
/// What a tile's rows are a multiple of there: a kernel is compiled for sizes of each kind, and is faster for even ones.
const GRAPHICS_ROWS: usize = 64;

/// A layer `x · weight + bias`.
pub(crate) struct Dense {
    /// `[inputs, outputs]`, each input's row contiguous: the layout that the kernels read without packing.
    weight: Parts<2>,
    products: Products,
    /// `[1, outputs]`.
    bias: Tensor<2>,
}

impl Dense {
    /// Builds a layer from PyTorch's layout, weights `[outputs, inputs]`.
    pub fn new(
        weight: &[f32],
        bias: Vec<f32>,
        inputs: usize,
        outputs: usize,
        hardware: &Hardware,
    ) -> Self {
        let device = &hardware.device;
        let turned: Vec<f32> = (0..inputs)
            .flat_map(|input| weight.iter().skip(input).step_by(inputs))
            .copied()
            .collect();
        Self {
            weight: hardware.products.parts(Tensor::from_data(
                TensorData::new(turned, [inputs, outputs]),
                device,
            )),
            products: hardware.products,
            bias: Tensor::from_data(TensorData::new(bias, [1, outputs]), device),
        }
    }

    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.products.parts(x).times(&self.weight) + self.bias.clone()
    }
}

/// What turns the last layer's sums into outputs.
pub(crate) fn finish(x: Tensor<2>, by: OutputActivation) -> Tensor<2> {
    match by {
        OutputActivation::Sigmoid => activation::sigmoid(x),
        OutputActivation::Softmax => activation::softmax(x, 1),
        OutputActivation::Identity => x,
    }
}

/// How rows are cut into tiles, and where these run.
pub(crate) struct Tiles {
    pub device: Device,
    max_rows: usize,
    /// A tile is filled up with zeros to a multiple of this.
    step: usize,
}

impl Tiles {
    /// What suits the hardware.
    pub fn on(hardware: &Hardware) -> Self {
        let (max_rows, step) = if hardware.is_gpu() {
            (MAX_GRAPHICS_ROWS, GRAPHICS_ROWS)
        } else {
            (MAX_TILE_ROWS, 1)
        };
        Self {
            device: hardware.device.clone(),
            max_rows,
            step,
        }
    }

    /// Runs `layers` over rows of `width` numbers, tile by tile, and gathers what comes out. `fill` writes the
    /// tile's rows, given their range, into the buffer handed to it, which comes zeroed.
    pub fn run(
        &self,
        rows: usize,
        width: usize,
        output_width: usize,
        mut fill: impl FnMut(std::ops::Range<usize>, &mut [f32]),
        layers: impl Fn(Tensor<2>) -> Tensor<2>,
    ) -> Vec<f32> {
        let mut outputs = Vec::with_capacity(rows * output_width);
        for start in (0..rows).step_by(self.max_rows) {
            let end = rows.min(start + self.max_rows);
            let tile_rows = (end - start).max(MIN_TILE_ROWS).next_multiple_of(self.step);
            let mut tile = vec![0.0; tile_rows * width];
            let (rows, _) = tile.split_at_mut((end - start) * width);
            fill(start..end, rows);
            let x = Tensor::from_data(TensorData::new(tile, [tile_rows, width]), &self.device);
            let mut numbers = numbers(layers(x));
            numbers.truncate((end - start) * output_width);
            outputs.extend(numbers);
        }
        outputs
    }
}

/// A tensor's numbers, row after row.
///
/// # Panics
/// If they aren't 32-bit floats, which every backend keeps: only by a bug. The runner turns the panic into an error of the request.
#[allow(clippy::expect_used, reason = "see above")]
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_into_vec::<f32>()
        .expect("32-bit floats come out of 32-bit layers")
}
