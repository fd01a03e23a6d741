//! What can go wrong with a device.

use cudarc::driver::DriverError;
use cudarc::nvrtc::CompileError;
use thiserror::Error;

/// Why a device can't be used, or stopped working.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// The driver's library isn't where the system looks for libraries.
    #[error("the driver's library, libcuda, isn't found")]
    NoDriver,
    /// Nor is the compiler's.
    #[error(
        "the kernels' compiler, libnvrtc, isn't found; it is part of a CUDA toolkit, and LD_LIBRARY_PATH can name its folder"
    )]
    NoCompiler,
    /// The device is of a kind that the kernels don't run on.
    #[error("{name} has compute capability {major}.{minor}, and 8.0 or newer is needed")]
    TooOld {
        /// What the device calls itself.
        name: String,
        /// Its capability, the number before the dot.
        major: i32,
        /// And the one after it.
        minor: i32,
    },
    /// The kernels could not be compiled.
    #[error("the kernels can't be compiled: {0}")]
    Compile(String),
    /// Something is beyond what the kernels are made for.
    #[error("{0}")]
    Beyond(String),
    /// What the driver said.
    #[error("the driver: {0}")]
    Driver(String),
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        Self::Driver(error.to_string())
    }
}

impl From<CompileError> for Error {
    fn from(error: CompileError) -> Self {
        // Its text is the compiler's whole log, of which the first lines say what is wrong.
        let text = match &error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => other.to_string(),
        };
        Self::Compile(text.chars().take(400).collect())
    }
}
