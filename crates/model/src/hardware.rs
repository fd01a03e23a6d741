//! What models run on: a backend's device, and the threads for Kiln's own kernels.
//!
//! Promises that a missing device is an error with its reason, and that a graphics processor is only ever
//! used from one thread: its tensors don't take well to being shared.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use burn_tensor::{Device, Tensor};
use rayon::ThreadPoolBuilder;
use thiserror::Error;

use super::network::{Batch, Network};
use super::runner::panic_message;
use super::settings::Backend;
use super::tokens::Tokenizer;
use kiln_kernels::ThreadPool;

/// Why a backend can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum HardwareError {
    #[error(
        "the backend \"{0}\" is not compiled in; build with `--features {0}` or use \"{1}\"",
        backend.as_str(), Backend::default().as_str()
    )]
    NotCompiledIn { backend: Backend },
    #[error("the backend \"{}\" has no device that works: {reason}", backend.as_str())]
    NoDevice { backend: Backend, reason: String },
    #[error("the thread of a graphics processor could not be started: {reason}")]
    Thread { reason: String },
}

/// Everything a network needs to run.
pub(crate) struct Hardware {
    backend: Backend,
    pub device: Device,
    pub threads: Arc<ThreadPool>,
    /// The one thread of a graphics processor.
    gpu_thread: Option<Arc<rayon::ThreadPool>>,
}

impl Hardware {
    /// Opens a backend and tries it.
    ///
    /// # Errors
    /// If the build doesn't have the backend, or its device doesn't answer.
    pub fn open(backend: Backend, threads: Arc<ThreadPool>) -> Result<Self, HardwareError> {
        let gpu_thread = if backend.is_gpu() {
            let gpu_thread = ThreadPoolBuilder::new()
                .num_threads(1)
                .thread_name(|_| "kiln-gpu".to_owned())
                .build()
                .map_err(|error| HardwareError::Thread {
                    reason: error.to_string(),
                })?;
            Some(Arc::new(gpu_thread))
        } else {
            None
        };
        let open = || catch_unwind(AssertUnwindSafe(|| device(backend).map(tried)));
        let opened = match &gpu_thread {
            Some(gpu_thread) => gpu_thread.install(open),
            None => open(),
        };
        let device = match opened {
            Ok(device) => device?,
            Err(panic) => {
                return Err(HardwareError::NoDevice {
                    backend,
                    reason: panic_message(panic.as_ref()),
                });
            }
        };
        Ok(Self {
            backend,
            device,
            threads,
            gpu_thread,
        })
    }

    /// Whether the processor's kernels of Kiln's own are to be used.
    pub fn has_kernels(&self) -> bool {
        self.backend.has_kernels()
    }

    /// How far a golden output may be from what is expected: absolute below 1, relative above. Graphics processors order
    /// their sums as they like.
    pub fn tolerance(&self) -> f32 {
        if self.backend.is_gpu() { 1e-4 } else { 1e-5 }
    }

    /// Builds a network on the thread that may touch the device, and keeps it there.
    pub fn build<E: Send>(
        &self,
        build: impl FnOnce() -> Result<Arc<dyn Network>, E> + Send,
    ) -> Result<Arc<dyn Network>, E> {
        match &self.gpu_thread {
            None => build(),
            Some(gpu_thread) => {
                let network = gpu_thread.install(build)?;
                let gpu_thread = Arc::clone(gpu_thread);
                Ok(Arc::new(OnGpuThread {
                    network,
                    gpu_thread,
                }))
            }
        }
    }
}

/// A network that runs on the device's thread, whichever thread calls it.
struct OnGpuThread {
    network: Arc<dyn Network>,
    gpu_thread: Arc<rayon::ThreadPool>,
}

impl Network for OnGpuThread {
    fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.network.tokenizer()
    }

    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        self.gpu_thread.install(|| self.network.forward(batch))
    }

    fn smallest_share(&self) -> usize {
        usize::MAX
    }
}

/// A device that has answered: opening one is put off until its first use.
fn tried(device: Device) -> Device {
    let sum = Tensor::<1>::ones([8], &device).sum().into_data();
    let sum = sum.as_slice::<f32>().map(<[f32]>::to_vec);
    assert_eq!(sum.ok(), Some(vec![8.0]), "it doesn't add up");
    device
}

fn device(backend: Backend) -> Result<Device, HardwareError> {
    match backend {
        Backend::Cpu | Backend::Flex => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "kept beside flex for those who compare the two")]
        Backend::Ndarray => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Ok(Device::wgpu(burn_tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Ok(Device::cuda(0)),
        #[allow(unreachable_patterns, reason = "where every backend is compiled in")]
        other => Err(HardwareError::NotCompiledIn { backend: other }),
    }
}
