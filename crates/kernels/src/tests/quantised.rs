//! Layers in bytes against the same arithmetic written out, bit for bit, and against 64 bits.

use super::Numbers;
use crate::{Finish, QuantisedLinear};

/// A layer and what it was made of.
struct Case {
    layer: QuantisedLinear,
    weight: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

fn case(numbers: &mut Numbers, inputs: usize, outputs: usize, largest: i8) -> Case {
    let (weight, scales) = QuantisedLinear::round(&numbers.many(inputs * outputs), inputs, largest);
    let bias = numbers.many(outputs);
    Case {
        layer: QuantisedLinear::new(&weight, &scales, Some(&bias), inputs, outputs),
        weight,
        scales,
        bias,
        inputs,
    }
}

/// What a layer promises for one row, a number at a time.
fn in_order(case: &Case, x: &[f32]) -> Vec<f32> {
    let low = x.iter().fold(0.0_f32, |a, &b| a.min(b));
    let high = x.iter().fold(0.0_f32, |a, &b| a.max(b));
    let step = high / 255.0 - low / 255.0;
    let (inverse, step) = if step < 1e-30 {
        (0.0, 0.0)
    } else {
        (1.0 / step, step)
    };
    let zero = (-low * inverse).round_ties_even();
    let bytes: Vec<i64> = x
        .iter()
        .map(|x| (f64::from(*x) * f64::from(inverse) + f64::from(zero)).round_ties_even())
        .map(|x| x.clamp(0.0, 255.0) as i64)
        .collect();
    let rows = case.weight.chunks(case.inputs);
    rows.zip(case.scales.iter().zip(&case.bias))
        .map(|(weight, (scale, bias))| {
            let products = bytes
                .iter()
                .zip(weight)
                .map(|(x, w)| (x - zero as i64) * i64::from(*w));
            let sum: i64 = products.sum();
            (sum as f32 * step).mul_add(*scale, *bias)
        })
        .collect()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn layers_in_bytes_are_the_same_arithmetic_for_every_shape() {
    let mut numbers = Numbers(41);
    for (inputs, outputs) in [
        (1, 1),
        (3, 5),
        (31, 33),
        (32, 32),
        (40, 64),
        (129, 96),
        (200, 7),
    ] {
        for largest in [1, 64, 65, 127] {
            let case = case(&mut numbers, inputs, outputs, largest);
            for count in [1, 2, 3, 4, 11, 12, 13, 25] {
                let spread = 10.0_f32.powi(count as i32 % 9 - 4);
                let x = numbers.many(count * inputs);
                let x: Vec<f32> = x.iter().map(|x| x * spread).collect();
                let all = case.layer.forward(&x, Finish::Plain);
                for (row, x) in x.chunks(inputs).enumerate() {
                    let found = &all[row * outputs..(row + 1) * outputs];
                    assert_eq!(
                        bits(found),
                        bits(&in_order(&case, x)),
                        "row {row} of {count}"
                    );
                    let alone = case.layer.forward(x, Finish::Plain);
                    assert_eq!(bits(&alone), bits(found), "row {row} of {count}, alone");
                }
            }
        }
    }
}

#[test]
fn layers_in_bytes_are_near_those_in_floats() {
    let mut numbers = Numbers(43);
    let (inputs, outputs) = (384, 96);
    let weight = numbers.many(inputs * outputs);
    let x = numbers.many(inputs * 5);
    for (largest, tolerance) in [(64, 0.25), (127, 0.15)] {
        let (bytes, scales) = QuantisedLinear::round(&weight, inputs, largest);
        let layer = QuantisedLinear::new(&bytes, &scales, None, inputs, outputs);
        let found = layer.forward(&x, Finish::Plain);
        let mut pairs = found.iter();
        for x in x.chunks(inputs) {
            for weight in weight.chunks(inputs) {
                let products = x.iter().zip(weight);
                let exact: f64 = products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let difference = (f64::from(*pairs.next().unwrap()) - exact).abs();
                // Of sums that are about 6.5 large.
                assert!(
                    difference < tolerance,
                    "{difference} with weights to {largest}"
                );
            }
        }
    }
}

#[test]
fn the_largest_sums_are_exact() {
    let inputs = QuantisedLinear::MAX_INPUTS;
    for weight in [i8::MIN, -127, -64, 64, 127] {
        let layer = QuantisedLinear::new(&vec![weight; inputs], &[1.0], None, inputs, 1);
        // Bytes of 255, and of 0 and 255 with a zero between.
        for pattern in [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]] {
            let x: Vec<f32> = pattern.iter().copied().cycle().take(inputs).collect();
            let exact: f64 = x.iter().map(|x| f64::from(*x) * f64::from(weight)).sum();
            let found = f64::from(layer.forward(&x, Finish::Plain)[0]);
            let tolerance = 5e-3 * inputs as f64 * f64::from(weight).abs();
            assert!((found - exact).abs() <= tolerance, "{found}, not {exact}");
        }
    }
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_rows() {
    let mut numbers = Numbers(47);
    let case = case(&mut numbers, 40, 35, 64);
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = numbers.many(40 * 14);
        let before = case.layer.forward(&x, Finish::Gelu);
        x[40 * 5 + 17] = strange;
        let found = case.layer.forward(&x, Finish::Gelu);
        for (row, found) in found.chunks(35).enumerate() {
            if row == 5 {
                assert!(found.iter().all(|x| x.is_nan()), "{strange}");
            } else {
                assert_eq!(bits(found), bits(&before[row * 35..(row + 1) * 35]));
            }
        }
    }
}

#[test]
fn rows_without_a_step_give_the_biases() {
    let mut numbers = Numbers(53);
    let case = case(&mut numbers, 33, 40, 127);
    for x in [0.0, -0.0, 1e-40, -1e-32] {
        assert_eq!(case.layer.forward(&[x; 33], Finish::Plain), case.bias);
    }
    let largest = case.layer.forward(&[f32::MAX; 33], Finish::Plain);
    assert!(largest.iter().all(|x| !x.is_nan()));
    let (bytes, scales) = QuantisedLinear::round(&[0.0; 6], 3, 64);
    assert_eq!((bytes, scales), (vec![0; 6], vec![0.0; 2]));
}

#[test]
fn weights_are_rounded_to_the_limit_by_output() {
    let weight = [0.5, -1.0, 0.25, 10.0, 5.0, -2.5];
    let (bytes, scales) = QuantisedLinear::round(&weight, 3, 100);
    assert_eq!(bytes, [50, -100, 25, 100, 50, -25]);
    assert_eq!(scales, [1.0 / 100.0, 10.0 / 100.0]);
}

#[test]
fn every_activation_is_that_of_the_other_layers() {
    let mut numbers = Numbers(59);
    let case = case(&mut numbers, 64, 33, 64);
    let x: Vec<f32> = numbers.many(64 * 13).iter().map(|x| x * 3.0).collect();
    let sums = case.layer.forward(&x, Finish::Plain);
    // A layer of one input and output, whose weight is 1, leaves its input as it is.
    let one = crate::PackedLinear::new(&[1.0], None, 1, 1);
    for finish in [
        Finish::Gelu,
        Finish::GeluTanh,
        Finish::Relu,
        Finish::Tanh,
        Finish::Sigmoid,
    ] {
        let expected = one.forward(&sums, finish);
        assert_eq!(
            bits(&case.layer.forward(&x, finish)),
            bits(&expected),
            "{finish:?}"
        );
    }
}
