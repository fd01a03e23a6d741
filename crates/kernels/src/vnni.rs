//! Products of bytes with the processor's own instructions, and the only `unsafe` code there is.
//!
//! It is here because no safe way leads to `vpdpbusd` yet: pulp, which detects instructions and calls code that uses them
//! elsewhere, has none of these. What is unsafe is one thing, twice: calling a function that was compiled for instructions
//! which its caller's target need not have. A token is proof that they are there, since [`Vnni256::detect`] and
//! [`Vnni512::detect`] alone make one, where the processor has every feature that the function names. Inside those functions all
//! is safe code: the intrinsics take vectors by value, and vectors are read from arrays of their size, not through pointers.

#![allow(unsafe_code)]

#[cfg(feature = "x86-v4")]
use super::bytes::BLOCK;
use super::bytes::{Block, GROUP, Sums};
use super::panels::PANEL;
use pulp::cast;
use std::arch::x86_64::*;

/// That the processor has AVX2 and AVX-VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vnni256(());

impl Vnni256 {
    /// Proof, if it has them.
    pub fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni");
        is_there.then_some(Self(()))
    }

    /// The sums of every row of the block, into the first rows of `sums`.
    pub fn multiply(self, block: Block<'_>, sums: &mut Sums) {
        // SAFETY: `self` exists where the processor has avx2 and avxvnni, and the function is compiled for nothing else.
        unsafe { multiply_256(block, sums) }
    }
}

/// Rows that 256-bit registers hold sums for, four vectors each.
const NARROW: usize = 3;

#[target_feature(enable = "avx2,avxvnni")]
fn multiply_256(block: Block<'_>, sums: &mut Sums) {
    let count = block.each_row().count();
    for first in (0..count).step_by(NARROW) {
        let sums = &mut sums[first..];
        match count - first {
            1 => piece_256::<1>(block, first, sums),
            2 => piece_256::<2>(block, first, sums),
            _ => piece_256::<NARROW>(block, first, sums),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn piece_256<const ROWS: usize>(block: Block<'_>, first: usize, sums: &mut [[i32; PANEL]]) {
    let rows = block.rows::<ROWS>(first);
    let mut acc = [[_mm256_setzero_si256(); PANEL / 8]; ROWS];
    for (group, weights) in block.weights.iter().enumerate() {
        let (vectors, _) = weights.as_chunks::<8>();
        for (row, acc) in rows.iter().zip(&mut acc) {
            let x = _mm256_set1_epi32(number(row[group]));
            for (acc, weights) in acc.iter_mut().zip(vectors) {
                *acc = _mm256_dpbusd_avx_epi32(*acc, x, cast(*weights));
            }
        }
    }
    for (acc, sums) in acc.into_iter().zip(sums) {
        *sums = cast(acc);
    }
}

/// That the processor has AVX-512 with VNNI.
#[cfg(feature = "x86-v4")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Vnni512(());

#[cfg(feature = "x86-v4")]
impl Vnni512 {
    /// Proof, if it has them.
    pub fn detect() -> Option<Self> {
        let is_there =
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        is_there.then_some(Self(()))
    }

    /// The sums of every row of the block, into the first rows of `sums`.
    pub fn multiply(self, block: Block<'_>, sums: &mut Sums) {
        // SAFETY: `self` exists where the processor has avx512f and avx512vnni, and the function is compiled for nothing else.
        unsafe { multiply_512(block, sums) }
    }
}

#[cfg(feature = "x86-v4")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn multiply_512(block: Block<'_>, sums: &mut Sums) {
    match block.each_row().count() {
        0 => {}
        1 => piece_512::<1>(block, sums),
        2 => piece_512::<2>(block, sums),
        3 => piece_512::<3>(block, sums),
        4 => piece_512::<4>(block, sums),
        5 => piece_512::<5>(block, sums),
        6 => piece_512::<6>(block, sums),
        7 => piece_512::<7>(block, sums),
        8 => piece_512::<8>(block, sums),
        9 => piece_512::<9>(block, sums),
        10 => piece_512::<10>(block, sums),
        11 => piece_512::<11>(block, sums),
        _ => piece_512::<BLOCK>(block, sums),
    }
}

#[cfg(feature = "x86-v4")]
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn piece_512<const ROWS: usize>(block: Block<'_>, sums: &mut Sums) {
    let rows = block.rows::<ROWS>(0);
    let mut acc = [[_mm512_setzero_si512(); PANEL / 16]; ROWS];
    for (group, weights) in block.weights.iter().enumerate() {
        let (vectors, _) = weights.as_chunks::<16>();
        let (left, right) = (cast(vectors[0]), cast(vectors[1]));
        for (row, acc) in rows.iter().zip(&mut acc) {
            let x = _mm512_set1_epi32(number(row[group]));
            acc[0] = _mm512_dpbusd_epi32(acc[0], x, left);
            acc[1] = _mm512_dpbusd_epi32(acc[1], x, right);
        }
    }
    for (acc, sums) in acc.into_iter().zip(sums) {
        *sums = cast(acc);
    }
}

/// Four bytes as the number that an instruction repeats.
#[inline(always)]
fn number(group: [u8; GROUP]) -> i32 {
    i32::from_ne_bytes(group)
}
