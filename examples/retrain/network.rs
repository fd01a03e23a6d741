//! A network of one hidden layer while it learns: burn's tensors and gradients, and steps by Adam (Kingma and Ba, 2014).

use anyhow::{Result, anyhow};
use burn_tensor::{Device, Tensor, TensorData, activation};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Units of the hidden layer.
pub const HIDDEN: usize = 32;
const EPOCHS: usize = 40;
const BATCH: usize = 64;
const RATE: f32 = 0.005;
/// How much of the means of gradients and of their squares stays with each step.
const KEPT: (f32, f32) = (0.9, 0.999);
/// Narrower features are spread by one: they say nothing.
const MIN_DEVIATION: f32 = 1e-6;

/// Rows of features with their labels, 0 or 1.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub width: usize,
    pub features: &'a [f32],
    pub labels: &'a [f32],
}

/// What was learnt, as a manifest and its weights hold it.
pub struct Learnt {
    pub mean: Vec<f32>,
    pub std: Vec<f32>,
    /// By output, then input.
    pub weights: [Vec<f32>; 2],
    pub biases: [Vec<f32>; 2],
}

/// Weights that learn, on the way to which gradients are remembered.
struct Parameter {
    value: Tensor<2>,
    /// Means of the gradients and of their squares.
    means: (Tensor<2>, Tensor<2>),
}

impl Parameter {
    fn new(shape: [usize; 2], spread: f32, rng: &mut StdRng, device: &Device) -> Self {
        let numbers: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| spread * (2.0 * rng.random::<f32>() - 1.0))
            .collect();
        let zeros = || Tensor::zeros(shape, device);
        Self {
            value: Tensor::from_data(TensorData::new(numbers, shape), device),
            means: (zeros(), zeros()),
        }
    }

    /// The same numbers, whose gradient is wanted.
    fn leaf(&self) -> Tensor<2> {
        self.value.clone().autodiff().require_grad()
    }

    fn step(&mut self, gradient: Tensor<2>, number: i32) {
        let (first, second) = &mut self.means;
        let square = gradient.clone() * gradient.clone();
        *first = first.clone() * KEPT.0 + gradient * (1.0 - KEPT.0);
        *second = second.clone() * KEPT.1 + square * (1.0 - KEPT.1);
        // Both begin at zero, and would be too small at first.
        let mean = first.clone() / (1.0 - KEPT.0.powi(number));
        let size = (second.clone() / (1.0 - KEPT.1.powi(number))).sqrt() + 1e-8;
        self.value = self.value.clone() - mean / size * RATE;
    }

    fn numbers(tensor: Tensor<2>) -> Result<Vec<f32>> {
        let numbers = tensor.into_data().try_into_vec::<f32>();
        numbers.map_err(|error| anyhow!("{error:?}"))
    }
}

/// Learns from the rows.
pub fn train(rows: Rows) -> Result<Learnt> {
    let mut rng = StdRng::seed_from_u64(1);
    let device = Device::flex();
    let (mean, std) = scale(rows);
    let spread = |inputs: usize| (6.0 / inputs as f32).sqrt();
    let mut parameters = [
        Parameter::new([rows.width, HIDDEN], spread(rows.width), &mut rng, &device),
        Parameter::new([1, HIDDEN], 0.0, &mut rng, &device),
        Parameter::new([HIDDEN, 1], spread(HIDDEN), &mut rng, &device),
        Parameter::new([1, 1], 0.0, &mut rng, &device),
    ];
    let mut order: Vec<usize> = (0..rows.labels.len()).collect();
    let mut number = 0;
    for _ in 0..EPOCHS {
        order.shuffle(&mut rng);
        for batch in order.chunks(BATCH) {
            let row = |i: usize| &rows.features[i * rows.width..][..rows.width];
            let scaled = batch.iter().flat_map(|&i| {
                let row = row(i).iter().zip(&mean).zip(&std);
                row.map(|((x, mean), std)| (x - mean) / std)
            });
            let features = TensorData::new(scaled.collect::<Vec<f32>>(), [batch.len(), rows.width]);
            let labels: Vec<f32> = batch.iter().map(|&i| rows.labels[i]).collect();
            let labels = TensorData::new(labels, [batch.len(), 1]);
            let leaves = parameters.each_ref().map(Parameter::leaf);
            let mut gradients = loss(
                Tensor::from_data(features, &device),
                Tensor::from_data(labels, &device),
                &leaves,
            )
            .backward();
            number += 1;
            for (parameter, leaf) in parameters.iter_mut().zip(&leaves) {
                if let Some(gradient) = leaf.grad_remove(&mut gradients) {
                    parameter.step(gradient, number);
                }
            }
        }
    }
    let [first, first_bias, second, second_bias] = parameters.map(|parameter| parameter.value);
    Ok(Learnt {
        mean,
        std,
        weights: [
            Parameter::numbers(first.transpose())?,
            Parameter::numbers(second.transpose())?,
        ],
        biases: [
            Parameter::numbers(first_bias)?,
            Parameter::numbers(second_bias)?,
        ],
    })
}

/// Mean of the negative logarithm of what the labels' probabilities are.
fn loss(features: Tensor<2>, labels: Tensor<2>, leaves: &[Tensor<2>; 4]) -> Tensor<1> {
    let [first, first_bias, second, second_bias] = leaves.each_ref().map(Tensor::clone);
    let hidden = activation::relu(features.autodiff().matmul(first) + first_bias);
    let sums = hidden.matmul(second) + second_bias;
    let labels = labels.autodiff();
    let positive = activation::log_sigmoid(sums.clone()) * labels.clone();
    let negative = activation::log_sigmoid(sums.neg()) * (labels.neg() + 1.0);
    (positive + negative).mean().neg()
}

/// Means and standard deviations of the features.
fn scale(rows: Rows) -> (Vec<f32>, Vec<f32>) {
    let count = rows.labels.len() as f64;
    let columns = |column: usize| rows.features.iter().skip(column).step_by(rows.width);
    (0..rows.width)
        .map(|column| {
            let mean = columns(column).map(|&x| f64::from(x)).sum::<f64>() / count;
            let squares = columns(column).map(|&x| (f64::from(x) - mean).powi(2));
            let std = (squares.sum::<f64>() / count).sqrt() as f32;
            (mean as f32, if std < MIN_DEVIATION { 1.0 } else { std })
        })
        .unzip()
}
