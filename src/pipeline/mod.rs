//! The path from a batch of bodies to stored results: parse, coalesce, look up, score, store.
//!
//! The same for a worker's queue and for `kiln score`: only the edges differ.

pub mod batch;
pub mod coalesce;
pub mod flight;
pub mod insight;
mod keep;
mod outcome;
pub mod run;
mod score;
mod source;
mod stampede;

pub use outcome::Outcome;
pub use run::{Engine, EngineParts, ROUND_TRIP_SECONDS};
pub use source::JobSource;
