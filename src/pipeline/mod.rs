//! The path from a batch of bodies to stored results.
//!
//! The same for a worker's queue and for `kiln score`: only the edges differ. `engine` is the order of the stages. A
//! stage is a file with a function that takes the shared `context` and the `plan` of the batch; it knows the files
//! below it and never the engine.

mod admit;
mod arriving;
mod blocking;
pub mod budget;
mod coalesce;
mod completion;
mod context;
mod count;
mod ending;
mod engine;
mod finish;
mod front;
mod in_hand;
mod index;
mod input_counts;
pub mod insight;
mod lane;
mod look_up;
mod look_up_cost;
mod model_call;
mod names;
mod note_heat;
mod outcome;
mod owned;
mod parting;
mod plan;
mod publish;
mod rejections;
mod render;
mod retention;
mod shadow;
mod share;
mod source;
mod split;
mod split_metrics;
mod standing;
mod store;
mod tasks;
#[cfg(test)]
mod tests;
mod verdict;
mod worth;

pub use arriving::Arriving;
pub use coalesce::scored_by;
pub use context::EngineParts;
pub use engine::{Engine, READERS_AGAIN, outcome_of};
pub use input_counts::InputCounts;
pub use lane::{Depth, LaneFigures, LaneQueues};
pub use look_up_cost::LookUpCost;
pub use model_call::ROUND_TRIP_SECONDS;
pub use outcome::{LaneQueue, Outcome};
pub use shadow::{ShadowFigures, Shadows};
pub use source::{Ended, JobOwner, JobSource, Urgency};
