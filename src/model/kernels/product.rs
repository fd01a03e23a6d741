//! Products with packed weights.
//!
//! A block of rows and a panel of columns are multiplied in registers over the whole inner length, one fused multiply-add
//! an element and step, in order: the design of Goto and van de Geijn ("Anatomy of high-performance matrix
//! multiplication", 2008) without its split of the inner sum, which would make results depend on the batch.

use super::pointwise;
use super::team::Sharing;
use super::{PANEL, Panels, arch};
use pulp::{Simd, WithSimd};

/// Rows of a block. With two vectors a row it leaves room in 32 registers for the operands.
const BLOCK: usize = 12;

/// What happens to a product's sums, beside the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing.
    Plain,
    /// The exact GELU, by the error function.
    Gelu,
    /// GELU by a hyperbolic tangent.
    GeluTanh,
    Relu,
    Tanh,
}

/// Weights of a fully connected layer, packed once.
#[derive(Debug)]
pub struct PackedLinear {
    inputs: usize,
    outputs: usize,
    /// `[panels][inputs]` rows of one panel's columns.
    panels: Vec<[f32; PANEL]>,
    /// A panel's biases.
    bias: Vec<[f32; PANEL]>,
}

impl PackedLinear {
    /// Packs weights from PyTorch's layout `[outputs, inputs]`; no bias is zeros.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize) -> Self {
        let count = outputs.div_ceil(PANEL);
        let mut panels = vec![[0.0; PANEL]; count * inputs];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let base = output / PANEL * inputs;
            for (input, &number) in row.iter().enumerate() {
                panels[base + input][output % PANEL] = number;
            }
        }
        let mut biases = vec![[0.0; PANEL]; count];
        for (output, &number) in bias.unwrap_or_default().iter().enumerate() {
            biases[output / PANEL][output % PANEL] = number;
        }
        Self {
            inputs,
            outputs,
            panels,
            bias: biases,
        }
    }

    /// `finish(x · weights + bias)` of plain rows, row after row: `[rows, inputs]` to `[rows, outputs]`.
    pub fn forward(&self, x: &[f32], rows: usize, finish: Finish) -> Vec<f32> {
        let (mut from, mut to, mut packed) =
            (Panels::default(), Panels::default(), Packed::default());
        from.resize(rows, self.inputs);
        for (row, numbers) in x.chunks_exact(self.inputs).enumerate() {
            from.scatter(row, numbers);
        }
        packed.pack(&from);
        self.multiply(&packed, &mut to, finish, Sharing::Alone);
        let (mut all, mut row) = (Vec::with_capacity(rows * self.outputs), Vec::new());
        for i in 0..rows {
            to.gather(i, &mut row);
            all.extend_from_slice(&row);
        }
        all
    }

    /// The same between panels.
    pub(crate) fn multiply(&self, x: &Packed, into: &mut Panels, finish: Finish, sharing: Sharing) {
        let rows = x.rows;
        into.resize(rows, self.outputs);
        sharing.each_piece(into.all_mut(), rows, |panel, into| {
            let weights = &self.panels[panel * self.inputs..(panel + 1) * self.inputs];
            arch().dispatch(PanelProduct {
                x,
                weights,
                bias: &self.bias[panel],
                finish,
                into,
            });
        });
    }
}

/// The left side of a product: blocks of rows, `[blocks][inner][BLOCK]`, the last one filled up with zeros.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    rows: usize,
    inner: usize,
    blocks: Vec<[f32; BLOCK]>,
}

impl Packed {
    /// Makes it a matrix of that size, whose rows are put in one by one.
    pub fn start(&mut self, rows: usize, inner: usize) {
        self.rows = rows;
        self.inner = inner;
        let length = rows.div_ceil(BLOCK) * inner;
        if self.blocks.len() < length {
            self.blocks.resize(length, [0.0; BLOCK]);
        }
    }

    /// Writes a row. Rows of the last block that are never written keep what they held, which no result sees.
    #[inline(always)]
    pub fn put_row(&mut self, row: usize, numbers: &[f32]) {
        let block = &mut self.blocks[row / BLOCK * self.inner..];
        for (into, x) in block.iter_mut().zip(numbers) {
            into[row % BLOCK] = *x;
        }
    }

    /// Packs a matrix.
    pub fn pack(&mut self, x: &Panels) {
        self.start(x.rows(), x.columns());
        for (panel, at) in (0..self.inner).step_by(PANEL).enumerate() {
            let width = PANEL.min(self.inner - at);
            for (block, rows) in x.panel(panel).chunks(BLOCK).enumerate() {
                let into = &mut self.blocks[block * self.inner + at..][..width];
                match <&[[f32; PANEL]; BLOCK]>::try_from(rows) {
                    Ok(rows) => {
                        for (column, into) in into.iter_mut().enumerate() {
                            for (into, row) in into.iter_mut().zip(rows) {
                                *into = row[column];
                            }
                        }
                    }
                    Err(_) => {
                        for (column, into) in into.iter_mut().enumerate() {
                            *into = [0.0; BLOCK];
                            for (into, row) in into.iter_mut().zip(rows) {
                                *into = row[column];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// One panel of a product.
pub(super) struct PanelProduct<'a> {
    pub x: &'a Packed,
    /// `[inner]` rows of the panel's columns.
    pub weights: &'a [[f32; PANEL]],
    pub bias: &'a [f32; PANEL],
    pub finish: Finish,
    /// `[rows]`.
    pub into: &'a mut [[f32; PANEL]],
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let inner = self.x.inner;
        for (block, into) in self.into.chunks_mut(BLOCK).enumerate() {
            let rows = &self.x.blocks[block * inner..(block + 1) * inner];
            let mut sums = [[0.0; PANEL]; BLOCK];
            if S::F32_LANES * 2 == PANEL {
                match into.len() {
                    9.. => multiply_block::<S, 12>(simd, rows, 0, self.weights, &mut sums),
                    5..9 => multiply_block::<S, 8>(simd, rows, 0, self.weights, &mut sums),
                    _ => multiply_block::<S, 4>(simd, rows, 0, self.weights, &mut sums),
                }
            } else {
                // Narrower registers are also fewer.
                for first in (0..into.len()).step_by(4) {
                    multiply_block::<S, 4>(simd, rows, first, self.weights, &mut sums);
                }
            }
            pointwise::finish(into, &sums, self.bias, self.finish);
        }
    }
}

/// The sums of `ROWS` rows of a block, from `first` on, over one panel.
#[inline(always)]
fn multiply_block<S: Simd, const ROWS: usize>(
    simd: S,
    rows: &[[f32; BLOCK]],
    first: usize,
    weights: &[[f32; PANEL]],
    sums: &mut [[f32; PANEL]; BLOCK],
) {
    let vectors = PANEL / S::F32_LANES;
    for vector in (0..vectors).step_by(2) {
        let mut acc = [[simd.splat_f32s(0.0); 2]; ROWS];
        for (weights, row) in weights.iter().zip(rows) {
            let (weights, _) = S::as_simd_f32s(weights);
            let (left, right) = (weights[vector], weights[vector + 1]);
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = simd.splat_f32s(row[first + i]);
                acc[0] = simd.mul_add_f32s(x, left, acc[0]);
                acc[1] = simd.mul_add_f32s(x, right, acc[1]);
            }
        }
        for (acc, sums) in acc.iter().zip(&mut sums[first..]) {
            let (sums, _) = S::as_mut_simd_f32s(sums);
            sums[vector] = acc[0];
            sums[vector + 1] = acc[1];
        }
    }
}
