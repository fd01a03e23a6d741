//! The headers of a schedule's request, and where their values come from.
//!
//! Promises that a secret is read when it is used, from what is a file and no larger than a header can be, and never shown.

use crate::{
    redact::Redact,
    tls::{Tls, TlsSettings},
};
use hyper::header::{self, HeaderName, HeaderValue};
use serde::Deserialize;
use std::{collections::BTreeMap, io::Read, path::PathBuf};
use tokio_rustls::rustls::ClientConfig;

/// Largest file with a header's value, in bytes.
const MAX_SECRET_BYTES: u64 = 16 << 10;

/// Where a header's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or a table with `file` or `env`"
)]
pub(super) enum HeaderSource {
    Given(String),
    Secret(SecretSource),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretSource {
    pub file: Option<PathBuf>,
    pub env: Option<String>,
    /// Stands before what was read, as `Bearer `.
    #[serde(default)]
    pub prefix: String,
}

impl HeaderSource {
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let name: HeaderName = name
            .parse()
            .map_err(|_| "expected a header's name".to_owned())?;
        let own = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::ACCEPT_ENCODING,
        ];
        if own.contains(&name) {
            return Err("is Kiln's own to set".to_owned());
        }
        let is_secret = matches!(
            name.as_str(),
            "authorization" | "proxy-authorization" | "cookie" | "x-api-key"
        );
        match self {
            Self::Given(_) if is_secret => Err(
                "expected a table with `file` or `env`: a secret has no place in a schedule"
                    .to_owned(),
            ),
            Self::Given(text) => match HeaderValue::from_str(text) {
                Ok(_) => Ok(()),
                Err(_) => Err("expected visible ASCII".to_owned()),
            },
            Self::Secret(SecretSource {
                file: Some(_),
                env: None,
                ..
            }) => Ok(()),
            Self::Secret(SecretSource {
                file: None,
                env: Some(name),
                ..
            }) if is_kilns_own(name) => {
                Err("expected a variable that isn't one of Kiln's settings".to_owned())
            }
            Self::Secret(SecretSource {
                file: None,
                env: Some(_),
                ..
            }) => Ok(()),
            Self::Secret(_) => Err("expected `file` or `env`, and not both".to_owned()),
        }
    }

    /// The value as it is now.
    pub(super) fn read(&self) -> Result<HeaderValue, String> {
        let (text, is_secret) = match self {
            Self::Given(text) => (text.clone(), false),
            Self::Secret(secret) => (format!("{}{}", secret.prefix, secret.read()?), true),
        };
        let value = HeaderValue::from_str(&text);
        let mut value = value.map_err(|_| "what it holds is no header's value".to_owned())?;
        value.set_sensitive(is_secret);
        Ok(value)
    }
}

impl SecretSource {
    fn read(&self) -> Result<String, String> {
        let text = match (&self.file, &self.env) {
            (Some(path), _) => {
                let wrong =
                    |error: std::io::Error| format!("{}: {}", path.display(), error.redacted());
                if !std::fs::metadata(path).map_err(wrong)?.is_file() {
                    return Err(format!("{} is no file", path.display()));
                }
                let file = std::fs::File::open(path).map_err(wrong)?;
                let mut text = String::new();
                let max = MAX_SECRET_BYTES + 1;
                file.take(max).read_to_string(&mut text).map_err(wrong)?;
                if text.len() as u64 == max {
                    return Err(format!("{} is larger than a header can be", path.display()));
                }
                text
            }
            (None, Some(name)) => {
                std::env::var(name).map_err(|_| format!("the variable {name} isn't set"))?
            }
            (None, None) => String::new(),
        };
        Ok(text.trim().to_owned())
    }
}

/// The headers and the TLS of a schedule as they are now.
pub(super) fn credentials(
    sources: &BTreeMap<String, HeaderSource>,
    settings: &TlsSettings,
) -> Result<(Vec<(HeaderName, HeaderValue)>, ClientConfig), String> {
    let mut headers = Vec::new();
    for (name, source) in sources {
        let read = source.read();
        let value = read.map_err(|problem| format!("header {name}: {problem}"))?;
        headers.extend(name.parse::<HeaderName>().ok().map(|name| (name, value)));
    }
    let tls = Tls::read("source", settings).map_err(|e| e.to_string())?;
    Ok((headers, tls.client()?))
}

/// Whether a variable is one of Kiln's settings: their secrets are for nobody else.
fn is_kilns_own(variable: &str) -> bool {
    variable.starts_with("KILN_") || matches!(variable, "AMQP_URL" | "REDIS_URL" | "DATABASE_URL")
}
