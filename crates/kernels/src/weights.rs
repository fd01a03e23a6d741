//! The weights of an encoder, and whether their sizes fit each other.

use super::product::PackedLinear;

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
    /// A row for each position.
    pub positions: Vec<f32>,
    /// A row for each token type, in models that have types.
    pub types: Option<Vec<f32>>,
    /// What the sum of a token's rows goes through.
    pub norm: Norm,
}

/// One transformer layer, its norms after the sums.
#[derive(Debug)]
pub struct Layer {
    /// Queries, keys and values side by side: `hidden` to `3 * hidden`.
    pub query_key_value: PackedLinear,
    /// What the heads' results go through: `hidden` to `hidden`.
    pub attended: PackedLinear,
    /// The norm after attention.
    pub attended_norm: Norm,
    /// The first layer of the feed-forward part: `hidden` to any width.
    pub up: PackedLinear,
    /// Its second layer: that width to `hidden`.
    pub down: PackedLinear,
    /// The norm after the feed-forward part.
    pub norm: Norm,
}

impl Norm {
    fn assert_width(&self, hidden: usize, which: &str) {
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
        assert!(
            self.positions.len().is_multiple_of(hidden),
            "positions: {} numbers are no rows of {hidden}",
            self.positions.len()
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
        let sizes = |layer: &PackedLinear| (layer.inputs(), layer.outputs());
        assert_eq!(
            sizes(&self.query_key_value),
            (hidden, 3 * hidden),
            "inputs and outputs of query_key_value"
        );
        assert_eq!(
            sizes(&self.attended),
            (hidden, hidden),
            "inputs and outputs of attended"
        );
        assert_eq!(self.up.inputs(), hidden, "inputs of up");
        assert_eq!(
            sizes(&self.down),
            (self.up.outputs(), hidden),
            "inputs and outputs of down"
        );
        self.attended_norm.assert_width(hidden, "attended_norm");
        self.norm.assert_width(hidden, "norm");
    }
}
