//! Owns where a run can go on from, as it comes on: what a manifest says now, and where a part of the output ends.

use super::Run;
use crate::cli::score::{
    errors::{Errors, OnError},
    manifest::Manifest,
    output::Output,
    progress::Marks,
    split::Naming,
    work::Done,
};

/// Says when the parts of an output get their names, where it has parts.
pub(super) fn name_parts(
    output: &mut Output,
    on_error: OnError,
    may_resume: bool,
) -> anyhow::Result<()> {
    let naming = match (on_error, may_resume) {
        (OnError::Fail, _) => Naming::AtTheEnd,
        (_, true) => Naming::WithMarks,
        (_, false) => Naming::AtOnce,
    };
    let split = output.split();
    split.map_or(Ok(()), |split| split.name_parts(naming))
}

impl Run {
    /// What a manifest says now.
    pub(super) fn now(&self) -> Manifest {
        let mut manifest = self.manifest.clone();
        manifest.seconds += self.begun.elapsed().as_secs_f64();
        manifest
    }

    pub(super) async fn mark(
        &self,
        marks: &mut Option<Marks>,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        match marks {
            Some(marks) => marks.mark(&self.now(), output, errors).await,
            None => Ok(()),
        }
    }

    /// What a manifest says now, with the bad rows that are put aside.
    fn whole_now(&self, errors: &mut Errors) -> anyhow::Result<Manifest> {
        let mut manifest = self.now();
        if let Some(part) = &mut errors.quarantine {
            manifest.quarantine_bytes = part.mark()?.0;
        }
        Ok(manifest)
    }

    /// Where the run can go on from before a block, if a part of the output may end within it.
    pub(super) fn before(
        &self,
        block: &Done,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<Option<Manifest>> {
        let split = output.split();
        let is_wanted = split.is_some_and(|split| split.begin_block(block.tally.rows));
        is_wanted.then(|| self.whole_now(errors)).transpose()
    }

    /// Ends with a block.
    pub(super) fn after(
        &self,
        before: Option<Manifest>,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        match output.split() {
            Some(split) => split.end_block(before, || self.whole_now(errors)),
            None => Ok(()),
        }
    }

    /// Keeps the last mark: where parts get their names, a run that is killed meanwhile goes on with that.
    pub(super) async fn last_mark(
        &self,
        marks: &mut Option<Marks>,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        let Some(marks) = marks else {
            return Ok(());
        };
        if let Some(split) = output.split() {
            let now = self.whole_now(errors)?;
            let model = self.model();
            split.end(model.as_ref().map(|model| model.info()), now)?;
            marks.keep(&self.now(), output, errors).await?;
        }
        marks.wait().await
    }
}
