//! Whether a manifest's parts fit each other: every refusal names the field.

mod as_is;
mod encoder;
mod rules;
mod training;

use std::collections::BTreeSet;

use kiln_contract::model::{PairRule, WeightPrecision};

use super::tables::{
    Architecture, FeatureInput, Golden, Manifest, NgramShape, OutputActivation, TaskName,
    WeightsFile,
};
use crate::error::LoadError;
use rules::{MAX_LAYER_WIDTH, check_file};
pub(super) use training::check as check_training;

const MAX_LABELS: usize = 1_000;
const MAX_NAME_BYTES: usize = 256;

impl Manifest {
    pub(super) fn check(&self) -> Result<(), LoadError> {
        if self.ttl_seconds == Some(0) {
            return Err(LoadError::field("ttl_seconds", "must be at least 1"));
        }
        self.check_input()?;
        self.check_output()?;
        self.check_architecture()?;
        if let Some(weights) = &self.weights {
            weights.check()?;
        }
        let int8 = self.weight_precision() == WeightPrecision::Int8;
        if int8 && self.architecture != Architecture::Encoder {
            return Err(LoadError::field(
                "weights.precision",
                "only the architecture \"encoder\" has layers in int8",
            ));
        }
        if let Some(cost) = &self.quantised {
            if !int8 {
                return Err(LoadError::field(
                    "quantised",
                    "does not belong to a version whose weights.precision isn't \"int8\"",
                ));
            }
            cost.check().map_err(|field| {
                LoadError::field(&format!("quantised.{field}"), "is out of range")
            })?;
        }
        if let Some(training) = &self.training {
            check_training(training).map_err(|(field, message)| {
                LoadError::field(&format!("training.{field}"), &message)
            })?;
        }
        for (i, golden) in self.golden.iter().enumerate() {
            self.check_golden(golden).map_err(|(field, message)| {
                LoadError::field(&format!("golden[{i}].{field}"), &message)
            })?;
        }
        Ok(())
    }

    fn check_input(&self) -> Result<(), LoadError> {
        match (&self.features, &self.text) {
            (Some(_), Some(_)) => Err(LoadError::manifest(
                "has both [features] and [text]; a model takes one of them",
            )),
            (None, None) => Err(LoadError::manifest("has neither [features] nor [text]")),
            (Some(features), None) => features.check(),
            (None, Some(text)) if text.max_bytes == 0 || text.max_bytes > 1 << 20 => Err(
                LoadError::field("text.max_bytes", "must be between 1 and 1048576"),
            ),
            (None, Some(_)) => Ok(()),
        }
    }

