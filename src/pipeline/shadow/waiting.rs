//! What waits for a shadow version: inputs with what the active version gave for them, bounded in number and bytes.
//!
//! Pure: no I/O, no clock.

use super::Shadow;
use kiln_model::{InputKind, Model, ModelInfo, Rows, TextRow};
use std::{collections::VecDeque, sync::Arc};

/// Inputs that may wait for one version.
const MAX_INPUTS: usize = 4_096;
/// The same in bytes, and what one job may bring of it.
const MAX_BYTES: usize = 4 << 20;
/// Inputs of one pass.
const PASS_INPUTS: usize = 64;
/// Model time that one pass may be expected to take, in seconds.
const PASS_SECONDS: f64 = 0.05;
/// What an input takes beside its numbers or text, in bytes.
const BYTES_PER_INPUT: usize = 128;

/// What is scored of an input.
#[derive(Debug)]
pub(super) enum Value {
    Features(Box<[f32]>),
    Text {
        text: Box<str>,
        pair: Option<Box<str>>,
    },
}

impl Value {
    fn bytes(&self) -> usize {
        BYTES_PER_INPUT
            + match self {
                Self::Features(features) => 4 * features.len(),
                Self::Text { text, pair } => text.len() + pair.as_ref().map_or(0, |p| p.len()),
            }
    }

    /// Whether a version takes it that takes inputs of its kind.
    fn fits(&self, info: &ModelInfo) -> bool {
        match (self, info.input) {
            (Self::Features(features), InputKind::Features { count }) => {
                let is_whole = info.takes_missing || features.iter().all(|x| x.is_finite());
                features.len() == count && is_whole
            }
            (Self::Text { text, pair }, InputKind::Text { pair: rule }) => {
                let longest = text.len().max(pair.as_ref().map_or(0, |pair| pair.len()));
                rule.admits(pair.is_some()) && longest <= info.max_text_bytes
            }
            _ => false,
        }
    }

    /// Seconds that a version is expected to take for it.
    fn expected_seconds(&self, model: &Model) -> Option<f64> {
        model.expected_seconds(match self {
            Self::Features(_) => None,
            Self::Text { text, pair } => Some((text, pair.as_deref())),
        })
    }
}

/// An input, and what the active version gave for it.
#[derive(Debug)]
pub(super) struct ShadowInput {
    pub value: Value,
    pub score: f32,
    pub label: Option<String>,
    /// That version.
    pub against: Arc<str>,
}

/// What is taken of one job, until its end is known.
#[derive(Debug)]
pub(in crate::pipeline) struct ShadowInputs {
    shadow: Arc<Shadow>,
    against: Arc<str>,
    inputs: Vec<ShadowInput>,
    bytes: usize,
    dropped: usize,
}

impl ShadowInputs {
    pub(super) fn new(shadow: Arc<Shadow>, against: &str) -> Self {
        Self {
            shadow,
            against: against.into(),
            inputs: Vec::new(),
            bytes: 0,
            dropped: 0,
        }
    }

    /// Adds one that is copied only where there is room for it.
    pub(super) fn add(
        &mut self,
        value: impl Fn() -> Option<Value>,
        score: f32,
        label: Option<String>,
    ) {
        if self.inputs.len() >= MAX_INPUTS || self.bytes >= MAX_BYTES {
            self.dropped += 1;
            return;
        }
        let Some(value) = value() else { return };
        self.bytes += value.bytes();
        self.inputs.push(ShadowInput {
            value,
            score,
            label,
            against: self.against.clone(),
        });
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Hands them over: their job has ended well.
    pub(in crate::pipeline) fn hand_over(self) {
        self.shadow.state().compared.drop_inputs(self.dropped);
        self.shadow.enter(self.inputs);
    }
}

/// What waits, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    inputs: VecDeque<ShadowInput>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Takes as many in as there is room for; says how many these are.
    pub(super) fn enter(&mut self, inputs: Vec<ShadowInput>) -> usize {
        let mut kept = 0;
        for input in inputs {
            let bytes = input.value.bytes();
            if self.inputs.len() >= MAX_INPUTS || self.bytes + bytes > MAX_BYTES {
                break;
            }
            self.bytes += bytes;
            self.inputs.push_back(input);
            kept += 1;
        }
        kept
    }

    /// Forgets everything; says how much that was.
    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.inputs).len()
    }

    /// Takes one pass out: what `model` can score of it, and how many inputs it can't, or were scored by another version than `against`.
    pub(super) fn pass(&mut self, model: &Model, against: &str) -> (Vec<ShadowInput>, usize) {
        let (mut pass, mut unfit, mut seconds) = (Vec::new(), 0, 0.0);
        while let Some(input) = self.inputs.front() {
            let expected = input.value.expected_seconds(model);
            // Of what nobody has measured yet, a few.
            seconds += expected.unwrap_or(PASS_SECONDS / 8.0);
            let is_full = pass.len() >= PASS_INPUTS || seconds > PASS_SECONDS;
            if !pass.is_empty() && is_full {
                break;
            }
            let Some(input) = self.inputs.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(input.value.bytes());
            if input.value.fits(model.info()) && *input.against == *against {
                pass.push(input);
            } else {
                unfit += 1;
            }
        }
        (pass, unfit)
    }
}

/// What a model is asked for these inputs, which all fit it.
pub(super) fn rows(model: &Model, inputs: &[ShadowInput]) -> Rows {
    let mut texts = Vec::new();
    let mut data = Vec::new();
    for input in inputs {
        match &input.value {
            Value::Features(features) => data.extend_from_slice(features),
            Value::Text { text, pair } => texts.push(TextRow {
                text: model.normalise(text).into_owned(),
                text_pair: pair
                    .as_deref()
                    .map(|pair| model.normalise(pair).into_owned()),
            }),
        }
    }
    match model.info().input {
        InputKind::Features { count } => Rows::Features { width: count, data },
        InputKind::Text { .. } => Rows::Texts(texts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(count: usize, bytes: usize) -> Vec<ShadowInput> {
        let one = || ShadowInput {
            value: Value::Text {
                text: "a".repeat(bytes).into(),
                pair: None,
            },
            score: 0.0,
            label: None,
            against: "1".into(),
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.enter(inputs(MAX_INPUTS + 7, 1)), MAX_INPUTS);
        assert_eq!(waiting.enter(inputs(1, 1)), 0);
        assert_eq!(waiting.clear(), MAX_INPUTS);
        let large = MAX_BYTES / 4;
        assert_eq!(waiting.enter(inputs(9, large)), 3);
        assert!(waiting.bytes <= MAX_BYTES && !waiting.is_empty());
        assert_eq!((waiting.clear(), waiting.bytes), (3, 0));
    }
}
