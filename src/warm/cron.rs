//! Owns when a schedule is due: cron expressions as crontab defines them, in a time zone with its clock changes.
//!
//! Promises that a clock change neither skips nor repeats a run. A run at a time of day that the change skips is due right after
//! the change; one at a time that occurs twice is due the first time; a schedule for every hour follows elapsed time. These are
//! the rules of Debian's cron.

use chrono::{DateTime, Duration, MappedLocalTime, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::Tz;
use cron::Schedule;
use kiln_contract::redact::HIDDEN;
use std::{collections::BTreeSet, str::FromStr};

/// How far ahead to search for a run: a leap day may be eight years away.
const HORIZON_DAYS: i64 = 9 * 366;
/// Longest part of an expression that a message shows, in bytes.
const MAX_SHOWN_BYTES: usize = 40;
/// No zone changes its offset twice within this time.
const PROBE_HOURS: i64 = 12;

const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Days and times of day at which something is due, in local time.
#[derive(Debug, Clone)]
pub struct Cron {
    expression: String,
    /// One, or two where either a day of the month or a day of the week matches.
    schedules: Vec<Schedule>,
    /// Whether it is due in each hour of the day: then it follows elapsed time, not the clock.
    every_hour: bool,
}

impl Cron {
    /// Reads five fields as crontab has them, six with seconds first, seven with a year last, or a name such as `@hourly`.
    ///
    /// Days of the week are 0 or 7 (Sunday) to 6, or names, whatever the number of fields. Where both a day of the month
    /// and a day of the week are given, a day that matches either one counts.
    pub fn parse(expression: &str) -> Result<Self, String> {
        let plain = spelled_out(expression.trim())?;
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [seconds, minute, hour, day, month, weekday, year] = seven(&fields)?;
        let minute = numbers("minute", minute, 0, 59)?;
        let seconds = numbers("second", seconds, 0, 59)?;
        let hours = parse_field("hour", hour, 0, 23, |_| None)?;
        let hour = listed(&hours);
        // As in crontab, a field that starts with a star restricts nothing by itself.
        let either = !day.starts_with(['*', '?']) && !weekday.starts_with(['*', '?']);
        let day = numbers("day of the month", &day.replace('?', "*"), 1, 31)?;
        let month = listed(&parse_field("month", month, 1, 12, month_by_name)?);
        let weekday = weekdays(&weekday.replace('?', "*"))?;
        let schedule = |day: &str, weekday: &str| {
            Schedule::from_str(&format!(
                "{seconds} {minute} {hour} {day} {month} {weekday} {year}"
            ))
            // The crate's own words quote the expression.
            .map_err(|_| "not a cron expression".to_owned())
        };
        let schedules = if either {
            vec![schedule(&day, "*")?, schedule("*", &weekday)?]
        } else {
            vec![schedule(&day, &weekday)?]
        };
        let cron = Self {
            expression: expression.trim().to_owned(),
            schedules,
            every_hour: hours.len() == 24,
        };
        if cron
            .next_on_the_wall(DateTime::UNIX_EPOCH.naive_utc())
            .is_none()
        {
            return Err("it is never due: no day in the calendar matches".into());
        }
        Ok(cron)
    }

    /// Never due: of what follows a table instead of the clock.
    pub fn never() -> Self {
        Self {
            expression: String::new(),
            schedules: Vec::new(),
            every_hour: false,
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.expression
    }

    /// The first instant after `after` at which it is due in `zone`, if there is one within nine years.
    pub fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let horizon = after + Duration::days(HORIZON_DAYS);
        let mut offset = offset(after, zone);
        let mut since = after;
        // Local time after which to search for the next match.
        let mut wall = after.naive_utc() + offset;
        if !self.every_hour {
            wall = wall.max(repeated_until(after, zone).unwrap_or(wall));
        }
        while since < horizon {
            let due = self.next_on_the_wall(wall)?;
            let instant = (due - offset).and_utc();
            let Some((change, new_offset)) = next_change(since, instant.min(horizon), zone) else {
                return (instant <= horizon).then_some(instant);
            };
            let before = change.naive_utc() + offset;
            let jumped_to = change.naive_utc() + new_offset;
            // Not due before the change: `due` lies at or after it on the old clock.
            if !self.every_hour && new_offset > offset && due < jumped_to {
                return Some(change);
            }
            let inclusive = if self.every_hour {
                jumped_to
            } else {
                before.max(jumped_to)
            };
            wall = inclusive - Duration::nanoseconds(1);
            since = change;
            offset = new_offset;
        }
        None
    }

    /// Whether it is due again after `after`, however far ahead.
    pub fn is_due_after(&self, after: DateTime<Utc>, zone: Tz) -> bool {
        let wall = after.naive_utc() + offset(after, zone);
        self.next_on_the_wall(wall).is_some()
    }

    /// The last instant at or before `until` at which it was due, not before `from`.
    pub fn last_before(
        &self,
        until: DateTime<Utc>,
        from: DateTime<Utc>,
        zone: Tz,
    ) -> Option<DateTime<Utc>> {
        // Searches back in growing steps for a due time, then forward to the last one.
        let (mut low, mut span) = (until, Duration::minutes(1));
        while low > from {
            low = (until - span).max(from);
            let first = self.next_after(low - Duration::nanoseconds(1), zone)?;
            if first <= until {
                let mut last = first;
                while let Some(next) = self.next_after(last, zone).filter(|n| *n <= until) {
                    last = next;
                }
                return Some(last);
            }
            span = span * 4;
        }
        None
    }

    fn next_on_the_wall(&self, after: NaiveDateTime) -> Option<NaiveDateTime> {
        // Local time is passed off as UTC, which has no changes; the crate ignores fractions of seconds.
        let from = after.and_utc();
        self.schedules
            .iter()
            .filter_map(|s| s.after(&from).next())
            .min()
            .map(|at| at.naive_utc())
    }
}

fn offset(at: DateTime<Utc>, zone: Tz) -> Duration {
    Duration::seconds(i64::from(
        zone.offset_from_utc_datetime(&at.naive_utc())
            .fix()
            .local_minus_utc(),
    ))
}

/// The first instant in (`since`, `until`] from which another offset holds, with that offset.
fn next_change(
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    zone: Tz,
) -> Option<(DateTime<Utc>, Duration)> {
    let old = offset(since, zone);
    let step = Duration::hours(PROBE_HOURS);
    let mut low = since;
    while low < until {
        let high = (low + step).min(until);
        if offset(high, zone) != old {
            return Some(change_between(low, high, zone));
        }
        low = high;
    }
    None
}

/// The change between two instants with different offsets, to the second: changes happen at whole ones.
fn change_between(low: DateTime<Utc>, high: DateTime<Utc>, zone: Tz) -> (DateTime<Utc>, Duration) {
    let old = offset(low, zone);
    let whole = |at: DateTime<Utc>| at.with_nanosecond(0).unwrap_or(at);
    let (mut low, mut high) = (
        whole(low),
        whole(high) + Duration::seconds(i64::from(high.nanosecond() > 0)),
    );
    while high - low > Duration::seconds(1) {
        let middle = low + Duration::seconds((high - low).num_seconds() / 2);
        if offset(middle, zone) == old {
            low = middle;
        } else {
            high = middle;
        }
    }
    (high, offset(high, zone))
}

/// If `at` lies in an hour that local time repeats: the local time at which the repetition ends, less a nanosecond.
fn repeated_until(at: DateTime<Utc>, zone: Tz) -> Option<NaiveDateTime> {
    let wall = at.naive_utc() + offset(at, zone);
    match zone.from_local_datetime(&wall) {
        MappedLocalTime::Ambiguous(first, second) if second.with_timezone(&Utc) == at => {
            let first = first.with_timezone(&Utc);
            let (change, _) = change_between(first, at, zone);
            Some(change.naive_utc() + offset(first, zone) - Duration::nanoseconds(1))
        }
        _ => None,
    }
}

/// Replaces a name such as `@hourly` by its fields.
fn spelled_out(expression: &str) -> Result<&str, String> {
    Ok(match expression {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        "@reboot" => return Err("`@reboot` is not a time: use `at_start = true`".into()),
        name if name.starts_with('@') => {
            return Err(format!(
                "`@{}` is unknown; there are @yearly, @monthly, @weekly, @daily and @hourly",
                shown(name.trim_start_matches('@'))
            ));
        }
        other => other,
    })
}

/// A part of an expression in a message: one with other characters than expressions have is something else, and isn't shown.
fn shown(part: &str) -> &str {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"*/,-?#".contains(&byte);
    match part.len() <= MAX_SHOWN_BYTES && part.bytes().all(fits) {
        true => part,
        false => HIDDEN,
    }
}

/// Seven fields, from seconds to the year, with defaults for those that are left out.
fn seven<'a>(fields: &[&'a str]) -> Result<[&'a str; 7], String> {
    match *fields {
        [minute, hour, day, month, weekday] => Ok(["0", minute, hour, day, month, weekday, "*"]),
        [seconds, minute, hour, day, month, weekday] => {
            Ok([seconds, minute, hour, day, month, weekday, "*"])
        }
        [seconds, minute, hour, day, month, weekday, year] => {
            Ok([seconds, minute, hour, day, month, weekday, year])
        }
        _ => Err(format!(
            "expected 5 fields (minute hour day month weekday), 6 with seconds first or 7 with a year last, found {}",
            fields.len()
        )),
    }
}

