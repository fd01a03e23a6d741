//! Owns in which forms a log may give its times.

use chrono::{DateTime, NaiveDateTime};

/// What a time may look like, for errors.
pub(super) const EXPECTED: &str = "expected seconds or milliseconds since 1970, or a time such as 2026-11-20T12:00:00Z, 2026-11-20 12:00:00 or \
     20/Nov/2026:12:00:00 +0000";

/// Forms with their zone.
const ZONED: [&str; 4] = [
    "%d/%b/%Y:%H:%M:%S%.f %z",
    "%Y-%m-%d %H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f %z",
    "%Y-%m-%dT%H:%M:%S%.f%z",
];
/// Forms without one, which are taken for UTC.
const LOCAL: [&str; 4] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%d/%b/%Y:%H:%M:%S%.f",
];
/// Numbers from which on a time is in milliseconds, microseconds and nanoseconds since 1970.
const FINER: [(f64, f64); 3] = [(1e17, 1e9), (1e14, 1e6), (1e11, 1e3)];

/// Seconds since 1970, or since any other start if it is a small number.
pub(super) fn seconds(text: &str) -> Option<f64> {
    let text = text.trim().trim_start_matches('[').trim_end_matches(']');
    if let Ok(number) = text.parse::<f64>() {
        return finite(number);
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.timestamp_micros() as f64 / 1e6);
    }
    // As loggers of several languages write fractions.
    let text = text.replace(',', ".");
    let text = text.strip_suffix(" UTC").unwrap_or(&text);
    let zoned = ZONED
        .iter()
        .find_map(|form| DateTime::parse_from_str(text, form).ok());
    if let Some(at) = zoned {
        return Some(at.timestamp_micros() as f64 / 1e6);
    }
    let local = LOCAL
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    local.map(|at| at.and_utc().timestamp_micros() as f64 / 1e6)
}

/// The same of a number.
pub(super) fn finite(number: f64) -> Option<f64> {
    let unit = FINER.iter().find(|(from, _)| number >= *from);
    let seconds = number / unit.map_or(1.0, |(_, unit)| *unit);
    seconds.is_finite().then_some(seconds)
}

/// The time of a server's line: what stands in brackets, or else at its start.
pub(super) fn of_line(line: &str) -> Option<f64> {
    let bracketed = line
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']'))
        .find_map(|(inside, _)| seconds(inside));
    let words = || line.split_whitespace();
    let first = || seconds(words().next()?);
    let two = || {
        let mut words = words();
        seconds(&format!("{} {}", words.next()?, words.next()?))
    };
    bracketed.or_else(two).or_else(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_instant_is_read_in_all_its_forms() {
        for text in [
            "1795176000",
            "1795176000.000",
            "1795176000000",
            "1795176000000000",
            "2026-11-20T12:00:00Z",
            "2026-11-20T13:00:00.000+01:00",
            "2026-11-20T12:00:00",
            "2026-11-20 12:00:00",
            "2026-11-20 12:00:00,000",
            "2026-11-20 12:00:00.000 UTC",
            "2026-11-20 13:00:00 +0100",
            "2026-11-20T13:00:00+0100",
            "2026/11/20 12:00:00",
            "20/Nov/2026:12:00:00 +0000",
            "[20/Nov/2026:13:00:00 +0100]",
        ] {
            assert_eq!(seconds(text), Some(1_795_176_000.0), "{text}");
        }
        for text in ["", "soon", "inf", "2026-13-20 12:00:00", "20/Nov/2026"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(seconds("12.5"), Some(12.5));
    }

    #[test]
    fn a_servers_line_has_its_time_in_brackets_or_in_front() {
        let apache =
            "203.0.113.9 - - [20/Nov/2026:12:00:00 +0000] \"GET /items/7?x=[1] HTTP/1.1\" 200 12";
        assert_eq!(of_line(apache), Some(1_795_176_000.0));
        let nginx = "1795176000.000 203.0.113.9 GET /items/7";
        assert_eq!(of_line(nginx), Some(1_795_176_000.0));
        assert_eq!(
            of_line("2026-11-20 12:00:00,000 INFO item 7"),
            Some(1_795_176_000.0)
        );
        assert_eq!(of_line("no time [here]"), None);
    }
}
