//! Chooses the id of a request's job.
//!
//! Promises that a repeated idempotency key gives the same id, and that the same key from another caller gives another one.

use super::{api_state::ApiState, problem::Problem};
use axum::http::HeaderMap;
use rand::Rng;
use sha2::{Digest, Sha256};

/// Header that identifies a repeated request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The id of a request's job.
pub(super) struct Chosen {
    pub(super) id: String,
    /// Whether it is nobody's but this request's.
    pub(super) is_new: bool,
}

/// The id for a body's job: the idempotency key's, the body's own, or else a new one. Refuses a job that would be rejected.
pub(super) fn choose(
    state: &ApiState,
    caller: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Chosen, Problem> {
    let id = idempotent_id(caller, headers)?;
    let new = random_id();
    let id = state.engine.examine(body, id.as_deref(), &new)?;
    let is_new = id == new;
    Ok(Chosen { id, is_new })
}

fn random_id() -> String {
    let bytes: [u8; 16] = rand::rng().random();
    format!("http-{}", hex::encode(bytes))
}

/// The id that belongs to a caller's idempotency key.
fn idempotent_id(caller: &str, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    if value.is_empty() || value.len() > 255 {
        return Err(Problem::invalid(
            IDEMPOTENCY_KEY,
            "expected 1 to 255 characters",
        ));
    }
    let digest = Sha256::new()
        .chain_update(caller)
        .chain_update([0])
        .chain_update(value.as_bytes())
        .finalize();
    Ok(Some(format!("http-{}", hex::encode(digest))))
}
