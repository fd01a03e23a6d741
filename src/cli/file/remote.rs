//! Owns reading files of object stores (`s3://`, `gs://`, `az://`) and of HTTP servers: in ranges, again where a connection is cut, and as they
//! were when they were opened.
//!
//! Promises bounded memory, and that neither keys nor what an address is signed with, nor what a server or library says of an error, is shown.

mod bucket;
mod http;

use anyhow::{Context, anyhow};
use bucket::Bucket;
use bytes::Bytes;
use http::Problem;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as Key,
};
use serde_json::Value;
use std::{
    collections::VecDeque,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};
use tokio::runtime::Handle;

/// Bytes that are asked for at once where a file is read from its start to its end; one part is read ahead.
const PART_BYTES: u64 = 4 << 20;
/// Bytes that are asked for at once where it is read here and there, and how many such parts are held.
const BLOCK_BYTES: u64 = 1 << 20;
const MAX_BLOCKS: usize = 32;
/// Tries of a part whose body ends too early, beside those of the requests.
const TRIES: u32 = 5;
/// Files of one list.
const MAX_LISTED: usize = 1 << 20;

/// A file of a store.
pub struct Object {
    store: Arc<dyn ObjectStore>,
    about: ObjectMeta,
    /// Its address without what may be secret.
    shown: String,
    problem: Arc<Problem>,
    said: Mutex<Option<String>>,
    runtime: Handle,
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Object {
    /// Asks for a file by its address.
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let bucket = Bucket::of(address)?;
        let key = Key::parse(&bucket.key)
            .map_err(|_| anyhow!("{} is no address of a file", bucket.shown(&bucket.key)))?;
        let store = bucket.store.clone();
        let about = wait(&Handle::current(), async move { store.head(&key).await });
        let about = about.context("it was given up")?;
        let about = about.map_err(|error| {
            let said = said(&error, &bucket.problem);
            anyhow!("{} can't be read: {said}", bucket.shown(&bucket.key))
        })?;
        Ok(bucket.object(about))
    }

    /// The files that a pattern matches, in order.
    pub fn matching(address: &str) -> anyhow::Result<Vec<Self>> {
        let bucket = Bucket::of(address)?;
        let fixed = bucket.key.find(['*', '?', '[']).unwrap_or(bucket.key.len());
        let (before, _) = bucket.key.split_at(fixed);
        let folder = before.rsplit_once('/').map_or("", |(folder, _)| folder);
        let pattern = glob::Pattern::new(&bucket.key).map_err(|error| {
            anyhow!("{} is no pattern: {}", bucket.shown(&bucket.key), error.msg)
        })?;
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        bucket.list(folder, |key| pattern.matches_with(key, options))
    }

