//! Owns how an age is written on the command line: a number and a unit.
//!
//! Refuses what has no unit, so that nobody deletes thirty seconds for thirty days.

use std::time::Duration;

/// Reads `30d`, `12h`, `5m` or `90s`.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with s, m, h or d, such as 30d".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|n| n.parse().ok())
        .ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    // A thousand years: beyond any clock's range, and within the database's.
    number
        .checked_mul(seconds)
        .filter(|s| *s <= 31_536_000_000)
        .map(Duration::from_secs)
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ages() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        for bad in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "99999999999999999999d",
            "9999999999d",
            "3é",
        ] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
