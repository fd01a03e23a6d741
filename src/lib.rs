//! Kiln keeps scores hot.
//!
//! The flow, and where each step lives:
//!
//! ```text
//! kiln.jobs ─▶ intake ─▶ job ─▶ pipeline::coalesce ─▶ cache ─▶ model ─▶ cache + store ─▶ settle
//! kiln.warm ─▶   ▲      (parse)  (same input once)   (look up) (misses)  (together)     (reply, acknowledge)
//! a file    ─▶   │
//! ```
//!
//! | room | what lives there |
//! | --- | --- |
//! | [`cli`], [`app`] | the commands, and the one place where parts are wired together |
//! | [`config`], [`secret`], [`telemetry`], [`health`], [`backoff`], [`clock`], [`supervisor`] | known by all, knows nobody |
//! | [`job`], [`result`], [`key`], [`entry`], [`failure`] | the words: pure, no I/O |
//! | [`intake`] | queues, deliveries, files |
//! | [`pipeline`] | a batch's way from bodies to stored results |
//! | [`cache`], [`store`], [`model`] | Redis and memory; Postgres and SQLite; burn |
//! | [`settle`] | replies, dead letters, acknowledgements |
//! | [`heat`] | what jobs ask for most |
//! | [`warm`] | decides what to have ready, and posts jobs for it |
//! | [`http`] | metrics and health |

#![forbid(unsafe_code)]

pub mod amqp;
pub mod backoff;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod health;
pub mod heat;
pub mod http;
pub mod parts;
pub mod pipeline;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod warm;
pub mod worker;

pub use kiln_contract::{entry, failure, job, key, name, result};
pub use kiln_model as model;
