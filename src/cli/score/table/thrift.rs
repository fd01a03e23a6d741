//! Owns reading Thrift's compact protocol, as far as it is needed to find one's way through what a Parquet file claims. Pure.

/// Structs and lists within each other, in what is skipped.
const MAX_DEPTH: usize = 32;

/// Bytes that are read field by field.
pub(super) struct Thrift<'a> {
    pub bytes: &'a [u8],
}

impl<'a> Thrift<'a> {
    const TRUE: u8 = 1;
    pub const FALSE: u8 = 2;
    pub const I32: u8 = 5;
    pub const BINARY: u8 = 8;
    pub const LIST: u8 = 9;
    const SET: u8 = 10;
    pub const STRUCT: u8 = 12;

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn number(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A text, or bytes.
    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(bytes)
    }

    /// The next field's type; nothing at the end of its struct.
    pub fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = match i64::from(byte >> 4) {
            0 => self.number()?,
            more => id.checked_add(more)?,
        };
        Some(Some(byte & 0x0f))
    }

    /// How many elements a list has, and of which type. None takes less than a byte.
    pub fn list(&mut self) -> Option<(usize, u8)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => usize::try_from(self.varint()?).ok()?,
            few => usize::from(few),
        };
        (count <= self.bytes.len()).then_some((count, byte & 0x0f))
    }

    /// Goes over a field; says how many elements of lists were in it.
    pub fn skip(&mut self, kind: u8) -> Option<usize> {
        let mut elements = 0;
        self.skip_within(kind, 0, &mut elements)?;
        Some(elements)
    }

    fn skip_within(&mut self, kind: u8, depth: usize, elements: &mut usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            Self::TRUE | Self::FALSE => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.bytes = self.bytes.get(8..)?,
            Self::BINARY => drop(self.binary()?),
            Self::LIST | Self::SET => {
                let (count, kind) = self.list()?;
                *elements = elements.checked_add(count)?;
                for _ in 0..count {
                    match kind {
                        // In a list, a truth is a byte.
                        Self::TRUE | Self::FALSE => drop(self.byte()?),
                        kind => self.skip_within(kind, depth + 1, elements)?,
                    }
                }
            }
            Self::STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip_within(kind, depth + 1, elements)?;
                }
            }
            // Maps stand nowhere.
            _ => return None,
        }
        Some(())
    }
}
