//! Rebuilds the demonstration model `sentiment` from the templates and words in `examples/data`:
//! `cargo run --release --example build_sentiment`. Deterministic; a few seconds.

#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "it builds a model from its own data, and may stop where it stands"
)]

mod writing;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_model::{Featuriser, NgramShape, TextRules, UnicodeForm};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use writing::{Input, Tensor};

const LABELS: [&str; 3] = ["negative", "neutral", "positive"];
const VERSION: &str = "1.0.0";
const SENTENCES: usize = 60_000;
const EPOCHS: usize = 6;
/// How many features of a sentence are hidden from it at each step, so that none is relied on alone.
const HIDDEN: f32 = 0.25;
const RATE: f32 = 0.15;
/// What the right label's probability gives up to the others, so that the model stays unsure of what it has not seen.
const DOUBT: f32 = 0.05;
const SHAPE: NgramShape = NgramShape {
    buckets: 30_011,
    dim: 8,
    word_ngrams: 2,
    min_chars: 4,
    max_chars: 6,
};
const RULES: TextRules = TextRules {
    unicode: UnicodeForm::Nfkc,
    lowercase: true,
    collapse_whitespace: true,
};

/// `sentiment_training.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Material {
    /// By label.
    templates: BTreeMap<String, Vec<String>>,
    slots: BTreeMap<String, Vec<String>>,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("examples/data");
    let material: Material =
        toml::from_str(&fs::read_to_string(data.join("sentiment_training.toml"))?)?;
    let tuning = labelled(&data.join("sentiment_tuning.tsv"))?;
    let held_out = labelled(&data.join("sentiment_heldout.tsv"))?;

    let mut rng = StdRng::seed_from_u64(1);
    let sentences = sentences(&material, &mut rng)?;
    let known: HashSet<String> = sentences.iter().map(|(_, text)| bare(text)).collect();
    for (_, text) in &held_out {
        ensure!(
            !known.contains(&bare(text)),
            "held out, but also trained on: {text}"
        );
    }
    let model = train(&sentences, &mut rng);

    let models = root.join("models");
    let golden = [
        "I love this!",
        "Terrible, it broke after a day.",
        "This is not good.",
        "It comes in blue and white.",
        "",
    ];
    writing::write(
        &models,
        "sentiment",
        VERSION,
        &manifest(),
        &model.tensors(),
        &golden.map(Input::Text),
    )?;
    for (name, set) in [("tuning", &tuning), ("held out", &held_out)] {
        report(name, set, &models)?;
    }
    Ok(())
}

fn manifest() -> String {
    format!(
        r#"# Made by `cargo run --release --example build_sentiment`; see ../README.md.
description = "Whether a short English review is negative, neutral or positive"
architecture = "ngram-text"

[text]
max_bytes = 8192
unicode = "nfkc"
lowercase = true
collapse_whitespace = true

[output]
task = "classification"
labels = {LABELS:?}
activation = "softmax"

[ngram]
buckets = {}
dim = {}
word_ngrams = {}
min_chars = {}
max_chars = {}"#,
        SHAPE.buckets, SHAPE.dim, SHAPE.word_ngrams, SHAPE.min_chars, SHAPE.max_chars
    )
}

fn label(name: &str) -> Result<usize> {
    LABELS
        .iter()
        .position(|label| *label == name)
        .with_context(|| format!("unknown label {name:?}"))
}

/// Lines of a label, a tab and a text.
fn labelled(path: &Path) -> Result<Vec<(usize, String)>> {
    fs::read_to_string(path)?
        .lines()
        .map(|line| {
            let (name, text) = line.split_once('\t').context("a line without a tab")?;
            Ok((label(name)?, text.to_owned()))
        })
        .collect()
}

