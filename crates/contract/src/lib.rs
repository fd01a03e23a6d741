//! The contract between Kiln, its producers and its readers: jobs, results, failures, keys and entries.
//!
//! Owns the formats: how a job's body becomes a [`job::Job`], what is replied, which keys and bytes stand in Redis, and what a
//! model is asked and gives. Promises that no bytes from outside make it panic. Refuses all I/O: no sockets, no files, no clock.

#![forbid(unsafe_code)]

pub mod entry;
pub mod failure;
pub mod job;
mod json;
pub mod key;
pub mod model;
pub mod name;
pub mod result;
pub mod time;
