//! The bytes that blocks of rows compare: 32 rows in a register with AVX2, and plain loops elsewhere, which give the same bytes.

#[cfg(target_arch = "x86_64")]
use pulp::{bytemuck::cast, x86::V3};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256i;

/// Rows that are compared together.
pub(super) const ROWS: usize = 32;

/// One byte for each of these rows.
pub(super) type Bytes = [u8; ROWS];

/// What is done with them.
pub(super) trait Compare: Copy {
    /// How bytes lie between steps.
    type Register: Copy;

    /// The same byte for every row.
    fn all(self, byte: u8) -> Self::Register;

    /// Adds these bits where a rank exceeds the threshold.
    fn remove(self, removed: &mut Self::Register, ranks: &Bytes, threshold: u8, bits: u8);

    /// Where nothing was found before, what was not removed is found now, at this place.
    fn find(
        self,
        found: &mut Self::Register,
        position: &mut Self::Register,
        removed: Self::Register,
        at: u8,
    );

    /// The place, and the number of the lowest bit that was found there.
    fn leaves(self, found: Self::Register, position: Self::Register) -> Bytes;
}

/// Without any instructions in particular.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Compare for Plain {
    type Register = Bytes;

    #[inline(always)]
    fn all(self, byte: u8) -> Bytes {
        [byte; ROWS]
    }

    #[inline(always)]
    fn remove(self, removed: &mut Bytes, ranks: &Bytes, threshold: u8, bits: u8) {
        for (removed, rank) in removed.iter_mut().zip(ranks) {
            *removed |= if *rank > threshold { bits } else { 0 };
        }
    }

    #[inline(always)]
    fn find(self, found: &mut Bytes, position: &mut Bytes, removed: Bytes, at: u8) {
        for ((found, position), removed) in found.iter_mut().zip(position).zip(removed) {
            if *found == 0 {
                (*found, *position) = (!removed, at);
            }
        }
    }

    #[inline(always)]
    fn leaves(self, found: Bytes, mut position: Bytes) -> Bytes {
        for (position, found) in position.iter_mut().zip(found) {
            *position += found.trailing_zeros() as u8 & 7;
        }
        position
    }
}

#[cfg(target_arch = "x86_64")]
impl Compare for V3 {
    type Register = __m256i;

    #[inline(always)]
    fn all(self, byte: u8) -> __m256i {
        self.avx._mm256_set1_epi8(byte.cast_signed())
    }

    #[inline(always)]
    fn remove(self, removed: &mut __m256i, ranks: &Bytes, threshold: u8, bits: u8) {
        let threshold = self.all(threshold);
        // Unsigned bytes are compared by their maximum.
        let higher = self.avx2._mm256_max_epu8(cast(*ranks), threshold);
        let stays = self.avx2._mm256_cmpeq_epi8(higher, threshold);
        let bits = self.avx2._mm256_andnot_si256(stays, self.all(bits));
        *removed = self.avx2._mm256_or_si256(*removed, bits);
    }

    #[inline(always)]
    fn find(self, found: &mut __m256i, position: &mut __m256i, removed: __m256i, at: u8) {
        let is_new = self.avx2._mm256_cmpeq_epi8(*found, self.all(0));
        let left = self.avx2._mm256_andnot_si256(removed, is_new);
        *found = self.avx2._mm256_or_si256(*found, left);
        *position = self
            .avx2
            ._mm256_blendv_epi8(*position, self.all(at), is_new);
    }

    #[inline(always)]
    fn leaves(self, found: __m256i, mut position: __m256i) -> Bytes {
        let negative = self.avx2._mm256_sub_epi8(self.all(0), found);
        let lowest = self.avx2._mm256_and_si256(found, negative);
        // A digit of the number for each half of the bits that the lowest one may be in.
        for (half, digit) in [(0xaa, 1), (0xcc, 2), (0xf0, 4)] {
            let within = self.avx2._mm256_and_si256(lowest, self.all(half));
            let is_outside = self.avx2._mm256_cmpeq_epi8(within, self.all(0));
            let digit = self.avx2._mm256_andnot_si256(is_outside, self.all(digit));
            position = self.avx2._mm256_or_si256(position, digit);
        }
        cast(position)
    }
}
