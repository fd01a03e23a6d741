//! Attention of every kind against the same arithmetic in 64 bits.

use std::ops::Range;

use super::super::attention::{self, Heads, View};
use super::super::panels::Panels;
use super::super::threads::Sharing;
use super::super::{Attention, Disentangled, Distances, Local, Relative, Rotary};
use super::{Numbers, assert_near, panels, rows};

/// The last one has more tokens than are attended to at a time.
const LENGTHS: [usize; 7] = [1, 2, 31, 33, 5, 70, 201];
const SHAPES: [(usize, usize); 6] = [(2, 32), (4, 8), (3, 24), (2, 7), (2, 48), (1, 64)];

/// A score in 64 bits, of a query and a key of one head, whose places in their text are given; none where it doesn't see it.
type Score<'a> = dyn Fn(usize, (usize, &[f64]), (usize, &[f64])) -> Option<f64> + 'a;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Attention in 64 bits.
fn attention_of(qkv: &[f32], spans: &[Range<usize>], heads: Heads, score: &Score<'_>) -> Vec<f64> {
    let hidden = heads.count * heads.width;
    let part = |token: usize, head: usize, which: usize| -> Vec<f64> {
        let from = token * 3 * hidden + which * hidden + head * heads.width;
        qkv[from..from + heads.width]
            .iter()
            .map(|x| f64::from(*x))
            .collect()
    };
    let mut out = vec![0.0; qkv.len() / 3];
    for span in spans {
        for head in 0..heads.count {
            let keys: Vec<Vec<f64>> = span.clone().map(|token| part(token, head, 1)).collect();
            for token in span.clone() {
                let query = part(token, head, 0);
                let at = token - span.start;
                let of = |other: usize| {
                    let key = (other, keys[other].as_slice());
                    score(head, (at, &query), key).map_or(0.0, f64::exp)
                };
                let scores: Vec<f64> = (0..span.len()).map(of).collect();
                let all: f64 = scores.iter().sum();
                for (other, score) in span.clone().zip(&scores) {
                    for (c, x) in part(other, head, 2).iter().enumerate() {
                        out[token * hidden + head * heads.width + c] += score / all * x;
                    }
                }
            }
        }
    }
    out
}

/// Random queries, keys and values of texts of all lengths.
fn random(heads: Heads, spread: f32) -> (Vec<f32>, Vec<Range<usize>>) {
    let mut tokens = 0;
    let spans = LENGTHS.map(|length| {
        tokens += length;
        tokens - length..tokens
    });
    let count = tokens * 3 * heads.count * heads.width;
    let numbers = Numbers(11).many(count).into_iter();
    (numbers.map(|x| x * spread).collect(), spans.to_vec())
}

/// Asserts what is found for texts of all lengths, together, alone, and with threads that share.
fn holds(heads: Heads, spread: f32, view: View<'_>, score: &Score<'_>) {
    let (qkv, spans) = random(heads, spread);
    let width = 3 * heads.count * heads.width;
    let attend = |qkv: &[f32], spans: &[Range<usize>], sharing| {
        let mut out = Panels::default();
        attention::attend(&panels(qkv, width), spans, heads, view, &mut out, sharing);
        rows(&out)
    };
    let found = attend(&qkv, &spans, Sharing::Alone);
    assert_near(&found, &attention_of(&qkv, &spans, heads, score), 6e-6);
    assert_eq!(attend(&qkv, &spans, Sharing::Shared), found, "shared");
    for span in spans {
        let one = &qkv[span.start * width..span.end * width];
        let alone = attend(one, std::slice::from_ref(&(0..span.len())), Sharing::Alone);
        let together = &found[span.start * width / 3..span.end * width / 3];
        assert_eq!(alone, together, "{} tokens alone", span.len());
    }
}

#[test]
fn attention_of_every_width_and_length() {
    for (count, width) in SHAPES {
        let heads = Heads { count, width };
        let root = (width as f64).sqrt();
        holds(heads, 1.5, View::Plain, &|_, (_, q), (_, k)| {
            Some(dot(q, k) / root)
        });
    }
}

