//! Owns how many rows or bytes a part of an output has, and which rows of a text go into one.
//!
//! Pure.

/// Bytes of packed text that are added before it is looked at how long the part is by now.
const LOOK_BYTES: usize = 4 << 10;
/// Units of sizes, by what they stand for.
const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("k", 1 << 10),
    ("kb", 1_000),
    ("kib", 1 << 10),
    ("m", 1 << 20),
    ("mb", 1_000_000),
    ("mib", 1 << 20),
    ("g", 1 << 30),
    ("gb", 1_000_000_000),
];
const GIB: (&str, u64) = ("gib", 1 << 30);

/// How long a part may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::score) struct Limits {
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
}

/// Reads a size: a number of bytes, or of K, M, G (powers of 1024), KB, MB, GB (powers of 1000).
pub(in crate::cli::score) fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let mut units = UNITS.iter().chain([&GIB]);
    let factor = units.find(|(name, _)| *name == unit);
    let size = number.parse::<u64>().ok().zip(factor);
    let size = size.and_then(|(number, (_, factor))| number.checked_mul(*factor));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "expected a size such as 500MB, 64MiB or 1G".to_owned())
}

/// What is in a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Filled {
    pub rows: u64,
    pub bytes: u64,
}

/// The first rows of a text that a part takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub bytes: usize,
    pub rows: u64,
    /// Whether the part takes no more.
    pub is_full: bool,
}

/// How rows stand in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    /// Whether a cell in quotes may have line ends in it.
    pub has_quotes: bool,
    /// Whether its bytes are packed before they are written.
    pub is_packed: bool,
}

impl Text {
    /// Bytes of the first row of a text.
    pub fn row(self, text: &[u8]) -> usize {
        let mut is_quoted = false;
        let end = text.iter().position(|byte| {
            is_quoted ^= self.has_quotes && *byte == b'"';
            *byte == b'\n' && !is_quoted
        });
        end.map_or(text.len(), |end| end + 1)
    }
}

impl Limits {
    /// Whether a part takes no more rows.
    pub(super) fn has_all_rows(self, rows: u64) -> bool {
        self.rows.is_some_and(|max| rows >= max)
    }

    /// Whether a part with rows has as many bytes as it may.
    pub(super) fn has_all_bytes(self, filled: Filled) -> bool {
        filled.rows > 0 && self.bytes.is_some_and(|max| filled.bytes >= max)
    }

    /// The first rows of a text that a part takes beside what it has. A part takes one row at least, however long that is.
    pub(super) fn fit(self, text: &[u8], kind: Text, filled: Filled) -> Fit {
        let mut fit = Fit {
            is_full: self.has_all_bytes(filled),
            ..Fit::default()
        };
        while !fit.is_full && fit.bytes < text.len() {
            let row = kind.row(text.get(fit.bytes..).unwrap_or_default());
            let with_it = filled.bytes + (fit.bytes + row) as u64;
            let has_rows = filled.rows + fit.rows > 0;
            if !kind.is_packed && has_rows && self.bytes.is_some_and(|max| with_it > max) {
                fit.is_full = true;
                break;
            }
            (fit.bytes, fit.rows) = (fit.bytes + row, fit.rows + 1);
            fit.is_full = self.has_all_rows(filled.rows + fit.rows);
            if kind.is_packed && self.bytes.is_some() && fit.bytes >= LOOK_BYTES {
                break;
            }
        }
        fit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: Text = Text {
        has_quotes: false,
        is_packed: false,
    };

    #[test]
    fn a_size_is_read_with_its_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("500MB", 500_000_000),
            ("64MiB", 64 << 20),
            ("64m", 64 << 20),
            ("1 G", 1 << 30),
            ("3kb", 3_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "1.5G", "G", "9x", "99999999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows_end_where_their_lines_do_and_not_within_quotes() {
        let csv = Text {
            has_quotes: true,
            ..LINES
        };
        let text = b"a,\"two\nlines \"\"x\"\"\n\",b\nnext\n";
        assert_eq!(csv.row(text), 23);
        assert_eq!(LINES.row(text), 7);
        assert_eq!(LINES.row(b"no end"), 6);
    }

    #[test]
    fn a_part_takes_the_rows_that_fit() {
        let text = b"12\n45\n78\n";
        let fit = |rows, bytes, filled| {
            let limits = Limits { rows, bytes };
            let filled = Filled {
                rows: filled,
                bytes: 3 * filled,
            };
            let fit = limits.fit(text, LINES, filled);
            (fit.bytes, fit.rows, fit.is_full)
        };
        assert_eq!(fit(Some(2), None, 0), (6, 2, true));
        assert_eq!(fit(Some(5), None, 3), (6, 2, true));
        assert_eq!(fit(Some(9), None, 0), (9, 3, false));
        assert_eq!(fit(None, Some(6), 0), (6, 2, true));
        assert_eq!(fit(None, Some(8), 0), (6, 2, true));
        assert_eq!(fit(None, Some(6), 2), (0, 0, true));
        // A row that is longer than a part may be has one of its own.
        assert_eq!(fit(None, Some(1), 0), (3, 1, true));
        let packed = Text {
            is_packed: true,
            ..LINES
        };
        let limits = Limits {
            rows: None,
            bytes: Some(100),
        };
        let filled = |bytes| Filled { rows: 1, bytes };
        // What is packed is looked at again after some of it is written.
        assert_eq!(limits.fit(text, packed, filled(99)).bytes, 9);
        assert!(limits.fit(text, packed, filled(100)).is_full);
    }
}
