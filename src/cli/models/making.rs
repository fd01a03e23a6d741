//! Owns a version that a command makes, until it is there.
//!
//! Promises that a command that is asked to stop leaves nothing of it in the models folder.

use crate::cli::stop;
use anyhow::Context;
use kiln_model::give_up_version;
use std::{
    future::Future,
    path::{Path, PathBuf},
};

/// A version that isn't there yet.
pub(super) struct Making {
    models_dir: PathBuf,
    name: String,
    version: String,
}

impl Making {
    pub(super) fn of(models_dir: &Path, name: &str, version: &str) -> Self {
        Self {
            models_dir: models_dir.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    /// What the work gives; nothing where somebody asked to stop before the version was there, which is said.
    pub(super) async fn or_stopped<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> anyhow::Result<Option<T>> {
        let stopped = stop::token();
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Ok(Some(done)),
            () = stopped.cancelled() => {}
        }
        let is_there = give_up_version(&self.models_dir, &self.name, &self.version)
            .context("what was written so far can't be removed")?;
        if is_there {
            return Ok(Some(work.await));
        }
        eprintln!("kiln: stopped");
        Ok(None)
    }
}
