//! Rebuilds the demonstration model `feed-ranker` from made-up feed items and a stated rule:
//! `cargo run --release --example build_feed_ranker`. Deterministic; under a minute.

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "it builds a model from its own data, and may stop where it stands"
)]

mod writing;

use std::f32::consts::TAU;
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_model::Rows;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use writing::{Input, Tensor};

const VERSION: &str = "1.0.0";
const FEATURES: usize = 32;
const SIZES: [usize; 4] = [FEATURES, 256, 128, 1];
const TRAINING: usize = 200_000;
const HELD_OUT: usize = 10_000;
const EPOCHS: usize = 3;
const BATCH: usize = 64;
const RATE: f32 = 0.01;
/// How much each step pulls the weights towards zero.
const PULL: f32 = 2e-4;

/// An item and whether it was clicked.
struct Example {
    features: Vec<f32>,
    probability: f32,
    clicked: bool,
}

/// How likely a click is. Features 0 to 9 count, the others do not; see the model's README for their names.
fn rule(f: &[f32], noise: f32) -> f32 {
    let sum = 4.0 * (f[0] - 0.5)
        + 2.5 * (f[1] - 0.5)
        + 5.0 * (f[2] * f[3] - 0.25)
        + 1.5 * (TAU * f[4]).sin()
        - 6.0 * (f[5] - 0.6).powi(2)
        - 3.0 * f[6]
        + if f[7] > 0.8 { 2.0 } else { 0.0 }
        + 2.0 * (f[8] - f[9]).abs()
        - 0.5
        + noise;
    1.0 / (1.0 + (-sum).exp())
}

fn example(rng: &mut StdRng) -> Example {
    // Four decimals, as feeds send them.
    let features: Vec<f32> = (0..FEATURES)
        .map(|_| rng.random_range(0..10_000) as f32 / 10_000.0)
        .collect();
    // Nearly normal, with a standard deviation of a half.
    let noise = (0..12).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() / 2.0;
    let probability = rule(&features, 0.0);
    let clicked = rng.random::<f32>() < rule(&features, noise);
    Example {
        features,
        probability,
        clicked,
    }
}

fn main() -> Result<()> {
    let mut rng = StdRng::seed_from_u64(2);
    let training: Vec<Example> = (0..TRAINING).map(|_| example(&mut rng)).collect();
    let held_out: Vec<Example> = (0..HELD_OUT).map(|_| example(&mut rng)).collect();
    let layers = train(&training, &mut rng);

    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let golden: Vec<Input> = held_out
        .iter()
        .take(4)
        .map(|example| Input::Features(example.features.clone()))
        .collect();
    let tensors: Vec<Tensor> = layers
        .iter()
        .enumerate()
        .flat_map(|(i, layer)| layer.tensors(i))
        .collect();
    writing::write(
        &models,
        "feed-ranker",
        VERSION,
        &manifest(),
        &tensors,
        &golden,
    )?;

    let data = held_out
        .iter()
        .flat_map(|example| example.features.clone())
        .collect();
    let rows = Rows::Features {
        width: FEATURES,
        data,
    };
    let answers = writing::score(&models, "feed-ranker", VERSION, rows)?;
    let base = training.iter().filter(|e| e.clicked).count() as f32 / TRAINING as f32;
    let rows = [
        ("this model", answers),
        (
            "always the training set's share of clicks",
            vec![base; HELD_OUT],
        ),
        (
            "the rule itself",
            held_out.iter().map(|e| e.probability).collect(),
        ),
    ];
    println!(
        "on {HELD_OUT} held-out items, {:.1} % of them clicked:",
        100.0 * base
    );
    for (name, scores) in rows {
        println!(
            "  {name}: area under the curve {:.3}, log loss {:.3}",
            area(&held_out, &scores),
            log_loss(&held_out, &scores)
        );
    }
    Ok(())
}

fn manifest() -> String {
    format!(
        r#"# Made by `cargo run --release --example build_feed_ranker`; see ../README.md.
description = "How likely an item of a feed is to be clicked"
architecture = "mlp"
ttl_seconds = 900

[features]
count = {FEATURES}

[output]
task = "scalar"
activation = "sigmoid"

[mlp]
hidden = {:?}
activation = "relu""#,
        &SIZES[1..SIZES.len() - 1]
    )
}

