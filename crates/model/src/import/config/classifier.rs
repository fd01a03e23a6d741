//! What a classifier's outputs mean: its labels, or one score, and what the last layer's sums go through.

use std::path::Path;

use super::super::error::ImportError;
use super::super::options::ImportOptions;
use super::{CrossEncoderConfig, HfConfig, PlannedTask, Purpose, torch_class};
use crate::manifest::{Head, OutputActivation, check_labels};
use kiln_contract::model::PairRule;

/// Maximum of labels, as a manifest has them.
const MAX_LABELS: usize = 1_000;

/// The descriptions of a classifier.
pub(in super::super) struct Described<'a> {
    pub config: (&'a HfConfig, &'a Path),
    /// sentence-transformers' own, where there is one.
    pub sentence: (Option<&'a CrossEncoderConfig>, &'a Path),
}

/// An activation that a description names.
struct Named<'a> {
    path: &'a str,
    field: &'static str,
    file: &'a Path,
}

impl<'a> Described<'a> {
    /// The one that counts, as sentence-transformers looks for it.
    fn named(&self) -> Option<Named<'a>> {
        let (config, file) = self.config;
        let (sentence, sentence_file) = self.sentence;
        let of = |config: Option<&'a CrossEncoderConfig>| config?.activation_fn.as_deref();
        let all = [
            (of(sentence), "activation_fn", sentence_file),
            (
                of(config.sentence_transformers.as_ref()),
                "sentence_transformers.activation_fn",
                file,
            ),
            (
                config.sbert_ce_default_activation_function.as_deref(),
                "sbert_ce_default_activation_function",
                file,
            ),
        ];
        all.into_iter()
            .find_map(|(path, field, file)| path.map(|path| Named { path, field, file }))
    }
}

impl Named<'_> {
    /// Which of those that are expected it is.
    fn one_of(&self, expected: &[OutputActivation]) -> Result<OutputActivation, ImportError> {
        let found = match torch_class(self.path) {
            Some("Sigmoid") => Some(OutputActivation::Sigmoid),
            Some("Softmax") => Some(OutputActivation::Softmax),
            Some("Identity") => Some(OutputActivation::Identity),
            _ => None,
        };
        found
            .filter(|found| expected.contains(found))
            .ok_or_else(|| {
                let message = format!(
                    "{}: found {:?}, expected {expected:?} of torch.nn; `--activation` chooses otherwise",
                    self.field, self.path
                );
                ImportError::new(self.file, message)
            })
    }
}

/// A classifier's.
pub(in super::super) fn classification(
    described: &Described,
    head: &Head,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Purpose, ImportError> {
    let (config, file) = described.config;
    let count = config.num_labels.unwrap_or(match config.id2label.len() {
        0 => 2,
        named => named,
    });
    let regression = config.problem_type.as_deref() == Some("regression");
    let named = described.named();
    let (task, activation, pair) = if count == 1 {
        let activation = scalar_activation(named.as_ref(), regression, options)?;
        let pair = if regression {
            PairRule::Optional
        } else {
            PairRule::Required
        };
        (PlannedTask::Scalar, activation, pair)
    } else if regression {
        let message = format!(
            "problem_type: found \"regression\" of {count} labels, expected one label or another problem_type"
        );
        return Err(ImportError::new(file, message));
    } else {
        let labels = labels(config, count).map_err(|message| ImportError::new(file, message))?;
        let activation = labels_activation(config, named.as_ref(), options, notes)?;
        (
            PlannedTask::Classification(labels),
            activation,
            PairRule::Optional,
        )
    };
    Ok(Purpose {
        head: head.clone(),
        task,
        activation,
        pair: options.pair.unwrap_or(pair),
        dense_folder: None,
    })
}

/// What one number goes through.
fn scalar_activation(
    named: Option<&Named>,
    regression: bool,
    options: &ImportOptions,
) -> Result<OutputActivation, ImportError> {
    use OutputActivation::{Identity, Sigmoid};
    match (options.activation, named) {
        (Some(asked), _) => Ok(asked),
        (None, Some(named)) => named.one_of(&[Sigmoid, Identity]),
        (None, None) if regression => Ok(Identity),
        (None, None) => Ok(Sigmoid),
    }
}

/// What the numbers of several labels go through, which are probabilities.
fn labels_activation(
    config: &HfConfig,
    named: Option<&Named>,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<OutputActivation, ImportError> {
    use OutputActivation::{Identity, Sigmoid, Softmax};
    if let Some(asked) = options.activation {
        return Ok(asked);
    }
    let (usual, words) = match config.problem_type.as_deref() {
        Some("multi_label_classification") => (Sigmoid, "sigmoids"),
        _ => (Softmax, "a softmax"),
    };
    let Some(named) = named else {
        return Ok(usual);
    };
    // Identity is what sentence-transformers writes for several labels if nobody chose.
    match named.one_of(&[Sigmoid, Softmax, Identity])? {
        Identity => {
            notes.push(format!(
                "{} names Identity, and scores of several labels are probabilities: they go through {words}; `--activation` chooses otherwise",
                named.field
            ));
            Ok(usual)
        }
        found => Ok(found),
    }
}

/// The labels in the order of their numbers.
fn labels(config: &HfConfig, count: usize) -> Result<Vec<String>, String> {
    if !(1..=MAX_LABELS).contains(&count) {
        return Err(format!(
            "id2label: found {count} labels, expected 1 to {MAX_LABELS}"
        ));
    }
    let named = |i: usize| config.id2label.get(&i.to_string()).cloned();
    let labels: Vec<String> = (0..count)
        .map(|i| named(i).unwrap_or_else(|| format!("LABEL_{i}")))
        .collect();
    check_labels(&labels)
        .map_err(|error| error.message.replacen("output.labels", "id2label", 1))?;
    Ok(labels)
}
