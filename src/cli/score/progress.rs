//! Owns the marks of a run that writes a file: every second, how far its output and the store have come together.
//!
//! Promises that a mark holds nobody up: it is kept once its rows are in the store, while the run goes on.

use super::{errors::Errors, item::Position, manifest::Manifest, output::Output, scorer::Scorer};
use anyhow::Context;
use std::{
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
    keeping: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Marks {
    pub fn new(output: &Path, scorer: &Scorer) -> Self {
        Self {
            output: output.to_owned(),
            scorer: scorer.clone(),
            last: Instant::now(),
            marked: Position::default(),
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
        if !is_kept || self.last.elapsed() < BETWEEN || self.marked == manifest.end {
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
        let Some(part) = output.part() else {
            return Ok(());
        };
        let mut manifest = manifest.clone();
        let mut files = Vec::new();
        let (bytes, file) = part.mark()?;
        manifest.output_bytes = bytes;
        files.push(file);
        if let Some(part) = &mut errors.quarantine {
            let (bytes, file) = part.mark()?;
            manifest.quarantine_bytes = bytes;
            files.push(file);
        }
        let quarantine = errors
            .quarantine
            .as_ref()
            .map(|part| part.path().to_owned());
        let (scorer, path) = (self.scorer.clone(), self.output.clone());
        self.last = Instant::now();
        self.marked = manifest.end;
        self.keeping = Some(Handle::current().spawn(async move {
            scorer.flush().await?;
            let end = manifest.end;
            let keep = move || {
                for file in files {
                    file.sync_data()?;
                }
                manifest.keep(&path, quarantine.as_deref())
            };
            let kept = tokio::task::spawn_blocking(keep).await?;
            kept.context("the manifest can't be written")?;
            scorer.kept(end);
            Ok(())
        }));
        Ok(())
    }

    /// Waits for the mark that is being kept.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        match self.keeping.take() {
            Some(keeping) => keeping.await.context("a mark was lost")?,
            None => Ok(()),
        }
    }
}
