//! Clusters of the servers, from the system's packages, whose nodes can be killed, frozen, demoted and started again.

pub mod fleet;
pub mod pgbouncer;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod turns;
