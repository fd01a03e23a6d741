//! Where a version's network is: in memory, or given back until somebody asks for it.
//!
//! Promises that many who ask at once cause one load, that what is loaded again is what was there before, and that a load
//! which fails costs those who asked and nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ModelError;
use super::hardware::Hardware;
use super::load;
use super::network::Network;
use super::runner::Queue;

/// What it takes to load a version, again and again.
#[derive(Clone)]
pub(crate) struct Origin {
    pub name: String,
    pub version: String,
    pub folder: PathBuf,
    pub hardware: Arc<Hardware>,
    pub queue: Arc<Queue>,
}

/// A version's network.
pub(crate) struct Residence {
    network: Mutex<Option<Arc<dyn Network>>>,
    /// One load at a time.
    loading: tokio::sync::Mutex<()>,
    origin: Origin,
    /// What the version was when it was first loaded.
    identity: [u8; 32],
    born: Instant,
    /// Milliseconds from `born` to the last use.
    used: AtomicU64,
}

impl Residence {
    /// A network that is in memory.
    pub fn new(network: Arc<dyn Network>, origin: Origin, identity: [u8; 32]) -> Self {
        Self {
            network: Mutex::new(Some(network)),
            loading: tokio::sync::Mutex::default(),
            origin,
            identity,
            born: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// Where the version comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The network, if it is in memory. Counts as a use.
    pub fn here(&self) -> Option<Arc<dyn Network>> {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(age, Ordering::Relaxed);
        self.lock().clone()
    }

    /// The network, loaded and checked again if it was given back.
    pub async fn network(&self) -> Result<Arc<dyn Network>, ModelError> {
        if let Some(network) = self.here() {
            return Ok(network);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(network) = self.here() {
            return Ok(network);
        }
        let origin = self.origin.clone();
        let unloadable = |message: String| ModelError::Unloadable {
            model: format!("{}@{}", self.origin.name, self.origin.version),
            message,
        };
        let loaded = tokio::task::spawn_blocking(move || load::load(&origin))
            .await
            .map_err(|failed| unloadable(failed.to_string()))?
            .map_err(|error| unloadable(error.to_string()))?;
        if loaded.identity != self.identity {
            return Err(unloadable("its manifest is another one now".to_owned()));
        }
        let network = loaded
            .model
            .residence
            .here()
            .ok_or_else(|| unloadable("it was given back at once".to_owned()))?;
        *self.lock() = Some(Arc::clone(&network));
        Ok(network)
    }

    /// Gives the network back if nobody has used it for so long; says whether it did. Passes under way keep theirs.
    pub fn give_back(&self, unused_for: Duration) -> bool {
        let used = self.born + Duration::from_millis(self.used.load(Ordering::Relaxed));
        used.elapsed() >= unused_for && self.lock().take().is_some()
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Network>>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
