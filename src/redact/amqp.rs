//! What is said of an error of RabbitMQ: its reply code, and its text where that is the broker's own and quotes nothing but names.

use super::Redact;
use kiln_contract::redact::names_only;
use lapin::{Error, ErrorKind};

/// How the texts begin that name queues, exchanges, virtual hosts and users at the utmost. Others quote what a message says.
const HEADS: [&str; 33] = [
    "Login was refused",
    "access to ",
    "attempt to reuse consumer tag",
    "broker forced connection closure",
    "cannot obtain exclusive access",
    "cannot redeclare",
    "channel ",
    "configure access to ",
    "connection ",
    "consumer ",
    "delivery acknowledgement",
    "exchange ",
    "expected ",
    "failed to perform operation",
    "frame_too_large",
    "home node",
    "inequivalent arg",
    "invalid arg ",
    "invalid exchange type",
    "message size",
    "no binding",
    "no exchange",
    "no queue",
    "node ",
    "noproc",
    "number of channels",
    "queue ",
    "read access to ",
    "second ",
    "timed out",
    "unknown ",
    "vhost ",
    "write access to ",
];

pub(super) fn any(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(said) => {
            format!(
                "protocol error: {}: {}",
                said.kind(),
                reply(said.get_message().as_str())
            )
        }
        ErrorKind::IOError(error) => format!("IO error: {}", error.redacted()),
        ErrorKind::RuntimeShutdownError(error) => {
            format!("runtime shutdown error: {}", error.redacted())
        }
        ErrorKind::ParsingError(_) => "what the broker sent can't be read".to_owned(),
        ErrorKind::SerialisationError(_) => "a frame can't be written".to_owned(),
        // The client's own fixed words.
        _ => error.to_string(),
    }
}

/// A reply's text, such as `NOT_FOUND - no queue 'kiln.jobs' in vhost '/'`.
pub fn reply(text: &str) -> String {
    let (code, said) = match text.split_once(" - ") {
        Some((code, said)) => (code, said),
        None => ("", text),
    };
    let is_code = code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let code = if is_code { code } else { "" };
    let said = if HEADS.iter().any(|head| said.starts_with(head)) {
        names_only(said)
    } else if said == code
        || code.is_empty() && said.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    {
        return said.to_owned();
    } else {
        "its text isn't shown".to_owned()
    };
    match code {
        "" => said,
        code => format!("{code} - {said}"),
    }
}
