//! Kiln's promises, each kept by a test that does the worst to real servers and real workers.
//!
//! `harness` owns the servers and the workers; every other module holds one group of promises of the contract.

#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test tells one story, fails where it stands, ends its tasks with its runtime, and asks the system who runs it"
)]

mod audit;
mod bad_input;
mod broker;
mod cache_worth;
mod canary;
mod canary_rows;
mod cli_test;
mod cluster_ledger;
mod cluster_pgbouncer;
mod cluster_postgres;
mod cluster_rabbitmq;
mod cluster_redis;
mod cluster_shards;
#[cfg(feature = "parquet")]
mod columnar;
mod compat;
mod conformance;
mod crowd;
mod dead_http;
mod deployed;
mod examples;
mod explain;
mod files;
mod fleet;
mod fleet_files;
mod harness;
mod harness_test;
mod health;
#[cfg(feature = "parquet")]
mod hostile_tables;
mod http;
mod http2;
mod http2_kept;
mod http_manners;
mod http_packed;
mod idempotency;
mod idle;
mod init;
mod invalidate;
mod jobs_found;
mod kill;
mod lanes;
mod lanes_shown;
mod large_bodies;
mod leaks;
mod ledger;
mod many_files;
mod message;
mod models;
mod odd_databases;
mod order;
mod page;
mod page_fits;
mod page_jobs;
mod page_steer;
mod pause;
mod poison;
mod posters;
mod postgres;
mod prometheus;
mod readers;
mod redis;
mod refused_rows;
#[cfg(feature = "remote")]
mod remote;
mod replies;
mod results;
mod retrain;
mod shadow;
mod shards;
mod split_files;
mod split_models;
mod stampede;
mod startup;
mod stop;
mod stopped;
mod suspects;
mod tables;
mod timings;
mod tls;
mod traces;
mod unread;
mod upgrade;
mod upgrade_state;
mod versions_asked;
mod warm;
mod warm_ahead;
mod warm_budget;
mod warm_changes;
mod warm_claims;
mod warm_follow;
mod warm_queue;
mod warm_simulated;
mod warm_sources;
mod warm_without_redis;
mod webhooks;
mod webhooks_sent;
