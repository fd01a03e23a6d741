//! `onnx`: graphs that other libraries exported, over features or over texts cut into tokens.
//!
//! Owns what is taken of an ONNX file and how rows go through it; the arithmetic is tract's. Promises that a row is scored alone, so that its
//! outputs are the same bits in any batch, and that a file that isn't taken is refused in one line, with bounded memory.
//! What the last bits are depends on the processor, whose kernels the runtime chooses.

mod fault;
mod graph;
mod plan;
mod planned;
mod rewrite;
mod size;
mod trees;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kiln_kernels as kernels;
use prost::Message;
use tract_onnx::pb;
use tract_onnx::prelude::TractResult;

use super::error::LoadError;
use super::files::read_verified;
use super::manifest::{Manifest, OutputActivation};
use super::network::{Batch, Network, Size};
use super::tokens::Tokenizer;
pub(crate) use fault::Fault;
pub(crate) use graph::Described;
use planned::Text;
pub(crate) use planned::{Graph, graph, tried};

/// Bytes of a file.
pub(crate) const MAX_FILE_BYTES: usize = 512 << 20;
/// What a decoded file may take beside twice its bytes.
const DECODED_SLACK: u64 = 64 << 20;
/// Seconds of work worth waking another thread for, and those that are hardly more than handing a row over.
const SHARE_SECONDS: f64 = 200e-6;
const QUICK_SECONDS: f64 = 60e-6;

/// Decodes a file.
pub(crate) fn decode(bytes: &[u8]) -> Result<pb::ModelProto, Fault> {
    if bytes.len() > MAX_FILE_BYTES {
        let max = MAX_FILE_BYTES;
        return Err(Fault::new(format!("has more than {max} bytes")));
    }
    let decoded = wire::decoded_bytes(bytes)?;
    if decoded > 2 * bytes.len() as u64 + DECODED_SLACK {
        return Err(Fault::new("would take many times its size in memory"));
    }
    pb::ModelProto::decode(bytes).map_err(|_| Fault::new("is no ONNX file, or is damaged"))
}

/// What a file says of itself.
pub(crate) fn describe(model: &pb::ModelProto) -> Result<Described, Fault> {
    graph::describe(model)
}

/// A graph that scores.
pub(crate) struct OnnxNetwork {
    graph: Graph,
    tokenizer: Option<Arc<Tokenizer>>,
    column: Option<usize>,
    activation: OutputActivation,
    /// What one row took when it was loaded.
    row_seconds: f64,
}

impl OnnxNetwork {
    /// Reads the file beside the manifest, which must be what the manifest says of it; gives its size, too.
    pub fn load(folder: &Path, manifest: &Manifest) -> Result<(Self, Size), LoadError> {
        let declared = manifest.weights_file()?;
        let none = || LoadError::manifest("has no [onnx] table");
        let shape = manifest.onnx.as_ref().ok_or_else(none)?;
        let bytes = read_verified(folder, &declared.file, &declared.sha256, "weights")?;
        let refuse = |fault: Fault| LoadError::file(&declared.file, fault.to_string());
        let model = decode(&bytes).map_err(refuse)?;
        drop(bytes);
        let vocabulary = describe(&model).map_err(refuse)?.vocabulary;
        let tokenizer = manifest.tokenizer.as_ref();
        let max_tokens = tokenizer.map_or(0, |tokenizer| tokenizer.max_tokens);
        let graph = graph(model, &shape.output, max_tokens).map_err(refuse)?;
        let tokenizer = tokenizer
            .map(|declared| Tokenizer::read(folder, declared, vocabulary.unwrap_or(usize::MAX)))
            .transpose()?;
        fits(&graph, manifest)?;
        let size = graph.size;
        let mut network = Self {
            graph,
            tokenizer: tokenizer.map(Arc::new),
            column: shape.column,
            activation: manifest.output.activation,
            row_seconds: SHARE_SECONDS,
        };
        network.measure();
        Ok((network, size))
    }

    /// What one row of features takes. The first one is slow.
    fn measure(&mut self) {
        let Some(features) = self.graph.features else {
            return;
        };
        let row = vec![0.0; features];
        for _ in 0..2 {
            let begun = Instant::now();
            if tried(&self.graph, &row).is_ok() {
                self.row_seconds = begun.elapsed().as_secs_f64().max(1e-9);
            }
        }
    }

    fn finish(&self, mut row: Vec<f32>) -> Vec<f32> {
        if let Some(column) = self.column {
            row = row.get(column).copied().into_iter().collect();
        }
        match self.activation {
            OutputActivation::Identity => {}
            OutputActivation::Sigmoid => {
                row.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()))
            }
            OutputActivation::Softmax => kernels::softmax(&mut row),
        }
        row
    }
}

/// Whether the manifest says of the graph what it is.
fn fits(graph: &Graph, manifest: &Manifest) -> Result<(), LoadError> {
    let differs = |field: &str, found: String| {
        let message = format!("is not what the file says, which is {found}");
        Err(LoadError::field(field, &message))
    };
    match (graph.features, &manifest.features) {
        (Some(found), Some(declared)) if declared.count != found => {
            return differs("features.count", found.to_string());
        }
        (Some(_), None) => return differs("text", "features".to_owned()),
        (None, Some(_)) => return differs("features", "texts".to_owned()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let column = manifest.onnx.as_ref().and_then(|onnx| onnx.column);
    let width = match column {
        Some(column) if column >= graph.width => {
            return differs("onnx.column", format!("of {} columns", graph.width));
        }
        Some(_) => 1,
        None => graph.width,
    };
    if width != manifest.output_width() {
        return differs("output", format!("{width} numbers"));
    }
    Ok(())
}

impl Network for OnnxNetwork {
    fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let finished = |row: TractResult<Vec<f32>>| match row {
            Ok(row) => self.finish(row),
            Err(error) => panic!("{}", Fault::of_runtime("score a row", &error)),
        };
        match batch {
            Batch::Features(data) => {
                let rows = data.chunks_exact(self.graph.features.unwrap_or(1).max(1));
                rows.flat_map(|row| finished(self.graph.features(row)))
                    .collect()
            }
            Batch::Tokens {
                mut ids,
                mut types,
                lengths,
            } => {
                let mut outputs = Vec::new();
                for length in lengths {
                    let (own_ids, rest_ids) = ids.split_at(*length);
                    let (own_types, rest_types) = types.split_at(*length);
                    (ids, types) = (rest_ids, rest_types);
                    let text = Text {
                        ids: own_ids,
                        types: own_types,
                    };
                    outputs.extend(finished(self.graph.text(text)));
                }
                outputs
            }
            Batch::Texts(_) => unreachable!("texts were cut into tokens"),
        }
    }

    fn smallest_share(&self) -> usize {
        ((SHARE_SECONDS / self.row_seconds) as usize).max(1)
    }

    fn quick_rows(&self) -> usize {
        match self.tokenizer {
            Some(_) => 0,
            None => (QUICK_SECONDS / self.row_seconds) as usize,
        }
    }
}

#[cfg(test)]
mod tests;
