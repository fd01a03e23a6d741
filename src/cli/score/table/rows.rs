//! Owns what the rows of a batch are: inputs, or bad; and how a batch is cut into blocks.
//!
//! Promises that a row which can't be used costs only itself, and that a block is bounded in bytes.

use super::{
    super::item::{BLOCK_BYTES, BadRow, Input, Item, Json, Position},
    cells, clipped,
    compact::compact,
    plan::{Features, Plan},
};
use crate::cli::file::LINE_BYTES;
use arrow_array::{Array, RecordBatch};
use kiln_contract::job::write;
use std::{borrow::Cow, sync::Arc};

/// Rows of a table that are worked on together.
pub(in super::super) struct Batch {
    pub(super) plan: Arc<Plan>,
    pub(super) columns: RecordBatch,
    /// The number of its first row, counted from 1.
    pub(super) first: u64,
    /// Whether it stands for one row that is too long to be held.
    is_long: bool,
}

/// Takes the rows that are read.
pub(in super::super) trait Taker: Sync {
    /// Rows that are taken together at most.
    fn max_rows(&self) -> usize;
    /// Takes rows, once there is room for them: so many, with so many bytes, up to a position. Says whether anybody wants more.
    fn take(&self, batch: Batch, rows: usize, bytes: usize, end: Position) -> bool;
    /// Notes how many bytes of the file are read.
    fn note(&self, bytes: u64);
}

/// A batch that is cut into blocks.
pub(super) struct Cut<'a> {
    pub plan: &'a Arc<Plan>,
    pub columns: &'a RecordBatch,
    /// The number of the batch's first row.
    pub first: u64,
    /// The rows that are cut already, or left out.
    pub at: usize,
}

/// Rows that were cut off a batch.
pub(super) struct Piece {
    batch: Batch,
    rows: usize,
    bytes: usize,
    end: Position,
}

impl Piece {
    /// The number of its last row.
    pub fn end(&self) -> u64 {
        self.end.lines
    }

    /// Hands it over; says whether anybody wants more.
    pub fn send(self, flow: &impl Taker) -> bool {
        flow.take(self.batch, self.rows, self.bytes, self.end)
    }
}

impl Cut<'_> {
    /// The next rows, in memory of their own.
    pub fn next(&mut self, max_rows: usize) -> anyhow::Result<Option<Piece>> {
        let (begin, count) = (self.at, self.columns.num_rows());
        let (mut bytes, mut is_long) = (0, false);
        while self.at < count && self.at - begin < max_rows && bytes < BLOCK_BYTES {
            let own = size(self.columns, self.at);
            is_long = own as u64 > LINE_BYTES;
            if is_long {
                break;
            }
            bytes += own;
            self.at += 1;
        }
        // A row that is too long for any block is one by itself, without its values.
        let is_long = is_long && self.at == begin;
        let (columns, rows) = if is_long {
            self.at += 1;
            (compact(self.columns, begin, 0)?, 1)
        } else {
            (
                compact(self.columns, begin, self.at - begin)?,
                self.at - begin,
            )
        };
        if rows == 0 {
            return Ok(None);
        }
        let first = self.first + begin as u64;
        let batch = Batch {
            plan: self.plan.clone(),
            columns,
            first,
            is_long,
        };
        let end = Position {
            file: 0,
            bytes: 0,
            lines: first + rows as u64 - 1,
        };
        Ok(Some(Piece {
            batch,
            rows,
            bytes,
            end,
        }))
    }
}

fn size(columns: &RecordBatch, row: usize) -> usize {
    let columns = columns.columns().iter();
    columns
        .map(|column| cells::size(column.as_ref(), row))
        .sum()
}

/// Why a row can't be used: the column at fault, and what is wrong with it.
type Problem = (Option<usize>, String);

impl Batch {
    /// Its rows, in order.
    pub fn items(&self) -> Vec<Item> {
        if self.is_long {
            return vec![Item::Bad(BadRow::too_long(self.first))];
        }
        (0..self.columns.num_rows())
            .map(|row| self.item(row))
            .collect()
    }

    fn item(&self, row: usize) -> Item {
        let line = self.first + row as u64;
        let read = self.input(row).and_then(|json| Ok((json, self.kept(row)?)));
        match read {
            Ok((json, kept)) => Item::Input(Input {
                line,
                json: Json::Own(json),
                kept,
                row: self.plan.rows.then(|| Json::Own(self.whole(row))),
            }),
            Err((column, problem)) => Item::Bad(BadRow {
                line,
                column: column.map(|at| self.plan.name(at).to_owned()),
                problem,
                row: Some(self.whole(row)),
            }),
        }
    }

    fn column(&self, at: usize) -> &dyn Array {
        self.columns.column(at).as_ref()
    }

    /// Whether a column is declared as text, whatever it is read as.
    fn is_string(&self, at: usize) -> bool {
        let field = self.plan.fields.get(at);
        field.is_some_and(|field| cells::is_string(field.data_type()))
    }