/// A layer while it is learned: weights by input, then output, so that the inner loops run along memory.
struct Layer {
    outputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
    weight_gradients: Vec<f32>,
    bias_gradients: Vec<f32>,
    weight_squares: Vec<f32>,
    bias_squares: Vec<f32>,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, rng: &mut StdRng) -> Self {
        let most = (6.0 / inputs as f32).sqrt();
        Self {
            outputs,
            weights: (0..inputs * outputs)
                .map(|_| rng.random_range(-most..most))
                .collect(),
            bias: vec![0.0; outputs],
            weight_gradients: vec![0.0; inputs * outputs],
            bias_gradients: vec![0.0; outputs],
            weight_squares: vec![1e-6; inputs * outputs],
            bias_squares: vec![1e-6; outputs],
        }
    }

    fn forward(&self, input: &[f32]) -> Vec<f32> {
        let mut sums = self.bias.clone();
        for (&x, weights) in input.iter().zip(self.weights.chunks_exact(self.outputs)) {
            if x != 0.0 {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += x * weight;
                }
            }
        }
        sums
    }

    /// Adds an example's gradients; answers those of its input.
    fn backward(&mut self, input: &[f32], above: &[f32]) -> Vec<f32> {
        for (sum, gradient) in self.bias_gradients.iter_mut().zip(above) {
            *sum += gradient;
        }
        let rows = self.weights.chunks_exact(self.outputs);
        let gradients = self.weight_gradients.chunks_exact_mut(self.outputs);
        input
            .iter()
            .zip(rows.zip(gradients))
            .map(|(&x, (weights, gradients))| {
                // Below a unit that was silent nothing flows: neither its weights nor its inputs learn from it.
                if x == 0.0 {
                    return 0.0;
                }
                let mut back = 0.0;
                for ((gradient, weight), above) in gradients.iter_mut().zip(weights).zip(above) {
                    *gradient += x * above;
                    back += weight * above;
                }
                back
            })
            .collect()
    }

    fn step(&mut self) {
        let weights = self
            .weights
            .iter_mut()
            .zip(&mut self.weight_gradients)
            .zip(&mut self.weight_squares);
        let bias = self
            .bias
            .iter_mut()
            .zip(&mut self.bias_gradients)
            .zip(&mut self.bias_squares);
        for ((weight, gradient), squares) in weights.chain(bias) {
            let mean = *gradient / BATCH as f32 + PULL * *weight;
            *squares += mean * mean;
            *weight -= RATE * mean / squares.sqrt();
            *gradient = 0.0;
        }
    }

    /// As PyTorch lays a linear layer out: weights by output, then input.
    fn tensors(&self, i: usize) -> [Tensor; 2] {
        let inputs = self.weights.len() / self.outputs;
        let turned = (0..self.outputs)
            .flat_map(|o| (0..inputs).map(move |i| self.weights[i * self.outputs + o]))
            .collect();
        [
            Tensor {
                name: format!("layers.{i}.weight"),
                shape: vec![self.outputs, inputs],
                numbers: turned,
            },
            Tensor {
                name: format!("layers.{i}.bias"),
                shape: vec![self.outputs],
                numbers: self.bias.clone(),
            },
        ]
    }
}

fn train(examples: &[Example], rng: &mut StdRng) -> Vec<Layer> {
    let mut layers: Vec<Layer> = SIZES
        .windows(2)
        .map(|pair| Layer::new(pair[0], pair[1], rng))
        .collect();
    let steps = examples.len() / BATCH;
    let bar = ProgressBar::new((EPOCHS * steps) as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, loss {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    for _ in 0..EPOCHS {
        let mut loss = 0.0;
        for done in 1..=steps {
            for _ in 0..BATCH {
                loss += learn(&mut layers, &examples[rng.random_range(0..examples.len())]);
            }
            for layer in &mut layers {
                layer.step();
            }
            bar.set_message(format!("{:.3}", loss / (done * BATCH) as f32));
            bar.inc(1);
        }
    }
    bar.finish();
    layers
}

/// Adds one example's gradients; answers its loss.
fn learn(layers: &mut [Layer], example: &Example) -> f32 {
    let mut values = vec![example.features.clone()];
    for (i, layer) in layers.iter().enumerate() {
        let mut sums = layer.forward(&values[i]);
        if i + 1 < layers.len() {
            for sum in &mut sums {
                *sum = sum.max(0.0);
            }
        }
        values.push(sums);
    }
    let probability = 1.0 / (1.0 + (-values[layers.len()][0]).exp());
    let mut above = vec![probability - f32::from(u8::from(example.clicked))];
    for (layer, input) in layers.iter_mut().zip(&values).rev() {
        above = layer.backward(input, &above);
    }
    loss(probability, example.clicked)
}

fn loss(probability: f32, clicked: bool) -> f32 {
    let right = if clicked {
        probability
    } else {
        1.0 - probability
    };
    -right.max(1e-7).ln()
}

fn log_loss(examples: &[Example], scores: &[f32]) -> f32 {
    let losses = examples
        .iter()
        .zip(scores)
        .map(|(example, &score)| loss(score, example.clicked));
    losses.sum::<f32>() / examples.len() as f32
}

/// How often a clicked item scores above one that was not; a tie counts half.
fn area(examples: &[Example], scores: &[f32]) -> f64 {
    let split = |clicked: bool| {
        let mut scores: Vec<f32> = examples
            .iter()
            .zip(scores)
            .filter(|(example, _)| example.clicked == clicked)
            .map(|(_, &score)| score)
            .collect();
        scores.sort_by(f32::total_cmp);
        scores
    };
    let (clicked, passed) = (split(true), split(false));
    let above: f64 = clicked
        .iter()
        .map(|score| {
            let below = passed.partition_point(|other| other < score);
            let up_to = passed.partition_point(|other| other <= score);
            (below + up_to) as f64 / 2.0
        })
        .sum();
    above / (clicked.len() as f64 * passed.len() as f64)
}
