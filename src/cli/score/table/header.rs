//! Owns what the header of a Parquet page claims. Pure.
//!
//! Refuses headers that aren't over within their bound: their last field may claim something else than the first.

use super::thrift::Thrift;

/// Bytes of a header at most.
pub(super) const HEADER_BYTES: usize = 64 << 10;

/// What the header of a page claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Header {
    kind: usize,
    pub unpacked: usize,
    pub packed: usize,
    /// Bytes before what is packed.
    pub levels: usize,
    /// Whether it isn't packed, whatever its column chunk is.
    pub is_plain: bool,
}

impl Header {
    /// Reads a header; nothing where it isn't one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        let mut seen = [false; 9];
        let mut thrift = Thrift { bytes };
        let mut id = 0;
        while let Some(kind) = thrift.field(&mut id)? {
            once(&mut seen, id)?;
            match (id, kind) {
                (1..=3, Thrift::I32) => {
                    let value = usize::try_from(thrift.number()?).ok()?;
                    match id {
                        1 => header.kind = value,
                        2 => header.unpacked = value,
                        _ => header.packed = value,
                    }
                }
                (8, Thrift::STRUCT) => header.second(&mut thrift)?,
                (1..=3, _) => return None,
                _ => drop(thrift.skip(kind)?),
            }
        }
        matches!(seen, [_, true, true, true, ..]).then_some(header)
    }

    /// The part that pages of the format's second version have.
    fn second(&mut self, thrift: &mut Thrift<'_>) -> Option<()> {
        let (mut id, mut seen) = (0, [false; 9]);
        while let Some(kind) = thrift.field(&mut id)? {
            once(&mut seen, id)?;
            match (id, kind) {
                (5 | 6, Thrift::I32) => {
                    self.levels += usize::try_from(thrift.number()?).ok()?;
                }
                (7, Thrift::FALSE) => self.is_plain = true,
                _ => drop(thrift.skip(kind)?),
            }
        }
        Some(())
    }

    pub fn is_dictionary(&self) -> bool {
        self.kind == 2
    }
}

/// Notes a field; nothing where it was there before, or is none that a header has.
fn once(seen: &mut [bool], id: i64) -> Option<()> {
    let known = seen.get_mut(usize::try_from(id).ok()?)?;
    (!std::mem::replace(known, true)).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_and_what_says_two_things_is_refused() {
        // A data page of the first version: type 0, 1000 bytes unpacked, 300 packed, and its own struct.
        let first = [
            0x15, 0x00, 0x15, 0xd0, 0x0f, 0x15, 0xd8, 0x04, 0x2c, 0x15, 0x08, 0x00, 0x00,
        ];
        let header = Header::read(&first).expect("a header");
        assert_eq!((header.unpacked, header.packed), (1_000, 300));
        assert!(!header.is_dictionary());
        assert_eq!(Header::read(&first[..9]), None, "it isn't over");
        let mut twice = first.to_vec();
        twice.pop();
        twice.extend([0x05, 0x04, 0x02, 0x00]);
        assert_eq!(Header::read(&twice), None, "two sizes");
        assert_eq!(Header::read(&[0x00]), None, "no sizes");
        // One of the second version: 5 and 6 bytes of levels, and not packed.
        let second = [
            0x15, 0x06, 0x15, 0x14, 0x15, 0x14, 0x5c, 0x55, 0x0a, 0x15, 0x0c, 0x12, 0x00, 0x00,
        ];
        let header = Header::read(&second).expect("a header");
        assert_eq!((header.levels, header.is_plain), (11, true));
        let negative = [0x15, 0x00, 0x15, 0x01, 0x15, 0x02, 0x00];
        assert_eq!(Header::read(&negative), None, "less than nothing");
    }
}
