//! What models run on: a backend's device, and the threads for Kiln's own kernels.
//!
//! Promises that a missing device is an error with its reason, and that a graphics processor is only ever
//! used from one thread: its tensors don't take well to being shared.

#[cfg(feature = "cuda")]
mod card;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use burn_tensor::{Device, Tensor};
use rayon::ThreadPoolBuilder;
use thiserror::Error;

use super::error::LoadError;
use super::network::{Batch, Network};
use super::product::Products;
use super::runner::panic_message;
use super::settings::Backend;
use super::tokens::Tokenizer;
#[cfg(feature = "cuda")]
pub(crate) use card::{card_refusal, card_result};
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
    /// How the device multiplies matrices.
    pub products: Products,
    pub threads: Arc<ThreadPool>,
    /// An NVIDIA graphics processor with Kiln's own kernels.
    #[cfg(feature = "cuda")]
    card: Option<Arc<kiln_cuda::Device>>,
    /// The one thread of a graphics processor.
    gpu_thread: Option<Arc<rayon::ThreadPool>>,
}

/// A device that has answered.
struct Tried {
    device: Device,
    products: Products,
    #[cfg(feature = "cuda")]
    card: Option<Arc<kiln_cuda::Device>>,
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
        let open = || catch_unwind(AssertUnwindSafe(|| tried(backend)));
        let opened = match &gpu_thread {
            Some(gpu_thread) => gpu_thread.install(open),
            None => open(),
        };
        let opened = match opened {
            Ok(opened) => opened?,
            Err(panic) => {
                return Err(HardwareError::NoDevice {
                    backend,
                    reason: panic_message(panic.as_ref()),
                });
            }
        };
        Ok(Self {
            backend,
            device: opened.device,
            products: opened.products,
            #[cfg(feature = "cuda")]
            card: opened.card,
            threads,
            gpu_thread,
        })
    }

    /// The graphics processor that has kernels of Kiln's own, if it is one.
    #[cfg(feature = "cuda")]
    pub fn card(&self) -> Option<&Arc<kiln_cuda::Device>> {
        self.card.as_ref()
    }

    /// Why nothing works on its device any more, if so.
    pub fn lost(&self) -> Option<String> {
        #[cfg(feature = "cuda")]
        return self.card()?.lost().map(str::to_owned);
        #[cfg(not(feature = "cuda"))]
        None
    }

    /// What does the arithmetic.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether it is a graphics processor.
    pub fn is_gpu(&self) -> bool {
        self.backend.is_gpu()
    }

    /// What kind of machine it is, as far as that says what a pass costs: the backend, the processor, and how many threads share a pass.
    pub fn machine(&self) -> String {
        let backend = self.backend.as_str();
        #[cfg(feature = "cuda")]
        if let Some(card) = self.card() {
            let card = shortened(card.name());
            return format!("{backend}/{card}/{}/{}", processor(), self.threads.count());
        }
        format!("{backend}/{}/{}", processor(), self.threads.count())
    }

    /// Whether the processor's kernels of Kiln's own are to be used.
    pub fn has_kernels(&self) -> bool {
        self.backend.has_kernels()
    }

    /// Whether architectures run as graphs of burn operations.
    pub fn runs_graphs(&self) -> bool {
        !self.has_small_kernels()
    }

    /// Whether the processor's own kernels are to be used for what a graphics processor would gain nothing with, and has no kernels for.
    pub fn has_small_kernels(&self) -> bool {
        self.has_kernels() || self.backend == Backend::Cuda
    }

    /// How far a golden output may be from what is expected: absolute below 1, relative above. Graphics processors order
    /// their sums as they like.
    pub fn tolerance(&self) -> f32 {
        if self.backend.is_gpu() { 1e-4 } else { 1e-5 }
    }

    /// Builds a network on the thread that may touch the device, and keeps it there. On a graphics processor it has made its first passes
    /// then, which take seconds; other networks' passes get in between. What goes wrong on the device is an error of this version.
    pub fn build(
        &self,
        build: impl FnOnce() -> Result<Arc<dyn Network>, LoadError> + Send,
    ) -> Result<Arc<dyn Network>, LoadError> {
        match &self.gpu_thread {
            None => build(),
            Some(gpu_thread) => {
                let network = caught_on(gpu_thread, build)??;
                if !network.is_on_device() {
                    return Ok(network);
                }
                let mut passes = 0..;
                while caught_on(gpu_thread, || {
                    passes.next().is_some_and(|pass| network.warm(pass))
                })? {}
                let gpu_thread = Arc::clone(gpu_thread);
                Ok(Arc::new(OnGpuThread {
                    network,
                    gpu_thread,
                }))
            }
        }
    }
}

/// Longest name of a processor that is used, in characters.
const MAX_PROCESSOR: usize = 64;

