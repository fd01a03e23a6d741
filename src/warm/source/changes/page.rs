//! Owns what a page of a followed table is: how many rows it takes, and where the next one begins.
//!
//! Promises that a row which can't be parted from the one before it is refused in words, and never left out; and that what lies in the future by
//! the database's own clock waits until it comes.

use super::{ChangedRow, Point, PositionKind, rows};
use crate::warm::source::{SourceError, sql::row_bytes};
use sqlx::postgres::PgRow;

/// Rows and bytes after which a page ends.
const PAGE_ROWS: usize = 256;
const PAGE_BYTES: usize = 4 << 20;
/// Rows at one position that are read together, and their bytes, where the statement can't part them.
const MAX_TOGETHER: usize = 10_000;
const MAX_TOGETHER_BYTES: usize = 32 << 20;
/// Rows that are asked for before it is known how large they are, and then at the utmost.
const FIRST_FETCH: usize = 8;
const MAX_FETCH: usize = 64;

/// A row where it was found.
pub(in crate::warm) struct Found {
    pub at: Point,
    /// The row, or what is wrong with it.
    pub row: Result<ChangedRow, String>,
}

/// Some rows, in order.
pub(in crate::warm) struct Page {
    pub rows: Vec<Found>,
    /// Where the next page begins; nothing if no row came.
    pub next: Option<Point>,
    /// Up to where all rows were read; nothing if no row came.
    pub covered: Option<Point>,
    /// Whether nothing came after them.
    pub is_last: bool,
    /// The next position, where it lies in the future: its rows wait until it comes.
    pub ahead: Option<i64>,
    /// When they were read, by the database's clock, in microseconds since 1970.
    pub now_us: i64,
}

/// What a statement turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feed {
    pub kind: PositionKind,
    /// Whether it takes the last tie as well.
    pub breaks_ties: bool,
}

impl Page {
    pub(super) fn end() -> Self {
        Self {
            rows: Vec::new(),
            next: None,
            covered: None,
            is_last: true,
            ahead: None,
            now_us: 0,
        }
    }
}

/// A page while its rows come.
pub(super) struct Reading {
    feed: Feed,
    page: Page,
    bytes: usize,
    /// The largest row, in bytes.
    largest: usize,
    pub(super) is_full: bool,
    pub(super) is_last: bool,
    /// The last row that came, and after which point all have to come.
    at: Option<Point>,
    from: Point,
    /// Rows and bytes up to the first row at the last position.
    before: (usize, usize),
}

impl Reading {
    pub(super) fn new(feed: Feed, now_us: i64, from: Point) -> Self {
        Self {
            feed,
            page: Page {
                rows: Vec::new(),
                next: None,
                covered: None,
                is_last: false,
                ahead: None,
                now_us,
            },
            bytes: 0,
            largest: 0,
            is_full: false,
            is_last: false,
            at: None,
            from,
            before: (0, 0),
        }
    }

    /// How many rows to ask for: as many as fit if they are as large as the largest one.
    pub(super) fn wanted(&self) -> usize {
        match self.at {
            None => FIRST_FETCH,
            Some(_) => (PAGE_BYTES / self.largest.max(1)).clamp(1, MAX_FETCH),
        }
    }

    pub(super) fn take(&mut self, row: &PgRow) -> Result<(), SourceError> {
        if self.is_full || self.page.ahead.is_some() {
            return Ok(());
        }
        let position = rows::position(row, self.feed.kind)?;
        if self.feed.kind == PositionKind::Moment && position > self.page.now_us {
            self.page.ahead = Some(position);
            self.is_last = true;
            return Ok(());
        }
        let last = self.at.as_ref().map(|at| at.position);
        if last.is_some_and(|last| last > position) {
            return Err(SourceError(
                "expected the rows in the order of `position`: write ORDER BY".into(),
            ));
        }
        if last.is_some_and(|last| last < position) {
            self.before = (self.page.rows.len(), self.bytes);
        }
        let has_enough = self.page.rows.len() >= PAGE_ROWS || self.bytes >= PAGE_BYTES;
        if has_enough && (self.feed.breaks_ties || last.is_some_and(|last| last < position)) {
            self.is_full = true;
            return Ok(());
        }
        let (rows, bytes) = self.before;
        let is_much =
            self.page.rows.len() - rows >= MAX_TOGETHER || self.bytes - bytes >= MAX_TOGETHER_BYTES;
        if is_much {
            return Err(SourceError(format!(
                "more than {MAX_TOGETHER} rows or {MAX_TOGETHER_BYTES} bytes have the same position: compare a column `tie` with $2 as well, so that they can be read in parts"
            )));
        }
        let size = row_bytes(row);
        self.bytes += size;
        self.largest = self.largest.max(size);
        let Some(key) = rows::tie(row, self.feed.breaks_ties)? else {
            self.leave_out(position);
            return Ok(());
        };
        let at = Point { position, key };
        self.check_order(&at)?;
        self.at = Some(at.clone());
        let row = rows::read(row, position, self.feed.kind);
        self.page.rows.push(Found { at, row });
        Ok(())
    }

    /// A row without what parts it from others, as where its key is null, is bad, and stops nobody: such rows are the last ones at their position, and
    /// none comes after any point there.
    fn leave_out(&mut self, position: i64) {
        let last = self.at.take().filter(|last| last.position == position);
        let at = last.unwrap_or(Point {
            position,
            key: String::new(),
        });
        let problem = "`tie`: expected a text that isn't empty";
        let row = Err(problem.to_owned());
        self.page.rows.push(Found {
            at: at.clone(),
            row,
        });
        self.at = Some(at);
    }

    /// Refuses a row that would be left out if a page ended before it.
    fn check_order(&self, at: &Point) -> Result<(), SourceError> {
        let last = self.at.as_ref().unwrap_or(&self.from);
        let is_parted = !self.feed.breaks_ties || last < at;
        match is_parted {
            true => Ok(()),
            false => Err(SourceError(
                "expected each row at one position to have a `tie` of its own, in the order of its bytes: write (…)::text COLLATE \"C\" in WHERE and in ORDER BY".into(),
            )),
        }
    }

    pub(super) fn page(self) -> Page {
        let mut page = self.page;
        let Some(at) = self.at else {
            page.is_last = true;
            return page;
        };
        page.is_last = self.is_last && !self.is_full;
        let after = Point::after(at.position);
        let next = match self.feed.breaks_ties {
            true => at,
            false => after.clone(),
        };
        page.covered = Some(if page.is_last { after } else { next.clone() });
        page.next = Some(next);
        page
    }
}
