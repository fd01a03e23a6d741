//! What has changed since a position, as a dry run shows it. Nothing is noted.

use super::{Beginning, ChangedRow, Changes, Point, PositionKind};
use crate::warm::source::{Item, Row, RowContent, RowSource, SourceError};
use futures_util::{StreamExt, stream, stream::BoxStream};
use tokio::sync::Mutex;

/// Rows of a dry run, and their bytes.
const MAX_SHOWN: usize = 10_000;
const MAX_SHOWN_BYTES: usize = 64 << 20;

/// What has changed since a position, for a dry run.
pub(in crate::warm) struct ChangesSource {
    changes: Mutex<Changes>,
    stored: Option<(PositionKind, i64)>,
    from: Beginning,
}

impl ChangesSource {
    /// `stored` is how far the table was followed.
    pub(in crate::warm) fn new(
        changes: Changes,
        from: Beginning,
        stored: Option<(PositionKind, i64)>,
    ) -> Self {
        Self {
            changes: Mutex::new(changes),
            stored,
            from,
        }
    }

    async fn all(&self) -> Result<Vec<Result<Item, SourceError>>, SourceError> {
        let mut changes = self.changes.lock().await;
        let begun = changes.begin(self.from, self.stored).await?;
        let (mut point, mut items) = (Some(Point::after(begun.1)), Vec::new());
        let mut bytes = 0;
        while let Some(from) = point.filter(|_| items.len() < MAX_SHOWN && bytes < MAX_SHOWN_BYTES)
        {
            let page = changes.read(&from).await?;
            let rows = page.rows.iter().filter_map(|found| found.row.as_ref().ok());
            let contents = rows.filter_map(|row| row.content.as_ref());
            bytes += contents.map(RowContent::bytes).sum::<usize>();
            items.extend(page.rows.into_iter().filter_map(|found| shown(found.row)));
            point = page.next.filter(|_| !page.is_last);
        }
        Ok(items)
    }
}

/// What a run would post of a row; nothing of one that was removed.
fn shown(row: Result<ChangedRow, String>) -> Option<Result<Item, SourceError>> {
    match row {
        Ok(row) => Some(Ok(Item::Row(Row {
            key: row.key,
            group: None,
            content: row.content?,
            rate: None,
        }))),
        Err(problem) => Some(Ok(Item::Bad(problem))),
    }
}

impl RowSource for ChangesSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let read = async move {
            let items = self.all().await;
            stream::iter(items.unwrap_or_else(|error| vec![Err(error)]))
        };
        stream::once(read).flatten().boxed()
    }
}
