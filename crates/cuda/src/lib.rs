//! Fully connected layers and transformer encoders on an NVIDIA graphics processor, in 32-bit floats.
//!
//! The counterpart of `kiln-kernels` there, with the same promise: **every number of a row depends on that row alone**. Texts aren't
//! padded, and sums take the same steps in the same order whatever the batch and the tiles it is cut into, so that a text scored alone
//! and the same text among a thousand others have the same bits on one kind of device. They differ from the processor's in the last digits.
//!
//! | type | is |
//! | --- | --- |
//! | [`Device`] | a graphics processor with its compiled kernels |
//! | [`Linear`] | one fully connected layer: `finish(x · weights + bias)` |
//! | [`Stack`] | such layers one after the other |
//! | [`Encoder`] | a transformer encoder over unpadded texts, one vector a text |
//!
//! Kernels are written in CUDA C++ (`src/kernels`), without headers, and compiled when a device is opened. It takes the driver, and
//! the compiler's library (`libnvrtc`) where the system finds libraries; a device of compute capability 8.0 (Ampere, 2020) or newer. What is
//! missing is an [`Error`] that says so; nothing of it is needed to build.
//!
//! A device's work is for one thread at a time: its buffers are shared by all that runs on it, under a lock.

// But for the module `launch`, which says why.
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod device;
mod encoder;
mod error;
mod launch;
mod linear;
mod matrix;
mod pass;
mod stack;

pub use device::Device;
pub use encoder::{Attention, Encoder, Layer, Local};
pub use error::Error;
pub use linear::{Linear, Norm};
pub use stack::Stack;
