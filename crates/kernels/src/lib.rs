//! Fully connected layers, embedding bags, transformer encoders and ensembles of decision trees on the processor, in 32-bit floats and, the first and third, in bytes.
//!
//! For inference whose results are cached, compared or handed from one caller to another: **every number of a row depends on
//! that row alone**. Sums run in one fixed order whatever the batch, the row's place in it and the number of threads, so that a
//! row scored alone and the same row among a thousand others have the same bits. So has a row scored on another processor, whatever
//! its vector instructions: every float goes through the same steps in the same order, each rounded as IEEE 754 says, with a fused
//! multiply-add wherever one is written and nowhere else; and sums of bytes are exact.
//!
//! | type | is |
//! | --- | --- |
//! | [`PackedLinear`] | one fully connected layer: `finish(x · weights + bias)`, with a [`Finish`] for the activation |
//! | [`QuantisedLinear`] | the same with weights and rows in bytes: less exact, several times as fast |
//! | [`Stack`] | such layers one after the other |
//! | [`EmbeddingBag`] | a table of embeddings, and the mean of any of its rows |
//! | [`Encoder`] | a transformer encoder of BERT's kind over unpadded texts, one vector a text; [`Attention`] says how its tokens know their places |
//! | [`trees::Forest`] | an ensemble of decision trees, one sum or several a row |
//!
//! ```
//! use kiln_kernels::{Finish, PackedLinear, Stack};
//!
//! // Weights in PyTorch's layout, `[outputs, inputs]`.
//! let hidden = PackedLinear::new(&[1.0, -1.0, 0.5, 2.0], Some(&[0.0, 1.0]), 2, 2);
//! let output = PackedLinear::new(&[1.0, 1.0], None, 2, 1);
//! let network = Stack::new(2, vec![(hidden, Finish::Relu), (output, Finish::Sigmoid)]);
//!
//! let together = network.forward(&[1.0, 2.0, 3.0, 4.0]);
//! let alone = network.forward(&[3.0, 4.0]);
//! assert_eq!(together[1].to_bits(), alone[0].to_bits());
//! ```
//!
//! # Layout
//!
//! Callers give and get plain rows, one after the other. Inside, a matrix lies in panels of 32 columns, which fill two of the
//! widest vector registers; weights are packed so once, when a layer is built. A product writes whole panels, and the threads that
//! share a product each own some of them. The instructions (AVX-512 with the feature `x86-v4`, AVX2, NEON, or none; for bytes VNNI,
//! where the processor has it) are chosen when the program runs. A processor without fused multiply-adds gives the same bits, slowly.
//!
//! # Shapes
//!
//! Public functions check the sizes of what they are given and panic with the size that is wrong, under `# Panics`; nothing
//! behind them checks again. NaN and infinities go through to the result, where callers can look for them.

// But for `vnni.rs`, which says why.
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![allow(
    clippy::indexing_slicing,
    reason = "public functions assert all shapes, and bounds that the compiler can see are what makes the loops vector code"
)]

mod attention;
mod bytes;
mod embedding_bag;
mod encoder;
mod levels;
mod panels;
mod pointwise;
mod product;
mod quantised;
mod stack;
mod threads;
pub mod trees;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weights;
#[cfg(target_arch = "x86_64")]
mod widening;

pub use attention::{Attention, Disentangled, Distances, Local, Relative, Rotary};
pub use embedding_bag::EmbeddingBag;
pub use encoder::{Encoder, Pooling, Texts};
#[doc(hidden)]
pub use levels::Level;
pub use pointwise::Finish;
pub use product::PackedLinear;
pub use quantised::QuantisedLinear;
pub use stack::Stack;
pub use threads::{ThreadPool, stay_here};
pub use weights::{Layer, Linear, Norm, Tables};

/// Layer norm of a row, in place.
///
/// # Panics
/// If the norm isn't of that width.
pub fn layer_norm(row: &mut [f32], norm: &Norm) {
    norm.assert_width(row.len(), "norm");
    pointwise::layer_norm(row, &norm.weight, &norm.bias, norm.eps);
}

/// Turns a row of scores into probabilities: exponentials over their sum. A NaN makes the whole row NaN.
pub fn softmax(row: &mut [f32]) {
    pointwise::softmax(row, 1.0);
}

#[cfg(test)]
mod tests;
