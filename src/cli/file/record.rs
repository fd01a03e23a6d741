//! Owns the records of CSV or TSV, as they are read: their cells, and where each begins.
//!
//! Promises that no more is held of a record than of a line, that what comes after a longer one is read on, and that a quote which is left
//! open is told.

use super::piece::LINE_BYTES;
use csv_core::ReadRecordResult;
use std::io::{self, BufRead, Chain, Cursor, Read};

/// What may stand before a text: it says that it is UTF-8, and is no part of the first cell.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Cells of a record that are held.
const MAX_CELLS: usize = 1 << 20;
/// What there is room for at first: bytes, and cells.
const FIRST_BYTES: usize = 1 << 10;
const FIRST_CELLS: usize = 16;

/// A record's cells.
#[derive(Debug, Default)]
pub(super) struct Record {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    cells: usize,
}

/// What was read of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    /// It is longer than any may be, and isn't held.
    Long,
    /// The file ends within its quotes.
    Open,
    /// Both.
    LongAndOpen,
}

impl Record {
    pub fn len(&self) -> usize {
        self.cells
    }

    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(..self.cells)?.get(at)?;
        let begin = at
            .checked_sub(1)
            .map_or(Some(0), |before| self.ends.get(before).copied());
        self.bytes.get(begin?..end)
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.cells).map_while(|at| self.get(at))
    }

    /// Makes more room; says whether there may be more.
    fn grow(&mut self, bytes: bool) -> bool {
        let longer = |now: usize, first: usize, max: usize| (2 * now).clamp(first, max);
        if bytes {
            let before = self.bytes.len();
            self.bytes
                .resize(longer(before, FIRST_BYTES, LINE_BYTES as usize), 0);
            self.bytes.len() > before
        } else {
            let before = self.ends.len();
            self.ends.resize(longer(before, FIRST_CELLS, MAX_CELLS), 0);
            self.ends.len() > before
        }
    }
}

/// Reads records.
pub(super) struct Records<R> {
    /// What came first, as far as it might have been a mark and wasn't, and the rest.
    source: Chain<Cursor<Vec<u8>>, R>,
    has_begun: bool,
    core: Box<csv_core::Reader>,
    /// Bytes that were read.
    bytes: u64,
    /// The line on which the last record began, counted from 1.
    line: u64,
}

impl<R: BufRead> Records<R> {
    pub fn new(source: R, delimiter: u8) -> Self {
        let mut core = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        // By itself it passes a mark over only where that comes in one piece, and also in front of a row that a run goes on with: after an
        // empty line it doesn't look for one.
        core.read_record(b"\n", &mut [0; 1], &mut [0; 1]);
        Self {
            source: Cursor::new(Vec::new()).chain(source),
            has_begun: false,
            core: Box::new(core),
            bytes: 0,
            line: 1,
        }
    }

    /// The same for a source that stands in front of a row: a mark there is the row's own.
    pub fn resumed(source: R, delimiter: u8) -> Self {
        Self {
            has_begun: true,
            ..Self::new(source, delimiter)
        }
    }

    /// The line on which the last record began.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Lines that were read, but for the empty one before them.
    fn lines(&self) -> u64 {
        self.core.line().saturating_sub(2)
    }

    /// Lines and bytes that were read.
    pub fn position(&self) -> (u64, u64) {
        (self.lines(), self.bytes)
    }

    /// Passes a mark over, even one that comes byte by byte.
    fn pass_mark(&mut self) -> io::Result<()> {
        let (first, rest) = self.source.get_mut();
        for (at, byte) in MARK.iter().enumerate() {
            if rest.fill_buf()?.first() != Some(byte) {
                let came = MARK.get(..at).unwrap_or_default();
                *first = Cursor::new(came.to_vec());
                return Ok(());
            }
            rest.consume(1);
        }
        self.bytes += MARK.len() as u64;
        Ok(())
    }

    /// Reads the next record; nothing where there is none.
    pub fn read(&mut self, record: &mut Record) -> io::Result<Option<Kind>> {
        record.cells = 0;
        if !self.has_begun {
            self.has_begun = true;
            self.pass_mark()?;
        }
        self.skip_empty()?;
        self.line = self.lines() + 1;
        let (mut bytes, mut cells) = (0, 0);
        let (mut is_long, mut is_open) = (false, false);
        loop {
            let input = self.source.fill_buf()?;
            let is_end = input.is_empty();
            // At the end, a line end shows whether quotes are open: it is part of their cell then.
            let input = if is_end && !is_open {
                b"\n".as_slice()
            } else {
                input
            };
            let (result, read, more, ends) = self.core.read_record(
                input,
                record.bytes.get_mut(bytes..).unwrap_or_default(),
                record.ends.get_mut(cells..).unwrap_or_default(),
            );
            if !is_end {
                self.source.consume(read);
                self.bytes += read as u64;
            }
            (bytes, cells) = (bytes + more, cells + ends);
            let is_full = match result {
                ReadRecordResult::InputEmpty => {
                    is_open = is_end;
                    continue;
                }
                ReadRecordResult::OutputFull => !record.grow(true),
                ReadRecordResult::OutputEndsFull => !record.grow(false),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            };
            if is_full {
                (bytes, cells, is_long) = (0, 0, true);
            }
        }
        record.cells = cells;
        let last = cells.checked_sub(1).filter(|_| is_open);
        if let Some(end) = last.and_then(|last| record.ends.get_mut(last)) {
            *end = end.saturating_sub(1);
        }
        if is_long {
            *record = Record::default();
        }
        Ok(Some(match (is_long, is_open) {
            (false, false) => Kind::Whole,
            (true, false) => Kind::Long,
            (false, true) => Kind::Open,
            (true, true) => Kind::LongAndOpen,
        }))
    }

