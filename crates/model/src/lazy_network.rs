//! A network that is in memory, or unloaded until somebody asks for it.
//!
//! Promises that many who ask at once cause one load, and that a load which fails costs those who asked and nothing else.
//! How to load, and that what is loaded again is what was there before, is the business of the loader that it is given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_contract::model::ModelError;

use super::error::LoadError;
use super::network::Network;

/// Loads and checks a version's network again. Blocks on the disk and on a model thread.
pub(crate) type Loader = dyn Fn() -> Result<Arc<dyn Network>, LoadError> + Send + Sync;

/// A version's network.
pub(crate) struct LazyNetwork {
    /// `name@version`, for errors.
    reference: String,
    network: Mutex<Option<Arc<dyn Network>>>,
    /// Of its weights.
    bytes: u64,
    /// One load at a time.
    loading: tokio::sync::Mutex<()>,
    loader: Arc<Loader>,
    created: Instant,
    /// Milliseconds from `created` to the last use.
    last_used_millis: AtomicU64,
}

impl LazyNetwork {
    /// A network that is in memory with weights of so many bytes, and how to load it again.
    pub fn new(
        reference: String,
        (network, bytes): (Arc<dyn Network>, u64),
        loader: Arc<Loader>,
    ) -> Self {
        Self {
            reference,
            network: Mutex::new(Some(network)),
            bytes,
            loading: tokio::sync::Mutex::default(),
            loader,
            created: Instant::now(),
            last_used_millis: AtomicU64::new(0),
        }
    }

    /// The network, if it is in memory. Counts as a use.
    pub fn in_memory(&self) -> Option<Arc<dyn Network>> {
        let age = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_used_millis.store(age, Ordering::Relaxed);
        self.lock().clone()
    }

    /// Bytes of its weights, if it is in memory. That is no use.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        self.lock().as_ref().map(|_| self.bytes)
    }

    /// The network, loaded and checked again if it was unloaded.
    pub async fn get(&self) -> Result<Arc<dyn Network>, ModelError> {
        if let Some(network) = self.in_memory() {
            return Ok(network);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(network) = self.in_memory() {
            return Ok(network);
        }
        let unloadable = |message: String| ModelError::Unloadable {
            model: self.reference.clone(),
            message,
        };
        let loader = Arc::clone(&self.loader);
        let network = tokio::task::spawn_blocking(move || loader())
            .await
            .map_err(|failed| unloadable(failed.to_string()))?
            .map_err(|error| unloadable(error.to_string()))?;
        *self.lock() = Some(Arc::clone(&network));
        Ok(network)
    }

    /// Unloads the network if it wasn't used for that long; returns whether it did. Passes in progress keep theirs.
    pub fn unload_unused(&self, unused_for: Duration) -> bool {
        let last_used =
            self.created + Duration::from_millis(self.last_used_millis.load(Ordering::Relaxed));
        last_used.elapsed() >= unused_for && self.lock().take().is_some()
    }

    /// Nothing panics under this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<dyn Network>>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
