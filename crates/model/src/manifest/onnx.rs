//! What a manifest says of an ONNX file.

use serde::{Deserialize, Serialize};

/// `[onnx]`: which of the graph's numbers are the model's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OnnxShape {
    /// The graph's output that is taken, by name.
    pub output: String,
    /// Its one number that is the score, where it has more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// Whether inputs may lack features, which the graph then sees as NaN.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
}
