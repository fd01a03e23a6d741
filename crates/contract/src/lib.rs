//! The contract between Kiln, its producers and its readers: jobs, results, failures, keys and entries.
//!
//! Owns the formats: how a job's body becomes a [`job::Job`] and how one is written, what is replied, which keys and bytes stand
//! in Redis, and what a model is asked and gives. Promises that no bytes from outside make it panic, and that what it writes it
//! reads. Refuses all I/O: no sockets, no files, no clock, no randomness.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`job`] | a job: its fields and limits, how it is read ([`job::Job::parse`]) and written ([`job::JobWriter`]) |
//! | [`result`] | the JSON of a job's end: results and replies |
//! | [`reader`] | the JSON that readers find: named entries, rankings, removals |
//! | [`failure`] | what can go wrong with a job, and whether it is retried, rejected or fatal |
//! | [`key`] | every key in Redis, and the hash that names an input |
//! | [`entry`] | the bytes of a score entry in Redis |
//! | [`order`] | how new a word on a reader's key is |
//! | [`model`] | what a model takes and gives, and why it could not |
//! | [`name`] | the rule of names and versions |
//! | [`redact`] | what may be said of an error of a reader of JSON or TOML: no value |
//! | [`split`] | which inputs go to a version that has a share of its model's inputs |
//! | [`time`] | how an instant is written |
//!
//! A job comes in as bytes, and its reply goes out as bytes:
//!
//! ```
//! use kiln_contract::{
//!     job::Job,
//!     model::{InputKind, ModelInfo, Precision, Task, WeightPrecision},
//!     result::{self, Finished, ResultsWriter},
//! };
//!
//! let body = br#"{"job_id":"job-1","model":"price@2","inputs":[{"key":"a","features":[1.0,0.5]}]}"#;
//! let mut job = Job::parse(body, None)?;
//! assert_eq!((job.model_name(), job.namespace()), ("price", "price"));
//!
//! let info = ModelInfo {
//!     name: "price".into(),
//!     version: "2".into(),
//!     architecture: "mlp".into(),
//!     task: Task::Scalar,
//!     input: InputKind::Features { count: 2 },
//!     feature_names: vec![],
//!     takes_missing: false,
//!     output_width: 1,
//!     precision: Precision::Single,
//!     max_text_bytes: 0,
//!     ttl_seconds: None,
//!     parameters: 3,
//!     weights: WeightPrecision::Single,
//!     golden: 0,
//!     training: None,
//! };
//! job.check_inputs(&info)?;
//!
//! let mut results = ResultsWriter::new(job.inputs.len());
//! for input in &job.inputs {
//!     results.scored(input.key.as_deref(), &info, &[0.25], false, job.detail);
//! }
//! let done = Finished {
//!     model: info.name.clone(),
//!     version: info.version.clone(),
//!     namespace: job.namespace().to_owned(),
//!     results: results.finish(),
//!     hits: 0,
//!     misses: 1,
//!     elapsed_ms: 0.5,
//!     finished_at: Default::default(),
//! };
//! let reply = String::from_utf8(result::ok_reply(&job.job_id, &done))?;
//! assert!(reply.starts_with(r#"{"job_id":"job-1","status":"ok","model":"price","version":"2""#));
//! assert!(reply.contains(r#""results":[{"key":"a","score":0.25,"cached":false}]"#));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod entry;
pub mod failure;
#[cfg(test)]
mod fuzz;
pub mod job;
mod json;
pub mod key;
pub mod model;
pub mod name;
pub mod order;
pub mod reader;
pub mod redact;
pub mod result;
pub mod slot;
pub mod split;
pub mod time;
