//! Servers that are clusters, on one machine.

pub mod rabbitmq;
