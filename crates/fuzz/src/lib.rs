//! Runs a test on inputs that nobody thought of: a target's own seeds first, then what mutations make of them.
//!
//! Owns the loop, the mutations, the corpus and the limits. Promises that in CI a target does as many runs as it says, the same ones
//! everywhere, whatever the machine's speed; that a case which fails is made small, saved and named; and that memory is counted for each
//! case by itself. Only tests use it: it fails where it stands.
//!
//! A target is a test beside the parser that it is for:
//!
//! ```
//! kiln_fuzz::Target::new("doc_number").seeds(&[b"17", b"-1"]).run(|case| {
//!     let bytes = case.bytes();
//!     let text = String::from_utf8_lossy(bytes);
//!     match case.bounded(bytes.len(), || text.parse::<i64>()) {
//!         Ok(number) => assert_eq!(number.to_string().parse(), Ok(number)),
//!         Err(error) => case.refused(&error.to_string()),
//!     }
//! });
//! ```
//!
//! Where tasks share something, [`every_order`] runs them in every order that their steps can have.
//!
//! What a case says with [`Case::saw`] and [`Case::refused`], with about as many allocations, is its shape; an input of a new shape is kept
//! and mutated further. That is what coverage is to other fuzzers: it needs no instrumented build, so that the same tests run everywhere.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `KILN_FUZZ_SECONDS` | runs for so long instead of a number of runs, with larger inputs, from another beginning each time |
//! | `KILN_FUZZ_SEED` | the beginning of the random numbers, for the same runs again |
//! | `KILN_FUZZ_ONLY` | runs this target alone; the others do nothing |
//! | `KILN_FUZZ_CORPUS` | the folder where a long run keeps what had a new shape, and goes on from |

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

mod case;
mod corpus;
mod mutate;
mod orders;
mod random;
mod target;

pub use case::Case;
pub use orders::{Begun, Orders, Task, every_order, step};
pub use target::Target;
