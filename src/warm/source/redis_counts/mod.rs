//! A sorted set or a stream that others keep in a Redis: its top members, with how often each is asked for.
//!
//! Promises that what is read is bounded in members, in entries and in time, and that nothing is written. A member is the text itself, a JSON
//! object, or a key of the schedule's namespace, whose input Kiln knows from before.

mod read;

use super::{BadSource, InputSpec, Item, MAX_ROW_BYTES, Row, RowContent, RowSource, SourceError};
use crate::{
    cache::KeyReader, config::Settings, heat::NamedRate, secret::Secret, tls::TlsSettings,
};
use futures_util::{StreamExt, stream, stream::BoxStream};
use kiln_contract::{
    job,
    redact::{HIDDEN, is_name},
};
use serde::Deserialize;
use std::time::Duration;

/// Kiln's own Redis, as a schedule calls it.
const OWN: &str = "kiln";

/// What a member, or a stream's field, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Member {
    /// The text to score, which is its key as well.
    #[default]
    Text,
    /// An input as a file source has it.
    Json,
    /// A key of the namespace: its input is the one that readers were last served under it.
    Key,
}

/// `kind = "redis"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSpec {
    /// One of `[redis_sources]`, or `kiln` for Kiln's own.
    #[serde(default = "own")]
    server: String,
    /// The key of a sorted set, whose scores are counts.
    sorted_set: Option<String>,
    /// The key of a stream with an entry for each time that something is asked for.
    stream: Option<String>,
    #[serde(default = "thousand")]
    pub(in crate::warm) top: usize,
    #[serde(default)]
    pub(in crate::warm) member: Member,
    #[serde(default)]
    key_prefix: String,
    /// Of a sorted set: the seconds in which its scores were counted.
    per_seconds: Option<f64>,
    /// Of a stream: the field that holds the member.
    field: Option<String>,
    /// Of a stream: how far back its entries count, in seconds.
    window_seconds: Option<u64>,
    /// Of a stream: how many entries are read at the utmost, the latest first.
    limit_entries: Option<usize>,
    #[serde(default = "thirty")]
    limit_seconds: u64,
}

fn own() -> String {
    OWN.to_owned()
}

fn thousand() -> usize {
    1_000
}

fn thirty() -> u64 {
    30
}

impl RedisSpec {
    /// The server's name in the settings.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn check(&self) -> Result<(), BadSource> {
        let wrong = |field: &str, message: &str| Err(BadSource::new(field, message));
        let of_stream = [
            ("field", self.field.is_some()),
            ("window_seconds", self.window_seconds.is_some()),
            ("limit_entries", self.limit_entries.is_some()),
        ];
        let strange = match (&self.sorted_set, &self.stream) {
            (Some(_), Some(_)) | (None, None) => {
                return wrong(
                    "sorted_set",
                    "expected `sorted_set` or `stream`, and not both",
                );
            }
            (Some(_), None) => of_stream.into_iter().find(|(_, given)| *given),
            (None, Some(_)) => {
                Some(("per_seconds", self.per_seconds.is_some())).filter(|(_, given)| *given)
            }
        };
        if let Some((field, _)) = strange {
            let of = if field == "per_seconds" {
                "a sorted set"
            } else {
                "a stream"
            };
            return wrong(field, &format!("is only for {of}"));
        }
        let keys = self.sorted_set.iter().chain(&self.stream);
        if keys.into_iter().any(String::is_empty) {
            return wrong("sorted_set", "expected the key of a sorted set or a stream");
        }
        if !(1..=100_000).contains(&self.top) {
            return wrong("top", "expected 1 to 100000");
        }
        if self
            .per_seconds
            .is_some_and(|s| !(s.is_finite() && s > 0.0))
        {
            return wrong("per_seconds", "expected a number above 0");
        }
        if self
            .window_seconds
            .is_some_and(|s| !(1..=2_592_000).contains(&s))
        {
            return wrong("window_seconds", "expected 1 to 2592000");
        }
        if self
            .limit_entries
            .is_some_and(|n| !(1..=1_000_000).contains(&n))
        {
            return wrong("limit_entries", "expected 1 to 1000000");
        }
        if !(1..=3_600).contains(&self.limit_seconds) {
            return wrong("limit_seconds", "expected 1 to 3600");
        }
        if self.key_prefix.len() > job::MAX_KEY_BYTES
            || self.member == Member::Json && !self.key_prefix.is_empty()
        {
            return wrong(
                "key_prefix",
                "expected a short text before a member, which is no JSON",
            );
        }
        Ok(())
    }
}

