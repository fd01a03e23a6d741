//! Owns measuring whether what is in Redis is right: some named entries, rankings and score entries are recomputed with the version that
//! they name, compared with their rows, and held against their namespace's objective for age.
//!
//! Promises to change nothing, to ask each server for little at a time, and to say what couldn't be checked. Refuses to
//! repair anything.

mod finding;
mod judge;
mod pace;
mod recompute;
mod run;
mod verdicts;

pub use finding::{Counts, Finding, Report, Verdict};
pub use pace::Pace;
pub use run::{Auditor, Wanted};
