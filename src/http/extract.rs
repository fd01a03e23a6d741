//! Extractors for bodies, path segments and query parameters, whose rejections are [`Problem`]s.
//!
//! Promises that a job's body is taken only where there is room for it.

pub(super) use super::apart::{apart, read};
use super::{Shared, packed::Packing, problem::Problem};
use crate::pipeline::budget::Held;
use axum::{
    RequestExt,
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::QueryRejection},
    http::{StatusCode, header, request::Parts},
};
use http_body_util::{BodyExt, Limited};
use kiln_contract::redact;
use serde::de::DeserializeOwned;

/// A body that is no job's, as it comes and once it is unpacked: nothing that is asked or told is larger.
const MAX_TOLD: usize = 1 << 20;
/// Up to here a body that is no job's is taken whatever is in hand: who steers a worker that is full is heard.
const MAX_HEARD: u64 = 16 << 10;

/// A body of any kind but a job's, unpacked, within the limit.
pub(super) struct Payload(pub(super) Bytes);

impl FromRequest<Shared> for Payload {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let limit = shared.max_body_bytes.min(MAX_TOLD);
        let is_small = |body: &Body| body.size_hint().upper().is_some_and(|n| n <= MAX_HEARD);
        let held = match shared.state() {
            Ok(state) if !is_small(request.body()) => {
                if !state.budget.has_room() {
                    discard(request).await;
                    return Err(full());
                }
                Some(state.budget.take(limit))
            }
            _ => None,
        };
        let (bytes, packing) = receive(request, shared, limit).await?;
        let bytes = match packing {
            None => bytes,
            Some(packing) => {
                let _turn = shared.unpacking.acquire().await;
                packing.unpack(bytes, limit).await?
            }
        };
        Ok(Self(Bytes::from_owner(Counted { bytes, _held: held })))
    }
}

/// Bytes with their part of what may be in hand, which they give back once nobody reads them any more.
struct Counted {
    bytes: Bytes,
    _held: Option<Held>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn full() -> Problem {
    Problem::unavailable(
        "the worker has as many bytes in hand as it may: `intake.max_bytes_in_hand`",
    )
}

/// The body as it comes, within the limit, and how it is packed.
async fn receive(
    request: Request,
    shared: &Shared,
    limit: usize,
) -> Result<(Bytes, Option<Packing>), Problem> {
    let packing = Packing::of(request.headers())?;
    let too_large = || {
        let name = match limit == shared.max_body_bytes {
            true => " (`intake.max_body_bytes`)",
            false => "",
        };
        Err(Problem::too_large(format!(
            "expected at most {limit} bytes{name}"
        )))
    };
    if request.body().size_hint().lower() > limit as u64 {
        // A client that asks first needn't send it.
        return too_large();
    }
    let request = request.map(|body| Body::new(Limited::new(body, limit)));
    match Bytes::from_request(request, shared).await {
        Ok(bytes) => Ok((bytes, packing)),
        Err(refused) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        Err(refused) => Err(Problem::invalid("", refused.body_text())),
    }
}

/// The body of a job, with its part of what may be in hand.
pub(super) struct JobBody {
    pub(super) bytes: Bytes,
    pub(super) held: Held,
}

impl FromRequest<Shared> for JobBody {
    type Rejection = Problem;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Problem> {
        let state = shared.state()?;
        if !state.budget.has_room() {
            discard(request).await;
            return Err(full());
        }
        // Taken before it is there: bodies that come at the same time are not to find the same room.
        let size = request.body().size_hint().exact();
        let max = state.settings.intake.max_body_bytes;
        let size = size.map_or(max, |size| usize::try_from(size).unwrap_or(max).min(max));
        let expected = state.budget.take(size);
        let (bytes, packing) = receive(request, shared, max).await?;
        let bytes = match packing {
            None => bytes,
            Some(packing) => {
                // Nobody knows yet how large it is; few are unpacked at once.
                let _turn = shared.unpacking.acquire().await;
                let _largest = state.budget.take(max);
                packing.unpack(bytes, max).await?
            }
        };
        let held = if bytes.len() == size {
            expected
        } else {
            state.budget.take(bytes.len())
        };
        Ok(Self { bytes, held })
    }
}

/// Forgets a body as it comes: a client that is cut while it sends never sees why. One that asks first sends none.
async fn discard(request: Request) {
    if request.headers().contains_key(header::EXPECT) {
        return;
    }
    let mut body = request.into_limited_body();
    while let Some(Ok(_)) = body.frame().await {}
}

/// The name in the path.
pub(super) struct Named(pub(super) String);

impl FromRequestParts<Shared> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, shared).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(refused) => Err(Problem::invalid("path", refused.body_text())),
        }
    }
}

/// A namespace and a key of it in the path.
pub(super) struct NamedKey {
    pub(super) namespace: String,
    pub(super) key: String,
}

impl FromRequestParts<Shared> for NamedKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        match Path::<(String, String)>::from_request_parts(parts, shared).await {
            Ok(Path((namespace, key))) => Ok(Self { namespace, key }),
            Err(refused) => Err(Problem::invalid("path", refused.body_text())),
        }
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, shared).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(refused) => Err(Problem::invalid("query", unreadable_query(&refused))),
        }
    }
}

/// What is wrong with a query: the parameter at fault and what was expected, without what was given.
pub(super) fn unreadable_query(refused: &QueryRejection) -> String {
    const BEFORE: &str = "Failed to deserialize query string: ";
    let said = refused.body_text();
    let said = said.strip_prefix(BEFORE).unwrap_or(&said);
    let at = PROBLEMS.iter().filter_map(|start| said.find(start)).min();
    // What isn't a name isn't shown, and may itself hold a colon.
    let at = at.unwrap_or_else(|| said.find(": ").map_or(0, |colon| colon + 2));
    let (parameter, problem) = said.split_at_checked(at).unwrap_or(("", said));
    let problem = redact::serde(problem);
    match parameter.strip_suffix(": ") {
        Some(name) if redact::is_name(name) => format!("{name}: {problem}"),
        _ => problem,
    }
}

/// How the reader's messages begin that say more than what a value is not.
const PROBLEMS: [&str; 6] = [
    "invalid type: ",
    "invalid value: ",
    "unknown variant",
    "unknown field",
    "missing field",
    "duplicate field",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_no_name_isnt_shown() {
        let said = |query: &str| {
            let uri = format!("/?{query}").parse().expect("an address");
            let read = axum::extract::Query::<super::super::cache::Period>::try_from_uri(&uri);
            unreadable_query(&read.expect_err("no such parameter"))
        };
        for query in ["a%00b=1", "a:%20b%0a=1", "anna@example.org=1"] {
            let said = said(query);
            assert!(said.starts_with("unknown field"), "{said:?}");
            assert!(
                !said.contains("anna") && !said.contains(char::is_control),
                "{said:?}"
            );
        }
        assert!(said("minutes=x").starts_with("minutes: "));
    }
}