    fn problem(&self, at: usize, what: &str) -> Problem {
        let name = clipped(self.plan.name(at));
        (Some(at), format!("column `{name}` {what}"))
    }

    fn input(&self, row: usize) -> Result<String, Problem> {
        let key = self.plan.key.map(|at| self.key(at, row)).transpose()?;
        let key = key.flatten();
        let Some(text) = self.plan.text else {
            let named = self.named_features(row).transpose()?;
            let values = match named {
                Some(_) => Vec::new(),
                None => self.features(row)?,
            };
            return Ok(write::input(|input| {
                if let Some(named) = named {
                    input.named_features(named);
                } else {
                    input.features(&values);
                }
                if let Some(key) = &key {
                    input.key(key);
                }
            }));
        };
        let text = self.text(text, row)?;
        let pair = self.plan.text_pair.map(|at| self.text(at, row));
        let pair = pair.transpose()?;
        Ok(write::input(|input| {
            if let Some(key) = &key {
                input.key(key);
            }
            input.text(text);
            if let Some(pair) = pair {
                input.text_pair(pair);
            }
        }))
    }

    fn key(&self, at: usize, row: usize) -> Result<Option<Cow<'_, str>>, Problem> {
        let column = self.column(at);
        if column.is_null(row) {
            return Ok(None);
        }
        if cells::is_text(column.data_type()) {
            // A dictionary may have a null among its values.
            let is_there = cells::text(column, row).is_some();
            let text = is_there.then(|| self.text(at, row)).transpose()?;
            return Ok(text.map(Cow::from));
        }
        let json = cells::json(column, row).unwrap_or_default();
        // As what is null by its type, and what is no number.
        Ok((json != "null").then(|| json.trim_matches('"').to_owned().into()))
    }

    fn text(&self, at: usize, row: usize) -> Result<&str, Problem> {
        let text = cells::text(self.column(at), row);
        let text = text.ok_or_else(|| self.problem(at, "is null"))?;
        std::str::from_utf8(text).map_err(|_| self.problem(at, "is not UTF-8"))
    }

    fn features(&self, row: usize) -> Result<Vec<f64>, Problem> {
        match &self.plan.features {
            Features::None => Ok(Vec::new()),
            Features::List(at) => {
                let items = cells::list(self.column(*at), row);
                let items = items.ok_or_else(|| self.problem(*at, "is null"))?;
                let each = 0..items.len();
                each.map(|row| self.number(*at, items.as_ref(), row))
                    .collect()
            }
            Features::Columns(all) => {
                let each = all.iter();
                each.map(|at| self.number(*at, self.column(*at), row))
                    .collect()
            }
        }
    }

    /// The features by their columns' names, without those that are null; nothing where they come by place.
    fn named_features(&self, row: usize) -> Option<Result<Vec<(&str, f64)>, Problem>> {
        let Features::Columns(all) = &self.plan.features else {
            return None;
        };
        let there = all.iter().filter(|at| {
            let number = cells::number(self.column(**at), row);
            number.is_some_and(|x| !x.is_nan())
        });
        let named = || {
            there
                .map(|at| {
                    Ok((
                        self.plan.name(*at),
                        self.number(*at, self.column(*at), row)?,
                    ))
                })
                .collect()
        };
        self.plan.by_name.then(named)
    }

    fn number(&self, at: usize, array: &dyn Array, row: usize) -> Result<f64, Problem> {
        let value = cells::number(array, row);
        let value = value.ok_or_else(|| self.problem(at, "is null"))?;
        match value.is_finite() {
            true => Ok(value),
            false => Err(self.problem(at, "is no finite number")),
        }
    }

    /// What goes to the output as text. What goes there as it is, is looked at as well: a text that is none has no form there.
    fn kept(&self, row: usize) -> Result<Vec<(String, String)>, Problem> {
        let mut kept = Vec::new();
        for at in self.plan.kept.iter().copied() {
            let column = self.column(at);
            if self.plan.kept_as_text {
                let json = cells::json(column, row);
                let json = json.ok_or_else(|| self.problem(at, "is not UTF-8"))?;
                kept.push((self.plan.name(at).to_owned(), json));
            } else if self.is_string(at) && !column.is_null(row) {
                self.text(at, row)?;
            }
        }
        Ok(kept)
    }

    /// A row as a JSON object, as far as it was read and has a form.
    fn whole(&self, row: usize) -> String {
        let each = self.plan.fields.iter().zip(self.columns.columns());
        let cells: Vec<String> = each
            .map(|(field, column)| {
                let json = cells::is_plain(column.data_type())
                    .then(|| cells::json(column.as_ref(), row))
                    .flatten();
                let name = serde_json::json!(field.name());
                format!("{name}:{}", json.as_deref().unwrap_or("null"))
            })
            .collect();
        format!("{{{}}}", cells.join(","))
    }
}
