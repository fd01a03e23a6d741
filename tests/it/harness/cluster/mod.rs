//! Clusters of the servers, from the system's packages, whose nodes can be killed, frozen, demoted and started again.

pub mod redis;