/// The processor's name where the system tells it, else its architecture.
fn processor() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let name = lines.find(|(field, _)| field.trim_end() == "model name");
        let name = name.map_or(std::env::consts::ARCH, |(_, name)| name.trim());
        shortened(name)
    })
}

fn shortened(name: &str) -> String {
    name.chars().take(MAX_PROCESSOR).collect()
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

/// Runs on the device's thread; a panic there is an error.
fn caught_on<T: Send>(
    gpu_thread: &rayon::ThreadPool,
    run: impl FnOnce() -> T + Send,
) -> Result<T, LoadError> {
    gpu_thread
        .install(|| catch_unwind(AssertUnwindSafe(run)))
        .map_err(|panic| {
            let reason = panic_message(panic.as_ref());
            LoadError::field("settings models.backends", &reason).passing()
        })
}

/// Opens a device and has it add something up: opening one is put off until its first use.
fn tried(backend: Backend) -> Result<Tried, HardwareError> {
    #[cfg(feature = "cuda")]
    if backend == Backend::Cuda {
        return card::open();
    }
    let device = device(backend)?;
    let sum = Tensor::<1>::ones([8], &device).sum().into_data();
    let sum = sum.as_slice::<f32>().map(<[f32]>::to_vec);
    assert_eq!(sum.ok(), Some(vec![8.0]), "it doesn't add up");
    // Processors don't round, and start without the time that it takes to find out.
    let products = if backend.is_gpu() {
        Products::of(&device)
    } else {
        Products::Exact
    };
    Ok(Tried {
        device,
        products,
        #[cfg(feature = "cuda")]
        card: None,
    })
}

fn device(backend: Backend) -> Result<Device, HardwareError> {
    match backend {
        Backend::Cpu | Backend::Flex => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated, reason = "kept beside flex for those who compare the two")]
        Backend::Ndarray => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Ok(Device::wgpu(burn_tensor::DeviceKind::DefaultDevice)),
        #[allow(unreachable_patterns, reason = "where every backend is compiled in")]
        other => Err(HardwareError::NotCompiledIn { backend: other }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use super::*;

    /// Which threads touched it, and for what.
    #[derive(Clone)]
    struct Noted {
        notes: Arc<Mutex<Vec<String>>>,
        device: Arc<rayon::ThreadPool>,
    }

    impl Noted {
        fn note(&self, what: &str) {
            let name = thread::current().name().unwrap_or_default().to_owned();
            self.notes.lock().unwrap().push(format!("{what} on {name}"));
        }
    }

    impl Network for Noted {
        fn forward(&self, _: Batch<'_>) -> Vec<f32> {
            self.note("forward");
            Vec::new()
        }

        fn warm(&self, pass: usize) -> bool {
            if pass == 0 {
                // Another model's pass comes meanwhile.
                let other = self.clone();
                let asked = thread::Builder::new()
                    .name("asker".to_owned())
                    .spawn(move || {
                        let device = Arc::clone(&other.device);
                        device.spawn(move || other.note("other"));
                    });
                asked.unwrap().join().unwrap();
            }
            if pass < 2 {
                self.note(&format!("pass {pass}"));
            }
            pass < 2
        }

        fn is_on_device(&self) -> bool {
            true
        }

        fn smallest_share(&self) -> usize {
            1
        }
    }

    /// With a thread for the device, which stands for one of a graphics processor.
    fn hardware() -> Hardware {
        let gpu_thread = ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "device".to_owned());
        Hardware {
            backend: Backend::Cuda,
            device: Device::flex(),
            products: Products::Exact,
            #[cfg(feature = "cuda")]
            card: None,
            threads: Arc::new(ThreadPool::start("test", 1, || ()).unwrap()),
            gpu_thread: Some(Arc::new(gpu_thread.build().unwrap())),
        }
    }

    #[test]
    fn first_passes_are_made_before_a_network_serves_on_the_devices_thread_with_others_in_between()
    {
        let hardware = hardware();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let noted = Noted {
            notes: Arc::clone(&notes),
            device: Arc::clone(hardware.gpu_thread.as_ref().unwrap()),
        };
        let network = hardware.build(|| Ok(Arc::new(noted))).ok().unwrap();
        assert_eq!(
            *notes.lock().unwrap(),
            ["pass 0 on device", "other on device", "pass 1 on device"]
        );
        network.forward(Batch::Features(&[]));
        assert_eq!(notes.lock().unwrap()[3..], ["forward on device"]);
    }

    #[test]
    fn what_goes_wrong_on_the_device_is_an_error_of_the_version() {
        let built = hardware().build(|| panic!("no memory is left"));
        let error = built.err().unwrap().to_string();
        assert!(error.contains("no memory is left"), "{error}");
    }
}