#[test]
fn biases_by_distance() {
    for (count, width) in SHAPES {
        let heads = Heads { count, width };
        let table = Numbers(5).many(32 * count);
        let relative = Relative::new(&table, 32, 128, count);
        // Where each range of MPNet's and T5's begins, among 16 buckets a direction.
        let ranges = [8, 12, 16, 23, 32, 46, 64, 91];
        let root = (width as f64).sqrt();
        holds(
            heads,
            1.5,
            View::Relative(&relative),
            &|head, (i, q), (j, k)| {
                let far = i.abs_diff(j);
                let near = far.min(7);
                let ranges = ranges.iter().filter(|first| far >= **first).count();
                let bucket = near + ranges + if j > i { 16 } else { 0 };
                Some(dot(q, k) / root + f64::from(table[bucket * count + head]))
            },
        );
    }
}

/// A head's numbers turned by their place, in 64 bits.
fn turned(x: &[f64], at: usize, theta: f64) -> Vec<f64> {
    let half = x.len() / 2;
    (0..x.len())
        .map(|i| {
            let angle = at as f64 / theta.powf((i % half) as f64 / half as f64);
            let other = if i < half { -x[i + half] } else { x[i - half] };
            x[i] * angle.cos() + other * angle.sin()
        })
        .collect()
}

#[test]
fn turns_and_windows() {
    for (count, width) in SHAPES {
        if width % 2 > 0 {
            continue;
        }
        let heads = Heads { count, width };
        let attention = Attention::Rotary {
            turns: Rotary::new(160_000.0, width, 300),
            local: Some(Local {
                turns: Rotary::new(10_000.0, width, 300),
                reach: 20,
                every: 3,
            }),
        };
        assert_eq!(attention.longest(), Some(300));
        let root = (width as f64).sqrt();
        for layer in 0..5 {
            let is_whole = layer % 3 == 0;
            let theta = if is_whole { 160_000.0 } else { 10_000.0 };
            let view = attention.of_layer(layer);
            holds(heads, 1.0, view, &|_, (i, q), (j, k)| {
                let sees = is_whole || i.abs_diff(j) <= 20;
                sees.then(|| dot(&turned(q, i, theta), &turned(k, j, theta)) / root)
            });
        }
    }
}

#[test]
fn embedded_distances() {
    for (count, width) in SHAPES {
        let heads = Heads { count, width };
        let hidden = count * width;
        for (buckets, max_distance) in [(0, 40), (32, 64), (64, 512)] {
            let distances = Distances::new(buckets, max_distance);
            let table = Numbers(17).many(distances.rows() * 3 * hidden);
            let layer = Disentangled::new(distances, &table, hidden, count);
            let part = |row: usize, from: usize| -> Vec<f64> {
                let row = &table[row * 3 * hidden..];
                row[from..from + width]
                    .iter()
                    .map(|x| f64::from(*x))
                    .collect()
            };
            let span = if buckets > 0 { buckets } else { max_distance } as f64;
            let row_of = |i: usize, j: usize| {
                let (far, near) = (i.abs_diff(j) as f64, (buckets / 2) as f64);
                let steps = if buckets == 0 || far <= near {
                    far
                } else {
                    let share = (far / near).ln() / ((max_distance - 1) as f64 / near).ln();
                    (share * (near - 1.0)).ceil() + near
                };
                let row = if i < j { span - steps } else { span + steps };
                row.clamp(0.0, 2.0 * span - 1.0) as usize
            };
            let root = (3.0 * width as f64).sqrt();
            let view = View::Disentangled(&layer);
            holds(heads, 1.0, view, &|head, (i, q), (j, k)| {
                let row = row_of(i, j);
                let (keys, queries) = (part(row, hidden + head * width), part(row, head * width));
                Some((dot(q, k) + dot(q, &keys) + dot(k, &queries)) / root)
            });
        }
    }
}

#[test]
fn every_range_of_distances_begins_where_its_reference_says() {
    // Of DeBERTa-v3's 256 rows a direction, up to 512 tokens.
    let distances = Distances::new(256, 512);
    let row = |far| distances.row(far, 0) - 256;
    assert_eq!([0, 1, 127, 128].map(row), [0, 1, 127, 128]);
    assert_eq!(
        [129, 130, 200, 510, 511].map(row),
        [129, 130, 169, 255, 255]
    );
    assert_eq!(distances.row(0, 511), 1);
    assert_eq!(distances.row(0, 9999), 0);
}
