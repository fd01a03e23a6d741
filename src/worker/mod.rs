//! The worker: how its parts are wired, how it takes jobs, and the tasks that run beside that.

mod body_sizes;
mod build;
mod cancelled;
mod channels;
mod drain;
#[cfg(test)]
mod hammer;
mod in_hand;
mod intake;
mod job_queues;
mod lane_consumer;
mod lane_intake;
mod lane_session;
mod optional;
mod process;
mod refused_lanes;
mod run;
mod session;
mod settle;
mod shard_keeper;
mod share;
#[cfg(test)]
#[cfg(feature = "faults")]
mod simulation;
mod sized_consumer;
mod supervisor;
mod suspects;
mod switch;
mod tasks;
mod unfinished;
mod warm_throttle;

pub use run::run;
pub use suspects::{refuse, serve, stand_back};
