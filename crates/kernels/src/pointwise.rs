//! What happens number by number and row by row: activations, softmax, layer norm.
//!
//! Written as plain loops over fixed widths, which the compiler turns into vector instructions where they are inlined into
//! code for a processor that has them. None of them swallows a NaN.

use super::panels::PANEL;

/// What happens to a product's sums, beside the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing.
    Plain,
    /// The exact GELU, by the error function.
    Gelu,
    /// GELU by a hyperbolic tangent.
    GeluTanh,
    /// The larger one of the sum and 0.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
    /// The sum times its logistic function (SiLU).
    Silu,
}

/// Beyond these, an exponential is no normal 32-bit float: below, it counts as zero.
const EXP_MIN: f32 = -87.336_54;
const EXP_MAX: f32 = 88.0;
/// Adding it leaves a float's nearest whole number in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e to the x, to 2 units in the last place: Cephes' `expf` (Moshier), argument reduced by ln 2 in two parts.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons that a NaN fails, so that it goes through.
    let x = if x > EXP_MAX { EXP_MAX } else { x };
    let underflows = x < EXP_MIN;
    let x = if underflows { EXP_MIN } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let r = whole.mul_add(-0.693_359_4, x);
    let r = whole.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.0e-1,
    ] {
        p = p.mul_add(r, c);
    }
    let p = p.mul_add(r * r, r + 1.0);
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let e = p * power;
    if underflows { 0.0 } else { e }
}

/// The error function, to 3e-7: the quotient of polynomials in x squared that Eigen and XLA use for 32-bit floats.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let s = x * x;
    let mut p = -2.726_142_3e-10_f32;
    for c in [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_5e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ] {
        p = p.mul_add(s, c);
    }
    let mut q = -1.456_607_2e-5_f32;
    for c in [
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ] {
        q = q.mul_add(s, c);
    }
    x * p / q
}

/// GELU (Hendrycks and Gimpel, 2016): x times the normal distribution's share below it.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let half = 0.5 * x;
    half.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

/// Its approximation by a hyperbolic tangent, itself by the exponential.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let inner = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
    // x (1 + tanh u) / 2 is x / (1 + e^-2u).
    x / (1.0 + exp(-2.0 * inner))
}

/// The hyperbolic tangent by the exponential, to 2e-7.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The logistic function.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// SiLU (Elfwing, Uchibe and Doya, 2018), or Swish: x times its logistic function.
#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Writes a block's sums, activated, for as many rows as there are. A product has seen to ReLU itself.
#[inline(always)]
pub(super) fn finish(into: &mut [[f32; PANEL]], sums: &[[f32; PANEL]], finish: Finish) {
    #[inline(always)]
    fn each(into: &mut [[f32; PANEL]], sums: &[[f32; PANEL]], f: impl Fn(f32) -> f32) {
        for (into, sums) in into.iter_mut().zip(sums) {
            for (into, x) in into.iter_mut().zip(sums) {
                *into = f(*x);
            }
        }
    }
    match finish {
        Finish::Plain | Finish::Relu => each(into, sums, |x| x),
        Finish::Gelu => each(into, sums, gelu),
        Finish::GeluTanh => each(into, sums, gelu_tanh),
        Finish::Tanh => each(into, sums, tanh),
        Finish::Sigmoid => each(into, sums, sigmoid),
        Finish::Silu => each(into, sums, silu),
    }
}

/// The sum of `f` over a row, in [`PANEL`] partial sums that are added up in order.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = row.as_chunks::<PANEL>();
    let mut parts = [0.0; PANEL];
    for chunk in chunks {
        for i in 0..PANEL {
            parts[i] += f(chunk[i]);
        }
    }
    for (part, &x) in parts.iter_mut().zip(rest) {
        *part += f(x);
    }
    // Halves fold onto each other, which the compiler does in registers.
    let mut width = PANEL / 2;
    while width > 0 {
        for i in 0..width {
            parts[i] += parts[i + width];
        }
        width /= 2;
    }
    parts[0]
}

/// Scales a row of scores and turns it into probabilities.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32], scale: f32) {
    let mut max = [f32::NEG_INFINITY; PANEL];
    let (chunks, rest) = row.as_chunks::<PANEL>();
    for chunk in chunks {
        for i in 0..PANEL {
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
        }
    }
    for (max, &x) in max.iter_mut().zip(rest) {
        *max = if x > *max { x } else { *max };
    }
    let max = max
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let offset = max * scale;
    for x in row.iter_mut() {
        *x = exp(x.mul_add(scale, -offset));
    }
    let sum = sum(row, |x| x);
    let factor = 1.0 / sum;
    for x in row.iter_mut() {
        *x *= factor;
    }
}

/// Layer norm (Ba, Kiros and Hinton, 2016) of a row, in two passes.
#[inline(always)]
pub(super) fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let count = row.len() as f32;
    let mean = sum(row, |x| x) / count;
    let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
    let factor = 1.0 / (variance + eps).sqrt();
    for ((x, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
        *x = ((*x - mean) * factor).mul_add(*weight, *bias);
    }
}
