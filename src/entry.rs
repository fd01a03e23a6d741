//! Owns the bytes of a score entry in Redis.
//!
//! One byte of layout version, a 32-bit check over key and values, then the model's output row, little-endian: as 32-bit
//! floats in layout 1 (nine bytes for a single score), as 16-bit floats in layout 2. Promises that bytes of another layout,
//! of another key, cut short, or holding a value that no model may return don't decode. Nothing is compressed: a row's floats
//! have no repetition to take out.

use crate::key::{EntryPrefix, InputHash};
use crate::model::Precision;

const HEAD: usize = 5;

/// Entries of one model version: its prefix goes into the check, so that an entry copied to another model's
/// key is refused.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    seed: u64,
    width: usize,
    precision: Precision,
}

impl Codec {
    /// For rows of `width` values under `prefix`.
    pub fn new(prefix: &EntryPrefix, width: usize, precision: Precision) -> Self {
        Self {
            seed: fold(0x6b69_6c6e, prefix.as_bytes()),
            width,
            precision,
        }
    }

    /// The layout version, and the bytes of one value.
    fn layout(&self) -> (u8, usize) {
        match self.precision {
            Precision::Single => (1, 4),
            Precision::Half => (2, 2),
        }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The entry of one output row.
    pub fn encode(&self, input: &InputHash, row: &[f32]) -> Vec<u8> {
        let (layout, size) = self.layout();
        let mut bytes = Vec::with_capacity(HEAD + row.len() * size);
        bytes.push(layout);
        bytes.extend_from_slice(&[0; HEAD - 1]);
        for value in row {
            match self.precision {
                Precision::Single => bytes.extend_from_slice(&value.to_le_bytes()),
                Precision::Half => {
                    bytes.extend_from_slice(&half::f16::from_f32(*value).to_le_bytes())
                }
            }
        }
        let check = self.check(input, bytes.get(HEAD..).unwrap_or_default());
        if let Some(slot) = bytes.get_mut(1..HEAD) {
            slot.copy_from_slice(&check);
        }
        bytes
    }

    /// Appends the entry's row to `outputs`; `false`, and nothing appended, where the bytes are no entry of
    /// this key.
    pub fn decode(&self, input: &InputHash, bytes: &[u8], outputs: &mut Vec<f32>) -> bool {
        let Some((head, values)) = bytes.split_at_checked(HEAD) else {
            return false;
        };
        let (layout, size) = self.layout();
        let sound = head.first() == Some(&layout)
            && values.len() == self.width * size
            && head.get(1..) == Some(self.check(input, values).as_slice());
        if !sound {
            return false;
        }
        let before = outputs.len();
        match self.precision {
            Precision::Single => {
                let values = values.as_chunks::<4>().0.iter();
                outputs.extend(values.map(|b| f32::from_le_bytes(*b)));
            }
            Precision::Half => {
                let values = values.as_chunks::<2>().0.iter();
                outputs.extend(values.map(|b| half::f16::from_le_bytes(*b).to_f32()));
            }
        }
        let finite = outputs.iter().skip(before).all(|v| v.is_finite());
        if !finite {
            outputs.truncate(before);
        }
        finite
    }

    fn check(&self, input: &InputHash, values: &[u8]) -> [u8; 4] {
        let mixed = fold(fold(self.seed, input), values);
        ((mixed >> 32) as u32).to_le_bytes()
    }
}

/// A 64-bit multiply-and-rotate hash over eight bytes at a time: a check against accidents, not attackers.
fn fold(seed: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = seed ^ (bytes.len() as u64);
    let mut mix =
        |word: u64| state = (state.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
    let mut last = [0u8; 8];
    last.iter_mut()
        .zip(rest)
        .for_each(|(slot, byte)| *slot = *byte);
    mix(u64::from_le_bytes(last));
    state ^ (state >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn codec(width: usize) -> Codec {
        Codec::new(&EntryPrefix::new("m", "1"), width, Precision::Single)
    }

    proptest! {
        #[test]
        fn a_row_survives_and_nothing_else_does(row in prop::collection::vec(-1e6f32..1e6, 1..40), input in any::<[u8; 32]>(), flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let codec = codec(row.len());
            let bytes = codec.encode(&input, &row);
            let mut out = Vec::new();
            prop_assert!(codec.decode(&input, &bytes, &mut out));
            prop_assert_eq!(&out, &row);
            let mut bad = bytes.clone();
            let at = flip.index(bad.len());
            bad[at] ^= 1 << bit;
            out.clear();
            prop_assert!(!codec.decode(&input, &bad, &mut out) && out.is_empty());
            for cut in 0..bytes.len() {
                prop_assert!(!codec.decode(&input, &bytes[..cut], &mut out) && out.is_empty());
            }
            let mut other = input;
            other[0] ^= 1;
            prop_assert!(!codec.decode(&other, &bytes, &mut out));
            let elsewhere = Codec::new(&EntryPrefix::new("m", "2"), row.len(), Precision::Single);
            prop_assert!(!elsewhere.decode(&input, &bytes, &mut out));
            let halves = Codec::new(&EntryPrefix::new("m", "1"), row.len(), Precision::Half);
            prop_assert!(!halves.decode(&input, &bytes, &mut out));
        }

        #[test]
        fn garbage_never_decodes_or_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), width in 1usize..16) {
            let mut out = Vec::new();
            prop_assert!(!codec(width).decode(&[7; 32], &bytes, &mut out));
        }
    }

    #[test]
    fn a_score_takes_nine_bytes_and_must_be_finite() {
        let codec = codec(1);
        assert_eq!(codec.encode(&[1; 32], &[0.5]).len(), 9);
        let nan = codec.encode(&[1; 32], &[f32::NAN]);
        assert!(!codec.decode(&[1; 32], &nan, &mut Vec::new()));
    }
}
