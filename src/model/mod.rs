//! The model room: finds models on disk, checks them, and runs them on threads of their own.
//!
//! Owns the models folder's layout, the manifest's format and the model threads. Promises that a version serves only
//! after its manifest, weights and golden inputs were checked, that an input's outputs are the same bits whatever
//! else is in its batch, that outputs are finite, and that a model that panics costs one request and no thread.
//! Refuses to run anything on the async runtime's threads, and knows nothing of jobs, caches or servers.

mod error;
mod registry;
mod settings;

pub use error::{ModelError, OpenError, Problem, UnknownModel};
pub use registry::{ListedModel, Model, Registry, RescanReport};
pub use settings::{Backend, ModelSettings};

use serde::Serialize;

/// What one loaded version is and takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// The model's name, `[a-z0-9_-]{1,64}`.
    pub name: String,
    /// The version, `[A-Za-z0-9._-]{1,32}`.
    pub version: String,
    /// The architecture's name in the manifest, for people.
    pub architecture: String,
    /// What the outputs mean.
    pub task: Task,
    /// What the model takes.
    pub input: InputKind,
    /// How many numbers the model gives per row.
    pub output_width: usize,
    /// The longest text taken, in bytes before normalisation; 0 for models that take features.
    pub max_text_bytes: usize,
    /// How long this model's scores stay worth keeping, in seconds, where the manifest says so.
    pub ttl_seconds: Option<u64>,
    /// How many numbers the weights hold.
    pub parameters: usize,
    /// How many golden inputs were checked when it was loaded.
    pub golden: usize,
}

/// What a model's outputs mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Task {
    /// One probability per label, in this order.
    Classification {
        /// The labels in the manifest's order.
        labels: Vec<String>,
    },
    /// One number.
    Scalar,
    /// A vector of `output_width` numbers.
    Embedding,
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum InputKind {
    /// A text.
    Text {
        /// Whether a second text is taken too.
        pair: bool,
    },
    /// A fixed number of finite numbers.
    Features {
        /// How many.
        count: usize,
    },
}

/// Inputs to score, all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// Numbers, row after row.
    Features {
        /// Numbers per row.
        width: usize,
        /// `width` numbers per row, one row after the other.
        data: Vec<f32>,
    },
    /// Texts that went through [`Model::normalise`].
    Texts(Vec<TextRow>),
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Features { width: 0, .. } => 0,
            Rows::Features { width, data } => data.len() / width,
            Rows::Texts(texts) => texts.len(),
        }
    }

    /// Whether there is nothing to score.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One text input, already normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    /// The text.
    pub text: String,
    /// The second text, for models that take two.
    pub text_pair: Option<String>,
}

/// What came out of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// `output_width` finite numbers per row, in the rows' order. Classifiers: every label's probability.
    pub outputs: Vec<f32>,
    /// One entry per forward pass.
    pub calls: Vec<ModelCall>,
}

/// One forward pass, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelCall {
    /// How many rows it scored.
    pub rows: usize,
    /// How long it took on the model thread.
    pub seconds: f64,
}
