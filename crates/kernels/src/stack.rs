//! Fully connected layers one after the other.

use super::panels::Panels;
use super::pointwise::Finish;
use super::product::PackedLinear;
use super::threads::Sharing;
use std::cell::RefCell;

/// Rows that go through all layers at a time: what they need stays in the processor's nearest caches.
const PIECE_ROWS: usize = 96;

/// Fully connected layers, each with what its sums go through.
#[derive(Debug)]
pub struct Stack {
    inputs: usize,
    layers: Vec<(PackedLinear, Finish)>,
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    x: Panels,
    next: Panels,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Stack {
    /// Layers of which the first takes `inputs` numbers, and each other one what the one before gives.
    ///
    /// # Panics
    /// If `inputs` is 0, or a layer takes another number of inputs than it would get.
    pub fn new(inputs: usize, layers: Vec<(PackedLinear, Finish)>) -> Self {
        assert!(inputs > 0, "rows without numbers");
        let mut width = inputs;
        for (i, (layer, _)) in layers.iter().enumerate() {
            assert_eq!(layer.inputs(), width, "inputs of layer {i}");
            width = layer.outputs();
        }
        Self { inputs, layers }
    }

    /// The outputs of rows of `inputs` numbers, row after row. Runs on this thread.
    ///
    /// # Panics
    /// If `rows` isn't whole rows.
    pub fn forward(&self, rows: &[f32]) -> Vec<f32> {
        assert!(
            rows.len().is_multiple_of(self.inputs),
            "{} numbers are no rows of {}",
            rows.len(),
            self.inputs
        );
        let width = self
            .layers
            .last()
            .map_or(self.inputs, |(layer, _)| layer.outputs());
        let mut outputs = Vec::with_capacity(rows.len() / self.inputs * width);
        SCRATCH.with_borrow_mut(|scratch| {
            for rows in rows.chunks(PIECE_ROWS * self.inputs) {
                scratch.forward(self, rows, &mut outputs);
            }
        });
        outputs
    }
}

impl Scratch {
    fn forward(&mut self, stack: &Stack, rows: &[f32], outputs: &mut Vec<f32>) {
        self.x.fill(rows, stack.inputs);
        for (layer, finish) in &stack.layers {
            layer.multiply(&self.x, &mut self.next, *finish, Sharing::Alone);
            std::mem::swap(&mut self.x, &mut self.next);
        }
        self.x.spill(outputs);
    }
}
