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
/// Longest `callback_url` of a job, in bytes.
pub const MAX_CALLBACK_URL_BYTES: usize = 2_048;
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

/// What is wrong with a `callback_url`, whatever host it names; `None` if it is good. What it says is never repeated: a URL may hold a secret.
pub fn callback_url_problem(url: &str) -> Option<String> {
    if url.len() > MAX_CALLBACK_URL_BYTES {
        let found = url.len();
        return Some(format!(
            "expected at most {MAX_CALLBACK_URL_BYTES} bytes, found {found}"
        ));
    }
    let rest = url.strip_prefix("https://");
    let Some(rest) = rest.or_else(|| url.strip_prefix("http://")) else {
        return Some("expected http:// or https:// with a host".to_owned());
    };
    // What readers of URLs don't read alike is none: `\`, spaces, and letters that a host's name would be rewritten for.
    if !rest.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return Some("expected printable ASCII without spaces and backslashes".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    if authority.contains('@') {
        return Some("expected no user and password".to_owned());
    }
    if rest.contains('#') {
        return Some("expected no fragment".to_owned());
    }
    (authority.is_empty() || authority.starts_with(':'))
        .then(|| "expected http:// or https:// with a host".to_owned())
}

/// The rejection of a body of `bytes` bytes, where at most `max` are taken.
pub fn too_large(bytes: usize, max: usize) -> Rejection {
    Rejection::new(
        Code::TooLarge,
        "",
        format!("the body has {bytes} bytes; this worker takes at most {max}"),
    )
}
