//! Owns the marks of a run that writes a file: every second, how far its output and the store have come together.
//!
//! Promises that a mark holds nobody up: it is kept once its rows are in the store, while the run goes on.

use super::{
    errors::Errors, item::Position, manifest::Manifest, output::Output, scorer::Scorer,
    split::Unnamed,
};
use anyhow::Context;
use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, task::JoinHandle};

/// Time between two marks.
const BETWEEN: Duration = Duration::from_secs(1);

/// The marks of one run.
pub(super) struct Marks {
    output: PathBuf,
    scorer: Scorer,
    last: Instant,
    /// How far the one before has come.
    marked: Position,
    /// Where a run would go on from.
    kept: Position,
    keeping: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Marks {
    pub fn new(output: &Path, scorer: &Scorer) -> Self {
        Self {
            output: output.to_owned(),
            scorer: scorer.clone(),
            last: Instant::now(),
            marked: Position::default(),
            kept: Position::default(),
            keeping: None,
        }
    }

    /// Keeps a mark, where it is time and the one before is kept.
    pub async fn mark(
        &mut self,
        manifest: &Manifest,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        let is_kept = self.keeping.as_ref().is_none_or(JoinHandle::is_finished);
        let is_new = self.marked != manifest.end && output.has_moved();
        if !is_kept || self.last.elapsed() < BETWEEN || !is_new {
            return Ok(());
        }
        self.keep(manifest, output, errors).await
    }

    /// Keeps a mark, once the one before is kept.
    pub async fn keep(
        &mut self,
        manifest: &Manifest,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        self.wait().await?;
        let live = manifest.end;
        let Some(mark) = output.mark()? else {
            return Ok(());
        };
        let mut manifest = manifest.clone();
        match mark.instead {
            Some(mut instead) => {
                instead.fleet = manifest.fleet;
                manifest = instead;
            }
            None => (manifest.output_bytes, manifest.split) = (mark.bytes, mark.split),
        }
        let (is_now, unnamed) = (manifest.end == live, mark.unnamed);
        let mut files = Vec::from_iter(mark.file);
        if let Some(part) = &mut errors.quarantine {
            let (bytes, file) = part.mark()?;
            if is_now {
                manifest.quarantine_bytes = bytes;
            }
            files.push(file);
        }
        let quarantine = errors
            .quarantine
            .as_ref()
            .map(|part| part.path().to_owned());
        let (scorer, path) = (self.scorer.clone(), self.output.clone());
        self.last = Instant::now();
        (self.marked, self.kept) = (live, manifest.end);
        self.keeping = Some(Handle::current().spawn(async move {
            scorer.flush().await?;
            let end = manifest.end;
            let keep = move || {
                for file in files {
                    file.sync_data()?;
                }
                for part in &unnamed {
                    part.sync()?;
                }
                manifest.keep(&path, quarantine.as_deref())?;
                io::Result::Ok(unnamed)
            };
            let kept = tokio::task::spawn_blocking(keep).await?;
            let unnamed = kept.context("the manifest can't be written")?;
            unnamed.iter().try_for_each(Unnamed::name)?;
            scorer.kept(end);
            Ok(())
        }));
        Ok(())
    }

    /// Where a run would go on from by the last mark.
    pub fn kept(&self) -> Position {
        self.kept
    }

    /// Waits for the mark that is being kept.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        match self.keeping.take() {
            Some(keeping) => keeping.await.context("a mark was lost")?,
            None => Ok(()),
        }
    }
}
