//! Owns what can go wrong with a job, and what follows from it: retry, reject or fatal.
//!
//! Promises that every failure maps to exactly one [`Verdict`], in one exhaustive match.

use crate::model::ModelError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a job can never succeed, or will not be tried again; the `code` that producers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body isn't JSON.
    Malformed,
    /// The body is JSON and breaks the contract.
    Invalid,
    /// The body is larger than this worker takes.
    TooLarge,
    /// No such model, or no such version of it.
    UnknownModel,
    /// The job's id was used before with another body.
    Conflict,
    /// The message's `expiration` passed before a worker took it.
    Expired,
    /// The job failed on its last try.
    Exhausted,
    /// The run that it belongs to was cancelled before a worker took it.
    Cancelled,
}

impl Code {
    /// Every code: their metrics must exist before the first rejection.
    pub const ALL: [Self; 8] = [
        Self::Malformed,
        Self::Invalid,
        Self::TooLarge,
        Self::UnknownModel,
        Self::Conflict,
        Self::Expired,
        Self::Exhausted,
        Self::Cancelled,
    ];

    /// As it stands in replies, headers and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::UnknownModel => "unknown_model",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error that the producer of a rejected job gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Why, for a program.
    pub code: Code,
    /// The field at fault, as a path such as `inputs[3].text`; empty where the whole body is.
    pub field: String,
    /// What was expected.
    pub message: String,
}

impl Rejection {
    /// A rejection with its field and a message that a producer can act on. Both are cut to a length that
    /// fits a header: a field's name may be the producer's own.
    pub fn new(code: Code, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            field: shortened(field.into()),
            message: shortened(message.into()),
        }
    }

    /// A field that breaks the contract.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, field, message)
    }
}

/// Longest field or message of a rejection, in bytes.
const MAX_TEXT_BYTES: usize = 600;

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let cut = (0..=MAX_TEXT_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    // Neither a header nor a database row can hold U+0000.
    if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.code, self.message)
        } else {
            write!(f, "{}: `{}`: {}", self.code, self.field, self.message)
        }
    }
}

impl std::error::Error for Rejection {}

/// What happens to a job after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The cause may pass: the job waits in a retry queue, and is `exhausted` after its last try.
    Retry(String),
    /// The job can never succeed.
    Reject(Rejection),
    /// The worker itself can't go on.
    Fatal(String),
}

/// Everything that can go wrong with one job between its arrival and its stored result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The job breaks the contract, or a rule that producers know.
    #[error("{0}")]
    Rejected(Rejection),
    /// The model did not score its inputs.
    #[error("model: {0}")]
    Model(#[from] ModelError),
    /// The database refuses the job's row itself, not the connection.
    #[error("the database refused the row: {0}")]
    Unstorable(String),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl Failure {
    /// The one place where a failure's consequence is decided.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Rejected(rejection) => Verdict::Reject(rejection),
            Self::Model(ModelError::Stopped) => {
                Verdict::Fatal("the model threads have stopped".into())
            }
            Self::Model(error @ ModelError::Untokenised { .. }) => {
                Verdict::Reject(Rejection::invalid("inputs", error.to_string()))
            }
            Self::Model(error) => Verdict::Retry(error.to_string()),
            Self::Unstorable(reason) => Verdict::Retry(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_contracts_word() {
        let words = [
            "malformed",
            "invalid",
            "too_large",
            "unknown_model",
            "conflict",
            "expired",
            "exhausted",
            "cancelled",
        ];
        assert_eq!(Code::ALL.map(Code::as_str), words);
        for (code, word) in Code::ALL.into_iter().zip(words) {
            assert_eq!(code.to_string(), word);
            let json = format!("\"{word}\"");
            assert_eq!(serde_json::to_string(&code).unwrap(), json);
            assert_eq!(serde_json::from_str::<Code>(&json).unwrap(), code);
        }
    }

    #[test]
    fn a_rejection_says_its_code_its_field_and_what_was_expected() {
        let rejection = Rejection::invalid("inputs[3].text", "expected some text");
        let said = "invalid: `inputs[3].text`: expected some text";
        assert_eq!(rejection.to_string(), said);
        let whole = Rejection::new(Code::TooLarge, "", "the body has 9 bytes");
        assert_eq!(whole.to_string(), "too_large: the body has 9 bytes");
    }

    #[test]
    fn what_is_longer_than_fits_a_header_is_cut_between_two_characters() {
        let message = |text: &str| Rejection::invalid("", text).message;
        let longest = "a".repeat(600);
        assert_eq!(message(&longest), longest);
        assert_eq!(message(&format!("{longest}b")), format!("{longest}…"));
        let within = format!("{}é", "a".repeat(599));
        assert_eq!(message(&within), format!("{}…", "a".repeat(599)));
        assert_eq!(message("a\0b"), "a\u{fffd}b");
        assert_eq!(Rejection::invalid("a".repeat(601), "").field.len(), 603);
    }

    #[test]
    fn every_failure_has_one_verdict() {
        let message = || "so".to_owned();
        let rejection = Rejection::new(Code::Expired, "", "too late");
        let text = ModelError::Untokenised {
            row: 2,
            message: message(),
        };
        let untokenised = Rejection::invalid("inputs", text.to_string());
        for (failure, verdict) in [
            (rejection.clone().into(), Verdict::Reject(rejection)),
            (text.into(), Verdict::Reject(untokenised)),
            (
                ModelError::Stopped.into(),
                Verdict::Fatal("the model threads have stopped".into()),
            ),
            (Failure::Unstorable(message()), Verdict::Retry(message())),
        ] {
            assert_eq!(failure.verdict(), verdict);
        }
        let model = "m@1".to_owned();
        for passing in [
            ModelError::Panicked { message: message() },
            ModelError::NotFinite { row: 1 },
            ModelError::Unloadable {
                model,
                message: message(),
            },
            ModelError::Unfit { message: message() },
        ] {
            let reason = passing.to_string();
            assert_eq!(Failure::from(passing).verdict(), Verdict::Retry(reason));
        }
    }
}
