//! Owns how large the parts of a job may be, and the messages for what is too large.

use crate::failure::{Code, Rejection};

/// Most inputs of one job.
pub const MAX_INPUTS: usize = 4_096;
/// Longest job id, in characters.
pub const MAX_JOB_ID: usize = 128;
/// The message for what is no job id.
pub const EXPECTED_JOB_ID: &str = "expected 1 to 128 printable ASCII characters";
/// Longest `model` of a job, in bytes: more than any name and version.
pub(super) const MAX_MODEL_BYTES: usize = 128;
/// Longest key of an input or a ranking, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// Longest life of an entry that a job may ask for, in seconds: a year.
pub const MAX_TTL_SECONDS: u64 = 31_536_000;

/// Whether a text may be a job's id: 1 to 128 printable ASCII characters.
pub fn is_job_id(id: &str) -> bool {
    (1..=MAX_JOB_ID).contains(&id.len()) && id.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// What is wrong with the key of an input or a ranking; `None` if it is good.
pub fn key_problem(key: &str) -> Option<String> {
    if key.is_empty() {
        Some("must not be empty".into())
    } else if key.len() > MAX_KEY_BYTES {
        Some(format!(
            "expected at most {MAX_KEY_BYTES} bytes, found {}",
            key.len()
        ))
    } else if key.contains('\0') {
        Some("must not contain U+0000".into())
    } else {
        None
    }
}

/// The rejection of a body of `bytes` bytes, where at most `max` are taken.
pub fn too_large(bytes: usize, max: usize) -> Rejection {
    Rejection::new(
        Code::TooLarge,
        "",
        format!("the body has {bytes} bytes; this worker takes at most {max}"),
    )
}
