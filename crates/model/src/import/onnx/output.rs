//! Which of a graph's outputs is meant, and what its numbers are.

use super::ImportOptions;
use crate::manifest::{OnnxShape, OutputActivation};
use crate::onnx::{Described, Graph};

/// What exporters call the output that is meant, the likeliest first.
const USUAL: [&str; 8] = [
    "output_probability",
    "probabilities",
    "probability",
    "logits",
    "sentence_embedding",
    "pooler_output",
    "variable",
    "output",
];
/// Outputs that are named in a message.
const MAX_NAMED: usize = 20;
/// How far from 1 the sum of probabilities may be.
const SUM_TOLERANCE: f32 = 1e-3;

/// A row of features, and what the graph gives for it.
pub(super) type Tried = (Vec<f32>, Vec<f32>);

/// What is taken of a graph's output.
pub(super) struct Chosen {
    pub task: &'static str,
    pub labels: Vec<String>,
    /// The width of an embedding.
    pub embedding: Option<usize>,
    pub activation: OutputActivation,
    pub shape: OnnxShape,
    pub notes: Vec<String>,
}

/// The output's name: the one that was asked for, or the likeliest.
pub(super) fn name(
    described: &Described,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<String, String> {
    let names = |outputs: &[&str]| {
        let first: Vec<&str> = outputs.iter().take(MAX_NAMED).copied().collect();
        first.join(", ")
    };
    let all: Vec<&str> = described.outputs.iter().map(|o| o.name.as_str()).collect();
    if let Some(asked) = &options.output {
        if all.contains(&asked.as_str()) {
            return Ok(asked.clone());
        }
        return Err(format!(
            "--output: there is no such output; there are {}",
            names(&all)
        ));
    }
    let floats = described.outputs.iter().filter(|output| output.is_float);
    let floats: Vec<&str> = floats.map(|output| output.name.as_str()).collect();
    let usual = USUAL.iter().find(|name| floats.contains(name));
    let Some(chosen) = usual.or(floats.first()) else {
        return Err(format!("has no output of floats; it has {}", names(&all)));
    };
    if floats.len() > 1 {
        notes.push(format!(
            "its output \"{chosen}\" is taken, of {}; `--output` chooses otherwise",
            names(&floats)
        ));
    }
    Ok((*chosen).to_owned())
}

impl Chosen {
    /// What these rows and labels say of the output: those that a classifier lists, and those of a description beside it.
    pub fn of(
        output: String,
        graph: &Graph,
        rows: &[Tried],
        options: &ImportOptions,
        (listed, described): (&[String], &[String]),
    ) -> Result<Self, String> {
        let mut chosen = Self {
            task: "scalar",
            labels: Vec::new(),
            embedding: None,
            activation: options.activation.unwrap_or_default(),
            shape: OnnxShape {
                output,
                column: options.column,
                missing: options.missing,
            },
            notes: Vec::new(),
        };
        let width = graph.width;
        if let Some(column) = options.column {
            if column >= width {
                return Err(format!(
                    "--column: its output has {width} columns, the first is 0"
                ));
            }
            return Ok(chosen);
        }
        if width == 1 {
            return Ok(chosen);
        }
        let labels = [options.labels.as_slice(), listed, described];
        let labels = labels.into_iter().find(|labels| !labels.is_empty());
        match (labels, options.activation) {
            (Some(labels), _) if labels.len() != width => {
                let found = labels.len();
                return Err(format!(
                    "its output has {width} numbers and {found} labels; name them with `--labels`, or choose one with `--column`"
                ));
            }
            (Some(labels), _) => chosen.classify(labels.to_vec(), rows, options),
            (None, Some(OutputActivation::Softmax | OutputActivation::Sigmoid)) => {
                let labels = (0..width).map(|class| class.to_string()).collect();
                chosen.classify(labels, rows, options);
            }
            (None, _) => {
                chosen.task = "embedding";
                chosen.embedding = Some(width);
                chosen.notes.push(format!(
                    "its {width} numbers are an embedding; `--labels` or `--activation` makes them classes, `--column` takes one as the score"
                ));
            }
        }
        Ok(chosen)
    }

    fn classify(&mut self, labels: Vec<String>, rows: &[Tried], options: &ImportOptions) {
        self.task = "classification";
        self.labels = labels;
        if options.activation.is_some() {
            return;
        }
        let is_sum = |row: &[f32]| {
            let sum: f32 = row.iter().sum();
            (sum - 1.0).abs() <= SUM_TOLERANCE && row.iter().all(|x| *x >= 0.0)
        };
        let are_probabilities = !rows.is_empty() && rows.iter().all(|(_, row)| is_sum(row));
        if are_probabilities {
            self.activation = OutputActivation::Identity;
        } else {
            self.activation = OutputActivation::Softmax;
            let note =
                "its numbers become probabilities by a softmax; `--activation` chooses otherwise";
            self.notes.push(note.to_owned());
        }
    }
}