/// A member, and how often it is asked for a second, where that is known.
#[derive(Debug, Clone, PartialEq)]
struct Counted {
    member: Vec<u8>,
    rate: Option<f64>,
}

/// The top members of a sorted set or a stream.
pub struct RedisSource {
    spec: RedisSpec,
    url: Secret,
    tls: TlsSettings,
    timeout_ms: u64,
}

impl RedisSource {
    /// Kiln's own Redis is there under the name `kiln`.
    pub(in crate::warm) fn new(spec: &RedisSpec, settings: &Settings) -> Result<Self, SourceError> {
        let named = settings.redis_sources.get(&spec.server);
        let found = match (named, spec.server.as_str()) {
            (Some(named), _) => Some((&named.url, &named.tls)),
            (None, OWN) => settings
                .redis
                .url
                .as_ref()
                .map(|url| (url, &settings.redis.tls)),
            (None, _) => None,
        };
        let Some((url, tls)) = found else {
            let known = settings.redis_sources.keys().map(String::as_str);
            let known: Vec<&str> = known.chain([OWN]).collect();
            let shown = match is_name(&spec.server) {
                true => spec.server.as_str(),
                false => HIDDEN,
            };
            return Err(SourceError(format!(
                "server `{shown}` is not set under [redis_sources]; known: {}",
                known.join(", ")
            )));
        };
        Ok(Self {
            spec: spec.clone(),
            url: url.clone(),
            tls: tls.clone(),
            timeout_ms: settings.redis.timeout_ms.max(1_000),
        })
    }

    async fn counted(&self) -> Result<Vec<Counted>, SourceError> {
        let read = async {
            let reader = KeyReader::open(&self.url, &self.tls, self.timeout_ms).await?;
            match (&self.spec.sorted_set, &self.spec.stream) {
                (Some(key), _) => {
                    let per = self.spec.per_seconds.unwrap_or(1.0);
                    read::sorted_set(reader, key, self.spec.top, per).await
                }
                (None, Some(key)) => {
                    let counting = read::Counting {
                        field: self.spec.field.as_deref().unwrap_or("text").as_bytes(),
                        window_seconds: self.spec.window_seconds.unwrap_or(3_600),
                        limit_entries: self.spec.limit_entries.unwrap_or(100_000),
                        top: self.spec.top,
                    };
                    read::stream(reader, key, &counting).await
                }
                (None, None) => Ok(Vec::new()),
            }
        };
        let limit = Duration::from_secs(self.spec.limit_seconds);
        let host = self.url.host();
        match tokio::time::timeout(limit, read).await {
            Ok(read) => read.map_err(|problem| SourceError(format!("{host}: {problem}"))),
            Err(_) => Err(SourceError(format!(
                "{host}: reading ran past its limit of {} s",
                limit.as_secs()
            ))),
        }
    }

    /// Where members are keys: the keys with their rates, and what is wrong with the other members.
    pub(in crate::warm) async fn names(
        &self,
    ) -> Result<(Vec<NamedRate>, Vec<String>), SourceError> {
        let (mut named, mut bad) = (Vec::new(), Vec::new());
        for (number, one) in (1..).zip(self.counted().await?) {
            match self.name(one.member) {
                Ok(name) => named.push(NamedRate {
                    name,
                    input: None,
                    written_ms: 0,
                    rate: one.rate.unwrap_or_default(),
                    counted: true,
                }),
                Err(problem) => bad.push(format!("member {number}: {problem}")),
            }
        }
        Ok((named, bad))
    }

    /// The key that a member is, with what stands before it.
    fn name(&self, member: Vec<u8>) -> Result<String, String> {
        let member = String::from_utf8(member).map_err(|_| "expected UTF-8".to_owned())?;
        let name = format!("{}{member}", self.spec.key_prefix);
        match job::key_problem(&name) {
            Some(problem) => Err(format!("the key {problem}")),
            None => Ok(name),
        }
    }

    fn item(&self, number: usize, one: Counted) -> Item {
        match self.row(one.member) {
            Ok(row) => Item::Row(Row {
                rate: one.rate,
                ..row
            }),
            Err(problem) => Item::Bad(format!("member {number}: {problem}")),
        }
    }

