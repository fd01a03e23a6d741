//! The layers against sums by hand, backend against backend, and every batch against the whole.

use std::sync::Arc;

use crate::fixtures::{
    ModelsDir, Named, PROCESSORS, furthest, layers, mlp_manifest, numbers, same_bits, score, wait,
};
use crate::{Backend, Model, ModelError, Registry, Rows};

/// Wide and narrow layers, a sum long enough to be cut, and a single input, output and hidden unit.
const SHAPES: [&[usize]; 7] = [
    &[32, 256, 128, 1],
    &[7, 5, 3],
    &[1, 1, 1],
    &[2, 3],
    &[700, 40, 33, 3],
    &[520, 300, 600, 70],
    &[33, 17, 65, 129],
];

fn models(
    sizes: &[usize],
    threads: usize,
    backend: Backend,
) -> (ModelsDir, Arc<Registry>, Arc<Model>) {
    let models = ModelsDir::new();
    models.put("m", "1", &mlp_manifest(sizes), &layers(sizes, 5));
    let registry = models.open_on(backend, threads);
    let model = registry.resolve("m").unwrap();
    (models, registry, model)
}

fn rows(width: usize, data: &[f32]) -> Rows {
    Rows::Features {
        width,
        data: data.to_vec(),
    }
}

/// Against a thousand rows at once; a batch of each of these sizes.
fn scores_the_same_in_every_batch(
    sizes: &[usize],
    backend: Backend,
    counts: impl Iterator<Item = usize>,
) {
    let (width, outputs) = (sizes[0], sizes[sizes.len() - 1]);
    let data = numbers(1024 * width, 3);
    let (_models, _registry, model) = models(sizes, 1, backend);
    let whole = score(&model, rows(width, &data));
    for count in counts {
        // From a row that differs with the size, so that rows meet other neighbours.
        let start = count * 7;
        let part = score(
            &model,
            rows(width, &data[start * width..(start + count) * width]),
        );
        let expected = &whole[start * outputs..(start + count) * outputs];
        assert!(
            same_bits(&part, expected),
            "{sizes:?} in a batch of {count} on {backend:?}"
        );
    }
    for threads in [2, 5] {
        let (_models, _registry, model) = models(sizes, threads, backend);
        let split = score(&model, rows(width, &data));
        assert!(same_bits(&split, &whole), "{sizes:?} on {threads} threads");
    }
}

#[test]
fn a_row_scores_the_same_in_every_batch() {
    for sizes in SHAPES {
        scores_the_same_in_every_batch(sizes, Backend::Cpu, 1..=67);
    }
}

#[test]
fn a_row_scores_the_same_in_every_batch_of_the_graph() {
    for sizes in SHAPES {
        let counts = [1, 2, 3, 16, 63, 64, 65, 67].into_iter();
        scores_the_same_in_every_batch(sizes, Backend::Flex, counts);
    }
}

#[derive(Clone, Copy)]
enum Hidden {
    Relu,
    Gelu,
    Tanh,
}

