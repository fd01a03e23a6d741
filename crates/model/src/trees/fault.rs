//! What is wrong with a model file: the field and what was expected there.

use kiln_contract::redact;

/// Longest path of a field, in bytes.
const MAX_FIELD_BYTES: usize = 400;

/// A refusal of a model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The path to the field, such as `Tree=3.left_child`; empty for the file itself.
    pub field: String,
    pub message: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The same fault, seen from the field that holds this one. A field of the file's own making is shown only where it is a name, and a
    /// path as long as paths are.
    pub fn within(mut self, outer: &str) -> Self {
        let outer = match redact::is_name(&outer.replace(['=', ' '], "_")) {
            true => outer,
            false => redact::HIDDEN,
        };
        if self.field.len() + outer.len() > MAX_FIELD_BYTES {
            return self;
        }
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner if inner.starts_with('[') => format!("{outer}{inner}"),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.message),
            field => write!(f, "{field}: {}", self.message),
        }
    }
}

/// Says which field a result is of.
pub(super) trait Within {
    fn within(self, outer: &str) -> Self;
}

impl<T> Within for Result<T, Fault> {
    fn within(self, outer: &str) -> Self {
        self.map_err(|fault| fault.within(outer))
    }
}
