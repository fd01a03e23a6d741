//! The worker: how its parts are wired, how it takes jobs, and the tasks that run beside that.

mod build;
mod intake;
mod process;
mod session;
mod settle;
mod supervisor;
mod tasks;
mod warm_throttle;

pub use build::run;
