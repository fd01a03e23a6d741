//! Owns the settings of the HTTP port and of who may use it.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr};

/// The HTTP port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of the API, and of `/metrics`, `/livez` and `/readyz`.
    pub addr: SocketAddr,
    /// Whether there is an API; without it only `/metrics`, `/livez` and `/readyz` are served.
    pub api: bool,
    /// Who may use the API, by name; without any, whoever is on this machine.
    pub keys: BTreeMap<String, ApiKey>,
    /// Origins of web pages that may use the API from a browser, with a key, such as `https://shop.example`; pages of all others may not.
    pub cors_origins: Vec<String>,
    /// Longest time for one request, with its body, in milliseconds; and for which an answer waits for a client that doesn't read it.
    pub timeout_ms: u64,
    /// Connections of clients served at once; over HTTP/2, each further request under way on one counts as another. `/livez`, `/readyz` and `/metrics` have a few of their own besides.
    pub connections: usize,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 9464)),
            api: true,
            keys: BTreeMap::new(),
            cors_origins: Vec::new(),
            timeout_ms: 10_000,
            connections: 512,
        }
    }
}

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Looking at how workers do, and at the jobs that the key itself has posted.
    Read,
    /// Looking at anything: everybody's jobs, dead letters and what readers find as well.
    #[serde(rename = "read:all")]
    ReadAll,
    /// Scoring, posting jobs, giving hints.
    Score,
    /// Changing how workers run.
    Admin,
}

/// One API key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// SHA-256 of the key, as 64 hexadecimal digits; `kiln key` makes a key with its hash.
    pub sha256: String,
    /// What the key allows.
    pub scopes: Vec<Scope>,
    /// Requests a second that the key allows, which is also the largest burst; unlimited if absent.
    pub requests_per_second: Option<u32>,
}
