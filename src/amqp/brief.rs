//! Owns what is sent in a message's stead where the broker finds that too large.
//!
//! Promises that what comes without its body says so, and how large that was.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use std::sync::Arc;

/// Header of a dead letter: the bytes of its job's body, where the broker takes no message of that size and the letter has none.
pub const BODY_OMITTED: &str = "kiln-body-omitted";

/// What stands in for a message.
#[derive(Debug, Clone)]
pub(super) enum Brief {
    /// The same with another body.
    Body(Vec<u8>),
    /// The same without its body, and with a header that says so.
    NoBody,
}

impl Brief {
    /// Puts it in the message's stead.
    pub(super) fn put(self, body: &mut Arc<Vec<u8>>, properties: &mut BasicProperties) {
        let brief = match self {
            Self::Body(brief) => brief,
            Self::NoBody => {
                let mut headers = properties.headers().clone().unwrap_or_default();
                let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
                headers.insert(BODY_OMITTED.into(), AMQPValue::LongLongInt(bytes));
                *properties = std::mem::take(properties).with_headers(headers);
                Vec::new()
            }
        };
        *body = Arc::new(brief);
    }
}

/// Whether these are the headers of a letter that has no body.
pub(super) fn is_without_body(headers: Option<&FieldTable>) -> bool {
    headers.is_some_and(|headers| headers.inner().contains_key(BODY_OMITTED))
}
