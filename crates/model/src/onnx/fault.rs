//! Why an ONNX file isn't taken: one line.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kiln_contract::redact;
use thiserror::Error;
use tract_onnx::pb;

use crate::runner::panic_message;

/// Characters of a name of the file, or of the runtime's own words, that are shown.
const MAX_SHOWN: usize = 300;

/// A refusal of an ONNX file: what is wrong, and with which node or input.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct Fault(String);

impl Fault {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// What the runtime said, with the names in it and nothing else of the file.
    pub fn of_runtime(doing: &str, error: &impl std::fmt::Display) -> Self {
        let said = redact::names_only(&format!("{error:#}"));
        Self(format!("the runtime can't {doing}: {}", shown(&said)))
    }
}

/// A node's name, or that of what it gives.
pub(super) fn node_name(node: &pb::NodeProto) -> &str {
    let given = node.output.first().map_or("", String::as_str);
    if node.name.is_empty() {
        given
    } else {
        &node.name
    }
}

/// The beginning of a name or message, on one line.
pub(super) fn shown(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = plain.take(MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Runs what may panic at a file that its checks didn't foresee.
pub(super) fn caught<T>(doing: &str, run: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => Err(of_panic(doing, panic.as_ref())),
    }
}

fn of_panic(doing: &str, panic: &(dyn Any + Send)) -> Fault {
    Fault::of_runtime(doing, &panic_message(panic))
}
