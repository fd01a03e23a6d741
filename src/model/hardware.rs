//! What models run on: a backend's device, and the team of threads for Kiln's own kernels.

use std::sync::Arc;

use burn::tensor::Device;

use super::error::OpenError;
use super::kernels::Team;
use super::settings::Backend;

/// Everything a network needs to run.
pub(crate) struct Hardware {
    backend: Backend,
    pub device: Device,
    pub team: Arc<Team>,
}

impl Hardware {
    /// Opens a backend for `threads` threads.
    ///
    /// # Errors
    /// Where the build doesn't have the backend, or threads can't be started.
    pub fn open(backend: Backend, threads: usize) -> Result<Self, OpenError> {
        Ok(Self {
            backend,
            device: device(backend)?,
            team: Arc::new(Team::start(threads).map_err(OpenError::Thread)?),
        })
    }

    /// Whether the processor's kernels of Kiln's own are to be used.
    pub fn has_kernels(&self) -> bool {
        self.backend == Backend::Flex
    }
}

fn device(backend: Backend) -> Result<Device, OpenError> {
    match backend {
        Backend::Flex => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "kept beside flex for those who compare the two")]
        Backend::Ndarray => Ok(Device::ndarray()),
        #[cfg(not(feature = "ndarray"))]
        Backend::Ndarray => Err(OpenError::BackendMissing { backend: "ndarray" }),
    }
}