/// The error function by its series, in 64 bits: good to 1e-12 for the arguments that occur here.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// The layers by hand, in 64 bits: the sums before the output's activation.
fn by_hand(layers: &[Named], row: &[f32], hidden: Hidden) -> Vec<f64> {
    let mut x: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    let last = layers.len() / 2 - 1;
    for (i, pair) in layers.chunks_exact(2).enumerate() {
        let (weight, bias) = (&pair[0].numbers, &pair[1].numbers);
        x = weight
            .chunks_exact(x.len())
            .zip(bias)
            .map(|(weights, &bias)| {
                let sum: f64 = weights.iter().zip(&x).map(|(&w, x)| f64::from(w) * x).sum();
                let sum = sum + f64::from(bias);
                match hidden {
                    _ if i == last => sum,
                    Hidden::Relu => sum.max(0.0),
                    Hidden::Gelu => 0.5 * sum * (1.0 + erf(sum / std::f64::consts::SQRT_2)),
                    Hidden::Tanh => sum.tanh(),
                }
            })
            .collect();
    }
    x
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(sums: &[f64]) -> Vec<f64> {
    let total: f64 = sums.iter().map(|x| x.exp()).sum();
    sums.iter().map(|x| x.exp() / total).collect()
}

#[test]
fn agrees_with_sums_by_hand() {
    let cases = [
        ("relu", Hidden::Relu),
        ("gelu", Hidden::Gelu),
        ("tanh", Hidden::Tanh),
    ];
    for (name, hidden) in cases {
        for outputs in ["sigmoid", "softmax", "identity"] {
            let width = if outputs == "softmax" { 3 } else { 1 };
            let sizes = [9, 16, 8, width];
            let layers = layers(&sizes, 21);
            let manifest = mlp_manifest(&sizes)
                .replace("\"relu\"", &format!("{name:?}"))
                .replace("\"sigmoid\"", &format!("{outputs:?}"));
            let models = ModelsDir::new();
            models.put("m", "1", &manifest, &layers);
            let data: Vec<f32> = numbers(100 * 9, 4).iter().map(|x| x * 8.0).collect();
            let answers = PROCESSORS.iter().map(|backend| {
                let registry = models.open_on(*backend, 2);
                score(&registry.resolve("m").unwrap(), rows(9, &data))
            });
            let scored: Vec<f32> = answers.flatten().collect();
            let data = data.chunks_exact(9).cycle();
            for (row, found) in data.zip(scored.chunks_exact(width)) {
                let sums = by_hand(&layers, row, hidden);
                let expected = match outputs {
                    "sigmoid" => sums.iter().map(|&x| sigmoid(x)).collect(),
                    "softmax" => softmax(&sums),
                    _ => sums,
                };
                for (found, expected) in found.iter().zip(&expected) {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(
                        difference < 2e-6 * expected.abs().max(1.0),
                        "{name} {outputs}: {found} is not {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn standardises_features_first() {
    let sizes = [3, 4, 1];
    let layers = layers(&sizes, 2);
    let manifest = mlp_manifest(&sizes).replace(
        "count = 3",
        "count = 3\nmean = [1.0, -2.0, 100.0]\nstd = [2.0, 0.5, 50.0]",
    );
    let models = ModelsDir::new();
    models.put("m", "1", &manifest, &layers);
    let registry = models.open();
    let model = registry.resolve("m").unwrap();
    let found = score(&model, rows(3, &[3.0, -2.5, 150.0]))[0];
    let expected = sigmoid(by_hand(&layers, &[1.0, -1.0, 1.0], Hidden::Relu)[0]);
    assert!(
        (f64::from(found) - expected).abs() < 1e-6,
        "{found} is not {expected}"
    );
}

#[test]
fn an_answer_that_is_no_number_is_an_error() {
    let (_models, _registry, model) = models(&[2, 3], 1, Backend::Cpu);
    let mut data = vec![0.5; 2 * 100];
    data[2 * 71] = f32::INFINITY;
    let error = wait(model.score(rows(2, &data))).unwrap_err();
    assert_eq!(error, ModelError::NotFinite { row: 71 });
}

/// Layers that give numbers of the size that they take, as trained ones do: the sums of 600 random ones beside them would be so
/// large that rounding them shows in a softmax.
fn even_layers(sizes: &[usize]) -> Vec<Named> {
    let mut layers = layers(sizes, 5);
    for layer in &mut layers {
        if let [_, inputs] = layer.shape[..] {
            let factor = 4.0 / (inputs as f32).sqrt();
            layer.numbers.iter_mut().for_each(|x| *x *= factor);
        }
    }
    layers
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[test]
fn a_graphics_processor_agrees_with_the_kernels() {
    for sizes in SHAPES {
        let models = ModelsDir::new();
        models.put("m", "1", &mlp_manifest(sizes), &even_layers(sizes));
        let (on_kernels, data) = (models.open_on(Backend::Cpu, 2), numbers(1100 * sizes[0], 3));
        for backend in crate::fixtures::GRAPHICS {
            let registry = models.open_on(*backend, 2);
            for count in [1, 2, 63, 64, 65, 1100] {
                let data = &data[..count * sizes[0]];
                let [found, expected] = [&registry, &on_kernels]
                    .map(|registry| score(&registry.resolve("m").unwrap(), rows(sizes[0], data)));
                let furthest = furthest(&found, &expected);
                assert!(furthest < 1e-4, "{count} rows of {sizes:?}: {furthest}");
            }
        }
    }
}

#[test]
fn the_kernels_and_every_graph_agree() {
    for sizes in SHAPES {
        let data = numbers(200 * sizes[0], 3);
        let models = ModelsDir::new();
        models.put("m", "1", &mlp_manifest(sizes), &even_layers(sizes));
        let answers: Vec<Vec<f32>> = PROCESSORS
            .iter()
            .map(|backend| {
                let registry = models.open_on(*backend, 2);
                score(&registry.resolve("m").unwrap(), rows(sizes[0], &data))
            })
            .collect();
        for (backend, answer) in PROCESSORS.iter().zip(&answers) {
            let furthest = furthest(answer, &answers[0]);
            assert!(furthest < 1e-5, "{sizes:?} on {backend:?}: {furthest}");
        }
    }
}
