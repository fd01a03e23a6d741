//! Every kernel against the same arithmetic in 64 bits, over sizes that don't fit its blocks.

use super::panels::{PANEL, Panels};
use super::*;

mod attention;
mod embedding_bag;
mod quantised;
mod shapes;

/// What an activation is in 64 bits.
type Exact = fn(f64) -> f64;

/// Numbers that look random, between -1 and 1.
struct Numbers(u64);

impl Numbers {
    fn one(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.one()).collect()
    }
}

fn panels(rows: &[f32], columns: usize) -> Panels {
    let mut panels = Panels::default();
    // What a buffer held before must not matter.
    panels.resize(rows.len() / columns + 5, columns + 40);
    panels.all_mut().fill([f32::NAN; PANEL]);
    panels.fill(rows, columns);
    panels
}

fn rows(panels: &Panels) -> Vec<f32> {
    let mut all = Vec::new();
    panels.spill(&mut all);
    all
}

fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        assert!(
            difference <= tolerance * expected.abs().max(1.0),
            "number {i}: expected {expected}, found {found}"
        );
    }
}

/// erf by its Taylor series, in 64 bits; beyond 4 it is 1 to 2e-8, and the series cancels.
fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

#[test]
fn the_exponential_and_the_error_function_hold_over_their_range() {
    for i in -200_000..=200_000 {
        let x = i as f32 * 4.3e-4;
        let exact = f64::from(x).exp();
        let relative = (f64::from(pointwise::exp(x)) - exact).abs() / exact;
        assert!(relative < 2e-7, "exp({x}) is off by {relative:e}");
        let x = i as f32 * 3e-5;
        let difference = (f64::from(pointwise::erf(x)) - erf(f64::from(x))).abs();
        assert!(difference < 4e-7, "erf({x}) is off by {difference:e}");
    }
    assert_eq!(pointwise::exp(-200.0), 0.0);
    assert_eq!(pointwise::exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(
        [pointwise::erf(9.0), pointwise::erf(-9.0)].map(|x| (x * 1e6).round()),
        [1e6, -1e6]
    );
    assert!(pointwise::exp(f32::NAN).is_nan() && pointwise::erf(f32::NAN).is_nan());
}

#[test]
fn products_of_every_shape() {
    let mut numbers = Numbers(7);
    for (inputs, outputs) in [
        (1, 1),
        (3, 5),
        (31, 33),
        (32, 32),
        (40, 64),
        (129, 96),
        (200, 7),
    ] {
        let weight = numbers.many(inputs * outputs);
        let bias = numbers.many(outputs);
        let layer = PackedLinear::new(&weight, Some(&bias), inputs, outputs);
        for count in [1, 2, 4, 5, 8, 9, 11, 12, 13, 25, 40] {
            let x = numbers.many(count * inputs);
            let exact: Vec<f64> = x
                .chunks(inputs)
                .flat_map(|x| {
                    weight.chunks(inputs).zip(&bias).map(move |(weight, bias)| {
                        let sum: f64 = x
                            .iter()
                            .zip(weight)
                            .map(|(a, b)| f64::from(*a) * f64::from(*b))
                            .sum();
                        sum + f64::from(*bias)
                    })
                })
                .collect();
            let finishes: [(Finish, Exact); 7] = [
                (Finish::Plain, |x| x),
                (Finish::Gelu, gelu),
                (Finish::GeluTanh, gelu_tanh),
                (Finish::Relu, |x| x.max(0.0)),
                (Finish::Tanh, f64::tanh),
                (Finish::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
                (Finish::Silu, |x| x / (1.0 + (-x).exp())),
            ];
            for (finish, by) in finishes {
                let expected: Vec<f64> = exact.iter().copied().map(by).collect();
                let all = layer.forward(&x, finish);
                assert_near(&all, &expected, 4e-6);
                for (row, x) in x.chunks(inputs).enumerate() {
                    let alone = layer.forward(x, finish);
                    assert_eq!(
                        alone,
                        all[row * outputs..(row + 1) * outputs],
                        "row {row} of {count}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_nan_goes_through_every_activation() {
    let layer = PackedLinear::new(&[1.0; 4], None, 2, 2);
    for finish in [
        Finish::Plain,
        Finish::Gelu,
        Finish::GeluTanh,
        Finish::Relu,
        Finish::Tanh,
        Finish::Sigmoid,
        Finish::Silu,
    ] {
        let out = layer.forward(&[f32::NAN, 1.0, 1.0, 1.0], finish);
        assert!(
            out[0].is_nan() && out[1].is_nan() && out[2].is_finite(),
            "{finish:?}"
        );
    }
    let mut row = [0.0, f32::NAN, 1.0];
    pointwise::softmax(&mut row, 1.0);
    assert!(row.iter().all(|x| x.is_nan()));
}

#[test]
fn layer_norm_of_every_width() {
    let mut numbers = Numbers(13);
    for width in [1, 7, 32, 33, 96, 384] {
        let (weight, bias) = (numbers.many(width), numbers.many(width));
        let mut row: Vec<f32> = numbers
            .many(width)
            .iter()
            .map(|x| x * 9.0 + 100.0)
            .collect();
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
        let variance = row
            .iter()
            .map(|x| (f64::from(*x) - mean).powi(2))
            .sum::<f64>()
            / width as f64;
        let expected: Vec<f64> = row
            .iter()
            .zip(weight.iter().zip(&bias))
            .map(|(x, (w, b))| {
                (f64::from(*x) - mean) / (variance + 1e-5).sqrt() * f64::from(*w) + f64::from(*b)
            })
            .collect();
        pointwise::layer_norm(&mut row, &weight, &bias, 1e-5);
        assert_near(&row, &expected, 2e-5);
    }
}

#[test]
fn a_stack_is_its_layers_one_after_the_other() {
    let mut numbers = Numbers(23);
    for widths in [vec![7, 5], vec![40, 70, 3], vec![64, 33, 1, 50]] {
        let layers: Vec<(PackedLinear, Finish)> = widths
            .windows(2)
            .map(|pair| {
                let weight = numbers.many(pair[0] * pair[1]);
                let bias = numbers.many(pair[1]);
                let layer = PackedLinear::new(&weight, Some(&bias), pair[0], pair[1]);
                (layer, Finish::Tanh)
            })
            .collect();
        let rows = numbers.many(widths[0] * 230);
        let mut expected = rows.clone();
        for (layer, finish) in &layers {
            expected = layer.forward(&expected, *finish);
        }
        let stack = Stack::new(widths[0], layers);
        assert_eq!(stack.forward(&rows), expected);
        assert_eq!(
            stack.forward(&rows[..widths[0]]),
            expected[..widths[widths.len() - 1]]
        );
    }
}

/// A small encoder with random weights.
fn encoder() -> Encoder {
    let mut numbers = Numbers(19);
    let hidden = 48;
    let norm = |numbers: &mut Numbers| Norm {
        weight: numbers.many(hidden),
        bias: numbers.many(hidden),
        eps: 1e-12,
    };
    let linear = |numbers: &mut Numbers, inputs: usize, outputs: usize| {
        let weight: Vec<f32> = numbers
            .many(inputs * outputs)
            .iter()
            .map(|x| x * 0.3)
            .collect();
        let bias = numbers.many(outputs);
        PackedLinear::new(&weight, Some(&bias), inputs, outputs).into()
    };
    let layers = (0..2)
        .map(|_| Layer {
            query_key_value: linear(&mut numbers, hidden, 3 * hidden),
            attended: linear(&mut numbers, hidden, hidden),
            attended_norm: norm(&mut numbers),
            up: linear(&mut numbers, hidden, 100),
            gate: None,
            down: linear(&mut numbers, 100, hidden),
            norm: norm(&mut numbers),
        })
        .collect();
    let tables = Tables {
        words: numbers.many(50 * hidden),
        positions: Some(numbers.many(200 * hidden)),
        types: None,
        norm: norm(&mut numbers),
    };
    Encoder::new(hidden, 3, 2, Finish::Gelu, tables, layers)
}

#[test]
fn a_texts_vector_doesnt_know_its_batch_or_the_threads() {
    let encoder = encoder();
    let lengths: Vec<usize> = (0..40).map(|i| 1 + i * 37 % 90).collect();
    let ids: Vec<u32> = (0..lengths.iter().sum::<usize>())
        .map(|i| (i * 31 % 50) as u32)
        .collect();
    let encode = |ids: &[u32], lengths: &[usize], pool: &ThreadPool| {
        let texts = Texts {
            ids,
            types: &[],
            lengths,
        };
        encoder.encode(texts, Pooling::Mean, pool)
    };
    let pools = [1, 2, 5].map(|threads| ThreadPool::start("kernel", threads, || ()).unwrap());
    let all = encode(&ids, &lengths, &pools[0]);
    for pool in &pools[1..] {
        assert_eq!(encode(&ids, &lengths, pool), all);
    }
    let mut from = 0;
    for (i, &length) in lengths.iter().enumerate() {
        for pool in &pools {
            let alone = encode(&ids[from..from + length], &[length], pool);
            assert_eq!(
                alone,
                all[i * 48..(i + 1) * 48],
                "text {i} of {length} tokens"
            );
        }
        from += length;
    }
}

#[test]
fn no_texts_have_no_vectors() {
    let pool = ThreadPool::start("kernel", 2, || ()).unwrap();
    let none = Texts {
        ids: &[],
        types: &[],
        lengths: &[],
    };
    assert_eq!(encoder().encode(none, Pooling::Mean, &pool), []);
    assert!(ThreadPool::start("kernel", 0, || ()).unwrap().count() > 0);
}
