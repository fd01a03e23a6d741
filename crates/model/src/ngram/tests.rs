//! The model against sums by hand, the kernels against the graph, and every batch against the whole.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::fixtures::{
    self, ModelsDir, Named, PROCESSORS, furthest, ngram, same_bits, score, texts,
};
use crate::{Backend, Model, ModelSettings, Registry};

const BUCKETS: usize = 500;
const DIM: usize = 13;

fn models(threads: usize, backend: Backend) -> (ModelsDir, Arc<Registry>, Arc<Model>) {
    let models = ModelsDir::new();
    let (manifest, tensors) = ngram(BUCKETS, DIM);
    models.put("m", "1", &manifest, &tensors);
    let registry = models.open_on(backend, threads);
    let model = registry.resolve("m").unwrap();
    (models, registry, model)
}

/// Texts of 0 to 40 words.
fn some_texts(count: usize) -> Vec<String> {
    let words = [
        "good",
        "bad",
        "not",
        "ünïcode",
        "it's",
        "東京",
        "!",
        "a",
        "overwhelming",
        "7",
    ];
    (0..count)
        .map(|i| {
            let word = |j: usize| words[(i * 31 + j * j * 7 + j) % words.len()];
            (0..i * 17 % 41).map(word).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Against a thousand texts at once; a batch of each of these sizes.
fn scores_the_same_in_every_batch(backend: Backend, counts: impl Iterator<Item = usize>) {
    let all = some_texts(1024);
    let (_models, _registry, model) = models(1, backend);
    let whole = score(&model, texts(&all));
    for count in counts {
        let start = count * 7;
        let part = score(&model, texts(&all[start..start + count]));
        let expected = &whole[start * 3..(start + count) * 3];
        assert!(
            same_bits(&part, expected),
            "in a batch of {count} on {backend:?}"
        );
    }
    for threads in [2, 5] {
        let (_models, _registry, model) = models(threads, backend);
        let split = score(&model, texts(&all));
        assert!(
            same_bits(&split, &whole),
            "on {threads} threads of {backend:?}"
        );
    }
}

#[test]
fn a_text_scores_the_same_in_every_batch() {
    scores_the_same_in_every_batch(Backend::Cpu, 1..=67);
}

#[test]
fn a_text_scores_the_same_in_every_batch_of_the_graph() {
    scores_the_same_in_every_batch(Backend::Flex, 1..=67);
}

#[test]
fn a_text_scores_the_same_in_every_row_of_a_batch() {
    let all = some_texts(64);
    for threads in [1, 3] {
        let (_models, _registry, model) = models(threads, Backend::Cpu);
        let alone: Vec<Vec<f32>> = all
            .iter()
            .map(|text| score(&model, texts(&[text])))
            .collect();
        for count in [1, 7, 32, 64] {
            // Over all starts, every text comes to stand in every row.
            for start in 0..all.len() {
                let batch: Vec<usize> = (start..start + count).map(|i| i % all.len()).collect();
                let rows: Vec<&String> = batch.iter().map(|&i| &all[i]).collect();
                let together = score(&model, texts(&rows));
                for (row, (&i, found)) in batch.iter().zip(together.chunks_exact(3)).enumerate() {
                    assert!(
                        same_bits(found, &alone[i]),
                        "text {i} in row {row} of {count} on {threads} threads"
                    );
                }
            }
        }
    }
}

/// The model by hand, in 64 bits.
fn by_hand(tensors: &[Named], buckets: &[u32]) -> Vec<f64> {
    let mean: Vec<f64> = (0..DIM)
        .map(|d| {
            let vector = |&b: &u32| f64::from(tensors[0].numbers[b as usize * DIM + d]);
            buckets.iter().map(vector).sum::<f64>() / buckets.len().max(1) as f64
        })
        .collect();
    let sums: Vec<f64> = tensors[1]
        .numbers
        .chunks_exact(DIM)
        .zip(&tensors[2].numbers)
        .map(|(weights, &bias)| {
            let products = weights.iter().zip(&mean).map(|(&w, x)| f64::from(w) * x);
            products.sum::<f64>() + f64::from(bias)
        })
        .collect();
    let total: f64 = sums.iter().map(|x| x.exp()).sum();
    sums.iter().map(|x| x.exp() / total).collect()
}

#[test]
fn agrees_with_sums_by_hand() {
    let (manifest, tensors) = ngram(BUCKETS, DIM);
    let shape = Manifest::parse(&format!(
        "{manifest}[weights]\nsha256 = \"{}\"",
        "0".repeat(64)
    ))
    .unwrap()
    .ngram
    .unwrap();
    let all = some_texts(100);
    for backend in PROCESSORS {
        let (_models, _registry, model) = models(2, *backend);
        let scored = score(&model, texts(&all));
        for (text, found) in all.iter().zip(scored.chunks_exact(3)) {
            let expected = by_hand(&tensors, &Featuriser::new(shape).buckets(text));
            for (found, expected) in found.iter().zip(&expected) {
                let difference = (f64::from(*found) - expected).abs();
                assert!(difference < 1e-6, "{text:?} on {backend:?}");
            }
        }
    }
}

#[test]
fn a_text_without_words_has_a_score() {
    let (_, tensors) = ngram(BUCKETS, DIM);
    let expected = by_hand(&tensors, &[]);
    for backend in PROCESSORS {
        let (_models, _registry, model) = models(1, *backend);
        // Beside texts that leave something in the buffers.
        let found = score(&model, texts(&["good", "", "not good", " \t"]));
        for row in [1, 3] {
            for (found, expected) in found[row * 3..].iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-6, "{backend:?}");
            }
        }
    }
}

#[test]
fn every_backend_agrees() {
    let all = some_texts(200);
    let (models, _registry, model) = models(2, Backend::Cpu);
    let here = score(&model, texts(&all));
    for backend in PROCESSORS {
        let registry = models.open_on(*backend, 2);
        let there = score(&registry.resolve("m").unwrap(), texts(&all));
        let furthest = furthest(&here, &there);
        assert!(furthest < 1e-5, "{backend:?}: {furthest}");
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[test]
fn a_graphics_processor_agrees_with_the_kernels() {
    let all = some_texts(130);
    let (models, _registry, model) = models(2, Backend::Cpu);
    let here = score(&model, texts(&all));
    for backend in fixtures::GRAPHICS {
        let registry = models.open_on(*backend, 2);
        let there = score(&registry.resolve("m").unwrap(), texts(&all));
        let furthest = furthest(&here, &there);
        assert!(furthest < 1e-4, "{backend:?}: {furthest}");
    }
}

/// How far the kernels' outputs are from the graph's at the furthest.
fn kernels_from_graph(settings: &ModelSettings, name: &str, texts: &[String]) -> f32 {
    let [kernels, graph] = [Backend::Cpu, Backend::Flex].map(|backend| {
        let registry = Registry::open(&ModelSettings {
            backend,
            ..settings.clone()
        })
        .unwrap();
        // The golden inputs, if there are any, hold.
        assert_eq!(registry.problems(), []);
        let model = registry.resolve(name).unwrap();
        let normalised: Vec<_> = texts.iter().map(|text| model.normalise(text)).collect();
        score(&model, fixtures::texts(&normalised))
    });
    furthest(&kernels, &graph)
}

#[test]
fn kernels_agree_with_the_graph_in_every_shape() {
    let mut all = some_texts(150);
    all.push("a long text, again and again. ".repeat(270));
    let classes = |width: usize, activation: &str| {
        let labels: Vec<String> = (0..width).map(|i| format!("label {i}")).collect();
        format!("task = \"classification\"\nlabels = {labels:?}\nactivation = {activation:?}")
    };
    let scalar = |activation: &str| format!("task = \"scalar\"\nactivation = {activation:?}");
    let embedding = "task = \"embedding\"\nwidth = 40".to_owned();
    // Buckets, numbers a vector, outputs and what they are, words and characters a run.
    let shapes = [
        (1, 1, 1, scalar("sigmoid"), (1, 0, 0)),
        (30_011, 8, 3, classes(3, "softmax"), (2, 4, 6)),
        (97, 31, 2, classes(2, "softmax"), (5, 1, 10)),
        (1000, 33, 33, classes(33, "sigmoid"), (3, 0, 0)),
        (211, 64, 1, scalar("identity"), (1, 2, 2)),
        (400, 100, 40, embedding, (2, 3, 5)),
        (50, 300, 70, classes(70, "softmax"), (4, 3, 3)),
    ];
    for (seed, (buckets, dim, outputs, output, runs)) in shapes.into_iter().enumerate() {
        let (word_ngrams, min_chars, max_chars) = runs;
        let manifest = format!(
            "architecture = \"ngram-text\"\n[text]\nlowercase = true\n[output]\n{output}\n\
             [ngram]\nbuckets = {buckets}\ndim = {dim}\nword_ngrams = {word_ngrams}\n\
             min_chars = {min_chars}\nmax_chars = {max_chars}\n"
        );
        let seed = 40 + 3 * seed as u64;
        let tensors = [
            Named::new("embedding.weight", &[buckets, dim], seed),
            Named::new("linear.weight", &[outputs, dim], seed + 1),
            Named::new("linear.bias", &[outputs], seed + 2),
        ];
        let models = ModelsDir::new();
        models.put("m", "1", &manifest, &tensors);
        let furthest = kernels_from_graph(&models.settings(), "m", &all);
        assert!(furthest < 1e-5, "{manifest}: {furthest}");
    }
}

#[test]
fn kernels_agree_with_the_graph_on_the_model_that_is_shipped() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let manifest = Manifest::parse(&read("models/sentiment/1.0.0/manifest.toml")).unwrap();
    let golden: Vec<String> = manifest.golden.into_iter().flat_map(|g| g.text).collect();
    assert!(golden.len() >= 5);
    let reviews = read("examples/data/sentiment_heldout.tsv");
    let reviews = reviews.lines().flat_map(|line| line.split_once('\t'));
    let mut all: Vec<String> = reviews.map(|(_, text)| text.to_owned()).collect();
    assert!(all.len() >= 160);
    all.push(all.join(" ").chars().take(8192).collect());
    all.extend(golden);
    let settings = ModelSettings {
        dir: root.join("models"),
        threads: 2,
        ..ModelSettings::default()
    };
    let furthest = kernels_from_graph(&settings, "sentiment", &all);
    assert!(furthest < 1e-5, "{furthest}");
}
