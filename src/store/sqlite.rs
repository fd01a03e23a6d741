//! Owns what is stored without servers: one SQLite file, of one process at a time.
//!
//! `jobs` is Postgres's. A score is two rows: one in `outputs`, small and found by its key, which a second run looks up; and one in `inputs`, a log
//! to which rows are added at the end. The view `scores` shows them as Postgres has them. Promises that rows go together in large
//! transactions on a thread of its own, behind those who store them: what isn't written yet is found all the same, and
//! [`SqliteStore::flush`] waits for it. A process that is killed loses what came in its last seconds, jobs with their scores, so that it is
//! scored again.

mod found;
mod names;
mod schema;
mod staged;
mod statements;
mod writer;

use super::{Batch, Inserted, Rejected, RejectedRow, ScoreRow, StoreError, Table};
use crate::redact::Redact;
use chrono::{DateTime, Utc};
pub use found::FoundScores;
use found::{find_written, take};
use kiln_contract::key::InputHash;
use kiln_contract::result::Finished;
use names::{ModelName, Names, add_model, add_namespace, find_model};
use rusqlite::Connection;
use staged::{StagedJob, short};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;
use writer::{Queue, classify};

/// Look-ups at the same time: each has a connection with a cache of its own.
const READERS: usize = 2;

/// One file.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
    /// Ends the thread when the last one goes.
    _open: Arc<Open>,
}

struct Inner {
    path: PathBuf,
    queue: Queue,
    names: Names,
    readers: Mutex<Vec<Connection>>,
    may_read: Semaphore,
    /// Held from asking for jobs' ids until they are staged: of two under one id the second finds the first.
    staging: tokio::sync::Mutex<()>,
}

struct Open(Arc<Inner>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqliteStore({})", self.inner.path.display())
    }
}

