//! Owns the slots of a Redis Cluster: which one a key is in.

/// How many there are.
pub const SLOTS: u16 = 16_384;

/// CRC-16 (XMODEM) of each byte.
const TABLE: [u16; 256] = table();

#[expect(clippy::indexing_slicing, reason = "the compiler runs it")]
const fn table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            let carry = if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            crc = (crc << 1) ^ carry;
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// The slot of a key: of what stands between its first brace and the next closing one, if that is something, else of all of it.
#[inline]
pub fn of_key(key: &[u8]) -> u16 {
    of_bytes(tag(key).unwrap_or(key))
}

/// The part of a key that alone decides on its slot, if it has one.
#[inline]
pub(crate) fn tag(key: &[u8]) -> Option<&[u8]> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let rest = key.get(start..)?;
    let end = rest.iter().position(|byte| *byte == b'}')?;
    rest.get(..end).filter(|tag| !tag.is_empty())
}

/// The slot of a tag, or of a key without one.
#[inline]
pub(crate) fn of_bytes(bytes: &[u8]) -> u16 {
    let crc = bytes.iter().fold(0u16, |crc, byte| {
        let index = usize::from((crc >> 8) as u8 ^ byte);
        (crc << 8) ^ TABLE.get(index).copied().unwrap_or_default()
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // By CLUSTER KEYSLOT.
        assert_eq!(of_bytes(b"123456789"), 0x31c3);
        for (key, slot) in [
            (&b"foo"[..], 12_182),
            (b"{foo}.bar", 12_182),
            (b"x{foo}{bar}", 12_182),
        ] {
            assert_eq!(of_key(key), slot, "{}", String::from_utf8_lossy(key));
        }
        for whole in [&b"{}foo"[..], b"foo{", b"}foo{bar", b"\xff{}\x00}"] {
            assert_eq!(of_key(whole), of_bytes(whole));
        }
    }
}