/// Days of the week as the crate counts them: from 1, Sunday.
fn weekdays(field: &str) -> Result<String, String> {
    let by_name = |name: &str| {
        let day = DAYS.iter().position(|d| name.eq_ignore_ascii_case(d));
        day.map(|day| day as u32)
    };
    let days = parse_field("day of the week", field, 0, 7, by_name)?;
    Ok(listed(&days.into_iter().map(|d| d % 7 + 1).collect()))
}

fn numbers(name: &str, field: &str, min: u32, max: u32) -> Result<String, String> {
    parse_field(name, field, min, max, |_| None).map(|values| listed(&values))
}

fn month_by_name(name: &str) -> Option<u32> {
    chrono::Month::from_str(name)
        .ok()
        .filter(|_| name.len() == 3)
        .map(|m| m.number_from_month())
}

fn listed(values: &BTreeSet<u32>) -> String {
    values
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// The values of a field such as `*/10`, `1-5`, `1,3,20-30/5` or, where `by_name` knows them, `mon-fri`.
fn parse_field(
    name: &str,
    field: &str,
    min: u32,
    max: u32,
    by_name: impl Fn(&str) -> Option<u32>,
) -> Result<BTreeSet<u32>, String> {
    let wrong = |part: &str| {
        let part = shown(part);
        format!("{name} `{part}`: expected {min} to {max}, a range, a list or a step")
    };
    let value = |text: &str| {
        by_name(text)
            .or_else(|| {
                text.bytes()
                    .all(|b| b.is_ascii_digit())
                    .then(|| text.parse().ok())?
            })
            .filter(|v| (min..=max).contains(v))
    };
    let mut values = BTreeSet::new();
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (
                range,
                step.parse()
                    .ok()
                    .filter(|s| *s > 0)
                    .ok_or_else(|| wrong(part))?,
            ),
            None => (part, 1u32),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((low, high)) => (
                value(low).ok_or_else(|| wrong(part))?,
                value(high).ok_or_else(|| wrong(part))?,
            ),
            None => {
                let low = value(range).ok_or_else(|| wrong(part))?;
                // `5/10` is from 5 on.
                (low, if part.contains('/') { max } else { low })
            }
        };
        if low > high {
            return Err(wrong(part));
        }
        values.extend((low..=high).step_by(step as usize));
    }
    Ok(values)
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "cron/tests.rs"]
mod tests;
