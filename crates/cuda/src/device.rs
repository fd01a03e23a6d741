//! A graphics processor: its stream of work, its compiled kernels and its buffers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cudarc::driver::sys::CUdevice_attribute_enum::{
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED_OF_BLOCK,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT as PROCESSORS,
};
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MAX_SHARED;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};

use super::error::Error;
use super::launch;
use super::pass::Workspace;

/// What the kernels' files share, and the files.
const COMMON: &str = include_str!("kernels/common.cu");
const PRODUCT: &str = include_str!("kernels/product.cu");
const ROWS: &str = include_str!("kernels/rows.cu");
const ATTENTION: &str = include_str!("kernels/attention.cu");

/// The oldest devices that have all instructions.
const CAPABILITY: i32 = 8;
/// Heads of more numbers don't fit the registers.
pub(crate) const MAX_HEAD: usize = 256;

/// A graphics processor with its compiled kernels.
pub struct Device {
    name: String,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) kernels: Kernels,
    /// By the heads' width and how tokens see each other: compiled for the first model that needs it.
    attention: Mutex<HashMap<(usize, View), CudaFunction>>,
    /// What all models' passes use in turn.
    pub(crate) space: Mutex<Workspace>,
    /// Why nothing works on it any more.
    lost: OnceLock<String>,
}

/// The kernels that every model uses.
pub(crate) struct Kernels {
    pub products: [Product; 3],
    pub embed: CudaFunction,
    pub add_norm: CudaFunction,
    pub pool: CudaFunction,
    pub turn: CudaFunction,
}

/// A product in tiles of one size.
pub(crate) struct Product {
    pub kernel: CudaFunction,
    pub rows: u32,
    pub columns: u32,
    pub threads: u32,
    /// Bytes of shared memory.
    pub shared: u32,
    /// So many tiles keep the device busy; smaller ones are taken where there are fewer.
    pub enough: u32,
}

/// How a layer's tokens see each other; the numbers are those of attention.cu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum View {
    Whole = 0,
    Biased = 1,
    Window = 2,
    Placed = 3,
}

impl Device {
    /// Opens the device of that number, and compiles the kernels for it: seconds.
    ///
    /// # Errors
    /// If a library is missing, or the device, or it is too old.
    pub fn open(number: usize) -> Result<Self, Error> {
        launch::find_libraries()?;
        let context = CudaContext::new(number)?;
        let name = context.name()?;
        let (major, minor) = context.compute_capability()?;
        if major < CAPABILITY {
            return Err(Error::TooOld { name, major, minor });
        }
        let module = compile(&context, &[COMMON, PRODUCT, ROWS], &[])?;
        let count = context.attribute(PROCESSORS)?.unsigned_abs();
        let shared_of_block = context.attribute(SHARED_OF_BLOCK)?.unsigned_abs();
        let needed = |stages, rows, columns| stages * (rows + columns) * 36 * 4;
        let large = if needed(3, 128, 128) <= shared_of_block {
            ("product_large", 3)
        } else {
            ("product_large_short", 2)
        };
        let product = |(name, stages), rows, columns, threads, enough| {
            let shared = needed(stages, rows, columns);
            let kernel = module.load_function(name)?;
            kernel.set_attribute(MAX_SHARED, shared as i32)?;
            Ok::<_, Error>(Product {
                kernel,
                rows,
                columns,
                threads,
                shared,
                enough,
            })
        };
        let kernels = Kernels {
            products: [
                product(large, 128, 128, 256, count)?,
                product(("product_middle", 3), 64, 64, 128, count)?,
                product(("product_small", 3), 32, 32, 128, 0)?,
            ],
            embed: module.load_function("embed")?,
            add_norm: module.load_function("add_norm")?,
            pool: module.load_function("pool")?,
            turn: module.load_function("turn")?,
        };
        let stream = context.default_stream();
        Ok(Self {
            name,
            space: Mutex::new(Workspace::new(&stream)?),
            stream,
            kernels,
            attention: Mutex::default(),
            lost: OnceLock::new(),
        })
    }

    /// Why nothing works on the device any more, if so: after some errors the driver refuses all that the process asks for.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Finds out whether an error was one of those.
    pub(crate) fn examine(&self) {
        let context = self.stream.context();
        let _earlier = context.check_err();
        if let Err(error) = context
            .bind_to_thread()
            .and_then(|()| self.stream.synchronize())
        {
            self.lost.get_or_init(|| error.to_string());
        }
    }

    /// Makes this thread one that may free what lies on the device. An error that another left is no reason not to.
    pub(crate) fn enter(&self) {
        let context = self.stream.context();
        let _earlier = context.check_err();
        let _result = context.bind_to_thread();
    }

    /// What the device calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Attention of heads of that width, compiled where it isn't yet.
    pub(crate) fn attention(&self, width: usize, view: View) -> Result<CudaFunction, Error> {
        let mut compiled = self
            .attention
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = compiled.get(&(width, view)) {
            return Ok(kernel.clone());
        }
        let options = [
            format!("-DWIDTH={width}"),
            format!("-DVIEW={}", view as u32),
        ];
        let module = compile(self.stream.context(), &[COMMON, ATTENTION], &options)?;
        let kernel = module.load_function("attend")?;
        compiled.insert((width, view), kernel.clone());
        Ok(kernel)
    }
}

fn compile(
    context: &Arc<CudaContext>,
    files: &[&str],
    options: &[String],
) -> Result<Arc<CudaModule>, Error> {
    let options = CompileOptions {
        // For the oldest capability: the driver makes of it what suits the device.
        arch: Some("compute_80"),
        // Only where the source says so: products in tiles of another size are compiled apart, and have the same bits.
        fmad: Some(false),
        options: options
            .iter()
            .cloned()
            .chain(["-default-device".to_owned(), "--std=c++17".to_owned()])
            .collect(),
        ..CompileOptions::default()
    };
    let compiled: Ptx = compile_ptx_with_opts(files.concat(), options)?;
    Ok(context.load_module(compiled)?)
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
