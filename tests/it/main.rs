//! Kiln's promises, each kept by a test that does the worst to real servers and real workers.
//!
//! `harness` owns the servers and the workers; every other module holds one group of promises of the contract.

mod harness;
mod harness_test;
