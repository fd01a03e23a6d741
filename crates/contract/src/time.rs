//! Owns how an instant is written.

use chrono::{DateTime, SecondsFormat, Utc};

/// An instant in RFC 3339, in UTC with milliseconds: `2023-11-14T22:13:20.123Z`.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
