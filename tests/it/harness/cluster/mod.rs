//! Servers that are clusters, on one machine.

pub mod pgbouncer;
pub mod postgres;
pub mod rabbitmq;