/// The words alone: sentences that differ in case or punctuation count as the same.
fn bare(text: &str) -> String {
    text.to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn sentences(material: &Material, rng: &mut StdRng) -> Result<Vec<(usize, String)>> {
    let mut sentences = Vec::with_capacity(SENTENCES);
    for i in 0..SENTENCES {
        let class = i % LABELS.len();
        let mut text = sentence(material, class, rng)?;
        if rng.random_bool(0.3) {
            // A second sentence: the same view again, or a fact before or after it.
            let neutral = class == 1 || rng.random_bool(0.5);
            let other = sentence(material, if neutral { 1 } else { class }, rng)?;
            text = if rng.random_bool(0.5) {
                format!("{text} {other}")
            } else {
                format!("{other} {text}")
            };
        }
        sentences.push((class, text));
    }
    Ok(sentences)
}

fn sentence(material: &Material, class: usize, rng: &mut StdRng) -> Result<String> {
    let templates = material
        .templates
        .get(LABELS[class])
        .context("a label without templates")?;
    let mut text = fill(material, templates, rng, 0)?;
    if !text.ends_with(['!', '?']) {
        let end = match (class, rng.random_range(0..10)) {
            (_, 0..=2) => "",
            (0 | 2, 8..) => "!",
            _ => ".",
        };
        text.push_str(end);
    }
    Ok(text)
}

fn fill(material: &Material, choices: &[String], rng: &mut StdRng, depth: usize) -> Result<String> {
    if depth > 5 {
        bail!("slots within slots within slots");
    }
    let template = choices.choose(rng).context("an empty list")?;
    let mut text = String::new();
    let mut rest = template.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').context("an open brace")?;
        text.push_str(before);
        let choices = material
            .slots
            .get(slot)
            .with_context(|| format!("no slot {slot:?}"))?;
        text.push_str(&fill(material, choices, rng, depth + 1)?);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// The weights while they are learned, with Adagrad's sums of squared gradients.
struct Model {
    vectors: Vec<f32>,
    linear: Vec<f32>,
    bias: [f32; LABELS.len()],
    vector_squares: Vec<f32>,
    linear_squares: Vec<f32>,
    bias_squares: [f32; LABELS.len()],
}

impl Model {
    fn tensors(&self) -> [Tensor; 3] {
        let tensor = |name: &str, shape: &[usize], numbers: &[f32]| Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            numbers: numbers.to_vec(),
        };
        [
            tensor(
                "embedding.weight",
                &[SHAPE.buckets as usize, SHAPE.dim],
                &self.vectors,
            ),
            tensor("linear.weight", &[LABELS.len(), SHAPE.dim], &self.linear),
            tensor("linear.bias", &[LABELS.len()], &self.bias),
        ]
    }

    /// One step towards the class; answers the loss before it.
    fn learn(&mut self, features: &[u32], class: usize) -> f32 {
        let dim = SHAPE.dim;
        let share = 1.0 / features.len() as f32;
        let mut mean = [0.0f32; SHAPE.dim];
        for &feature in features {
            let at = feature as usize * dim;
            for (sum, x) in mean.iter_mut().zip(&self.vectors[at..at + dim]) {
                *sum += x * share;
            }
        }
        let mut scores = self.bias;
        for (score, weights) in scores.iter_mut().zip(self.linear.chunks_exact(dim)) {
            *score += weights.iter().zip(&mean).map(|(w, x)| w * x).sum::<f32>();
        }
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        let total: f32 = scores.iter().map(|score| (score - most).exp()).sum();
        let probabilities = scores.map(|score| (score - most).exp() / total);

        let mut back = [0.0f32; SHAPE.dim];
        for (i, probability) in probabilities.iter().enumerate() {
            let wanted = if i == class {
                1.0 - DOUBT
            } else {
                DOUBT / (LABELS.len() - 1) as f32
            };
            let error = probability - wanted;
            step(&mut self.bias[i], &mut self.bias_squares[i], error);
            for (d, back) in back.iter_mut().enumerate() {
                let at = i * dim + d;
                *back += error * self.linear[at];
                step(
                    &mut self.linear[at],
                    &mut self.linear_squares[at],
                    error * mean[d],
                );
            }
        }
        for &feature in features {
            let at = feature as usize * dim;
            for (d, back) in back.iter().enumerate() {
                step(
                    &mut self.vectors[at + d],
                    &mut self.vector_squares[at + d],
                    back * share,
                );
            }
        }
        -probabilities[class].max(1e-9).ln()
    }
}

fn step(weight: &mut f32, squares: &mut f32, gradient: f32) {
    *squares += gradient * gradient;
    *weight -= RATE * gradient / (squares.sqrt() + 1e-4);
}

fn train(sentences: &[(usize, String)], rng: &mut StdRng) -> Model {
    let featuriser = Featuriser::new(SHAPE);
    let examples: Vec<(usize, Vec<u32>)> = sentences
        .iter()
        .map(|(class, text)| (*class, featuriser.buckets(&RULES.apply(text))))
        .collect();
    let buckets = SHAPE.buckets as usize * SHAPE.dim;
    let mut model = Model {
        vectors: (0..buckets)
            .map(|_| rng.random_range(-0.05..0.05))
            .collect(),
        linear: (0..LABELS.len() * SHAPE.dim)
            .map(|_| rng.random_range(-0.5..0.5))
            .collect(),
        bias: [0.0; LABELS.len()],
        vector_squares: vec![1e-4; buckets],
        linear_squares: vec![1e-2; LABELS.len() * SHAPE.dim],
        bias_squares: [1e-2; LABELS.len()],
    };
    let bar = ProgressBar::new((EPOCHS * examples.len()) as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} sentences, {eta} left, loss {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    for _ in 0..EPOCHS {
        let mut loss = 0.0;
        for i in 0..examples.len() {
            let (class, features) = &examples[rng.random_range(0..examples.len())];
            let seen: Vec<u32> = features
                .iter()
                .copied()
                .filter(|_| rng.random::<f32>() >= HIDDEN)
                .collect();
            if !seen.is_empty() {
                loss += model.learn(&seen, *class);
            }
            if (i + 1) % 1000 == 0 {
                bar.set_message(format!("{:.3}", loss / (i + 1) as f32));
                bar.inc(1000);
            }
        }
    }
    bar.finish();
    model
}

fn report(name: &str, set: &[(usize, String)], models: &Path) -> Result<()> {
    let texts: Vec<&str> = set.iter().map(|(_, text)| text.as_str()).collect();
    let answers = writing::answers(models, "sentiment", VERSION, &texts)?;
    let mut table = [[0; LABELS.len()]; LABELS.len()];
    for ((class, text), probabilities) in set.iter().zip(&answers) {
        let best = (0..LABELS.len())
            .max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]))
            .unwrap_or(0);
        table[*class][best] += 1;
        if best != *class && std::env::args().any(|arg| arg == "--mistakes") {
            println!("{} taken for {}: {text}", LABELS[*class], LABELS[best]);
        }
    }
    let right: usize = (0..LABELS.len()).map(|i| table[i][i]).sum();
    let largest = table.iter().map(|row| row.iter().sum::<usize>()).max();
    println!(
        "{name}: {right} of {} right ({:.1} %), always the commonest label: {:.1} %",
        set.len(),
        100.0 * right as f32 / set.len() as f32,
        100.0 * largest.unwrap_or(0) as f32 / set.len() as f32
    );
    for (label, row) in LABELS.iter().zip(table) {
        println!("  {label}: {row:?} as {}", LABELS.join(", "));
    }
    let polar: usize = table[0][0] + table[2][2];
    let polar_all: usize = table[0].iter().chain(&table[2]).sum();
    let turned = table[0][2] + table[2][0];
    println!(
        "  of the {polar_all} negative and positive ones {polar} right, {turned} turned round"
    );
    Ok(())
}
