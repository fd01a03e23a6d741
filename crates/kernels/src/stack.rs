//! Fully connected layers one after the other.

use super::Panels;
use super::product::{Finish, PackedLinear};
use super::team::Sharing;
use std::cell::RefCell;

/// Rows that go through all layers at a time: what they need stays in the processor's nearest caches.
const PIECE_ROWS: usize = 96;

/// Layers, each with what its sums go through.
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
    pub fn new(inputs: usize, layers: Vec<(PackedLinear, Finish)>) -> Self {
        Self { inputs, layers }
    }

    /// The outputs of rows of `inputs` numbers, row after row.
    pub fn forward(&self, rows: &[f32]) -> Vec<f32> {
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
