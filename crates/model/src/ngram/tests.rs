//! Words and hashes as published, the model against sums by hand, and every batch against the whole.

use std::sync::Arc;

use super::*;
use crate::fixtures::{ModelsDir, Named, PROCESSORS, furthest, ngram, same_bits, score, texts};
use crate::{Model, Registry};

fn featuriser(word_ngrams: usize, min_chars: usize, max_chars: usize) -> Featuriser {
    Featuriser::new(NgramShape {
        buckets: u32::MAX,
        dim: 1,
        word_ngrams,
        min_chars,
        max_chars,
    })
}

fn hash(feature: &str) -> u32 {
    fnv(FNV_START, feature.as_bytes()) % u32::MAX
}

#[test]
fn cuts_words_where_people_do() {
    let cut = |text| words(text).collect::<Vec<_>>();
    assert_eq!(
        cut("it's 'fine', isn’t it?"),
        ["it's", "'", "fine", "'", ",", "isn’t", "it", "?"]
    );
    assert_eq!(cut("東京 v2.0"), ["東京", "v2", ".", "0"]);
    assert_eq!(cut(" \u{0}\t"), Vec::<&str>::new());
    assert_eq!(cut("end'"), ["end", "'"]);
}

#[test]
fn hashes_as_published() {
    // Known answers of the 32-bit FNV-1a.
    assert_eq!(fnv(FNV_START, b""), 0x811c_9dc5);
    assert_eq!(fnv(FNV_START, b"a"), 0xe40c_292c);
    assert_eq!(fnv(FNV_START, b"foobar"), 0xbf9c_f968);
}

#[test]
fn words_and_runs_of_words() {
    assert_eq!(
        featuriser(2, 0, 0).buckets("not good"),
        [hash("wnot"), hash("wnot good"), hash("wgood")]
    );
}

#[test]
fn runs_of_characters_see_the_boundaries() {
    assert_eq!(
        featuriser(1, 3, 4).buckets("né"),
        [hash("wné"), hash("c<né"), hash("c<né>"), hash("cné>")]
    );
}

#[test]
fn no_words_no_buckets() {
    assert!(featuriser(2, 3, 5).buckets("  \t").is_empty());
    assert!(featuriser(2, 3, 5).buckets("").is_empty());
}

const BUCKETS: usize = 500;
const DIM: usize = 13;

fn models(threads: usize) -> (ModelsDir, Arc<Registry>, Arc<Model>) {
    let models = ModelsDir::new();
    let (manifest, tensors) = ngram(BUCKETS, DIM);
    models.put("m", "1", &manifest, &tensors);
    let mut settings = models.settings();
    settings.threads = threads;
    let registry = Registry::open(&settings).unwrap();
    assert_eq!(registry.problems(), []);
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

#[test]
fn a_text_scores_the_same_in_every_batch() {
    let all = some_texts(1024);
    let (_models, _registry, model) = models(1);
    let whole = score(&model, texts(&all));
    for count in 1..=67 {
        let start = count * 7;
        let part = score(&model, texts(&all[start..start + count]));
        let expected = &whole[start * 3..(start + count) * 3];
        assert!(same_bits(&part, expected), "in a batch of {count}");
    }
    for threads in [2, 5] {
        let (_models, _registry, model) = models(threads);
        let split = score(&model, texts(&all));
        assert!(same_bits(&split, &whole), "on {threads} threads");
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
    let (_models, _registry, model) = models(2);
    let all = some_texts(100);
    let scored = score(&model, texts(&all));
    for (text, found) in all.iter().zip(scored.chunks_exact(3)) {
        let expected = by_hand(&tensors, &Featuriser::new(shape).buckets(text));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{text:?}");
        }
    }
}

#[test]
fn a_text_without_words_has_a_score() {
    let (_, tensors) = ngram(BUCKETS, DIM);
    let (_models, _registry, model) = models(1);
    let found = score(&model, texts(&["", " \t"]));
    let expected = by_hand(&tensors, &[]);
    for (found, expected) in found.iter().zip(expected.iter().chain(&expected)) {
        assert!((f64::from(*found) - expected).abs() < 1e-6);
    }
}

#[test]
fn every_backend_agrees() {
    let all = some_texts(200);
    let (models, _registry, model) = models(2);
    let here = score(&model, texts(&all));
    for backend in PROCESSORS {
        let registry = models.open_on(*backend, 2);
        let there = score(&registry.resolve("m").unwrap(), texts(&all));
        let furthest = furthest(&here, &there);
        assert!(furthest < 1e-5, "{backend:?}: {furthest}");
    }
}
