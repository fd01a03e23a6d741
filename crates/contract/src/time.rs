//! Owns how an instant is written, and read again.

use chrono::{DateTime, SecondsFormat, Utc};

/// An instant in RFC 3339, in UTC with milliseconds: `2023-11-14T22:13:20.123Z`.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The instant that a text in RFC 3339 is, of whatever offset; none if it is no such text.
pub fn parse_rfc3339(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?;
    Some(at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_written_in_utc_and_read_in_any_offset() {
        let at = DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.123Z");
        for text in ["2023-11-14T22:13:20.123Z", "2023-11-15T00:13:20.123+02:00"] {
            assert_eq!(parse_rfc3339(text), Some(at));
        }
        assert_eq!(parse_rfc3339("2023-11-14"), None);
    }
}
