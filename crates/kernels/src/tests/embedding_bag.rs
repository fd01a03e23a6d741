//! Bags of every width and length against plain loops, bit for bit.

use super::{Numbers, assert_near};
use crate::EmbeddingBag;
use crate::embedding_bag::Mean;
use pulp::{Scalar, Simd};

/// `count` rows that look random, of a table of `of`.
fn bag(numbers: &mut Numbers, count: usize, of: usize) -> Vec<u32> {
    (0..count)
        .map(|_| ((numbers.one() + 1.0) / 2.0 * of as f32) as u32)
        .map(|row| row.min(of as u32 - 1))
        .collect()
}

/// What `EmbeddingBag::mean` promises, a number at a time.
fn in_order(table: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    (0..width)
        .map(|column| {
            let mut sum = 0.0;
            for &row in rows {
                sum += table[row as usize * width + column];
            }
            if rows.is_empty() {
                0.0
            } else {
                sum / rows.len() as f32
            }
        })
        .collect()
}

fn in_64_bits(table: &[f32], width: usize, rows: &[u32]) -> Vec<f64> {
    (0..width)
        .map(|column| {
            let number = |&row: &u32| f64::from(table[row as usize * width + column]);
            rows.iter().map(number).sum::<f64>() / rows.len().max(1) as f64
        })
        .collect()
}

fn mean(bag: &EmbeddingBag, rows: &[u32]) -> Vec<f32> {
    // What the buffer held before must not matter.
    let mut mean = vec![f32::NAN; bag.width()];
    bag.mean(rows, &mut mean);
    mean
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn means_are_sums_in_order_for_every_width_and_length() {
    let mut numbers = Numbers(29);
    for width in (1..=140).chain([256, 300, 1000]) {
        let count = 1 + width * 7 % 61;
        let table = numbers.many(count * width);
        let embeddings = EmbeddingBag::new(table.clone(), width);
        assert_eq!((embeddings.rows(), embeddings.width()), (count, width));
        for length in [0, 1, 2, 3, 7, 64, 201] {
            let rows = bag(&mut numbers, length, count);
            let found = mean(&embeddings, &rows);
            let expected = in_order(&table, width, &rows);
            assert_eq!(bits(&found), bits(&expected), "{length} rows of {width}");
            // Each addition of numbers up to 1 may be off by half a unit in the last place of the sum.
            let tolerance = (length + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
            assert_near(&found, &in_64_bits(&table, width, &rows), tolerance);
        }
    }
}

/// With these instructions instead of the widest ones.
fn mean_by(simd: impl Simd, table: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut into = vec![f32::NAN; width];
    simd.vectorize(Mean {
        table,
        rows,
        into: &mut into,
    });
    into
}

#[test]
fn means_are_the_same_bits_with_any_instructions() {
    let mut numbers = Numbers(31);
    for width in 1..=140 {
        let table = numbers.many(50 * width);
        let rows = bag(&mut numbers, 77, 50);
        let expected = bits(&in_order(&table, width, &rows));
        let found = mean_by(Scalar::new(), &table, width, &rows);
        assert_eq!(bits(&found), expected, "none, {width} numbers");
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = pulp::x86::V3::try_new() {
            let found = mean_by(avx2, &table, width, &rows);
            assert_eq!(bits(&found), expected, "AVX2, {width} numbers");
        }
    }
}

#[test]
fn the_mean_of_one_row_named_again_and_again_is_that_row() {
    let table = vec![0.5, -0.25, 8.0, 1.0, 2.0, 3.0];
    let embeddings = EmbeddingBag::new(table, 3);
    for count in [1, 2, 3, 1024] {
        assert_eq!(mean(&embeddings, &vec![0; count]), [0.5, -0.25, 8.0]);
    }
    assert_eq!(mean(&embeddings, &[0, 1]), [0.75, 0.875, 5.5]);
}

#[test]
fn numbers_that_are_not_finite_stay_in_their_columns() {
    for width in [3, 8, 40, 70] {
        let mut table = vec![1.0; 4 * width];
        table[width + 1] = f32::NAN;
        table[2 * width + 2] = f32::INFINITY;
        let embeddings = EmbeddingBag::new(table, width);
        let found = mean(&embeddings, &[0, 1, 2, 3]);
        for (column, x) in found.iter().enumerate() {
            match column {
                1 => assert!(x.is_nan()),
                2 => assert_eq!(*x, f32::INFINITY),
                _ => assert_eq!(*x, 1.0),
            }
        }
        // Rows that a bag doesn't name don't touch it.
        assert_eq!(mean(&embeddings, &[3, 0]), vec![1.0; width]);
    }
}
