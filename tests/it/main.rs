//! Kiln's promises, each kept by a test that does the worst to real servers and real workers.
//!
//! `harness` owns the servers and the workers; every other module holds one group of promises of the contract.

#![allow(
    unsafe_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands, and asks the system who runs it"
)]

mod bad_input;
mod broker;
mod canary;
mod cli_test;
mod examples;
mod harness;
mod harness_test;
mod http;
mod idempotency;
mod invalidate;
mod kill;
mod ledger;
mod message;
mod models;
mod page;
mod poison;
mod postgres;
mod prometheus;
mod readers;
mod redis;
mod results;
mod stampede;
mod startup;
mod stop;
mod tls;
mod traces;
mod warm;
