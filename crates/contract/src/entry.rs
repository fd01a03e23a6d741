//! Owns the bytes of a score entry in Redis.
//!
//! One byte of layout version, a 32-bit checksum over the key and the rest, a stamp in layouts that have one, then the model's
//! output row, little-endian: as 32-bit floats in layouts 1 and 3 (nine bytes for a single score), as 16-bit floats in layouts
//! 2 and 4. Layouts 3 and 4 hold a 64-bit stamp: the latest invalidation that the writer knew of. Layouts 5 to 8 are the same as 1 to 4 of
//! an entry that is pending: whether its input has its row in the database isn't known yet. Layouts 9, 11, 13 and 15 are in the same order those of whole
//! numbers from -127 to 127, a byte each, and 10, 12, 14 and 16 those of bytes that hold eight bits each. Promises that bytes of another
//! layout, bytes of another key, truncated bytes and values that no model may return don't decode. Nothing is compressed: a
//! row's floats have no redundancy to remove.

use crate::key::{EntryPrefix, InputHash};
use crate::model::Precision;

const HEAD: usize = 5;
const STAMP: usize = 8;
/// Added to the layout of an entry with a stamp.
const STAMPED: u8 = 2;
/// Added to the layout of a pending entry.
const PENDING: u8 = 4;
/// How many of an entry's first bytes [`stamp_of`] needs.
pub const TO_STAMP: usize = HEAD + STAMP;

/// What an entry says of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seal {
    /// The latest invalidation that the writer knew of before it scored.
    pub stamp: u64,
    /// Whether the input's row in the database may be missing: whoever uses the entry writes it as well.
    pub is_pending: bool,
}

impl Seal {
    /// Of an entry whose input has its row, or needs none.
    pub fn settled(stamp: u64) -> Self {
        Self {
            stamp,
            is_pending: false,
        }
    }
}

/// Encodes and decodes the entries of one model version. Its prefix goes into the checksum, so that an entry that was copied
/// to another model's key is refused.
#[derive(Debug, Clone, Copy)]
pub struct Codec {
    seed: u64,
    width: usize,
    precision: Precision,
}

impl Codec {
    /// A codec for rows of `width` values under `prefix`.
    pub fn new(prefix: &EntryPrefix, width: usize, precision: Precision) -> Self {
        Self {
            seed: fold(0x6b69_6c6e, prefix.as_bytes()),
            width,
            precision,
        }
    }

    /// The layout version, and the bytes of one value.
    #[inline]
    fn layout(&self) -> (u8, usize) {
        match self.precision {
            Precision::Single => (1, 4),
            Precision::Half => (2, 2),
            Precision::Int8 => (9, 1),
            Precision::Binary => (10, 1),
        }
    }

    /// Number of values in a row.
    #[inline]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Longest entry of one row, in bytes.
    #[inline]
    pub fn entry_bytes(&self) -> usize {
        let (_, size) = self.layout();
        TO_STAMP + self.width * size
    }

    /// The entry of one output row; a stamp of 0 takes no bytes.
    #[inline]
    pub fn encode(&self, input: &InputHash, row: &[f32], seal: Seal) -> Vec<u8> {
        let (layout, size) = self.layout();
        let stamp = seal.stamp;
        let mut bytes = Vec::with_capacity(TO_STAMP + row.len() * size);
        let stamped = if stamp > 0 { STAMPED } else { 0 };
        let pending = if seal.is_pending { PENDING } else { 0 };
        bytes.push(layout + stamped + pending);
        bytes.extend_from_slice(&[0; HEAD - 1]);
        if stamp > 0 {
            bytes.extend_from_slice(&stamp.to_le_bytes());
        }
        for value in row {
            match self.precision {
                Precision::Single => bytes.extend_from_slice(&value.to_le_bytes()),
                Precision::Half => {
                    bytes.extend_from_slice(&half::f16::from_f32(*value).to_le_bytes())
                }
                Precision::Int8 => bytes.push((*value as i8).cast_unsigned()),
                Precision::Binary => bytes.push(*value as u8),
            }
        }
        let checked = bytes.get(HEAD..).unwrap_or_default();
        let check = self.check(input, checked, seal.is_pending);
        if let Some(slot) = bytes.get_mut(1..HEAD) {
            slot.copy_from_slice(&check);
        }
        bytes
    }