    fn row(&self, member: Vec<u8>) -> Result<Row, String> {
        if member.len() > MAX_ROW_BYTES {
            return Err(format!("longer than {MAX_ROW_BYTES} bytes"));
        }
        if self.spec.member == Member::Json {
            let input: InputSpec = serde_json::from_slice(&member).map_err(|error| {
                let column = error.column();
                format!("expected an object with `text` or `features` and what else an input has, at column {column}")
            })?;
            return input.into_row();
        }
        let text = String::from_utf8(member).map_err(|_| "expected UTF-8".to_owned())?;
        let key = format!("{}{text}", self.spec.key_prefix);
        Ok(Row {
            // A text that is no key may still be a score's.
            key: job::key_problem(&key).is_none().then_some(key),
            group: None,
            content: RowContent::Text { text, pair: None },
            rate: None,
        })
    }
}

impl RowSource for RedisSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let read = async move {
            match self.counted().await {
                Ok(counted) => {
                    let numbered = (1..).zip(counted);
                    let items = numbered.map(|(number, one)| Ok(self.item(number, one)));
                    stream::iter(items).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(read).flatten().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> RedisSpec {
        toml::from_str(text).expect("a source")
    }

    #[test]
    fn a_source_is_a_sorted_set_or_a_stream_with_what_belongs_to_it() {
        spec("sorted_set = \"hot\"\nper_seconds = 60.0")
            .check()
            .expect("a sorted set");
        spec("stream = \"asked\"\nfield = \"q\"\nwindow_seconds = 60\nlimit_entries = 10")
            .check()
            .expect("a stream");
        for (text, field) in [
            ("top = 3", "sorted_set"),
            ("sorted_set = \"a\"\nstream = \"b\"", "sorted_set"),
            ("sorted_set = \"\"", "sorted_set"),
            ("sorted_set = \"a\"\nfield = \"q\"", "field"),
            ("stream = \"a\"\nper_seconds = 1.0", "per_seconds"),
            ("sorted_set = \"a\"\nper_seconds = 0.0", "per_seconds"),
            ("sorted_set = \"a\"\ntop = 0", "top"),
            ("stream = \"a\"\nwindow_seconds = 0", "window_seconds"),
            ("stream = \"a\"\nlimit_entries = 1000001", "limit_entries"),
            ("sorted_set = \"a\"\nlimit_seconds = 0", "limit_seconds"),
            (
                "sorted_set = \"a\"\nmember = \"json\"\nkey_prefix = \"p\"",
                "key_prefix",
            ),
        ] {
            let bad = spec(text).check().expect_err(text);
            assert_eq!(bad.field, field, "{text}: {bad}");
        }
    }

    #[test]
    fn a_server_that_is_not_set_is_named_with_those_that_are() {
        let settings = Settings::default();
        let refused =
            RedisSource::new(&spec("server = \"shop\"\nsorted_set = \"a\""), &settings).err();
        let said = refused.map(|error| error.0).unwrap_or_default();
        assert!(
            said.contains("`shop`") && said.ends_with("known: kiln"),
            "{said}"
        );
        let url = spec("server = \"redis://u:hunter2@h:1\"\nsorted_set = \"a\"");
        let refused = RedisSource::new(&url, &settings).err();
        let said = refused.map(|error| error.0).unwrap_or_default();
        assert!(
            said.starts_with("server `") && !said.contains("hunter"),
            "{said}"
        );
    }

    #[test]
    fn a_member_is_a_text_or_an_input_and_what_is_neither_is_not_shown() {
        let settings: Settings =
            serde_json::from_value(serde_json::json!({"redis": {"url": "redis://a"}}))
                .expect("settings");
        let source = |text: &str| RedisSource::new(&spec(text), &settings).expect("a source");
        let text = source("sorted_set = \"a\"\nkey_prefix = \"q:\"");
        let row = text.row(b"shoes".to_vec()).expect("a row");
        assert_eq!(row.key.as_deref(), Some("q:shoes"));
        let long = text.row(vec![b'x'; 400]).expect("a text that is no key");
        assert_eq!(long.key, None);
        assert!(text.row(vec![0xff]).is_err());
        let json = source("sorted_set = \"a\"\nmember = \"json\"");
        let row = json
            .row(br#"{"key": "a", "features": [1, 2]}"#.to_vec())
            .expect("a row");
        assert_eq!(row.content, RowContent::Features(vec![1.0, 2.0]));
        let said = json
            .row(br#"{"key": "a", "features": "anna@example.org"}"#.to_vec())
            .expect_err("no numbers");
        assert!(said.contains("column") && !said.contains("anna"), "{said}");
    }
}
