//! Fully connected layers in 8 bits.
//!
//! A weight is a signed byte times its output's scale. A row that goes in becomes unsigned bytes between its own smallest and
//! largest number, and 0 is one of them: 255 steps, which depend on that row and on nothing else. (Scales for a whole batch would
//! let a row's results depend on its company.) Sums are exact; what follows in floats is one conversion, one product and one
//! fused multiply-add, the same on every processor. The arithmetic is that of Jacob et al., "Quantization and Training of Neural
//! Networks for Efficient Integer-Arithmetic-Only Inference" (2018), with scales that are found when a row comes.

use super::bytes::{BLOCK, Block, GROUP, MAX_INPUTS, SMALL, Sums, Weights};
use super::levels::{arch, kernels};
use super::panels::{PANEL, Panels};
use super::pointwise::{self, Finish};
use super::threads::Sharing;
use pulp::{Simd, WithSimd};

/// Groups of a panel's columns.
const GROUPS: usize = PANEL / GROUP;
/// Rows that one thread turns into bytes at a time.
const PIECE_ROWS: usize = 8;
/// Adding it leaves a float's nearest whole number in the low bits.
const ROUND: f32 = 12_582_912.0;
/// A row whose numbers lie closer together counts as zeros: the step would be no normal number.
const MIN_STEP: f32 = 1e-30;

/// Weights of a fully connected layer in bytes, packed once.
#[derive(Debug)]
pub struct QuantisedLinear {
    inputs: usize,
    outputs: usize,
    /// `[panels][groups]`.
    weights: Vec<Weights>,
    /// Whether all of them are small.
    small: bool,
    /// What a panel's columns add beside the products.
    columns: Vec<Columns>,
}

/// A panel's columns.
#[derive(Debug, Clone)]
struct Columns {
    /// Sums of the weights.
    sums: [i32; PANEL],
    scales: [f32; PANEL],
    bias: [f32; PANEL],
}

/// Rows in bytes: a number is `step * (byte - zero)`.
#[derive(Debug, Default)]
pub(super) struct ByteRows {
    groups: usize,
    /// `[rows][groups]`.
    bytes: Vec<[u8; GROUP]>,
    steps: Vec<Step>,
}

/// How a row's bytes are its numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Step {
    step: f32,
    zero: i32,
}

impl QuantisedLinear {
    /// The longest row that a layer takes.
    pub const MAX_INPUTS: usize = MAX_INPUTS;

    /// Packs weights from PyTorch's layout `[outputs, inputs]`, each to be multiplied with its output's scale; no bias is zeros.
    ///
    /// # Panics
    /// If `inputs` is 0 or over [`Self::MAX_INPUTS`], `outputs` is 0, or there are more or fewer weights, scales or biases than these ask for.
    pub fn new(
        weight: &[i8],
        scales: &[f32],
        bias: Option<&[f32]>,
        inputs: usize,
        outputs: usize,
    ) -> Self {
        assert!(inputs > 0 && outputs > 0, "a layer without a size");
        assert!(inputs <= MAX_INPUTS, "more than {MAX_INPUTS} inputs");
        assert_eq!(weight.len(), inputs * outputs, "weights of the layer");
        assert_eq!(scales.len(), outputs, "scales of the layer");
        assert_eq!(
            bias.map_or(outputs, <[f32]>::len),
            outputs,
            "biases of the layer"
        );
        let count = outputs.div_ceil(PANEL);
        let groups = inputs.div_ceil(PANEL) * GROUPS;
        let mut weights = vec![[[0; GROUP]; PANEL]; count * groups];
        let none = Columns {
            sums: [0; PANEL],
            scales: [0.0; PANEL],
            bias: [0.0; PANEL],
        };
        let mut columns = vec![none; count];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let (panel, column) = (output / PANEL, output % PANEL);
            for (input, &number) in row.iter().enumerate() {
                weights[panel * groups + input / GROUP][column][input % GROUP] = number;
            }
            let columns = &mut columns[panel];
            columns.sums[column] = row.iter().map(|&number| i32::from(number)).sum();
            columns.scales[column] = scales[output];
            columns.bias[column] = bias.map_or(0.0, |bias| bias[output]);
        }
        Self {
            inputs,
            outputs,
            weights,
            small: weight.iter().all(|x| (-SMALL..=SMALL).contains(x)),
            columns,
        }
    }

    /// Rounds weights `[outputs, inputs]` to bytes between `-largest` and `largest`: the bytes, and each output's scale. Weights up to
    /// 64 are faster where the processor has AVX2 and no products of bytes of its own; 127 keeps a bit more.
    ///
    /// # Panics
    /// If `inputs` is 0 or the weights aren't whole rows of it, or `largest` isn't above 0.
    pub fn round(weight: &[f32], inputs: usize, largest: i8) -> (Vec<i8>, Vec<f32>) {
        assert!(largest > 0, "bytes up to {largest}");
        let limit = f32::from(largest);
        assert!(
            inputs > 0 && weight.len().is_multiple_of(inputs),
            "{} numbers are no rows of {inputs}",
            weight.len()
        );
        let mut bytes = Vec::with_capacity(weight.len());
        let scales = weight.chunks_exact(inputs).map(|row| {
            let largest = row.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let scale = largest / limit;
            let scale = if scale < MIN_STEP { 0.0 } else { scale };
            bytes.extend(row.iter().map(|x| {
                if scale > 0.0 {
                    (x / scale).round_ties_even().clamp(-limit, limit) as i8
                } else {
                    0
                }
            }));
            scale
        });
        let scales = scales.collect();
        (bytes, scales)
    }

    /// How many numbers a row has that goes in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// How many numbers a row has that comes out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `finish(x · weights + bias)` of plain rows, row after row: `[rows, inputs]` to `[rows, outputs]`, both sides of the product in
    /// bytes. Runs on this thread.
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
        let mut bytes = ByteRows::default();
        bytes.fill(&from, Sharing::Alone);
        self.multiply(&bytes, &mut to, finish, Sharing::Alone);
        let mut all = Vec::with_capacity(to.rows() * self.outputs);
        to.spill(&mut all);
        all
    }

    /// The same between bytes and panels.
    pub(super) fn multiply(
        &self,
        x: &ByteRows,
        into: &mut Panels,
        finish: Finish,
        sharing: Sharing,
    ) {
        let rows = x.steps.len();
        into.resize(rows, self.outputs);
        let kernels = kernels();
        sharing.each_piece(into.all_mut(), rows, |panel, into| {
            let weights = &self.weights[panel * x.groups..(panel + 1) * x.groups];
            let mut sums: Sums = [[0; PANEL]; BLOCK];
            let blocks = x.bytes.chunks(BLOCK * x.groups);
            let steps = x.steps.chunks(BLOCK);
            for ((rows, steps), into) in blocks.zip(steps).zip(into.chunks_mut(BLOCK)) {
                let block = Block {
                    rows,
                    weights,
                    small: self.small,
                };
                kernels.bytes.multiply(block, &mut sums);
                kernels.arch.dispatch(Scaling {
                    sums: &sums,
                    steps,
                    columns: &self.columns[panel],
                    finish,
                    into,
                });
            }
        });
    }
}

