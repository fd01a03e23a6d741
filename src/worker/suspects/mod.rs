//! Owns jobs that are suspected of killing workers: they were redelivered more often than chance explains.
//!
//! Promises that each runs alone, in a process of its own beside the worker, while all other jobs go on; that its run is counted durably
//! before it begins, so that every worker knows what it did to whoever ran it; and that nothing else is held against it: a process that
//! can't start, a model that can't be loaded, a database that is away, a worker that stops.
//!
//! `held` holds those that wait and `queue` decides which is next; `run` is the task that runs them; `child` is its end of the pipes and
//! `serve` the process's own, and `protocol` is what they say.

mod child;
mod held;
mod host;
mod protocol;
mod queue;
mod run;
mod serve;

pub(in crate::worker) use child::Program;
pub(in crate::worker) use held::Suspects;
pub use serve::{refuse, serve, stand_back};
