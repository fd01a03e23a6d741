//! The weights of a layer.

use cudarc::driver::CudaSlice;
use kiln_kernels::Finish;

use super::device::Device;
use super::error::Error;
use super::matrix::{Matrix, padded};

/// One fully connected layer on a device: `finish(x · weights + bias)`.
pub struct Linear {
    /// `[outputs, inputs]`.
    pub(crate) weight: Matrix,
    pub(crate) bias: CudaSlice<f32>,
    pub(crate) finish: Finish,
}

impl Linear {
    /// Puts weights on the device, in PyTorch's layout `[outputs, inputs]`; no bias is zeros.
    ///
    /// # Errors
    /// If the device has no room.
    ///
    /// # Panics
    /// If `inputs` or `outputs` is 0, or there are more or fewer weights or biases than these ask for.
    pub fn new(
        device: &Device,
        weight: &[f32],
        bias: Option<&[f32]>,
        (inputs, outputs): (usize, usize),
        finish: Finish,
    ) -> Result<Self, Error> {
        assert!(inputs > 0 && outputs > 0, "a layer without a size");
        assert_eq!(weight.len(), inputs * outputs, "weights of the layer");
        assert_eq!(
            bias.map_or(outputs, <[f32]>::len),
            outputs,
            "biases of the layer"
        );
        let zeros = vec![0.0; outputs];
        Ok(Self {
            weight: Matrix::of(&device.stream, weight, inputs)?,
            bias: device.stream.clone_htod(bias.unwrap_or(&zeros))?,
            finish,
        })
    }

    pub(crate) fn assert_on(&self, device: &Device) {
        let of_layer = self.bias.ordinal();
        assert_eq!(
            of_layer,
            device.stream.context().ordinal(),
            "the layer's device"
        );
    }

    /// How many numbers a row has that goes in.
    pub fn inputs(&self) -> usize {
        self.weight.width
    }

    /// How many numbers a row has that comes out.
    pub fn outputs(&self) -> usize {
        self.weight.rows
    }
}

/// A layer norm on a device.
pub struct Norm {
    pub(crate) weight: CudaSlice<f32>,
    pub(crate) bias: CudaSlice<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// Puts a norm on the device.
    ///
    /// # Errors
    /// If the device has no room.
    ///
    /// # Panics
    /// If its weights and biases aren't as many.
    pub fn new(device: &Device, norm: &kiln_kernels::Norm) -> Result<Self, Error> {
        assert_eq!(norm.weight.len(), norm.bias.len(), "numbers of a norm");
        Ok(Self {
            weight: device.stream.clone_htod(&norm.weight)?,
            bias: device.stream.clone_htod(&norm.bias)?,
            eps: norm.eps,
        })
    }

    pub(crate) fn width(&self) -> usize {
        self.weight.len()
    }
}

/// Rows of a norm that a block of threads takes, one a warp, and the bytes of shared memory that they need: 48 KiB at most.
pub(crate) fn rows_of_block(width: usize) -> (u32, u32) {
    let bytes = width * 4;
    let rows = (48 * 1024 / bytes.max(1)).clamp(1, 4);
    (rows as u32, (rows * bytes) as u32)
}

/// The widest rows that a norm takes.
pub(crate) const MAX_WIDTH: usize = 48 * 1024 / 4;

/// Whether rows of that width can be copied from their middle, at any multiple of it.
pub(crate) fn is_padded(width: usize) -> bool {
    padded(width) == width
}
