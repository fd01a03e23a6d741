//! What a model takes and what it gives: the types that jobs, results and models share.
//!
//! Owns these types only: another crate loads and runs models.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use thiserror::Error;

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
    /// The features' names, where inputs may give them by name; else empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feature_names: Vec<String>,
    /// Whether inputs may lack features: `null` in a list, or left out by name. They are NaN then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub takes_missing: bool,
    /// How many numbers the model gives per row; eight dimensions are one where [`Precision::Binary`].
    pub output_width: usize,
    /// The precision of these numbers.
    pub precision: Precision,
    /// The longest text taken, in bytes before normalisation; 0 for models that take features.
    pub max_text_bytes: usize,
    /// How long this model's scores are kept, in seconds, if the manifest says so.
    pub ttl_seconds: Option<u64>,
    /// How many numbers the weights hold.
    pub parameters: usize,
    /// What the large layers' weights are kept and multiplied in.
    pub weights: WeightPrecision,
    /// How many golden inputs were checked when it was loaded.
    pub golden: usize,
    /// How it was trained, if the manifest says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<Arc<Training>>,
}

/// How a version was trained, as its manifest says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// When its data begins, in RFC 3339.
    pub from: String,
    /// When its data ends, in RFC 3339.
    pub to: String,
    /// Rows of data, those that were held out for the evaluation included.
    pub rows: u64,
    /// How long the training took.
    pub training_seconds: f64,
    /// How long the evaluation took.
    pub evaluation_seconds: f64,
    /// What the evaluation found, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
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

/// What a model's large layers are kept and multiplied in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightPrecision {
    /// 32-bit floats.
    #[default]
    Single,
    /// Bytes with a scale for each output; what they are multiplied with becomes bytes too.
    Int8,
}

impl WeightPrecision {
    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Int8 => "int8",
        }
    }
}

/// The precision of a model's outputs, the same whether fresh or from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Single,
    /// Rounded to 16-bit floats and cached as such: half the memory, three decimal digits.
    Half,
    /// Whole numbers from -127 to 127, a byte each: a quarter of the memory.
    Int8,
    /// Whether numbers are above 0, as bits, eight to a whole number from 0 to 255, the first in its highest place: a thirty-second of the memory.
    Binary,
}

impl Precision {
    /// Whether outputs are whole numbers.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Int8 | Self::Binary)
    }
}

/// What a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum InputKind {
    /// A text.
    Text {
        /// Whether a second text is taken too.
        pair: PairRule,
    },
    /// A fixed number of numbers: finite ones, or missing ones where [`ModelInfo::takes_missing`].
    Features {
        /// How many.
        count: usize,
    },
}

/// Whether a model takes a second text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairRule {
    /// One text.
    #[default]
    None,
    /// One text or two.
    Optional,
    /// Two texts.
    Required,
}

impl PairRule {
    /// Whether an input with or without a second text fits.
    #[inline]
    pub fn admits(self, has_pair: bool) -> bool {
        match self {
            Self::None => !has_pair,
            Self::Optional => true,
            Self::Required => has_pair,
        }
    }
}

/// Why rows could not be scored. All variants but [`Stopped`](Self::Stopped) concern one request: the model threads go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ModelError {
    /// The model panicked on one of the rows of this request.
    #[error("the model panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The model answered NaN or an infinity.
    #[error("the model's answer for row {row} is not a finite number")]
    NotFinite {
        /// The row's position in the request.
        row: usize,
    },
    /// A text that can't be cut into tokens.
    #[error("the text of row {row} can't be cut into tokens: {message}")]
    Untokenised {
        /// The row's position in the request.
        row: usize,
        /// Why not.
        message: String,
    },
    /// The version was unloaded to free memory, and can't be loaded again.
    #[error("{model} can't be loaded again: {message}")]
    Unloadable {
        /// `name@version`.
        model: String,
        /// The file to blame and what is wrong.
        message: String,
    },
    /// The rows are not what the model takes: the caller did not check them against [`ModelInfo`].
    #[error("rows do not fit the model: {message}")]
    Unfit {
        /// What was expected and what came.
        message: String,
    },
    /// The registry was dropped; its threads are gone.
    #[error("the model threads have stopped")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_of_weights_is_called_in_manifests_as_anywhere_else() {
        for (precision, name) in [
            (WeightPrecision::Single, "single"),
            (WeightPrecision::Int8, "int8"),
        ] {
            assert_eq!(precision.name(), name);
            let json = serde_json::to_value(precision).unwrap();
            assert_eq!(json, name);
        }
    }

    #[test]
    fn a_second_text_fits_where_the_rule_admits_it() {
        for (rule, alone, with_pair) in [
            (PairRule::None, true, false),
            (PairRule::Optional, true, true),
            (PairRule::Required, false, true),
        ] {
            assert_eq!((rule.admits(false), rule.admits(true)), (alone, with_pair));
        }
    }

    #[test]
    fn whole_numbers_are_those_of_bytes_and_bits() {
        use Precision::{Binary, Half, Int8, Single};
        let whole = [Single, Half, Int8, Binary].map(Precision::is_whole);
        assert_eq!(whole, [false, false, true, true]);
    }
}
