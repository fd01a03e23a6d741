//! A list that a web server gives as JSON, or as a JSON object a line.
//!
//! Promises that what is fetched is bounded in bytes, rows and time, that no private address is reached which the settings don't list, and that
//! credentials are read when they are used and never shown.

mod address;
mod fetch;
mod pick;

use super::{BadSource, Item, RowSource, SourceError};
use crate::{
    config::{Network, Settings},
    redact::Redact,
    tls::{Tls, TlsSettings},
};
use fetch::{Fetch, shown, url_problem};
use futures_util::{StreamExt, stream, stream::BoxStream};
use hyper::header::{self, HeaderName, HeaderValue};
use kiln_contract::job;
use pick::Fields;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use url::Url;

/// Largest answer that a schedule may allow, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Largest file with a header's value, in bytes.
const MAX_SECRET_BYTES: u64 = 16 << 10;

/// How an answer lists its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// In a list within one document.
    #[default]
    Json,
    /// One in each line.
    Ndjson,
}

/// Where a header's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text, or a table with `file` or `env`"
)]
enum HeaderSource {
    Given(String),
    Secret(SecretSource),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretSource {
    file: Option<PathBuf>,
    env: Option<String>,
    /// Stands before what was read, as `Bearer `.
    #[serde(default)]
    prefix: String,
}

/// `kind = "http"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    url: String,
    #[serde(default)]
    format: Format,
    /// Where the list stands in the document: a JSON pointer; the document itself by default.
    #[serde(default)]
    list: String,
    #[serde(default)]
    fields: Fields,
    #[serde(default)]
    key_prefix: String,
    /// The seconds in which rates were counted.
    #[serde(default = "one")]
    per_seconds: f64,
    #[serde(default)]
    headers: BTreeMap<String, HeaderSource>,
    #[serde(default)]
    tls: TlsSettings,
    #[serde(default = "thirty")]
    limit_seconds: u64,
    #[serde(default = "many")]
    limit_rows: usize,
    #[serde(default = "some_mebibytes")]
    max_bytes: usize,
}

fn one() -> f64 {
    1.0
}

fn thirty() -> u64 {
    30
}

fn many() -> usize {
    100_000
}

fn some_mebibytes() -> usize {
    8 << 20
}

impl HttpSpec {
    pub(super) fn check(&mut self, folder: &Path) -> Result<(), BadSource> {
        let wrong = |field: &str, message: &str| Err(BadSource::new(field, message));
        let url = Url::parse(&self.url).ok();
        let Some(url) = url else {
            return wrong("url", "expected http:// or https:// with a host");
        };
        if let Some(problem) = url_problem(&url) {
            return wrong("url", problem);
        }
        if !self.list.is_empty() && !self.list.starts_with('/') {
            self.list.insert(0, '/');
        }
        if let Some(problem) = pick::pointer_problem(&self.list) {
            return wrong("list", problem);
        }
        if self.format == Format::Ndjson && !self.list.is_empty() {
            return wrong("list", "is only for `format = \"json\"`");
        }
        self.fields.check()?;
        if self.key_prefix.len() > job::MAX_KEY_BYTES {
            return wrong("key_prefix", "expected a short text");
        }
        if !(self.per_seconds.is_finite() && self.per_seconds > 0.0) {
            return wrong("per_seconds", "expected a number above 0");
        }
        if !(1..=3_600).contains(&self.limit_seconds) {
            return wrong("limit_seconds", "expected 1 to 3600");
        }
        if !(1..=10_000_000).contains(&self.limit_rows) {
            return wrong("limit_rows", "expected 1 to 10000000");
        }
        if !(1..=MAX_BYTES).contains(&self.max_bytes) {
            return wrong("max_bytes", &format!("expected 1 to {MAX_BYTES}"));
        }
        for (name, source) in &mut self.headers {
            source
                .check(name)
                .map_err(|problem| BadSource::new(format!("headers.{name}"), problem))?;
            if let HeaderSource::Secret(SecretSource {
                file: Some(file), ..
            }) = source
            {
                *file = folder.join(&*file);
            }
        }
        let files = [
            &mut self.tls.ca_file,
            &mut self.tls.cert_file,
            &mut self.tls.key_file,
        ];
        for file in files.into_iter().flatten() {
            *file = folder.join(&*file);
        }
        Ok(())
    }
}

