//! Kiln keeps scores hot: it takes scoring jobs from RabbitMQ, looks every input up in Redis, runs a model on the misses in batches,
//! stores what came out, replies and acknowledges.
//!
//! A job's way, and where each step lives:
//!
//! ```text
//! kiln.jobs ─▶ amqp ─▶ worker::session ─▶ pipeline::Engine: admit, coalesce, look up, score, render, store ─▶ worker::settle
//! kiln.warm ─▶            (batches)             │                  (cache)  (kiln-model)      (store)        (reply, acknowledge)
//! HTTP, a file ─────────────────────────────────┘
//! warm: due schedules ─▶ sources ─▶ plan ─▶ kiln.warm
//! ```
//!
//! A module imports only those below it in this table; `tests/tidy.rs` holds that, and `ARCHITECTURE.md` tells more.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`cli`] | the commands, a file each |
//! | `worker` | the worker: its wiring, its session with the broker, the tasks that run beside it, and how it stops |
//! | [`embedded`] | all of it within a program of one's own, without servers |
//! | `parts` | opens what the settings name |
//! | `http` | health, metrics, the API and the page |
//! | `audit` | measures whether what is in Redis is right |
//! | `explain` | says what a reader finds under a name, and why |
//! | [`warm`] | decides what to warm, and posts jobs for it |
//! | `pipeline` | carries a batch from bodies to stored results |
//! | `amqp`, `cache`, [`store`], `heat` | RabbitMQ; Redis and memory; Postgres and SQLite; what is asked for most |
//! | `health`, `telemetry` | what works; metrics, logs, traces |
//! | `outbound` | connects to hosts that somebody else has named |
//! | [`config`], `tls`, [`secret`], [`clock`], `backoff`, `cut` | settings, and what everybody needs |
//! | `conformance` | what the simulation's stand-ins and the real servers must do alike, for the tests |
//! | `simulated` | what a simulation changes, in tests alone |
//! | `redact` | what is said of errors of servers and libraries: no row of anybody's |
//! | [`kiln_contract`], [`kiln_model`], `kiln_kernels` | crates of their own: the contract; models; the processor's kernels |

#![forbid(unsafe_code)]
// A test ends its tasks with its own runtime.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod amqp;
mod audit;
mod backoff;
mod cache;
pub mod cli;
pub mod clock;
pub mod config;
#[cfg(feature = "faults")]
pub mod conformance;
mod cut;
pub mod embedded;
mod explain;
mod health;
mod heat;
mod http;
mod outbound;
mod parts;
mod pipeline;
mod redact;
pub mod secret;
mod simulated;
pub mod store;
mod telemetry;
mod tls;
pub mod warm;
mod worker;
