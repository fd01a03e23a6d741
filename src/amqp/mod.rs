//! The AMQP client, for the worker and for the commands: connections, queues, deliveries and their acknowledgement, messages, and
//! publishing with confirms.
//!
//! Promises that a delivery is settled once, and that a message counts as sent only when the broker has confirmed it.

pub mod ack;
mod addresses;
pub mod brief;
pub mod confirm;
mod confirms;
pub mod connection;
pub mod consumer;
pub mod dead_letters;
mod declare;
pub mod delivery;
mod headers;
pub mod lane_depths;
pub mod letter;
pub mod message;
mod publish_outcome;
pub mod publisher;
mod returns;
pub(crate) mod screen;
pub mod shards;
#[cfg(test)]
#[cfg(feature = "faults")]
pub mod simulated;
pub mod spread;
pub mod topology;
