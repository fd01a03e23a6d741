//! Products with packed weights.
//!
//! A block of rows and a panel of columns are multiplied in registers over the whole inner length, one fused multiply-add
//! an element and step, in order: the design of Goto and van de Geijn ("Anatomy of high-performance matrix
//! multiplication", 2008) without its split of the inner sum, which would make results depend on the batch.

use super::levels::arch;
use super::panels::{PANEL, Panels};
use super::pointwise::{self, Finish};
use super::threads::Sharing;
use pulp::{Simd, WithSimd};

/// Rows of a block. With two vectors a row it leaves room in 32 registers for the operands.
const BLOCK: usize = 12;

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
    /// Packs weights from PyTorch's layout `[outputs, inputs]`, an output's weights one after the other; no bias is zeros.
    ///
    /// # Panics
    /// If `inputs` or `outputs` is 0, or there are more or fewer weights or biases than these ask for.
    pub fn new(weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize) -> Self {
        assert!(inputs > 0 && outputs > 0, "a layer without a size");
        assert_eq!(weight.len(), inputs * outputs, "weights of the layer");
        assert_eq!(
            bias.map_or(outputs, <[f32]>::len),
            outputs,
            "biases of the layer"
        );
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

    /// How many numbers a row has that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How many numbers a row has that comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `finish(x · weights + bias)` of plain rows, row after row: `[rows, inputs]` to `[rows, outputs]`. Runs on this thread.
    ///
    /// # Panics
    /// If `x` isn't whole rows.
    pub fn forward(&self, x: &[f32], finish: Finish) -> Vec<f32> {
        assert!(
            x.len().is_multiple_of(self.inputs),
            "{} numbers are no rows of {}",
            x.len(),
            self.inputs
        );
        let (mut from, mut to) = (Panels::default(), Panels::default());
        from.fill(x, self.inputs);
        self.multiply(&from, &mut to, finish, Sharing::Alone);
        let mut all = Vec::with_capacity(to.rows() * self.outputs);
        to.spill(&mut all);
        all
    }

    /// The same between panels.
    pub(crate) fn multiply(&self, x: &Panels, into: &mut Panels, finish: Finish, sharing: Sharing) {
        into.resize(x.rows(), self.outputs);
        sharing.each_piece(into.all_mut(), x.rows(), |panel, into| {
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

/// One panel of a product.
pub(super) struct PanelProduct<'a> {
    pub x: &'a Panels,
    /// One row of the panel's columns for each column of `x`.
    pub weights: &'a [[f32; PANEL]],
    pub bias: &'a [f32; PANEL],
    pub finish: Finish,
    /// As many rows as `x` has.
    pub into: &'a mut [[f32; PANEL]],
}

impl WithSimd for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Narrower registers are also fewer.
        let block = if S::F32_LANES * 2 < PANEL { 4 } else { BLOCK };
        let mut sums = [[0.0; PANEL]; BLOCK];
        for (i, into) in self.into.chunks_mut(block).enumerate() {
            let piece = Piece {
                x: self.x,
                first: i * block,
                weights: self.weights,
                bias: self.bias,
                relu: self.finish == Finish::Relu,
            };
            match into.len() {
                1 => piece.multiply::<S, 1>(simd, &mut sums),
                2 => piece.multiply::<S, 2>(simd, &mut sums),
                3 => piece.multiply::<S, 3>(simd, &mut sums),
                4 => piece.multiply::<S, 4>(simd, &mut sums),
                5 => piece.multiply::<S, 5>(simd, &mut sums),
                6 => piece.multiply::<S, 6>(simd, &mut sums),
                7 => piece.multiply::<S, 7>(simd, &mut sums),
                8 => piece.multiply::<S, 8>(simd, &mut sums),
                9 => piece.multiply::<S, 9>(simd, &mut sums),
                10 => piece.multiply::<S, 10>(simd, &mut sums),
                11 => piece.multiply::<S, 11>(simd, &mut sums),
                _ => piece.multiply::<S, BLOCK>(simd, &mut sums),
            }
            pointwise::finish(into, &sums, self.finish);
        }
    }
}

/// Some rows of a product's left side, and a panel.
#[derive(Clone, Copy)]
struct Piece<'a> {
    x: &'a Panels,
    /// The first of the rows.
    first: usize,
    weights: &'a [[f32; PANEL]],
    bias: &'a [f32; PANEL],
    relu: bool,
}

impl Piece<'_> {
    /// The sums of `ROWS` rows with the bias, into the first rows of `sums`.
    #[inline(always)]
    fn multiply<S: Simd, const ROWS: usize>(self, simd: S, sums: &mut [[f32; PANEL]; BLOCK]) {
        let zero = simd.splat_f32s(0.0);
        let (bias, _) = S::as_simd_f32s(self.bias);
        for vector in (0..PANEL / S::F32_LANES).step_by(2) {
            let mut acc = [[zero; 2]; ROWS];
            for (panel, weights) in self.weights.chunks(PANEL).enumerate() {
                let rows = &self.x.panel(panel)[self.first..self.first + ROWS];
                let Some(rows) = rows.first_chunk::<ROWS>() else {
                    return;
                };
                // The range tells the compiler that no column lies outside the panel.
                for (column, weights) in (0..PANEL).zip(weights) {
                    let (weights, _) = S::as_simd_f32s(weights);
                    let (left, right) = (weights[vector], weights[vector + 1]);
                    for (row, acc) in rows.iter().zip(&mut acc) {
                        let x = simd.splat_f32s(row[column]);
                        acc[0] = simd.mul_add_f32s(x, left, acc[0]);
                        acc[1] = simd.mul_add_f32s(x, right, acc[1]);
                    }
                }
            }
            for (acc, sums) in acc.iter().zip(sums.iter_mut()) {
                let (sums, _) = S::as_mut_simd_f32s(sums);
                for half in 0..2 {
                    let mut x = simd.add_f32s(acc[half], bias[vector + half]);
                    if self.relu {
                        // A NaN is not below zero, and stays.
                        x = simd.select_f32s(simd.less_than_f32s(x, zero), zero, x);
                    }
                    sums[vector + half] = x;
                }
            }
        }
    }
}