impl HeaderSource {
    fn check(&self, name: &str) -> Result<(), String> {
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
    fn read(&self) -> Result<HeaderValue, String> {
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
                let size = std::fs::metadata(path).map_err(wrong)?.len();
                if size > MAX_SECRET_BYTES {
                    return Err(format!("{} is larger than a header can be", path.display()));
                }
                std::fs::read_to_string(path).map_err(wrong)?
            }
            (None, Some(name)) => {
                std::env::var(name).map_err(|_| format!("the variable {name} isn't set"))?
            }
            (None, None) => String::new(),
        };
        Ok(text.trim().to_owned())
    }
}

/// Whether a variable is one of Kiln's settings: their secrets are for nobody else.
fn is_kilns_own(variable: &str) -> bool {
    variable.starts_with("KILN_") || matches!(variable, "AMQP_URL" | "REDIS_URL" | "DATABASE_URL")
}

/// The elements of an answer, fetched again for each run.
pub struct HttpSource {
    spec: HttpSpec,
    url: Url,
    listed: Vec<Network>,
}

impl HttpSource {
    pub(super) fn new(spec: &HttpSpec, settings: &Settings) -> Result<Self, SourceError> {
        let url = Url::parse(&spec.url);
        let url = url.map_err(|_| SourceError("`source.url` is no URL".to_owned()))?;
        let listed = settings.warm.private_networks.iter();
        let listed = listed.map(|network| network.parse().map_err(SourceError));
        Ok(Self {
            spec: spec.clone(),
            url,
            listed: listed.collect::<Result<_, _>>()?,
        })
    }

    async fn fetch(&self) -> Result<Vec<u8>, SourceError> {
        let wrong = |problem: String| SourceError(format!("{}: {problem}", shown(&self.url)));
        let mut headers = Vec::new();
        for (name, source) in &self.spec.headers {
            let value = source
                .read()
                .map_err(|problem| wrong(format!("header {name}: {problem}")))?;
            headers.extend(name.parse::<HeaderName>().ok().map(|name| (name, value)));
        }
        let tls = Tls::read("source", &self.spec.tls).map_err(|e| wrong(e.to_string()))?;
        let fetch = Fetch {
            url: self.url.clone(),
            headers,
            tls: Arc::new(tls.client().map_err(wrong)?),
            listed: self.listed.clone(),
            max_bytes: self.spec.max_bytes,
        };
        let limit = Duration::from_secs(self.spec.limit_seconds);
        match tokio::time::timeout(limit, fetch.get()).await {
            Ok(fetched) => fetched.map_err(SourceError),
            Err(_) => Err(wrong(format!(
                "no whole answer within its limit of {} s",
                limit.as_secs()
            ))),
        }
    }

    fn items(&self, body: &[u8]) -> Result<Vec<Result<Item, SourceError>>, SourceError> {
        let wrong = |problem: String| SourceError(format!("{}: {problem}", shown(&self.url)));
        let mut items = Vec::new();
        let mut add = |what: &str, number: usize, element: Result<&RawValue, String>| {
            if items.len() == self.spec.limit_rows {
                return Err(wrong(format!(
                    "the answer has more than limit_rows = {}",
                    self.spec.limit_rows
                )));
            }
            let row = element.and_then(|one| {
                self.spec
                    .fields
                    .row(one, &self.spec.key_prefix, self.spec.per_seconds)
            });
            items.push(Ok(match row {
                Ok(row) => Item::Row(row),
                Err(problem) => Item::Bad(format!("{what} {number}: {problem}")),
            }));
            Ok(())
        };
        match self.spec.format {
            Format::Json => {
                let elements = pick::elements(body, &self.spec.list).map_err(wrong)?;
                for (number, element) in (1..).zip(elements) {
                    add("element", number, Ok(element))?;
                }
            }
            Format::Ndjson => {
                for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
                    if !line.trim_ascii().is_empty() {
                        let element = serde_json::from_slice(line);
                        add(
                            "line",
                            number,
                            element.map_err(|_| "expected a JSON object".to_owned()),
                        )?;
                    }
                }
            }
        }
        Ok(items)
    }
}

impl RowSource for HttpSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let read = async move {
            let items = match self.fetch().await {
                Ok(body) => self.items(&body),
                Err(error) => Err(error),
            };
            stream::iter(items.unwrap_or_else(|error| vec![Err(error)]))
        };
        stream::once(read).flatten().boxed()
    }
}

#[cfg(test)]
mod tests;