impl SqliteStore {
    /// Opens the file, making it where it isn't there, and migrates it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_noting(path, |_, _| {}).await
    }

    /// The same; `moved` hears how many rows of an earlier release's form were moved, and of how many.
    pub async fn open_noting(
        path: &Path,
        mut moved: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let file = path.display().to_string();
        let problem = |e: &dyn Redact| StoreError::Refused(format!("{file}: {}", e.redacted()));
        let opening = path.clone();
        let open = tokio::task::spawn_blocking(move || schema::open(&opening, &mut moved));
        let connection = open.await.map_err(|e| problem(&e))?;
        let connection = connection.map_err(|e| StoreError::Refused(format!("{file}: {e}")))?;
        let inner = Arc::new(Inner {
            path,
            queue: Queue::default(),
            names: Names::default(),
            readers: Mutex::default(),
            may_read: Semaphore::new(READERS),
            staging: tokio::sync::Mutex::new(()),
        });
        let serving = inner.clone();
        std::thread::Builder::new()
            .name("kiln-file".to_owned())
            .spawn(move || serving.queue.serve(connection))
            .map_err(|e| problem(&e))?;
        Ok(Self {
            _open: Arc::new(Open(inner.clone())),
            inner,
        })
    }

    /// Whether the file still takes what it is given; an error says why not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.inner.queue.check()
    }

    /// Waits until everything is written that was stored before.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.inner.queue.flush().await
    }

    /// The output rows of `width` values of those inputs that a model version has scored before.
    pub async fn find_scores(
        &self,
        model: &str,
        version: &str,
        width: usize,
        inputs: Vec<InputHash>,
    ) -> Result<FoundScores, StoreError> {
        let name = (model.to_owned(), version.to_owned());
        let Some(model) = self.known_model(&name).await? else {
            return Ok(FoundScores {
                of: vec![None; inputs.len()],
                rows: Vec::new(),
            });
        };
        let mut found = self.find_pending(model, width, &inputs);
        if found.of.iter().all(Option::is_some) {
            return Ok(found);
        }
        let found = self.read(move |connection| {
            find_written(connection, model, width, &inputs, &mut found)?;
            Ok(found)
        });
        found.await
    }

    /// A model version's number; nothing where the file has none of its scores.
    async fn known_model(&self, name: &ModelName) -> Result<Option<i64>, StoreError> {
        if let Some(number) = self.inner.names.model(name) {
            return Ok(Some(number));
        }
        let asked = name.clone();
        let number = self.read(move |connection| find_model(connection, &asked));
        let number = number.await?;
        if let Some(number) = number {
            self.inner.names.note_model(name.clone(), number);
        }
        Ok(number)
    }

    /// The numbers of the model and the namespace of each row.
    async fn numbers(&self, rows: &[ScoreRow<'_>]) -> Result<Vec<(i64, i64)>, StoreError> {
        let mut numbers = Vec::with_capacity(rows.len());
        let of = |row: &ScoreRow<'_>| {
            let name = (row.model.to_owned(), row.version.to_owned());
            (name, row.namespace.to_owned())
        };
        for run in rows.chunk_by(|one, next| {
            (one.model, one.version, one.namespace) == (next.model, next.version, next.namespace)
        }) {
            let Some((model, namespace)) = run.first().map(of) else {
                continue;
            };
            let pair = (self.model(model).await?, self.namespace(namespace).await?);
            numbers.resize(numbers.len() + run.len(), pair);
        }
        Ok(numbers)
    }

    async fn model(&self, name: ModelName) -> Result<i64, StoreError> {
        if let Some(number) = self.known_model(&name).await? {
            return Ok(number);
        }
        let asked = name.clone();
        let number = self
            .inner
            .queue
            .run(move |file| add_model(file, &asked))
            .await?;
        self.inner.names.note_model(name, number);
        Ok(number)
    }

    async fn namespace(&self, name: String) -> Result<i64, StoreError> {
        if let Some(number) = self.inner.names.namespace(&name) {
            return Ok(number);
        }
        let asked = name.clone();
        let add = move |file: &mut Connection| add_namespace(file, &asked);
        let number = self.inner.queue.run(add).await?;
        self.inner.names.note_namespace(name, number);
        Ok(number)
    }

    fn find_pending(&self, model: i64, width: usize, inputs: &[InputHash]) -> FoundScores {
        let mut found = FoundScores::default();
        self.inner.queue.pending(|waiting| {
            for input in inputs {
                let key = short(input);
                let outputs = waiting.iter().find_map(|staged| staged.find(key, model));
                let row = outputs.and_then(|bytes| take(&mut found.rows, width, bytes));
                found.of.push(row);
            }
        });
        found
    }

    /// Reads the file on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _turn = self
            .inner
            .may_read
            .acquire()
            .await
            .map_err(|_closed| StoreError::Refused("the file is closed".to_owned()))?;
        let inner = self.inner.clone();
        let read = move || {
            let readers = || inner.readers.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = readers().pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => schema::open_reader(&inner.path)?,
            };
            let read = work(&mut connection);
            readers().push(connection);
            read
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|e| StoreError::Refused(e.redacted()))?
            .map_err(classify)
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let names = self.numbers(&batch.scores).await?;
        let mut found: Vec<Option<(String, Finished)>> = Vec::with_capacity(batch.jobs.len());
        let ids: Vec<&str> = batch.jobs.iter().map(|job| job.job_id).collect();
        let _alone = self.inner.staging.lock().await;
        found.extend(self.find(&ids).await?);
        let kept: Vec<Inserted> = batch
            .jobs
            .iter()
            .zip(found)
            .map(|(job, found)| match found {
                None => Inserted::New,
                Some((hash, _)) if hash != hex::encode(job.body_sha256) => Inserted::Conflict,
                Some((_, done)) if done.is_the_run_of(job.done) => Inserted::New,
                Some((_, done)) => Inserted::Same(Box::new(done)),
            })
            .collect();
        self.inner.queue.stage(batch, &names).await?;
        Ok(kept)
    }

    /// Finished jobs by id, each with its body's hash.
    async fn find(&self, ids: &[&str]) -> Result<Vec<Option<(String, Finished)>>, StoreError> {
        let pending = |id: &&str| {
            let job: StagedJob = self.inner.queue.job(id)?;
            Some((hex::encode(job.body_sha256), Finished::clone(&job.done)))
        };
        let pending: Vec<_> = ids.iter().map(pending).collect();
        if pending.iter().all(Option::is_some) {
            return Ok(pending);
        }
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let found = self.read(move |connection| {
            let one = |(id, pending): (String, Option<_>)| match pending {
                Some(job) => Ok(Some(job)),
                None => statements::find_job(connection, &id),
            };
            ids.into_iter().zip(pending).map(one).collect()
        });
        found.await
    }

    pub(super) async fn finished(
        &self,
        job_id: &str,
        body_sha256: &[u8; 32],
    ) -> Result<Option<Box<Finished>>, StoreError> {
        let found = self.find(&[job_id]).await?.into_iter().flatten().next();
        let done = found.filter(|(hash, _)| *hash == hex::encode(body_sha256));
        Ok(done.map(|(_, done)| Box::new(done)))
    }

    pub(super) async fn reject(
        &self,
        rows: &[RejectedRow<'_>],
    ) -> Result<Vec<Rejected>, StoreError> {
        let rows: Vec<statements::RejectedJob> = rows.iter().map(Into::into).collect();
        let first = self.inner.queue.run(move |connection| {
            let transaction = schema::begin(connection)?;
            let mut first = Vec::with_capacity(rows.len());
            for row in &rows {
                first.push(statements::reject(&transaction, row)?);
            }
            transaction.commit()?;
            Ok(first)
        });
        let first = first.await?.into_iter();
        let noted = first.map(|first| match first {
            Some(done) => Rejected::Finished(Box::new(done)),
            None => Rejected::Noted,
        });
        Ok(noted.collect())
    }

    pub(super) async fn prune(
        &self,
        table: Table,
        before: DateTime<Utc>,
        batch: u32,
    ) -> Result<Option<u64>, StoreError> {
        let pruned = self
            .inner
            .queue
            .run(move |connection| statements::prune(connection, table, before, batch));
        let pruned = pruned.await? as u64;
        Ok(Some(pruned).filter(|rows| *rows > 0))
    }
}

#[cfg(test)]
mod tests;
