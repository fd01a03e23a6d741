//! Decides who calls, and what they may do.
//!
//! Promises that keys are compared in constant time and never shown, and that a web page which someone on this machine has
//! open can't steer the worker.

use super::{Shared, problem::Problem};
use crate::config::{Http, Scope};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock};
use sha2::{Digest, Sha256};
use std::{num::NonZeroU32, sync::Arc};
use subtle::ConstantTimeEq;

/// A key of the settings.
struct Key {
    name: Arc<str>,
    sha256: [u8; 32],
    scopes: Vec<Scope>,
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Key {
    /// Whether it is good for that. Who may look at everything may look.
    fn has(&self, scope: Scope) -> bool {
        let includes = scope == Scope::Read && self.scopes.contains(&Scope::ReadAll);
        includes || self.scopes.contains(&scope)
    }

    fn admit(&self, scope: Scope) -> Result<(), Problem> {
        if self.has(scope) {
            return Ok(());
        }
        let (name, scope) = (&self.name, name_of(scope));
        let message = format!("the key `{name}` lacks the scope `{scope}`");
        Err(Problem::forbidden("authorization", message))
    }
}

/// Whoever calls a worker without keys.
const LOCAL: &str = "local";

/// The keys of the settings.
pub(super) struct Keys(Vec<Key>);

impl Keys {
    pub(super) fn new(settings: &Http) -> Self {
        let keys = settings.keys.iter().filter_map(|(name, key)| {
            let mut sha256 = [0; 32];
            // The settings were checked; a key whose hash can't be read would match nobody.
            hex::decode_to_slice(&key.sha256, &mut sha256).ok()?;
            let limit = key.requests_per_second.and_then(NonZeroU32::new);
            Some(Key {
                name: name.as_str().into(),
                sha256,
                scopes: key.scopes.clone(),
                limiter: limit.map(|n| RateLimiter::direct(Quota::per_second(n))),
            })
        });
        Self(keys.collect())
    }

    /// The caller's key; nothing where there are no keys.
    fn known(&self, headers: &HeaderMap) -> Result<Option<&Key>, Problem> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Problem::unauthorized("expected `Authorization: Bearer KEY`"))?;
        let given: [u8; 32] = Sha256::digest(given.trim()).into();
        let mut found = None;
        // Compare with every key, so that the time taken doesn't depend on which one matches.
        for key in &self.0 {
            if bool::from(key.sha256.ct_eq(&given)) {
                found = Some(key);
            }
        }
        let key = found.ok_or_else(|| Problem::unauthorized("unknown API key"))?;
        if let Some(Err(until)) = key.limiter.as_ref().map(RateLimiter::check) {
            let wait = until.wait_time_from(governor::clock::DefaultClock::default().now());
            return Err(Problem::rate_limited(wait));
        }
        Ok(Some(key))
    }

    /// Whose jobs the caller may look at: everybody's, or those of a key's name.
    fn viewer(&self, headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
        let Some(key) = self.known(headers)? else {
            return Ok(None);
        };
        key.admit(Scope::Read)?;
        let all = key.has(Scope::ReadAll);
        Ok((!all).then(|| key.name.clone()))
    }

    /// The caller: the key's name in the settings.
    fn caller(&self, headers: &HeaderMap, scope: Scope) -> Result<Arc<str>, Problem> {
        let Some(key) = self.known(headers)? else {
            return Ok(LOCAL.into());
        };
        key.admit(scope)?;
        Ok(key.name.clone())
    }
}

fn name_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "read",
        Scope::ReadAll => "read:all",
        Scope::Score => "score",
        Scope::Admin => "admin",
    }
}

/// A page of another site can make a browser send requests here; the browser then names that site in `Origin`.
fn same_origin(method: &Method, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return true;
    }
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &header::HeaderValue| v.to_str().ok())
    };
    match text(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(header::HOST)
        }
    }
}

fn check_origin(parts: &Parts, shared: &Shared) -> Result<(), Problem> {
    let is_listed = shared.origins.allowed(&parts.headers).is_some();
    if is_listed || same_origin(&parts.method, &parts.headers) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "origin",
        "cross-origin requests are refused",
    ))
}

fn admitted(parts: &Parts, shared: &Shared, scope: Scope) -> Result<Arc<str>, Problem> {
    check_origin(parts, shared)?;
    shared.keys.caller(&parts.headers, scope)
}

/// A caller with the scope `read`, and whose jobs it may look at: everybody's, or those that the key of this name has posted.
pub(super) struct Viewer(pub(super) Option<Arc<str>>);

impl FromRequestParts<Shared> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        check_origin(parts, shared)?;
        shared.keys.viewer(&parts.headers).map(Self)
    }
}

