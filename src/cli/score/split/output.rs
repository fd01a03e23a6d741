//! Owns the parts of a split output while they are written.

use super::{
    SplitMark, check_there,
    limits::{Filled, Limits, Text},
    names::{MAX_PARTS, Names},
    unnamed::{Unnamed, taken},
};
use crate::cli::{
    file::{Format, Packing},
    score::{
        manifest::{self, Manifest},
        output::Mark,
        part::Part,
        render::{Layout, Piece},
        table::{Encoder, Ready},
    },
};
use anyhow::{Context, bail};
use kiln_contract::model::ModelInfo;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// When whole parts get their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::score) enum Naming {
    /// Once they are whole: nobody goes on with the run.
    AtOnce,
    /// Once a manifest says that they are whole.
    WithMarks,
    /// All together, once the last one is whole: a bad row may end the run, and nothing is written then.
    AtTheEnd,
}

/// An output that is split into parts.
pub(in crate::cli::score) struct SplitOutput {
    /// The output's name, which no file gets: what belongs to the run stands beside it.
    output: PathBuf,
    /// Holds the output, so that no other process writes its parts.
    lock: Option<Part>,
    names: Names,
    limits: Limits,
    layout: Layout,
    naming: Naming,
    is_stream: bool,
    kind: Text,
    current: Option<Current>,
    whole: u32,
    unnamed: Vec<Unnamed>,
    /// Rows that come first and are in whole parts already.
    skip: u64,
    /// Rows of the block that is being added, and how many of them were added when a part became whole.
    added: u64,
    whole_after: Option<u64>,
    /// Where a run can go on from, if that isn't in the middle of a part; and whether that is new.
    boundary: Manifest,
    is_moved: bool,
}

/// The part that isn't whole.
struct Current {
    part: Part,
    encoder: Option<Encoder>,
    rows: u64,
}

impl Current {
    fn filled(&self) -> anyhow::Result<Filled> {
        let waiting = self.encoder.as_ref().map_or(0, Encoder::waiting);
        Ok(Filled {
            rows: self.rows,
            bytes: self.part.bytes()? + waiting as u64,
        })
    }
}

impl SplitOutput {
    /// Opens it where an earlier run stopped, as its manifest says, or anew. `is_stream` says how Arrow is written.
    pub fn open(
        output: &Path,
        limits: Limits,
        layout: &Layout,
        known: &Manifest,
        is_stream: bool,
    ) -> anyhow::Result<Self> {
        let mark = known.split.unwrap_or_default();
        let names = Names::of(output);
        // What another run has come to is left as it is.
        check_there(&names, mark.whole)?;
        let lock = Part::open(output, 0, Some(output))?;
        // Who held it before may have ended meanwhile.
        check_there(&names, mark.whole)?;
        let mut split = Self {
            output: output.to_owned(),
            lock: Some(lock),
            limits,
            layout: layout.clone(),
            naming: Naming::AtOnce,
            is_stream,
            kind: Text {
                has_quotes: layout.format != Format::Jsonl,
                is_packed: Packing::of_name(output) != Packing::Plain,
            },
            current: None,
            whole: mark.whole,
            unnamed: Vec::new(),
            skip: mark.skip,
            added: 0,
            whole_after: None,
            boundary: known.clone(),
            is_moved: false,
            names,
        };
        // What was whole, and was killed before it had its name.
        for number in 1..=mark.whole {
            let one = Unnamed::new(&split.names, number);
            if one.waits() {
                split.unnamed.push(one);
            }
        }
        if known.output_bytes > 0 || mark.whole == 0 {
            let part = split.begin(known.output_bytes, mark.rows)?;
            split.current = Some(part);
        }
        Ok(split)
    }

    /// Says when parts get their names; those that waited for that get them.
    pub fn name_parts(&mut self, naming: Naming) -> anyhow::Result<()> {
        self.naming = naming;
        match naming {
            Naming::AtTheEnd => Ok(()),
            Naming::AtOnce | Naming::WithMarks => self.name_all(),
        }
    }

