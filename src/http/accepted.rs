//! Reads what a client says that it takes: `Accept` and `Accept-Encoding`.
//!
//! Promises that only some first words of a header are looked at, however long it is, and that what can't be read isn't taken.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Words of a header that are looked at.
const MAX_WORDS: usize = 32;
/// How much a client wants what it says nothing else of.
const WANTED: u16 = 1_000;

/// Something that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken<'a> {
    pub(super) name: &'a str,
    parameters: &'a str,
    /// How much it is wanted, in thousandths; 0 is not at all.
    pub(super) quality: u16,
}

impl<'a> Taken<'a> {
    fn parse(word: &'a str) -> Self {
        let (name, parameters) = word.split_once(';').unwrap_or((word, ""));
        let mut taken = Self {
            name: name.trim(),
            parameters,
            quality: WANTED,
        };
        if let Some(quality) = taken.parameter("q") {
            let quality = quality.parse::<f32>().unwrap_or(0.0);
            // Of what is no number, a cast makes 0.
            taken.quality = (quality.clamp(0.0, 1.0) * f32::from(WANTED)) as u16;
        }
        taken
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// A parameter's value, without quotes.
    pub(super) fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut all = self.parameters.split(';');
        all.find_map(|one| {
            let (key, value) = one.split_once('=')?;
            let is_it = key.trim().eq_ignore_ascii_case(name);
            is_it.then(|| value.trim().trim_matches('"'))
        })
    }
}

/// What a client takes, as it says in a header.
pub(super) fn taken(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Taken<'_>> {
    let values = headers.get_all(name).into_iter();
    let words = values.filter_map(|value: &HeaderValue| value.to_str().ok());
    let words = words.flat_map(|value| value.split(','));
    words.take(MAX_WORDS).map(Taken::parse)
}

/// How much a client wants an encoding, in thousandths: by its name, or else by `*`.
pub(super) fn encoding(headers: &HeaderMap, name: &str) -> u16 {
    let quality = |name: &str| {
        let mut all = taken(headers, header::ACCEPT_ENCODING);
        all.find(|one| one.is(name)).map(|one| one.quality)
    };
    quality(name).or_else(|| quality("*")).unwrap_or_default()
}

/// The version of OpenMetrics that a client wants at least as much as Prometheus' text; nothing where it wants the text.
pub(super) fn open_metrics(headers: &HeaderMap) -> Option<&'static str> {
    let mut best: Option<(u16, &'static str)> = None;
    let mut text = 0;
    for one in taken(headers, header::ACCEPT) {
        if ["text/plain", "text/*", "*/*"]
            .iter()
            .any(|kind| one.is(kind))
        {
            text = text.max(one.quality);
        }
        let version = match one.parameter("version") {
            None | Some("1.0.0") => "1.0.0",
            Some("0.0.1") => "0.0.1",
            Some(_) => continue,
        };
        if one.is("application/openmetrics-text")
            && one.quality > best.map_or(0, |(quality, _)| quality)
        {
            best = Some((one.quality, version));
        }
    }
    best.filter(|(quality, _)| *quality >= text)
        .map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), value.parse().expect("a header"));
        }
        headers
    }

    #[test]
    fn an_encoding_is_wanted_as_much_as_its_client_says() {
        let of = |said: &[&str], name| encoding(&with(header::ACCEPT_ENCODING, said), name);
        assert_eq!(of(&[], "gzip"), 0);
        assert_eq!(of(&["gzip, zstd;q=0.5"], "gzip"), 1_000);
        assert_eq!(of(&["br, GZIP ; q=0.25"], "gzip"), 250);
        assert_eq!(of(&["br", "zstd"], "zstd"), 1_000);
        assert_eq!(of(&["*;q=0.1, zstd;q=0"], "zstd"), 0);
        assert_eq!(of(&["*;q=0.1, zstd;q=0"], "gzip"), 100);
        for none in [
            "gzip;q=0",
            "gzip;q=x",
            "gzip;q=NaN",
            "gzip;q=",
            "x-gzip",
            ";;;",
            "q=1",
        ] {
            assert_eq!(of(&[none], "gzip"), 0, "{none}");
        }
        assert_eq!(of(&["gzip;q=9"], "gzip"), 1_000);
        let long = format!("{}gzip", "br,".repeat(MAX_WORDS));
        assert_eq!(of(&[&long], "gzip"), 0, "behind what is looked at");
    }

    #[test]
    fn open_metrics_are_for_who_asks_for_them() {
        let of = |said: &str| open_metrics(&with(header::ACCEPT, &[said]));
        // As Prometheus 2 and 3 ask, and browsers, curl and older ones.
        let two = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(of(two), Some("1.0.0"));
        let three = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.1";
        assert_eq!(of(three), Some("1.0.0"));
        let older =
            "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(of(older), Some("0.0.1"));
        assert_eq!(of("application/openmetrics-text"), Some("1.0.0"));
        for text in [
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=9",
            "application/openmetrics-text;q=0.1, text/plain",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(open_metrics(&HeaderMap::new()), None);
    }
}
