//! Products of bytes with AVX2, so that nothing saturates: pairs summed up in 16 bits where the weights are small enough for that
//! (`vpmaddubsw`), otherwise both sides widened to 16 bits first (`vpmaddwd`), which takes half as long again.

use super::bytes::{Block, GROUP, Sums, Weights};
use super::panels::PANEL;
use pulp::{NullaryFnOnce, cast, x86::V3};
use std::arch::x86_64::__m256i;

/// Rows of a piece of a block: with four vectors of sums each they leave room in 16 registers for the operands.
const ROWS: usize = 3;
/// Columns of a vector of sums: each has two of them, which are added up at the end.
const COLUMNS: usize = 4;
/// Vectors of sums a row.
const VECTORS: usize = 4;

/// The sums of every row of the block, into the first rows of `sums`.
pub(super) fn multiply(simd: V3, block: Block<'_>, sums: &mut Sums) {
    simd.vectorize(Widening { simd, block, sums });
}

struct Widening<'a> {
    simd: V3,
    block: Block<'a>,
    sums: &'a mut Sums,
}

/// The same for weights between -64 and 64: two of them times 255 fit 16 bits.
pub(super) fn multiply_small(simd: V3, block: Block<'_>, sums: &mut Sums) {
    simd.vectorize(Pairing { simd, block, sums });
}

struct Pairing<'a> {
    simd: V3,
    block: Block<'a>,
    sums: &'a mut Sums,
}

impl NullaryFnOnce for Pairing<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let count = self.block.each_row().count();
        for first in (0..count).step_by(ROWS) {
            let sums = &mut self.sums[first..];
            match count - first {
                1 => pairs::<1>(self.simd, self.block, first, sums),
                2 => pairs::<2>(self.simd, self.block, first, sums),
                _ => pairs::<ROWS>(self.simd, self.block, first, sums),
            }
        }
    }
}

#[inline(always)]
fn pairs<const ROWS: usize>(simd: V3, block: Block<'_>, first: usize, sums: &mut [[i32; PANEL]]) {
    let rows = block.rows::<ROWS>(first);
    let ones = simd.avx._mm256_set1_epi16(1);
    let mut acc = [[simd.avx._mm256_setzero_si256(); PANEL / 8]; ROWS];
    for (group, weights) in block.weights.iter().enumerate() {
        let (vectors, _) = weights.as_chunks::<8>();
        for (row, acc) in rows.iter().zip(&mut acc) {
            let x = simd.avx._mm256_set1_epi32(i32::from_ne_bytes(row[group]));
            for (acc, weights) in acc.iter_mut().zip(vectors) {
                let pairs = simd.avx2._mm256_maddubs_epi16(x, cast(*weights));
                let products = simd.avx2._mm256_madd_epi16(pairs, ones);
                *acc = simd.avx2._mm256_add_epi32(*acc, products);
            }
        }
    }
    for (acc, sums) in acc.into_iter().zip(sums) {
        *sums = cast(acc);
    }
}

impl NullaryFnOnce for Widening<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let count = self.block.each_row().count();
        for first in (0..count).step_by(ROWS) {
            let sums = &mut self.sums[first..];
            match count - first {
                1 => piece::<1>(self.simd, self.block, first, sums),
                2 => piece::<2>(self.simd, self.block, first, sums),
                _ => piece::<ROWS>(self.simd, self.block, first, sums),
            }
        }
    }
}

#[inline(always)]
fn piece<const ROWS: usize>(simd: V3, block: Block<'_>, first: usize, sums: &mut [[i32; PANEL]]) {
    let rows = block.rows::<ROWS>(first);
    for start in (0..PANEL).step_by(COLUMNS * VECTORS) {
        let mut acc = [[simd.avx._mm256_setzero_si256(); VECTORS]; ROWS];
        for (group, weights) in block.weights.iter().enumerate() {
            let x: [__m256i; ROWS] = std::array::from_fn(|row| numbers(simd, rows[row][group]));
            for (vector, first) in (start..).step_by(COLUMNS).take(VECTORS).enumerate() {
                let weights = columns(simd, weights, first);
                for (x, acc) in x.into_iter().zip(&mut acc) {
                    let products = simd.avx2._mm256_madd_epi16(x, weights);
                    acc[vector] = simd.avx2._mm256_add_epi32(acc[vector], products);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.iter_mut()) {
            for (vector, acc) in acc.iter().enumerate() {
                let halves: [[i32; 2]; COLUMNS] = cast(*acc);
                for (column, [left, right]) in halves.into_iter().enumerate() {
                    sums[start + vector * COLUMNS + column] = left.wrapping_add(right);
                }
            }
        }
    }
}

/// A group of a row, widened, again and again.
#[inline(always)]
fn numbers(simd: V3, group: [u8; GROUP]) -> __m256i {
    let bytes = simd.sse2._mm_set1_epi32(i32::from_ne_bytes(group));
    simd.avx2._mm256_cvtepu8_epi16(bytes)
}

/// A group's weights of some columns, widened.
#[inline(always)]
fn columns(simd: V3, weights: &Weights, first: usize) -> __m256i {
    let (vectors, _) = weights.as_chunks::<COLUMNS>();
    simd.avx2
        ._mm256_cvtepi8_epi16(cast(vectors[first / COLUMNS]))
}
