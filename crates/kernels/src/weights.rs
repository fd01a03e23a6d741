//! The weights of an encoder, and whether their sizes fit each other.

use super::panels::Panels;
use super::pointwise::Finish;
use super::product::PackedLinear;
use super::quantised::{ByteRows, QuantisedLinear};
use super::threads::Sharing;

/// The weights of a layer norm over rows of `hidden` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// What each number of a normalised row is multiplied by; `hidden` numbers.
    pub weight: Vec<f32>,
    /// What is then added to it; `hidden` numbers.
    pub bias: Vec<f32>,
    /// What is added to the variance before its root is taken.
    pub eps: f32,
}

/// The embedding tables, each of rows of `hidden` numbers, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// A row for each word of the vocabulary.
    pub words: Vec<f32>,
    /// A row for each position, in models that have such a table.
    pub positions: Option<Vec<f32>>,
    /// A row for each token type, in models that have types.
    pub types: Option<Vec<f32>>,
    /// What the sum of a token's rows goes through.
    pub norm: Norm,
}

/// A fully connected layer of an encoder, in either precision.
#[derive(Debug)]
pub enum Linear {
    /// In 32-bit floats.
    Single(PackedLinear),
    /// In bytes.
    Quantised(QuantisedLinear),
}

impl From<PackedLinear> for Linear {
    fn from(layer: PackedLinear) -> Self {
        Self::Single(layer)
    }
}

impl From<QuantisedLinear> for Linear {
    fn from(layer: QuantisedLinear) -> Self {
        Self::Quantised(layer)
    }
}

impl Linear {
    fn sizes(&self) -> (usize, usize) {
        match self {
            Self::Single(layer) => (layer.inputs(), layer.outputs()),
            Self::Quantised(layer) => (layer.inputs(), layer.outputs()),
        }
    }

    /// `weights · x + bias` of plain rows, row after row: `[rows, inputs]` to `[rows, outputs]`. Runs on this thread.
    ///
    /// # Panics
    /// If `x` isn't whole rows.
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        match self {
            Self::Single(layer) => layer.forward(x, Finish::Plain),
            Self::Quantised(layer) => layer.forward(x, Finish::Plain),
        }
    }

    /// `finish(x · weights + bias)`; `bytes` is room for the rows of `x`.
    pub(super) fn multiply(
        &self,
        x: &Panels,
        bytes: &mut ByteRows,
        into: &mut Panels,
        finish: Finish,
        sharing: Sharing,
    ) {
        match self {
            Self::Single(layer) => layer.multiply(x, into, finish, sharing),
            Self::Quantised(layer) => {
                bytes.fill(x, sharing);
                layer.multiply(bytes, into, finish, sharing);
            }
        }
    }
}

/// One transformer layer, its norms after the sums.
///
/// What goes through the norms is either all that later layers see, or goes beside the sums (see [`Encoder::with_sums_kept`](super::Encoder::with_sums_kept)).
#[derive(Debug)]
pub struct Layer {
    /// Queries, keys and values side by side: `hidden` to `3 * hidden`.
    pub query_key_value: Linear,
    /// What the heads' results go through: `hidden` to `hidden`.
    pub attended: Linear,
    /// The norm after attention.
    pub attended_norm: Norm,
    /// The first layer of the feed-forward part: `hidden` to any width.
    pub up: Linear,
    /// What its activated result is multiplied with, number by number, in models that have such a gate: of the same size.
    pub gate: Option<Linear>,
    /// Its second layer: that width to `hidden`.
    pub down: Linear,
    /// The norm after the feed-forward part.
    pub norm: Norm,
}

impl Norm {
    pub(super) fn assert_width(&self, hidden: usize, which: &str) {
        assert_eq!(self.weight.len(), hidden, "numbers in {which}.weight");
        assert_eq!(self.bias.len(), hidden, "numbers in {which}.bias");
    }
}

impl Tables {
    pub(super) fn assert_width(&self, hidden: usize) {
        assert!(
            self.words.len().is_multiple_of(hidden),
            "words: {} numbers are no rows of {hidden}",
            self.words.len()
        );
        let positions = self.positions.as_ref().map_or(0, Vec::len);
        assert!(
            positions.is_multiple_of(hidden),
            "positions: {positions} numbers are no rows of {hidden}"
        );
        let types = self.types.as_ref().map_or(0, Vec::len);
        assert!(
            types.is_multiple_of(hidden),
            "types: {types} numbers are no rows of {hidden}"
        );
        self.norm.assert_width(hidden, "norm");
    }
}

impl Layer {
    pub(super) fn assert_width(&self, hidden: usize) {
        let (up, between) = self.up.sizes();
        assert_eq!(
            self.query_key_value.sizes(),
            (hidden, 3 * hidden),
            "inputs and outputs of query_key_value"
        );
        assert_eq!(
            self.attended.sizes(),
            (hidden, hidden),
            "inputs and outputs of attended"
        );
        assert_eq!(up, hidden, "inputs of up");
        if let Some(gate) = &self.gate {
            assert_eq!(gate.sizes(), self.up.sizes(), "inputs and outputs of gate");
        }
        assert_eq!(
            self.down.sizes(),
            (between, hidden),
            "inputs and outputs of down"
        );
        self.attended_norm.assert_width(hidden, "attended_norm");
        self.norm.assert_width(hidden, "norm");
    }
}