    /// The files under a folder that are wanted, in order.
    pub fn under(address: &str, wanted: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<Self>> {
        let bucket = Bucket::of(address)?;
        let folder = bucket.key.trim_end_matches('/').to_owned();
        bucket.list(&folder, |key| {
            let is_hidden = key.split('/').any(|part| part.starts_with('.'));
            !is_hidden && wanted(Path::new(key))
        })
    }

    /// Its address, without what may be secret.
    pub fn shown(&self) -> PathBuf {
        self.shown.clone().into()
    }

    pub fn bytes(&self) -> u64 {
        self.about.size
    }

    /// How it is known again.
    pub fn identity(&self) -> Value {
        serde_json::json!({
            "path": self.shown,
            "bytes": self.about.size,
            "tag": self.about.e_tag,
            "changed": self.about.last_modified.to_rfc3339(),
        })
    }

    /// Why it couldn't be read, if it couldn't.
    pub fn problem(&self) -> Option<String> {
        let said = self.said.lock();
        said.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads what comes at an offset, as much as there is room for, from parts that are held for a while.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= self.about.size || buffer.is_empty() {
            return Ok(0);
        }
        let number = offset / BLOCK_BYTES;
        let block = self.block(number)?;
        let within = usize::try_from(offset - number * BLOCK_BYTES).unwrap_or(usize::MAX);
        let rest = block.get(within..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        Ok(count)
    }

    fn block(&self, number: u64) -> io::Result<Bytes> {
        let held = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = held().iter().find(|(one, _)| *one == number) {
            return Ok(block.clone());
        }
        let block = self.part(number * BLOCK_BYTES, BLOCK_BYTES);
        let block = self.taken(block.recv())?;
        let mut blocks = held();
        if blocks.len() >= MAX_BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back((number, block.clone()));
        Ok(block)
    }

    /// Begins to ask for a part.
    fn part(&self, from: u64, bytes: u64) -> Receiver<Result<Bytes, String>> {
        let end = from.saturating_add(bytes).min(self.about.size);
        let (sender, receiver) = sync_channel(1);
        let (store, key) = (self.store.clone(), self.about.location.clone());
        let options = GetOptions {
            range: Some(GetRange::Bounded(from..end)),
            // It is read as it was when it was opened, or not at all.
            if_match: self.about.e_tag.clone(),
            ..GetOptions::default()
        };
        let problem = self.problem.clone();
        self.runtime.spawn(async move {
            let part = fetched(store.as_ref(), &key, &options, end - from).await;
            let part = part.map_err(|error| said(&error, &problem));
            let _ = sender.send(part);
        });
        receiver
    }

    fn taken<E>(&self, part: Result<Result<Bytes, String>, E>) -> io::Result<Bytes> {
        let part = part.unwrap_or_else(|_| Err("it was given up".to_owned()));
        part.map_err(|what| {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.get_or_insert(what);
            io::ErrorKind::NotConnected.into()
        })
    }

    /// Reads it on from an offset.
    pub fn reader(self: &Arc<Self>, from: u64) -> Reader {
        Reader {
            object: self.clone(),
            at: from,
            part: Bytes::new(),
            ahead: None,
        }
    }
}

/// Asks for a part until all of it is there.
async fn fetched(
    store: &dyn ObjectStore,
    key: &Key,
    options: &GetOptions,
    bytes: u64,
) -> Result<Bytes, Error> {
    let mut tries = 0;
    loop {
        let asked = async {
            let answer = store.get_opts(key, options.clone()).await?;
            answer.bytes().await
        };
        tries += 1;
        match asked.await {
            Ok(part) if part.len() as u64 == bytes => return Ok(part),
            Ok(_) if tries < TRIES => {}
            Err(Error::Generic { .. }) if tries < TRIES => {}
            Ok(_) => {
                return Err(Error::Precondition {
                    path: String::new(),
                    source: "it is shorter".into(),
                });
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(100 << tries)).await;
    }
}

/// Reads an object from one offset to its end.
pub struct Reader {
    object: Arc<Object>,
    at: u64,
    part: Bytes,
    ahead: Option<Receiver<Result<Bytes, String>>>,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() {
            if self.at >= self.object.about.size {
                return Ok(0);
            }
            let ahead = self.ahead.take();
            let ahead = ahead.unwrap_or_else(|| self.object.part(self.at, PART_BYTES));
            self.part = self.object.taken(ahead.recv())?;
            self.at += self.part.len() as u64;
            if self.at < self.object.about.size {
                self.ahead = Some(self.object.part(self.at, PART_BYTES));
            }
        }
        let count = self.part.len().min(buffer.len());
        let taken = self.part.split_to(count);
        let (to, _) = buffer.split_at_mut(count);
        to.copy_from_slice(&taken);
        Ok(count)
    }
}

/// Waits for something, whichever thread this is: the runtime's own go on meanwhile.
fn wait<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move {
        let _ = sender.send(work.await);
    });
    receiver.recv().ok()
}

/// What went wrong, in words of our own: a library's hold addresses, and a server's anything.
fn said(error: &Error, problem: &Problem) -> String {
    match error {
        Error::NotFound { .. } => "there is none".to_owned(),
        Error::PermissionDenied { .. } => {
            "its store doesn't let these credentials read it".to_owned()
        }
        Error::Unauthenticated { .. } => "its store doesn't know these credentials".to_owned(),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            "it has changed since it was opened".to_owned()
        }
        Error::NotSupported { .. } => "its server gives no parts of files (ranges)".to_owned(),
        Error::NotImplemented { .. } => "its server has no lists of files".to_owned(),
        _ => match problem.last() {
            Some(last) => {
                format!("its store doesn't answer as it should, tried several times: {last}")
            }
            None => "its store doesn't answer as it should".to_owned(),
        },
    }
}
