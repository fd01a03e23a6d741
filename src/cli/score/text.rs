//! Owns cutting lines and records into blocks.
//!
//! Promises that what is in hand is bounded in bytes, whatever the file holds; and that a mark at a file's beginning which says that it is
//! UTF-8 is no part of its first line. Refuses UTF-16.

use super::{
    block::Rows,
    flow::Flow,
    item::{BLOCK_BYTES, BadRow, Input, Item, Json, Keep, Position},
    table::Taker,
};
use crate::{
    cli::file::{CsvEnd, CsvLines, CsvRow, LINE_BYTES, described},
    redact::Redact,
};
use anyhow::{Context, anyhow, bail};
use std::io::{self, BufRead, Cursor, Read};

/// What a file of UTF-8 may begin with, and what one of UTF-16 does.
const UTF_8: &[u8] = &[0xef, 0xbb, 0xbf];
const UTF_16: [&[u8]; 2] = [&[0xff, 0xfe], &[0xfe, 0xff]];
/// Bytes that are looked at together: who reads CSV takes a mark alone for all that there is.
const START_BYTES: u64 = 4 << 10;

/// Looks at a text's beginning: gives all of the text, and how many of its bytes are a mark.
pub(super) fn marked(
    mut reader: Box<dyn BufRead + Send>,
    shown: &str,
) -> anyhow::Result<(Box<dyn BufRead + Send>, u64)> {
    let mut start = Vec::new();
    let read = reader.by_ref().take(START_BYTES).read_to_end(&mut start);
    read.with_context(|| format!("{shown} can't be read"))?;
    if UTF_16.iter().any(|mark| start.starts_with(mark)) {
        bail!("{shown} is UTF-16: make it UTF-8, as by `iconv -f UTF-16 -t UTF-8`");
    }
    let mark = match start.starts_with(UTF_8) {
        true => UTF_8.len() as u64,
        false => 0,
    };
    Ok((Box::new(Cursor::new(start).chain(reader)), mark))
}

pub(super) fn read_lines(
    mut reader: Box<dyn BufRead + Send>,
    from: Position,
    flow: &Flow,
    shown: &str,
) -> anyhow::Result<()> {
    let mut at = from;
    loop {
        let (mut bytes, first) = (Vec::with_capacity(BLOCK_BYTES / 4), at.lines + 1);
        let (mut is_over, mut is_long) = (false, false);
        let (mut count, mut sent) = (0, at);
        while count < flow.max_rows() && bytes.len() < BLOCK_BYTES {
            let before = bytes.len();
            let read = reader
                .by_ref()
                .take(LINE_BYTES)
                .read_until(b'\n', &mut bytes);
            let unreadable = |error: io::Error| {
                anyhow!(
                    "{shown}: line {} can't be read: {}",
                    at.lines + 1,
                    error.redacted()
                )
            };
            let mut read = read.map_err(unreadable)? as u64;
            if read == 0 {
                is_over = true;
                break;
            }
            is_long = read == LINE_BYTES && bytes.last() != Some(&b'\n');
            if is_long {
                bytes.truncate(before);
                read += reader.skip_until(b'\n').map_err(unreadable)? as u64;
            }
            at = Position {
                file: at.file,
                bytes: at.bytes + read,
                lines: at.lines + 1,
            };
            if is_long {
                break;
            }
            (count, sent) = (count + 1, at);
        }
        let size = bytes.len();
        // A whole job is one line and has many inputs, each an object.
        let objects = bytes.iter().filter(|byte| **byte == b'{').count();
        let count = if count == 0 { 0 } else { count.max(objects) };
        // A run that goes on from here has the long line still before it.
        let is_taken = flow.send(Rows::Lines(bytes, first), count, size, sent)
            && (!is_long || {
                let bad = Item::Bad(BadRow::too_long(at.lines));
                flow.send(Rows::Items(vec![bad]), 1, 0, at)
            });
        if is_over || !is_taken {
            return Ok(());
        }
    }
}

/// Columns that go to the output, by position, with their names.
pub(super) fn keep<R: BufRead>(
    lines: &CsvLines<R>,
    keep: &Keep,
) -> anyhow::Result<Vec<(usize, String)>> {
    let headers = lines.headers();
    let named = |at: usize| headers.get(at).map(|name| (at, name.clone()));
    match keep {
        Keep::None => Ok(Vec::new()),
        Keep::Others => Ok(lines.others().into_iter().filter_map(named).collect()),
        Keep::These(names) => names
            .iter()
            .map(|name| {
                let at = headers.iter().position(|header| header == name);
                at.map(|at| (at, name.clone()))
                    .with_context(|| format!("no column `{name}`; {}", described(headers)))
            })
            .collect(),
    }
}

pub(super) fn read_records<R: BufRead>(
    lines: &mut CsvLines<R>,
    keep: &[(usize, String)],
    wants_rows: bool,
    flow: &Flow,
    shown: &str,
) -> anyhow::Result<()> {
    let (mut items, mut size) = (Vec::new(), 0);
    let end = |lines: &CsvLines<R>| {
        let (lines, bytes) = lines.position();
        Position {
            file: 0,
            bytes,
            lines,
        }
    };
    while let Some(row) = lines.next_row() {
        let CsvRow { line, input } = row.map_err(|end| {
            let CsvEnd { line, problem } = end;
            anyhow!("{shown}: line {line} can't be read: {problem}")
        })?;
        let row = (wants_rows || input.is_err()).then(|| whole(lines));
        let row = row.filter(|_| lines.is_held());
        let columns = keep.iter().map(|(at, _)| *at);
        let input = input.and_then(|json| lines.unreadable(columns).map_or(Ok(json), Err));
        let row = row.or_else(|| (input.is_err() && lines.is_held()).then(|| whole(lines)));
        let item = match input {
            Ok(json) => Item::Input(Input {
                line,
                kept: kept(lines, keep),
                row: row.map(Json::Own),
                json: Json::Own(json),
            }),
            Err(problem) => Item::Bad(BadRow {
                line,
                problem: format!("{problem}"),
                column: problem.column(),
                row,
            }),
        };
        size += item.bytes();
        items.push(item);
        if items.len() >= flow.max_rows() || size >= BLOCK_BYTES {
            let full = std::mem::take(&mut items);
            let count = full.len();
            if !flow.send(Rows::Items(full), count, size, end(lines)) {
                return Ok(());
            }
            size = 0;
        }
    }
    let count = items.len();
    flow.send(Rows::Items(items), count, size, end(lines));
    Ok(())
}

fn kept<R: BufRead>(lines: &CsvLines<R>, keep: &[(usize, String)]) -> Vec<(String, String)> {
    let json = |at: usize| serde_json::json!(lines.cell(at).unwrap_or_default()).to_string();
    keep.iter()
        .map(|(at, name)| (name.clone(), json(*at)))
        .collect()
}

/// A record as a JSON object; as a list of its cells where they are more than the header's.
fn whole<R: BufRead>(lines: &CsvLines<R>) -> String {
    if let Some(cells) = lines.surplus() {
        return serde_json::json!(cells).to_string();
    }
    let cells = lines.headers().iter().enumerate();
    let row: serde_json::Map<String, serde_json::Value> = cells
        .map(|(at, name)| (name.clone(), lines.cell(at).into()))
        .collect();
    serde_json::Value::Object(row).to_string()
}
