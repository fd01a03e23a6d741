//! Where jobs come in: queues, deliveries, files.

pub mod connection;
pub mod consumer;
pub mod delivery;
pub mod file;
pub mod hits;
mod lane;
pub mod topology;
mod yielding;
