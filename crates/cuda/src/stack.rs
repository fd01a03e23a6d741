//! Layers one after the other.

use std::sync::{Arc, PoisonError};

use super::device::Device;
use super::error::Error;
use super::linear::Linear;
use super::matrix::Matrix;
use super::pass::Workspace;

/// Rows that go through at a time, and numbers of the widest layer, 512 MiB: they bound the memory.
const MAX_ROWS: usize = 16_384;
pub(crate) const MAX_NUMBERS: usize = 1 << 27;

/// Fully connected layers one after the other, over rows of plain numbers.
pub struct Stack {
    device: Arc<Device>,
    width: usize,
    layers: Vec<Linear>,
}

impl Stack {
    /// Layers over rows of `width` numbers.
    ///
    /// # Panics
    /// If a layer's inputs aren't the outputs of the one before.
    pub fn new(device: &Arc<Device>, width: usize, layers: Vec<Linear>) -> Self {
        let mut before = width;
        for layer in &layers {
            layer.assert_on(device);
            assert_eq!(layer.inputs(), before, "inputs of a layer");
            before = layer.outputs();
        }
        Self {
            device: Arc::clone(device),
            width,
            layers,
        }
    }

    /// What comes out of rows, one after the other.
    ///
    /// # Errors
    /// If the device fails, or has no room.
    ///
    /// # Panics
    /// If `x` isn't whole rows.
    pub fn forward(&self, x: &[f32]) -> Result<Vec<f32>, Error> {
        assert!(
            x.len().is_multiple_of(self.width),
            "{} numbers are no rows of {}",
            x.len(),
            self.width
        );
        let mut outputs = Vec::new();
        let widths = self.layers.iter().map(Linear::outputs);
        let widest = widths.chain([self.width]).max().unwrap_or(1);
        let rows = (MAX_NUMBERS / widest).clamp(1, MAX_ROWS);
        for piece in x.chunks(rows * self.width) {
            let piece = self.piece(piece).inspect_err(|_| self.device.examine())?;
            outputs.extend(piece);
        }
        Ok(outputs)
    }

    fn piece(&self, x: &[f32]) -> Result<Vec<f32>, Error> {
        let x = Matrix::of(&self.device.stream, x, self.width)?;
        let mut space = self
            .device
            .space
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Workspace { wide, added, .. } = &mut *space;
        through(&self.device, &x, &self.layers, [wide, added])
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.device.enter();
    }
}

/// Sends rows through layers, with two buffers in turn, and reads what comes out.
pub(crate) fn through(
    device: &Device,
    x: &Matrix,
    layers: &[Linear],
    [mut one, mut other]: [&mut Matrix; 2],
) -> Result<Vec<f32>, Error> {
    let Some((first, rest)) = layers.split_first() else {
        return x.read(&device.stream);
    };
    device.product(x, first, None, one)?;
    for layer in rest {
        device.product(one, layer, None, other)?;
        std::mem::swap(&mut one, &mut other);
    }
    one.read(&device.stream)
}