    /// Appends the entry's row to `outputs` and returns its seal, or `None` if the bytes are no entry of this key.
    #[inline]
    pub fn decode(&self, input: &InputHash, bytes: &[u8], outputs: &mut Vec<f32>) -> Option<Seal> {
        let (head, checked) = bytes.split_at_checked(HEAD)?;
        let (layout, size) = self.layout();
        let added = head.first()?.checked_sub(layout)?;
        if added & !(STAMPED | PENDING) != 0 {
            return None;
        }
        let is_pending = added & PENDING != 0;
        let (stamp, values) = if added & STAMPED == 0 {
            (0, checked)
        } else {
            let (stamp, values) = checked.split_first_chunk::<STAMP>()?;
            (u64::from_le_bytes(*stamp), values)
        };
        let sound = values.len() == self.width * size
            && head.get(1..) == Some(self.check(input, checked, is_pending).as_slice());
        if !sound {
            return None;
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
            Precision::Int8 => {
                outputs.extend(values.iter().map(|b| f32::from(b.cast_signed())));
            }
            Precision::Binary => outputs.extend(values.iter().map(|b| f32::from(*b))),
        }
        let finite = outputs.iter().skip(before).all(|v| v.is_finite());
        if !finite {
            outputs.truncate(before);
        }
        finite.then_some(Seal { stamp, is_pending })
    }

    #[inline]
    fn check(&self, input: &InputHash, values: &[u8], is_pending: bool) -> [u8; 4] {
        let mixed = fold(fold(self.seed, input), values);
        let check = (mixed >> 32) as u32;
        // What is pending has another one, so that the one bit which says so is checked too.
        (if is_pending { !check } else { check }).to_le_bytes()
    }
}

/// Whether bytes begin like an entry of any model.
#[inline]
pub fn is_entry(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(1..=16))
}

/// The stamp of an entry of any model, from its first [`TO_STAMP`] bytes; `None` if it has none.
#[inline]
pub fn stamp_of(bytes: &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let stamped = matches!(head.first(), Some(3 | 4 | 7 | 8 | 11 | 12 | 15 | 16));
    let stamp = rest.first_chunk::<STAMP>().filter(|_| stamped)?;
    Some(u64::from_le_bytes(*stamp))
}

