//! Owns what the lengths of a Parquet page's texts add up to, where they are packed as differences. Pure.
//!
//! Promises that a page which claims more texts than it may, or texts of other lengths than none, is refused before anybody makes room for
//! them.

/// Values of one block.
const MAX_BLOCK: u64 = 1 << 20;

/// A run of lengths.
#[derive(Debug, PartialEq, Eq)]
struct Lengths {
    count: u64,
    sum: u64,
    /// Where it ends.
    end: usize,
}

/// Bytes that texts have together which share their beginnings, each with the one before it. Nothing where it can't be told, or there are
/// more than `max` of them.
pub(super) fn shared(data: &[u8], max: u64) -> Option<u64> {
    let before = lengths(data, max)?;
    let own = lengths(data.get(before.end..)?, max)?;
    (before.count == own.count).then(|| before.sum + own.sum)
}

/// Bytes that texts have together whose lengths stand before them.
pub(super) fn apart(data: &[u8], max: u64) -> Option<u64> {
    lengths(data, max).map(|lengths| lengths.sum)
}

/// Adds up a run of lengths.
fn lengths(data: &[u8], max: u64) -> Option<Lengths> {
    let mut bytes = Bytes { data, at: 0 };
    let (block, parts) = (bytes.varint()?, bytes.varint()?);
    let (count, first) = (bytes.varint()?, bytes.zigzag()?);
    let is_sound = block > 0 && block <= MAX_BLOCK && block.is_multiple_of(128);
    let is_sound = is_sound && parts > 0 && block.is_multiple_of(parts);
    let part = block.checked_div(parts).filter(|part| part % 32 == 0)?;
    if !is_sound || count > max {
        return None;
    }
    let mut last = i32::try_from(first).ok()?;
    let mut sum = 0;
    let mut left = count;
    if left > 0 {
        sum = u64::try_from(last).ok()?;
        left -= 1;
    }
    while left > 0 {
        let min = i32::try_from(bytes.zigzag()?).ok()?;
        let widths = bytes.take(usize::try_from(parts).ok()?)?;
        for width in widths {
            if left == 0 {
                break;
            }
            if *width > 32 {
                return None;
            }
            let packed = bytes.take(usize::try_from(u64::from(*width) * part / 8).ok()?)?;
            for at in 0..part.min(left) {
                let difference = bits(packed, at * u64::from(*width), *width)?;
                last = last.wrapping_add(min).wrapping_add(difference as i32);
                sum += u64::try_from(last).ok()?;
            }
            left = left.saturating_sub(part);
        }
    }
    Some(Lengths {
        count,
        sum,
        end: bytes.at,
    })
}

/// Some bits of what is packed, the first ones being the lowest.
fn bits(packed: &[u8], from: u64, width: u8) -> Option<u32> {
    let (at, shift) = (usize::try_from(from / 8).ok()?, from % 8);
    let mut word = 0_u64;
    let count = (shift + u64::from(width)).div_ceil(8);
    for byte in 0..usize::try_from(count).ok()? {
        word |= u64::from(*packed.get(at + byte)?) << (8 * byte);
    }
    Some(((word >> shift) & ((1_u64 << width) - 1)) as u32)
}

struct Bytes<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.data.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.take(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the format has it: the first one, then blocks of 128 in four parts, each with its own width.
    fn packed(values: &[i32]) -> Vec<u8> {
        let zigzag = |value: i64| ((value << 1) ^ (value >> 63)) as u64;
        let mut out = Vec::new();
        let varint = |out: &mut Vec<u8>, mut value: u64| {
            while value >= 0x80 {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
        };
        let first = values.first().copied().unwrap_or_default();
        for value in [128, 4, values.len() as u64, zigzag(first.into())] {
            varint(&mut out, value);
        }
        let deltas: Vec<i64> = values
            .windows(2)
            .map(|w| i64::from(w[1]) - i64::from(w[0]))
            .collect();
        for block in deltas.chunks(128) {
            let min = *block.iter().min().expect("not empty");
            varint(&mut out, zigzag(min));
            let parts: Vec<&[i64]> = block.chunks(32).collect();
            let widths: Vec<u32> = (0..4)
                .map(|at| {
                    parts.get(at).map_or(7, |part| {
                        let max = part.iter().max().expect("not empty") - min;
                        64 - max.leading_zeros()
                    })
                })
                .collect();
            out.extend(widths.iter().map(|width| *width as u8));
            for (part, width) in parts.iter().zip(&widths) {
                let mut word = 0_u128;
                let mut held = 0;
                for at in 0..32 {
                    let value = part.get(at).map_or(0, |value| (value - min) as u128);
                    word |= value << held;
                    held += width;
                    while held >= 8 {
                        out.push(word as u8);
                        word >>= 8;
                        held -= 8;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn lengths_add_up_whatever_their_packing() {
        for count in [0, 1, 2, 33, 129, 500] {
            let values: Vec<i32> = (0..count).map(|n| (n * 7_919) % 1_000).collect();
            let bytes = packed(&values);
            let sum = values.iter().map(|value| *value as u64).sum();
            let expected = Lengths {
                count: count as u64,
                sum,
                end: bytes.len(),
            };
            assert_eq!(lengths(&bytes, 1_000), Some(expected), "{count}");
            let both = [bytes.clone(), bytes, b"texts".to_vec()].concat();
            assert_eq!(shared(&both, 1_000), Some(2 * sum));
        }
        assert_eq!(lengths(&packed(&[1; 500]), 499), None, "too many");
        assert_eq!(lengths(&packed(&[1, -1]), 10), None, "less than nothing");
        let whole = packed(&[5, 3, 9]);
        assert_eq!(lengths(&whole[..whole.len() - 1], 10), None, "cut");
    }
}
