//! An NVIDIA graphics processor: opened and tried, and what its errors become.

use std::sync::Arc;

use burn_tensor::Device;
use kiln_kernels::Finish;

use super::{HardwareError, Tried};
use crate::error::LoadError;
use crate::product::Products;
use crate::settings::Backend;

/// The first graphics processor of NVIDIA's, which has multiplied something.
pub(super) fn open() -> Result<Tried, HardwareError> {
    let no_device = |reason: String| HardwareError::NoDevice {
        backend: Backend::Cuda,
        reason,
    };
    let tried = || {
        let card = Arc::new(kiln_cuda::Device::open(0)?);
        let one = kiln_cuda::Linear::new(&card, &[1.0; 8], None, (8, 1), Finish::Plain)?;
        let sum = kiln_cuda::Stack::new(&card, 8, vec![one]).forward(&[1.0; 8])?;
        Ok::<_, kiln_cuda::Error>((card, sum))
    };
    match tried() {
        Ok((card, sum)) if sum == [8.0] => {
            tracing::info!(device = card.name(), "a graphics processor is in use");
            Ok(Tried {
                // Of burn, whose graphs don't run here.
                device: Device::flex(),
                products: Products::Exact,
                card: Some(card),
            })
        }
        Ok((_, sum)) => Err(no_device(format!("it adds up to {sum:?}, not to 8"))),
        Err(error) => Err(no_device(error.to_string())),
    }
}

/// Why a graphics processor doesn't take a version: by the model's sizes, or because of its own state.
pub(crate) fn card_refusal(error: &kiln_cuda::Error) -> LoadError {
    match error {
        kiln_cuda::Error::Beyond(message) => LoadError::manifest(message),
        // Its memory may be free again once another version has left it.
        other => LoadError::field("settings models.backends", &other.to_string()).passing(),
    }
}

/// What a graphics processor computed.
///
/// # Panics
/// If it failed: the runner turns the panic into an error of the request.
pub(crate) fn card_result(result: Result<Vec<f32>, kiln_cuda::Error>) -> Vec<f32> {
    match result {
        Ok(numbers) => numbers,
        Err(error) => panic!("the graphics processor failed: {error}"),
    }
}
