//! Finds models on disk, checks them, and runs them on threads of their own.
//!
//! Owns the models folder's layout, the manifest's format and the model threads. Promises that a version serves only
//! after its manifest, weights and golden inputs were checked, that with the backend `cpu` an input's outputs are the
//! same bits whatever else is in its batch, that outputs are finite, and that a model that panics costs one request and no thread.
//! Runs nothing on the async runtime's threads but passes that take less time than handing them over, and knows nothing of jobs,
//! caches or servers.

#![forbid(unsafe_code)]

mod choices;
mod cost;
mod dense;
mod described;
mod directory;
mod encoder;
mod error;
#[cfg(feature = "faults")]
mod fault;
mod files;
#[cfg(test)]
mod fixtures;
mod hardware;
mod import;
mod inputs;
mod lazy_network;
mod load;
mod manifest;
mod mlp;
mod model;
mod naming;
mod network;
mod ngram;
#[cfg(feature = "onnx")]
mod onnx;
mod pass_times;
mod priority;
mod product;
mod quantise;
mod registry;
mod rounding;
mod rows;
mod runner;
mod settings;
mod text;
mod tokens;
mod trees;
mod trial;
mod weights;

pub use choices::{Choices, Serving, Split, SplitChoice, unfit_for_split};
pub use cost::LengthCost;
pub use described::described;
pub use error::{ImportError, OpenError, Problem, UnknownModel};
pub use import::{ImportOptions, Imported, import, read_training};
pub use kiln_contract::model::{
    InputKind, ModelError, ModelInfo, PairRule, Precision, Task, Training, WeightPrecision,
};
pub use manifest::{NgramShape, OutputActivation, Pooling};
pub use model::Model;
pub use ngram::Featuriser;
pub use pass_times::{MINUTES as PASS_MINUTES, PASS_BUCKETS, PassBuckets, PassCounts, PassFigures};
pub use quantise::{
    CostMeter, QuantisationCost, QuantiseOptions, Quantised, Quantising, quantisation_cost,
    quantise,
};
pub use registry::{ChoiceReport, ListedModel, Registry, RescanReport};
pub use rows::{ModelCall, Rows, Scored, TextRow};
pub use settings::{Backend, ModelSettings, Shadow};
pub use text::{TextRules, UnicodeForm};
pub use trial::give_up_version;
