//! Digits, eight at a time, for the quick pass. Pure.

/// Digits of a number that are added up without a look at overflow.
pub(super) const MAX_DIGITS: usize = 18;
/// The powers of ten that a 64-bit float holds exactly.
pub(super) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
pub(super) const WHOLE_POWERS: [u64; 9] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
];

/// Eight bytes at a time, the first one lowest: the usual tricks of "Bit Twiddling Hacks" (Anderson, Stanford), and of "Number Parsing
/// at a Gigabyte per Second" (Lemire, 2021) for the digits.
pub(super) const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
pub(super) const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// How many of these bytes are digits, from the lowest one on.
#[inline]
pub(super) fn count_digits(word: u64) -> usize {
    let others = (word.wrapping_add(ONES * 0x76) | word) & HIGH;
    others.trailing_zeros() as usize / 8
}

/// The value of the `count` lowest bytes, 1 to 8 digits of which the first is the lowest.
#[inline]
pub(super) fn add_up(word: u64, count: usize) -> u64 {
    // Zeros come before the digits, which then stand in the highest bytes.
    let digits = word << (64 - 8 * count);
    let pairs = (digits.wrapping_mul(2561) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(6_553_601) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(42_949_672_960_001) >> 32
}

/// A number below 2^52 as a float. As the low bits of 2^52 it needs no conversion: the processor's own waits for what the register held
/// before, and so for the number before.
#[inline]
pub(super) fn small_float(number: u64) -> f64 {
    const TWO_52: f64 = 4_503_599_627_370_496.0;
    f64::from_bits(TWO_52.to_bits() | number) - TWO_52
}

/// Adding zero makes -0 and 0 one input.
#[inline]
pub(super) fn signed(value: f32, is_negative: bool) -> f32 {
    if is_negative { -value + 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where each digit is its own value.
    fn word(bytes: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*bytes) ^ (ONES * 0x30)
    }

    #[test]
    fn digits_are_counted_up_to_the_first_other_byte() {
        assert_eq!(count_digits(word(b"01234567")), 8);
        for other in [b'/', b':', b'.', b'e', 0, 0x7f, 0x80, 0x89, 0xb0, 0xff] {
            let found = count_digits(word(&[b'1', b'9', other, b'3', b'4', b'5', b'6', b'7']));
            assert_eq!(found, 2, "{other:#x}");
        }
    }

    #[test]
    fn digits_add_up_to_their_number() {
        let digits = word(b"90817263");
        for (count, number) in [(1, 9), (2, 90), (3, 908), (7, 9_081_726), (8, 90_817_263)] {
            assert_eq!(add_up(digits, count), number);
        }
        for number in [0, 1, (1 << 52) - 1] {
            assert_eq!(small_float(number), number as f64);
        }
    }

    #[test]
    fn nothing_is_zero_with_a_sign() {
        assert!(signed(0.0, true).is_sign_positive());
        assert_eq!((signed(1.5, true), signed(1.5, false)), (-1.5, 1.5));
    }
}