/// A 64-bit multiply-and-rotate hash over eight bytes at a time: it detects accidents, not attackers.
#[inline]
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
        fn a_row_survives_and_nothing_else_does(row in prop::collection::vec(-1e6f32..1e6, 1..40), input in any::<[u8; 32]>(), flip in any::<prop::sample::Index>(), bit in 0u8..8, stamp in prop_oneof![Just(0u64), any::<u64>()], is_pending: bool) {
            let codec = codec(row.len());
            let seal = Seal { stamp, is_pending };
            let bytes = codec.encode(&input, &row, seal);
            let mut out = Vec::new();
            prop_assert_eq!(codec.decode(&input, &bytes, &mut out), Some(seal));
            prop_assert!(is_entry(&bytes));
            prop_assert_eq!(stamp_of(&bytes), Some(stamp).filter(|stamp| *stamp > 0));
            prop_assert_eq!(&out, &row);
            let mut bad = bytes.clone();
            let at = flip.index(bad.len());
            bad[at] ^= 1 << bit;
            out.clear();
            prop_assert!(codec.decode(&input, &bad, &mut out).is_none() && out.is_empty());
            for cut in 0..bytes.len() {
                prop_assert!(codec.decode(&input, &bytes[..cut], &mut out).is_none() && out.is_empty());
            }
            let mut other = input;
            other[0] ^= 1;
            prop_assert!(codec.decode(&other, &bytes, &mut out).is_none());
            let elsewhere = Codec::new(&EntryPrefix::new("m", "2"), row.len(), Precision::Single);
            prop_assert!(elsewhere.decode(&input, &bytes, &mut out).is_none());
            let halves = Codec::new(&EntryPrefix::new("m", "1"), row.len(), Precision::Half);
            prop_assert!(halves.decode(&input, &bytes, &mut out).is_none());
        }

        #[test]
        fn garbage_never_decodes_or_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), width in 1usize..16) {
            let mut out = Vec::new();
            prop_assert!(codec(width).decode(&[7; 32], &bytes, &mut out).is_none());
            let _any = stamp_of(&bytes);
        }
    }

    #[test]
    fn whole_numbers_take_a_byte_each_and_are_of_their_own_layouts() {
        let prefix = EntryPrefix::new("m", "1");
        let all = [
            Precision::Single,
            Precision::Half,
            Precision::Int8,
            Precision::Binary,
        ];
        let codecs = all.map(|precision| Codec::new(&prefix, 3, precision));
        let [_, _, int8, binary] = codecs;
        let rows = [(int8, [-127.0, 0.0, 127.0]), (binary, [0.0, 128.0, 255.0])];
        let mut layouts = Vec::new();
        for (stamp, is_pending) in [(0, false), (9, false), (0, true), (9, true)] {
            let seal = Seal { stamp, is_pending };
            for (codec, row) in rows {
                let bytes = codec.encode(&[7; 32], &row, seal);
                assert_eq!(bytes.len(), if stamp > 0 { 16 } else { 8 });
                assert!(is_entry(&bytes));
                assert_eq!(stamp_of(&bytes), Some(stamp).filter(|stamp| *stamp > 0));
                layouts.push(bytes[0]);
                let mut found = Vec::new();
                let readers = codecs.map(|reader| reader.decode(&[7; 32], &bytes, &mut found));
                assert_eq!(readers.iter().flatten().collect::<Vec<_>>(), [&seal]);
                assert_eq!(found, row);
            }
        }
        layouts.sort_unstable();
        assert_eq!(layouts, [9, 10, 11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn a_score_takes_nine_bytes_and_must_be_finite() {
        let codec = codec(1);
        assert_eq!(codec.encode(&[1; 32], &[0.5], Seal::default()).len(), 9);
        let stamped = codec.encode(&[1; 32], &[0.5], Seal::settled(7));
        assert_eq!((stamped.len(), codec.entry_bytes()), (17, 17));
        assert_eq!(stamp_of(&stamped[..TO_STAMP]), Some(7));
        assert_eq!(stamp_of(&stamped[..TO_STAMP - 1]), None);
        assert!(!Seal::settled(7).is_pending);
        let nan = codec.encode(&[1; 32], &[f32::NAN], Seal::default());
        assert!(codec.decode(&[1; 32], &nan, &mut Vec::new()).is_none());
    }

    /// Workers of two releases read each other's entries: another layout needs another number.
    #[test]
    fn an_entry_has_the_bytes_that_its_layout_says() {
        assert_eq!(codec(3).width(), 3);
        let codec = codec(1);
        let pending = Seal {
            stamp: 9,
            is_pending: true,
        };
        for (seal, expected) in [
            (Seal::default(), &[1, 164, 235, 26, 166, 0, 0, 0, 63][..]),
            (
                pending,
                &[7, 187, 87, 138, 131, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 63],
            ),
        ] {
            assert_eq!(codec.encode(&[7; 32], &[0.5], seal), expected);
            let mut settled = expected.to_vec();
            settled[0] ^= PENDING;
            let read = codec.decode(&[7; 32], &settled, &mut Vec::new());
            assert_eq!(read, None, "whether it is pending is checked too");
        }
        for other in [&[][..], &[0], &[17], b"{}"] {
            assert!(!is_entry(other));
        }
    }
}
