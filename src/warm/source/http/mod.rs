//! A list that a web server gives as JSON, or as a JSON object a line.
//!
//! Promises that what is fetched is bounded in bytes, rows and time, that no private address is reached which the settings don't list, and that
//! credentials are read when they are used and never shown.

mod fetch;
mod headers;
mod pick;

use super::{BadSource, Item, RowSource, SourceError};
use crate::{
    config::{Network, Settings},
    redact::Redact,
    tls::TlsSettings,
};
use fetch::{Fetch, shown, url_problem};
use futures_util::{StreamExt, stream, stream::BoxStream};
use headers::{HeaderSource, SecretSource, credentials};
use kiln_contract::job;
use pick::Fields;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc, time::Duration};
use url::Url;

/// Largest answer that a schedule may allow, in bytes.
const MAX_BYTES: usize = 64 << 20;
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
        // Files are read, which may take as long as their file system does.
        let (sources, settings) = (self.spec.headers.clone(), self.spec.tls.clone());
        let reading = tokio::task::spawn_blocking(move || credentials(&sources, &settings));
        let read = reading.await.map_err(|e| wrong(e.redacted()))?;
        let (headers, tls) = read.map_err(wrong)?;
        let fetch = Fetch {
            url: self.url.clone(),
            headers,
            tls: Arc::new(tls),
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

    /// Where the elements stand in an answer, each with its number.
    fn elements(&self, body: &[u8]) -> Result<Vec<(usize, Range<usize>)>, SourceError> {
        let wrong = |problem: String| SourceError(format!("{}: {problem}", shown(&self.url)));
        let max = self.spec.limit_rows;
        let found: Vec<(usize, Range<usize>)> = match self.spec.format {
            Format::Json => {
                let found = pick::elements(body, &self.spec.list, max).map_err(wrong)?;
                (1..).zip(found).collect()
            }
            Format::Ndjson => {
                let mut end = 0;
                let lines = body.split(|byte| *byte == b'\n').map(|line| {
                    let start = end;
                    end += line.len() + 1;
                    (line, start..start + line.len())
                });
                let numbered = (1..).zip(lines);
                let filled = numbered.filter(|(_, (line, _))| !line.trim_ascii().is_empty());
                let ranges = filled.map(|(number, (_, range))| (number, range));
                ranges.take(max.saturating_add(1)).collect()
            }
        };
        if found.len() > max {
            let problem = format!("the answer has more than limit_rows = {max}");
            return Err(wrong(problem));
        }
        Ok(found)
    }

    /// The input that an element of an answer is.
    fn item(&self, number: usize, text: &[u8]) -> Item {
        let element: Result<&RawValue, _> = serde_json::from_slice(text);
        let row = match element {
            Ok(element) => {
                let (prefix, per) = (&self.spec.key_prefix, self.spec.per_seconds);
                self.spec.fields.row(element, prefix, per)
            }
            Err(_) => Err("expected a JSON object".to_owned()),
        };
        let what = match self.spec.format {
            Format::Json => "element",
            Format::Ndjson => "line",
        };
        match row {
            Ok(row) => Item::Row(row),
            Err(problem) => Item::Bad(format!("{what} {number}: {problem}")),
        }
    }

    /// Its rows, each read when it is taken.
    fn items(&self, body: Vec<u8>) -> BoxStream<'_, Result<Item, SourceError>> {
        match self.elements(&body) {
            Ok(elements) => {
                let items = elements.into_iter().map(move |(number, range)| {
                    Ok(self.item(number, body.get(range).unwrap_or_default()))
                });
                stream::iter(items).boxed()
            }
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
}

impl RowSource for HttpSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let read = async move {
            match self.fetch().await {
                Ok(body) => self.items(body),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(read).flatten().boxed()
    }
}

#[cfg(test)]
mod tests;