    fn check_output(&self) -> Result<(), LoadError> {
        let output = &self.output;
        if output.task != TaskName::Classification && !output.labels.is_empty() {
            return Err(LoadError::field(
                "output.labels",
                "only a classification has labels",
            ));
        }
        if output.task != TaskName::Embedding && output.width.is_some() {
            return Err(LoadError::field(
                "output.width",
                "only an embedding has a width",
            ));
        }
        rules::check_precision(
            output,
            self.head.as_ref().is_some_and(|head| head.normalise),
        )?;
        match output.task {
            TaskName::Classification => {
                if output.labels.len() < 2 || output.labels.len() > MAX_LABELS {
                    return Err(LoadError::field(
                        "output.labels",
                        "must name 2 to 1000 labels",
                    ));
                }
                check_labels(&output.labels)?;
                // A graph may end with probabilities.
                let is_graph = self.architecture == Architecture::Onnx;
                if output.activation == OutputActivation::Identity && !is_graph {
                    return Err(LoadError::field(
                        "output.activation",
                        "must be \"softmax\" or \"sigmoid\" for a classification: its scores are probabilities",
                    ));
                }
            }
            TaskName::Scalar if output.activation == OutputActivation::Softmax => {
                return Err(LoadError::field(
                    "output.activation",
                    "softmax over one number is always 1; use \"sigmoid\" or \"identity\"",
                ));
            }
            TaskName::Scalar => {}
            TaskName::Embedding => {
                if !output
                    .width
                    .is_some_and(|width| (1..=MAX_LAYER_WIDTH).contains(&width))
                {
                    return Err(LoadError::field(
                        "output.width",
                        "must be between 1 and 1048576",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_architecture(&self) -> Result<(), LoadError> {
        let name = self.architecture.name();
        let wants = |is_there: bool, wanted: bool, table: &str| match (is_there, wanted) {
            (true, false) => Err(LoadError::field(
                table,
                &format!("does not belong to the architecture \"{name}\""),
            )),
            (false, true) => Err(LoadError::field(
                table,
                &format!("this table is missing; the architecture \"{name}\" needs it"),
            )),
            _ => Ok(()),
        };
        let mlp = self.architecture == Architecture::Mlp;
        let trees = self.architecture == Architecture::Trees;
        let ngram = self.architecture == Architecture::NgramText;
        let onnx = self.architecture == Architecture::Onnx;
        if !onnx {
            wants(self.features.is_some(), mlp || trees, "features")?;
            wants(self.text.is_some(), !(mlp || trees), "text")?;
        }
        wants(self.onnx.is_some(), onnx, "onnx")?;
        wants(self.trees.is_some(), trees, "trees")?;
        wants(self.mlp.is_some(), mlp, "mlp")?;
        wants(self.ngram.is_some(), ngram, "ngram")?;
        let encoder = self.architecture == Architecture::Encoder;
        let reads_tokens = encoder || (onnx && self.text.is_some());
        wants(self.tokenizer.is_some(), reads_tokens, "tokenizer")?;
        wants(self.encoder.is_some(), encoder, "encoder")?;
        wants(self.head.is_some(), encoder, "head")?;
        let weights = mlp || ngram || encoder || trees || onnx;
        wants(self.weights.is_some(), weights, "weights")?;
        if trees || onnx {
            self.check_as_is()?;
        }
        self.check_shapes()
    }

    /// The architectures' own tables.
    fn check_shapes(&self) -> Result<(), LoadError> {
        if let Some(text) = &self.text
            && text.pair != PairRule::None
            && self.architecture == Architecture::NgramText
        {
            return Err(LoadError::field(
                "text.pair",
                "the architecture \"ngram-text\" takes one text",
            ));
        }
        if let (Some(shape), Some(tokenizer), Some(head)) =
            (&self.encoder, &self.tokenizer, &self.head)
        {
            encoder::check(shape, tokenizer, head, self.text.as_ref(), &self.output)?;
        }
        if let Some(mlp) = &self.mlp
            && let Some(i) = mlp
                .hidden
                .iter()
                .position(|w| !(1..=MAX_LAYER_WIDTH).contains(w))
        {
            return Err(LoadError::field(
                &format!("mlp.hidden[{i}]"),
                "must be between 1 and 1048576",
            ));
        }
        if let Some(ngram) = &self.ngram {
            ngram.check()?;
        }
        #[cfg(feature = "faults")]
        if self.architecture == Architecture::Fault && self.output.task != TaskName::Scalar {
            return Err(LoadError::field(
                "output.task",
                "must be \"scalar\" for \"fault\"",
            ));
        }
        Ok(())
    }

    fn check_golden(&self, golden: &Golden) -> Result<(), (&'static str, String)> {
        match (&self.features, &golden.features, &golden.text) {
            (Some(ours), Some(theirs), None) => {
                if theirs.len() != ours.count {
                    return Err((
                        "features",
                        format!("has {} numbers, expected {}", theirs.len(), ours.count),
                    ));
                }
                let may_lack = self.takes_missing();
                let is_fit = |x: &f32| x.is_finite() || (may_lack && x.is_nan());
                if !theirs.iter().all(is_fit) {
                    return Err(("features", "has a number that is not finite".to_owned()));
                }
            }
            (None, None, Some(_)) => {
                let pair = self
                    .text
                    .as_ref()
                    .map_or_else(PairRule::default, |t| t.pair);
                if !pair.admits(golden.text_pair.is_some()) {
                    return Err((
                        "text_pair",
                        "does not fit the manifest's text.pair".to_owned(),
                    ));
                }
            }
            (Some(_), _, _) => {
                return Err((
                    "features",
                    "this model's golden inputs have features only".to_owned(),
                ));
            }
            (None, _, _) => {
                return Err((
                    "text",
                    "this model's golden inputs have a text only".to_owned(),
                ));
            }
        }
        if golden.expect.len() != self.output_width() {
            return Err((
                "expect",
                format!(
                    "has {} numbers, expected {}",
                    golden.expect.len(),
                    self.output_width()
                ),
            ));
        }
        if !golden.expect.iter().all(|x| x.is_finite()) {
            return Err(("expect", "has a number that is not finite".to_owned()));
        }
        Ok(())
    }
}

/// Whether labels can be a classification's.
pub(crate) fn check_labels(labels: &[String]) -> Result<(), LoadError> {
    for (i, label) in labels.iter().enumerate() {
        let field = format!("output.labels[{i}]");
        if label.is_empty() || label.len() > 64 || label.chars().any(char::is_control) {
            return Err(LoadError::field(
                &field,
                "must be 1 to 64 bytes without control characters",
            ));
        }
        if labels.iter().take(i).any(|earlier| earlier == label) {
            return Err(LoadError::field(&field, "is there twice"));
        }
    }
    Ok(())
}

fn check_names(names: &[String], count: usize) -> Result<(), LoadError> {
    if names.len() != count {
        let message = format!("has {} names, expected {count}", names.len());
        return Err(LoadError::field("features.names", &message));
    }
    let mut known = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        let field = format!("features.names[{i}]");
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            let message = "must be 1 to 256 bytes without control characters";
            return Err(LoadError::field(&field, message));
        }
        if !known.insert(name) {
            return Err(LoadError::field(&field, "is there twice"));
        }
    }
    Ok(())
}

impl FeatureInput {
    fn check(&self) -> Result<(), LoadError> {
        if self.count == 0 || self.count > 65_536 {
            return Err(LoadError::field(
                "features.count",
                "must be between 1 and 65536",
            ));
        }
        if !self.names.is_empty() {
            check_names(&self.names, self.count)?;
        }
        for (field, numbers) in [("features.mean", &self.mean), ("features.std", &self.std)] {
            if let Some(numbers) = numbers {
                if numbers.len() != self.count {
                    return Err(LoadError::field(
                        field,
                        &format!("has {} numbers, expected {}", numbers.len(), self.count),
                    ));
                }
                if !numbers.iter().all(|x| x.is_finite()) {
                    return Err(LoadError::field(field, "has a number that is not finite"));
                }
            }
        }
        if self.mean.is_some() != self.std.is_some() {
            return Err(LoadError::manifest(
                "features.mean and features.std go together; one is missing",
            ));
        }
        // Dividing by less would turn ordinary features into infinities.
        if self.std.iter().flatten().any(|&std| std < 1e-12) {
            return Err(LoadError::field(
                "features.std",
                "must be positive (at least 1e-12)",
            ));
        }
        Ok(())
    }
}

impl WeightsFile {
    fn check(&self) -> Result<(), LoadError> {
        check_file("weights", &self.file, &self.sha256)
    }
}

impl NgramShape {
    fn check(&self) -> Result<(), LoadError> {
        let between = |field: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(LoadError::field(
                    &format!("ngram.{field}"),
                    &format!("must be between {low} and {high}"),
                ))
            }
        };
        between("buckets", self.buckets as usize, 1, 1 << 24)?;
        between("dim", self.dim, 1, 4096)?;
        between("word_ngrams", self.word_ngrams, 1, 5)?;
        between("max_chars", self.max_chars, 0, 10)?;
        let low = usize::from(self.max_chars > 0);
        between("min_chars", self.min_chars, low, self.max_chars)
    }
}
