//! What a network is given: rows in the form that it reads.

use std::ops::Range;

use super::rows::{Rows, TextRow};
use super::tokens::Tokens;

/// A request's rows, cut into tokens if the network reads tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Inputs {
    Features { width: usize, data: Vec<f32> },
    Texts(Vec<TextRow>),
    Tokens(Tokens),
}

impl From<Rows> for Inputs {
    fn from(rows: Rows) -> Self {
        match rows {
            Rows::Features { width, data } => Self::Features { width, data },
            Rows::Texts(texts) => Self::Texts(texts),
        }
    }
}

impl Inputs {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Features { width: 0, .. } => 0,
            Self::Features { width, data } => data.len() / width,
            Self::Texts(texts) => texts.len(),
            Self::Tokens(tokens) => tokens.len(),
        }
    }

    /// Tokens of the rows of that range; 0 if rows aren't tokens.
    pub fn tokens(&self, rows: &Range<usize>) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.span(rows).len(),
            Self::Features { .. } | Self::Texts(_) => 0,
        }
    }

    /// Texts that were cut short.
    pub fn truncated(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.truncated,
            Self::Features { .. } | Self::Texts(_) => 0,
        }
    }
}