    fn name_all(&mut self) -> anyhow::Result<()> {
        for one in &self.unnamed {
            one.name()?;
        }
        self.unnamed.clear();
        Ok(())
    }

    fn begin(&self, keep: u64, rows: u64) -> anyhow::Result<Current> {
        let number = self.whole + 1;
        if number > MAX_PARTS {
            bail!(
                "{} has more than {MAX_PARTS} parts: let each have more rows or bytes",
                self.output.display()
            );
        }
        let path = self.names.path(number);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(taken(&path));
        }
        let mut part = Part::open(&path, keep, Some(self.output.as_path()))?;
        if keep == 0 {
            part.write(&self.layout.header())?;
        }
        let shape = self.layout.shape.clone();
        Ok(Current {
            part,
            encoder: shape.map(|shape| Encoder::new(self.layout.format, shape, self.is_stream)),
            rows,
        })
    }

    fn current(&mut self) -> anyhow::Result<&mut Current> {
        if self.current.is_none() {
            self.current = Some(self.begin(0, 0)?);
        }
        self.current.as_mut().context("no part is open")
    }

    /// Ends the part that isn't whole, if there is one.
    pub fn close(&mut self, model: Option<&ModelInfo>) -> anyhow::Result<()> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let Current {
            mut part, encoder, ..
        } = current;
        if let Some(encoder) = encoder {
            part.write(&encoder.finish(model)?)?;
        }
        part.close()?;
        self.whole += 1;
        self.whole_after = Some(self.added);
        self.unnamed.push(Unnamed::new(&self.names, self.whole));
        if self.naming != Naming::WithMarks {
            self.sync_last()?;
        }
        match self.naming {
            Naming::AtOnce => self.name_all(),
            Naming::WithMarks | Naming::AtTheEnd => Ok(()),
        }
    }

    fn sync_last(&self) -> anyhow::Result<()> {
        let synced = self.unnamed.last().map_or(Ok(()), Unnamed::sync);
        synced.with_context(|| format!("{} can't be written", self.output.display()))
    }

    /// Whether a run that is killed can go on in the middle of a part.
    pub fn may_resume_within(&self) -> bool {
        self.layout.shape.is_none() && Packing::of_name(&self.output) != Packing::Zstd
    }

    /// Begins with a block of so many rows at the most; says whether a place to go on from is wanted that is before it.
    pub fn begin_block(&mut self, rows: u64) -> bool {
        (self.added, self.whole_after) = (0, None);
        let before = self.current.as_ref().map_or(0, |current| current.rows);
        !self.may_resume_within() && self.limits.has_all_rows(before + rows)
    }

    /// Adds results.
    pub fn add(&mut self, results: &Piece) -> anyhow::Result<()> {
        match results {
            Piece::Text(rows) => self.text(rows),
            Piece::Table(rows) => self.table(rows),
        }
    }

    fn text(&mut self, rows: &[u8]) -> anyhow::Result<()> {
        let mut rest = rows;
        while self.skip > 0 && !rest.is_empty() {
            rest = rest.get(self.kind.row(rest)..).unwrap_or_default();
            (self.skip, self.added) = (self.skip - 1, self.added + 1);
        }
        let kind = self.kind;
        let limits = self.limits_of_rows();
        while !rest.is_empty() {
            let current = self.current()?;
            let fit = limits.fit(rest, kind, current.filled()?);
            let (taken, others) = rest.split_at_checked(fit.bytes).unwrap_or((rest, &[]));
            current.part.write(taken)?;
            current.rows += fit.rows;
            self.added += fit.rows;
            rest = others;
            if fit.is_full {
                self.close(None)?;
            }
        }
        Ok(())
    }

    /// The limits that are looked at with each row: where a run can't go on in the middle of a part, bytes are looked at after a block.
    fn limits_of_rows(&self) -> Limits {
        Limits {
            bytes: self.limits.bytes.filter(|_| self.may_resume_within()),
            ..self.limits
        }
    }

    fn table(&mut self, rows: &Ready) -> anyhow::Result<()> {
        let count = rows.rows() as u64;
        let mut at = self.skip.min(count);
        (self.skip, self.added) = (self.skip - at, self.added + at);
        while at < count {
            let max = self.limits.rows.unwrap_or(u64::MAX);
            let current = self.current()?;
            let take = max.saturating_sub(current.rows).min(count - at);
            let slice = rows.slice(at as usize, take as usize);
            if let Some(encoder) = &mut current.encoder {
                let bytes = encoder.add(&slice)?;
                current.part.write(&bytes)?;
            }
            current.rows += take;
            let is_full = current.rows >= max;
            (at, self.added) = (at + take, self.added + take);
            if is_full {
                self.close(None)?;
            }
        }
        Ok(())
    }

    /// Ends with a block. `before` is where a run can go on from that is before it, and `after` makes the one that is after it.
    pub fn end_block(
        &mut self,
        before: Option<Manifest>,
        after: impl FnOnce() -> anyhow::Result<Manifest>,
    ) -> anyhow::Result<()> {
        if self.may_resume_within() {
            return Ok(());
        }
        let is_full = match &self.current {
            Some(current) => self.limits.has_all_bytes(current.filled()?),
            None => false,
        };
        if is_full {
            self.close(None)?;
        }
        let skip = self.whole_after.unwrap_or_default();
        let known = match (self.current.is_some(), self.whole_after) {
            (_, None) => return Ok(()),
            (false, _) if self.skip == 0 => Some((after()?, 0)),
            _ => before.map(|before| (before, skip)),
        };
        if let Some((mut manifest, skip)) = known {
            manifest.output_bytes = 0;
            manifest.split = Some(SplitMark {
                whole: self.whole,
                rows: 0,
                skip,
            });
            (self.boundary, self.is_moved) = (manifest, true);
        }
        Ok(())
    }

    /// Whether a run can go on from elsewhere than it could at the last mark.
    pub fn has_moved(&self) -> bool {
        self.is_moved || self.may_resume_within()
    }

    /// Where a run can go on from now, with the parts that get their names once that is kept.
    pub fn mark(&mut self) -> anyhow::Result<Mark> {
        let mut mark = Mark::default();
        if self.may_resume_within() {
            let mut split = SplitMark {
                whole: self.whole,
                ..SplitMark::default()
            };
            if let Some(current) = &mut self.current {
                let (bytes, file) = current.part.mark()?;
                (mark.bytes, split.rows) = (bytes, current.rows);
                mark.file = Some(file);
            }
            mark.split = Some(split);
        } else {
            self.is_moved = false;
            mark.split = self.boundary.split;
            mark.instead = Some(self.boundary.clone());
        }
        if self.naming == Naming::WithMarks {
            let whole = mark.split.map_or(0, |split| split.whole);
            let known = |one: &mut Unnamed| one.number <= whole;
            mark.unnamed = self.unnamed.extract_if(.., known).collect();
        }
        Ok(mark)
    }

    /// Ends the last part. `now` is where a run that is killed from now on goes on from.
    pub fn end(&mut self, model: Option<&ModelInfo>, now: Manifest) -> anyhow::Result<()> {
        (self.added, self.whole_after) = (0, None);
        self.close(model)?;
        self.end_block(None, || Ok(now))
    }

    /// Where the output is held, which no file is called.
    pub fn partial(&self) -> Option<PathBuf> {
        self.lock.as_ref().and_then(Part::partial)
    }

    /// Completes it: whatever has no name yet gets it. Says how many parts there are.
    pub fn finish(mut self, model: Option<&ModelInfo>) -> anyhow::Result<u32> {
        self.close(model)?;
        self.sync_last()?;
        self.name_all()?;
        self.lock.take().map_or(Ok(()), Part::discard)?;
        Ok(self.whole)
    }
}

impl Drop for SplitOutput {
    fn drop(&mut self) {
        if manifest::path(&self.output).exists() {
            return;
        }
        self.unnamed.iter().for_each(Unnamed::remove);
    }
}
