//! Owns what a page of a followed table is: how many rows it takes, and where the next one begins.

use super::{ChangedRow, Point, PositionKind, rows};
use crate::warm::source::SourceError;
use sqlx::postgres::PgRow;

/// Rows and bytes after which a page ends.
const PAGE_ROWS: usize = 256;
const PAGE_BYTES: usize = 4 << 20;
/// Rows at one position that are read together, where the statement can't part them.
const MAX_TOGETHER: usize = 10_000;

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
    /// Up to which position all rows were read.
    pub complete: Option<i64>,
    /// Whether nothing came after them.
    pub is_last: bool,
    /// When they were read, by the database's clock, in microseconds since 1970.
    pub now_us: i64,
}

/// What a statement turned out to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feed {
    pub kind: PositionKind,
    /// Whether it takes the last key as well.
    pub breaks_ties: bool,
}

impl Page {
    pub(super) fn end() -> Self {
        Self {
            rows: Vec::new(),
            next: None,
            complete: None,
            is_last: true,
            now_us: 0,
        }
    }
}

/// A page while its rows come.
pub(super) struct Reading {
    feed: Feed,
    page: Page,
    bytes: usize,
    pub(super) is_full: bool,
    pub(super) is_last: bool,
    /// The last row that came.
    at: Option<Point>,
    /// The position before that of the last row.
    before: Option<i64>,
    /// Rows up to the first one at the last position.
    complete_rows: usize,
}

impl Reading {
    pub(super) fn new(feed: Feed, now_us: i64) -> Self {
        Self {
            feed,
            page: Page {
                rows: Vec::new(),
                next: None,
                complete: None,
                is_last: false,
                now_us,
            },
            bytes: 0,
            is_full: false,
            is_last: false,
            at: None,
            before: None,
            complete_rows: 0,
        }
    }

    pub(super) fn take(&mut self, row: &PgRow) -> Result<(), SourceError> {
        if self.is_full {
            return Ok(());
        }
        let position = rows::position(row, self.feed.kind)?;
        let last = self.at.as_ref().map(|at| at.position);
        if last.is_some_and(|last| last > position) {
            return Err(SourceError(
                "expected the rows in the order of `position`: write ORDER BY".into(),
            ));
        }
        if last.is_some_and(|last| last < position) {
            self.before = last;
            self.complete_rows = self.page.rows.len();
        }
        let has_enough = self.page.rows.len() >= PAGE_ROWS || self.bytes >= PAGE_BYTES;
        if has_enough && (self.feed.breaks_ties || last.is_some_and(|last| last < position)) {
            self.is_full = true;
            return Ok(());
        }
        if self.page.rows.len() - self.complete_rows >= MAX_TOGETHER {
            return Err(SourceError(format!(
                "more than {MAX_TOGETHER} rows have the same position: compare the key with $2 as well, so that they can be read in parts"
            )));
        }
        self.bytes += rows::bytes(row);
        let at = Point {
            position,
            key: rows::tie(row),
        };
        self.at = Some(at.clone());
        let row = rows::read(row, position, self.feed.kind);
        self.page.rows.push(Found { at, row });
        Ok(())
    }

    pub(super) fn page(self) -> Page {
        let mut page = self.page;
        let Some(at) = self.at else {
            page.is_last = true;
            return page;
        };
        page.is_last = self.is_last && !self.is_full;
        let is_whole = page.is_last || !self.feed.breaks_ties;
        page.complete = if is_whole {
            Some(at.position)
        } else {
            self.before
        };
        page.next = Some(match self.feed.breaks_ties {
            true => at,
            false => Point::after(at.position),
        });
        page
    }
}