/// From sums to a block of the result.
struct Scaling<'a> {
    sums: &'a Sums,
    steps: &'a [Step],
    columns: &'a Columns,
    finish: Finish,
    /// As many rows as there are steps.
    into: &'a mut [[f32; PANEL]],
}

impl WithSimd for Scaling<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Columns { sums, scales, bias } = self.columns;
        let mut scaled = [[0.0; PANEL]; BLOCK];
        for ((scaled, found), step) in scaled.iter_mut().zip(self.sums).zip(self.steps) {
            for i in 0..PANEL {
                let whole = found[i].wrapping_sub(step.zero.wrapping_mul(sums[i]));
                scaled[i] = (whole as f32 * step.step).mul_add(scales[i], bias[i]);
            }
        }
        if self.finish == Finish::Relu {
            for x in scaled.as_flattened_mut() {
                // A NaN is not below zero, and stays.
                *x = if *x < 0.0 { 0.0 } else { *x };
            }
        }
        pointwise::finish(self.into, &scaled, self.finish);
    }
}

impl ByteRows {
    /// Makes it the rows of `x` in bytes.
    pub fn fill(&mut self, x: &Panels, sharing: Sharing) {
        self.groups = x.panels() * GROUPS;
        // What is left over from earlier uses is written over.
        self.bytes.resize(x.rows() * self.groups, [0; GROUP]);
        self.steps.resize(x.rows(), Step::default());
        let groups = self.groups;
        let mut rows: Vec<_> = self
            .bytes
            .chunks_exact_mut(groups)
            .zip(&mut self.steps)
            .collect();
        sharing.each_piece(&mut rows, PIECE_ROWS, |piece, rows| {
            arch().dispatch(Rounding {
                x,
                first: piece * PIECE_ROWS,
                rows,
            });
        });
    }
}

/// Some rows that become bytes.
struct Rounding<'a, 'b> {
    x: &'a Panels,
    first: usize,
    rows: &'a mut [(&'b mut [[u8; GROUP]], &'b mut Step)],
}

impl WithSimd for Rounding<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (i, (bytes, step)) in self.rows.iter_mut().enumerate() {
            let row = self.first + i;
            let (found, inverse) = step_of(self.x, row);
            **step = found;
            let shift = ROUND + found.zero as f32;
            let (chunks, _) = bytes.as_chunks_mut::<GROUPS>();
            for (panel, bytes) in chunks.iter_mut().enumerate() {
                let numbers = self.x.numbers(panel, row);
                let mut rounded = [0; PANEL];
                for (rounded, x) in rounded.iter_mut().zip(numbers) {
                    let whole = x.mul_add(inverse, shift).to_bits() as i32 - ROUND.to_bits() as i32;
                    *rounded = whole.clamp(0, 255) as u8;
                }
                *bytes = pulp::cast(rounded);
            }
        }
    }
}

/// The step of a row, and what its numbers are multiplied with.
#[inline(always)]
fn step_of(x: &Panels, row: usize) -> (Step, f32) {
    let (mut low, mut high, mut strange) = ([0.0_f32; PANEL], [0.0_f32; PANEL], [0.0_f32; PANEL]);
    for panel in 0..x.panels() {
        let numbers = x.numbers(panel, row);
        for i in 0..PANEL {
            low[i] = if numbers[i] < low[i] {
                numbers[i]
            } else {
                low[i]
            };
            high[i] = if numbers[i] > high[i] {
                numbers[i]
            } else {
                high[i]
            };
            // Stays zero unless a number isn't finite.
            strange[i] += numbers[i] * 0.0;
        }
    }
    let low = low.into_iter().fold(0.0, |a, b| if b < a { b } else { a });
    let high = high.into_iter().fold(0.0, |a, b| if b > a { b } else { a });
    // Halves, since the whole may be no finite number.
    let step = (high / 255.0) - (low / 255.0);
    let strange: f32 = strange.into_iter().sum();
    if strange.is_nan() {
        let step = f32::NAN;
        return (Step { step, zero: 0 }, 0.0);
    }
    if step < MIN_STEP {
        return (Step::default(), 0.0);
    }
    let inverse = 1.0 / step;
    let zero = (-low * inverse).round_ties_even().clamp(0.0, 255.0) as i32;
    (Step { step, zero }, inverse)
}