macro_rules! caller {
    ($(#[$doc:meta])* $name:ident, $scope:expr) => {
        $(#[$doc])*
        pub(super) struct $name(#[allow(dead_code, reason = "not every route asks who")] pub(super) Arc<str>);

        impl FromRequestParts<Shared> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
                admitted(parts, shared, $scope).map(Self)
            }
        }
    };
}

caller!(
    /// A caller with the scope `read`.
    Reader,
    Scope::Read
);
caller!(
    /// A caller with the scope `read:all`.
    AllReader,
    Scope::ReadAll
);
caller!(
    /// A caller with the scope `score`.
    Scorer,
    Scope::Score
);
caller!(
    /// A caller with the scope `admin`.
    Admin,
    Scope::Admin
);

/// Whoever calls with a key, whatever it is good for.
pub(super) struct Caller {
    pub(super) name: Arc<str>,
    pub(super) scopes: Vec<&'static str>,
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        let key = shared.keys.known(&parts.headers)?;
        let all = [Scope::Read, Scope::ReadAll, Scope::Score, Scope::Admin];
        let allowed = |scope: &Scope| key.is_none_or(|key| key.has(*scope));
        Ok(Self {
            name: key.map_or_else(|| LOCAL.into(), |key| key.name.clone()),
            scopes: all.into_iter().filter(allowed).map(name_of).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn keys() -> Keys {
        let key = |secret: &str, scopes: &[Scope], limit| ApiKey {
            sha256: hex::encode(Sha256::digest(secret)),
            scopes: scopes.to_vec(),
            requests_per_second: limit,
        };
        let mut settings = Http::default();
        settings.keys.insert(
            "team".into(),
            key("one", &[Scope::Read, Scope::Score], None),
        );
        settings
            .keys
            .insert("ops".into(), key("two", &[Scope::Admin], Some(2)));
        settings
            .keys
            .insert("all".into(), key("four", &[Scope::ReadAll], None));
        Keys::new(&settings)
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        headers.insert(header::HOST, "kiln:9464".parse().expect("a header"));
        headers
    }

    #[test]
    fn a_key_is_good_for_its_scopes_and_as_often_as_it_may() {
        let keys = keys();
        let status = |value: &str, scope| {
            let answer = keys.caller(&headers("authorization", value), scope);
            answer
                .map(|name| name.to_string())
                .map_err(|p| p.status_code())
        };
        assert_eq!(status("Bearer one", Scope::Score), Ok("team".into()));
        assert_eq!(status("Bearer one", Scope::Admin), Err(403));
        assert_eq!(status("Bearer three", Scope::Read), Err(401));
        assert_eq!(status("Basic one", Scope::Read), Err(401));
        assert_eq!(
            keys.caller(&HeaderMap::new(), Scope::Read)
                .map_err(|p| p.status_code())
                .err(),
            Some(401)
        );
        assert_eq!(status("Bearer two", Scope::Admin), Ok("ops".into()));
        assert_eq!(status("Bearer two", Scope::Admin), Ok("ops".into()));
        assert_eq!(status("Bearer two", Scope::Admin), Err(429));
        assert_eq!(
            status("Bearer one", Scope::Read),
            Ok("team".into()),
            "each has its own"
        );
    }

    #[test]
    fn a_key_looks_at_its_own_jobs_unless_it_may_look_at_all() {
        let keys = keys();
        let whose = |value: &str| {
            let whose = keys.viewer(&headers("authorization", value));
            whose.map_err(|p| p.status_code())
        };
        assert_eq!(whose("Bearer one"), Ok(Some("team".into())));
        assert_eq!(whose("Bearer two"), Err(403));
        assert_eq!(whose("Bearer four"), Ok(None));
        let all = |scope| keys.caller(&headers("authorization", "Bearer four"), scope);
        assert!(all(Scope::Read).is_ok() && all(Scope::ReadAll).is_ok());
        assert!(all(Scope::Score).is_err() && all(Scope::Admin).is_err());
        let read = keys.caller(&headers("authorization", "Bearer one"), Scope::ReadAll);
        assert_eq!(read.err().map(|p| p.status_code()), Some(403));
        let nobody = Keys::new(&Http::default());
        assert_eq!(nobody.viewer(&HeaderMap::new()).ok(), Some(None));
    }

    #[test]
    fn pages_of_other_sites_change_nothing() {
        let post = |origin| same_origin(&Method::POST, &headers("origin", origin));
        assert!(post("http://kiln:9464") && !post("http://evil.example") && !post("null"));
        assert!(same_origin(
            &Method::GET,
            &headers("origin", "http://evil.example")
        ));
        assert!(same_origin(&Method::POST, &headers("user-agent", "curl")));
    }
}
