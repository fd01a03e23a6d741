//! Reads the folder of schedules again and again, and says what has changed and what is wrong there.
//!
//! Promises that a folder which can't be read for a while, as on a file system that hangs, stops neither the schedules that are known nor the worker's
//! end.

use super::{
    carry::Carrier,
    folder::{Changes, Folder, ReadFiles},
    schedule::{BadSchedule, Known, KnownModel},
};
use crate::{config::Warm, redact::Redact};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// How long the folder is waited for before what is known goes on.
const PATIENCE: Duration = Duration::from_secs(2);

/// A reading of the folder that wasn't done in time.
#[derive(Default)]
pub(super) struct FolderReading {
    under_way: Option<oneshot::Receiver<ReadFiles>>,
    is_late: bool,
    /// Whether it was ever read.
    has_read: bool,
}

impl FolderReading {
    /// Whether what is in the folder, or that there is none, is known by now.
    pub(super) fn has_read(&self) -> bool {
        self.has_read
    }

    /// Reads the folder again, and says what has changed and what is wrong.
    pub(super) async fn scan(
        &mut self,
        carrier: &Carrier,
        folder: &Arc<Mutex<Folder>>,
    ) -> anyhow::Result<Changes> {
        let dir = &carrier.settings.warm.dir;
        let under_way = self.under_way.take();
        let mut under_way = under_way.unwrap_or_else(|| read_folder(dir.clone()));
        let (folder, own) = (folder.clone(), carrier.clone());
        let patience = if self.is_late {
            Duration::ZERO
        } else {
            PATIENCE
        };
        let heard = tokio::time::timeout(patience, &mut under_way).await;
        let read = match heard {
            Ok(Ok(read)) => read,
            // There was no thread for it.
            Ok(Err(_)) => return Ok(Changes::default()),
            Err(_) => {
                // What is known goes on meanwhile.
                if !std::mem::replace(&mut self.is_late, true) {
                    let dir = dir.display();
                    tracing::warn!(%dir, "the folder of schedules can't be read for now; its schedules stay in use");
                }
                self.under_way = Some(under_way);
                return Ok(Changes::default());
            }
        };
        self.is_late = false;
        // What is due at the start waits until it can be known.
        let is_first = read.is_listed() && !std::mem::replace(&mut self.has_read, true);
        let (changes, refused, misfits) = tokio::task::spawn_blocking(move || {
            let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changes = folder.take(read);
            if is_first {
                // What was there at the start is due as it was before that.
                changes.retimed.clear();
            }
            if is_first && folder.is_missing() {
                report_missing(&own.settings.warm.dir);
            }
            let misfits = misfits(&own, &folder, &changes.read);
            (changes, folder.refused(), misfits)
        })
        .await?;
        for schedule in &changes.read {
            tracing::info!(schedule, "a schedule was read");
        }
        for schedule in &changes.gone {
            tracing::info!(schedule, "a schedule is gone");
        }
        for problem in &changes.problems {
            tracing::error!(%problem, "a schedule file is refused");
        }
        for misfit in &misfits {
            tracing::warn!(%misfit, "a schedule can't run as it is");
        }
        carrier.metrics.schedule_problems(refused);
        Ok(changes)
    }
}

/// Reads the folder on a thread of its own: one whose file system hangs holds up nothing, not even the end of the worker.
fn read_folder(dir: PathBuf) -> oneshot::Receiver<ReadFiles> {
    let (sender, heard) = oneshot::channel();
    let named = std::thread::Builder::new().name("schedules".to_owned());
    let spawned = named.spawn(move || {
        // Nobody listens any more where the worker stops.
        let _sent = sender.send(ReadFiles::of(&dir));
    });
    if let Err(error) = spawned {
        tracing::warn!(error = error.redacted(), "the schedules can't be read now");
    }
    heard
}

/// Says that there is no folder of schedules; only who sets one misses it.
fn report_missing(dir: &Path) {
    let shown = dir.display();
    if dir == Warm::default().dir {
        tracing::info!(dir = %shown, "there are no schedules: there is no such folder (warm.dir)");
    } else {
        tracing::warn!(dir = %shown, "there are no schedules: the folder in `warm.dir` is missing");
    }
}

/// What of these schedules doesn't fit the models and databases that this worker has.
fn misfits(carrier: &Carrier, folder: &Folder, names: &[String]) -> Vec<BadSchedule> {
    if names.is_empty() {
        return Vec::new();
    }
    let listed = carrier.engine.registry().list().into_iter();
    let models: Vec<KnownModel> = listed
        .map(|listed| KnownModel {
            name: listed.info.name.clone(),
            version: listed.info.version.clone(),
            input: listed.info.input,
        })
        .collect();
    let known = Known::of(&models, &carrier.settings, crate::clock::now());
    folder.misfits(&known, |name| names.iter().any(|read| read == name))
}
