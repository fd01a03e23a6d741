//! Owns one line of `kiln doctor`: what was looked at, how it is, what was found and what to do about it.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// It works, and something should be done about it.
    Warn,
    /// Kiln can't work like this.
    Fail,
    /// It isn't configured, or couldn't be looked at because of another failure.
    Off,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) status: Status,
    pub(super) found: String,
    /// What to do; empty where there is nothing to do.
    pub(super) advice: String,
}

impl Check {
    /// All is well.
    pub(super) fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(name, Status::Ok, found, "")
    }

    /// All is well, and something could be better.
    pub(super) fn note(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(name, Status::Ok, found, advice)
    }

    /// It works, and something should be done.
    pub(super) fn warn(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(name, Status::Warn, found, advice)
    }

    /// Kiln can't work like this.
    pub(super) fn fail(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(name, Status::Fail, found, advice)
    }

    /// Not configured, or not looked at.
    pub(super) fn off(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(name, Status::Off, found, advice)
    }

    fn new(
        name: impl Into<String>,
        status: Status,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            status,
            found: found.into(),
            advice: advice.into(),
        }
    }
}

/// The lines as an aligned table; on a terminal it keeps to its width, and shows colours where wanted.
pub(super) fn table(checks: &[Check], colours: bool) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(["CHECK", "STATUS", "FOUND", "WHAT TO DO"]);
    for check in checks {
        let (word, colour) = match check.status {
            Status::Ok => ("ok", Color::Green),
            Status::Warn => ("warn", Color::Yellow),
            Status::Fail => ("FAIL", Color::Red),
            Status::Off => ("-", Color::Grey),
        };
        let mut status = Cell::new(word);
        if colours {
            status = status.fg(colour).add_attribute(Attribute::Bold);
        }
        table.add_row([
            Cell::new(&check.name),
            status,
            Cell::new(&check.found),
            Cell::new(&check.advice),
        ]);
    }
    table
}

/// Whether the clock of a server agrees with this machine's; `ahead_ms` is how far it is ahead.
pub(super) fn clock(name: &str, ahead_ms: i64) -> Check {
    /// Differences that matter to nobody, in milliseconds.
    const TOLERATED: u64 = 1_000;
    let found = format!("{ahead_ms:+} ms against this machine");
    if ahead_ms.unsigned_abs() <= TOLERATED {
        Check::ok(name, found)
    } else {
        Check::warn(
            name,
            found,
            "synchronise both clocks by NTP: ages and expirations depend on them",
        )
    }
}

/// How far a server's clock is ahead, given what it said and when it was asked and had answered, all in
/// milliseconds of the Unix epoch.
pub(super) fn ahead_ms(server: i64, asked: i64, answered: i64) -> i64 {
    // It spoke at some moment between the two: no difference can be told within them.
    if server < asked {
        server - asked
    } else if server > answered {
        server - answered
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_beyond_the_time_that_the_question_took() {
        assert_eq!(ahead_ms(1_500, 1_000, 2_000), 0);
        assert_eq!(ahead_ms(500, 1_000, 2_000), -500);
        assert_eq!(ahead_ms(2_100, 1_000, 2_000), 100);
        assert_eq!(clock("c", 1_000).status, Status::Ok);
        assert_eq!(clock("c", -1_001).status, Status::Warn);
    }

    #[test]
    fn the_table_has_a_line_a_check_and_no_colours_where_unwanted() {
        let checks = [
            Check::ok("a", "fine"),
            Check::fail("b", "gone", "start it"),
            Check::off("c", "not set", ""),
        ];
        let text = table(&checks, false).to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("FAIL") && !text.contains('\u{1b}'), "{text}");
    }
}