    /// Passes over the line ends before a record, so that it begins on its own line.
    fn skip_empty(&mut self) -> io::Result<()> {
        loop {
            let input = self.source.fill_buf()?;
            let is_end = |byte: &&u8| matches!(**byte, b'\n' | b'\r');
            let count = input.iter().take_while(is_end).count();
            if count == 0 {
                return Ok(());
            }
            let ends = input.get(..count).unwrap_or_default();
            let (_, read, _, _) = self.core.read_record(ends, &mut [0; 1], &mut [0; 1]);
            self.source.consume(read);
            self.bytes += read as u64;
            if read < count {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor, Read};

    fn all(text: &[u8], buffer: usize) -> Vec<(u64, Kind, Vec<String>)> {
        let mut records = Records::new(BufReader::with_capacity(buffer, text), b',');
        let (mut record, mut all) = (Record::default(), Vec::new());
        while let Some(kind) = records.read(&mut record).expect("bytes") {
            let cells = record
                .iter()
                .map(|cell| String::from_utf8_lossy(cell).into_owned());
            all.push((records.line(), kind, cells.collect()));
        }
        assert_eq!(records.position().1, text.len() as u64);
        all
    }

    fn owned(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn records_are_read_with_the_line_on_which_they_begin() {
        let text = b"a,b\r\n\r\n\n\"x\r\ny\",\"\"\"q\"\"\"\r\nlast,";
        for buffer in [1, 2, 3, 7, 100] {
            assert_eq!(
                all(text, buffer),
                [
                    (1, Kind::Whole, owned(&["a", "b"])),
                    (4, Kind::Whole, owned(&["x\r\ny", "\"q\""])),
                    (6, Kind::Whole, owned(&["last", ""])),
                ]
            );
        }
        assert!(all(b"", 8).is_empty() && all(b"\n\r\n", 8).is_empty());
    }

    #[test]
    fn a_quote_that_is_left_open_is_told_and_one_within_a_cell_is_none() {
        assert_eq!(all(b"a,\"b\n", 3), [(1, Kind::Open, owned(&["a", "b\n"]))]);
        let kinds = |text: &[u8]| -> Vec<Kind> { all(text, 4).iter().map(|one| one.1).collect() };
        assert_eq!(kinds(b"a\nb,\"c\nd"), [Kind::Whole, Kind::Open]);
        assert_eq!(kinds(b"a\nb,\"c\""), [Kind::Whole, Kind::Whole]);
        assert_eq!(kinds(b"5\" pipe,x"), [Kind::Whole]);
        assert_eq!(kinds(b"\"\"\""), [Kind::Open]);
    }

    #[test]
    fn what_comes_after_a_long_record_is_read_on_and_the_record_is_not_held() {
        let long = LINE_BYTES + 3;
        let cell = || std::io::repeat(b'x').take(long);
        let cells = || std::io::repeat(b',').take(MAX_CELLS as u64);
        let text = Cursor::new(b"a,\"")
            .chain(cell())
            .chain(Cursor::new(b"\n\",b\nnext,1\n"))
            .chain(cells())
            .chain(Cursor::new(b"\nlast,2\n\""))
            .chain(cell());
        let mut records = Records::new(BufReader::new(text), b',');
        let (mut record, mut seen) = (Record::default(), Vec::new());
        while let Some(kind) = records.read(&mut record).expect("bytes") {
            seen.push((records.line(), kind, record.len()));
            assert!(record.bytes.len() as u64 <= LINE_BYTES);
        }
        assert_eq!(
            seen,
            [
                (1, Kind::Long, 0),
                (3, Kind::Whole, 2),
                (4, Kind::Long, 0),
                (5, Kind::Whole, 2),
                (6, Kind::LongAndOpen, 0),
            ]
        );
    }

    #[test]
    fn a_mark_is_passed_over_byte_by_byte_and_is_a_rows_own_where_a_run_goes_on() {
        let first = |mut records: Records<BufReader<&[u8]>>| {
            let mut record = Record::default();
            let kind = records.read(&mut record).expect("bytes can be read");
            assert_eq!(kind, Some(Kind::Whole));
            (record.get(0).map(<[u8]>::to_vec), records.position())
        };
        let bytes = "\u{feff}a\nb\n".as_bytes();
        for capacity in [1, 2, 3, 64] {
            let source = BufReader::with_capacity(capacity, bytes);
            assert_eq!(
                first(Records::new(source, b',')),
                (Some(b"a".to_vec()), (1, 5))
            );
        }
        let part = BufReader::with_capacity(1, b"\xef\xbbx\n".as_slice());
        assert_eq!(
            first(Records::new(part, b',')).0,
            Some(b"\xef\xbbx".to_vec())
        );
        let rest = BufReader::new("\u{feff}\nb\n".as_bytes());
        assert_eq!(
            first(Records::resumed(rest, b',')),
            (Some(MARK.to_vec()), (1, 4))
        );
    }
}
