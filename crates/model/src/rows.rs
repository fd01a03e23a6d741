//! What a model is asked, and what comes out.

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
    /// Texts that went through [`Model::normalise`](crate::Model::normalise).
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
    /// Texts that were cut short because they have more tokens than the model takes.
    pub truncated: usize,
}

/// One forward pass, for metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelCall {
    /// How many rows it scored.
    pub rows: usize,
    /// How many tokens they had; 0 if the model doesn't read tokens.
    pub tokens: usize,
    /// How long it took on the model thread.
    pub seconds: f64,
}
