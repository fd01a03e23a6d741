//! `kiln schedules check`: what is wrong with schedules, and when each would run next.

use super::{FOLLOWS, local, plain};
use crate::{
    cli::Exit,
    clock::{self, rfc3339},
    config::Settings,
    warm::{
        due,
        folder::Folder,
        schedule::{BadSchedule, Known, KnownModel, Schedule},
    },
};
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Next runs to show of each schedule.
    #[arg(long, value_name = "RUNS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    next: u16,
    /// Time after which runs are shown, such as 2026-03-28, 2026-03-28T00:30 or 2026-03-28T00:30:00+01:00; UTC unless it says otherwise
    /// [default: now].
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
}

/// An instant, a time in UTC, or the beginning of a day in UTC.
fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let instant = DateTime::parse_from_rfc3339(text).ok();
    let instant = instant.map(|at| at.to_utc());
    let plain = || {
        let formats = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
        let text = text.replacen(' ', "T", 1);
        let mut found = formats
            .iter()
            .filter_map(|format| NaiveDateTime::parse_from_str(&text, format).ok());
        found.next().map(|at| at.and_utc())
    };
    let day = || {
        let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
        Some(day.and_time(NaiveTime::MIN).and_utc())
    };
    instant.or_else(plain).or_else(day).ok_or_else(|| {
        "expected a time such as 2026-03-28, 2026-03-28T00:30 or 2026-03-28T00:30:00+01:00".into()
    })
}

pub(super) fn check(
    arguments: &Arguments,
    folder: &Folder,
    settings: &Settings,
    json: bool,
) -> Exit {
    let now = clock::now();
    let from = arguments.from.unwrap_or(now);
    let mut table = plain(["schedule", "cron", "time zone", "next run", "UTC"]);
    for schedule in folder.schedules() {
        let runs = next(&schedule, from, arguments.next.into());
        if json {
            let shown: Vec<String> = runs.iter().map(|at| local(*at, &schedule)).collect();
            let utc: Vec<String> = runs.iter().map(|at| rfc3339(*at)).collect();
            println!(
                "{}",
                json!({
                    "schedule": schedule.name, "file": schedule.file, "cron": schedule.cron.as_str(),
                    "time_zone": schedule.zone.name(), "enabled": schedule.enabled, "next": shown, "next_utc": utc,
                })
            );
            continue;
        }
        for row in rows(&schedule, &runs) {
            table.add_row(row);
        }
    }
    if !json && table.row_iter().next().is_some() {
        println!("{table}");
    }
    let problems = problems(folder, settings, now);
    for problem in &problems {
        if json {
            println!("{}", as_json(problem));
        } else {
            eprintln!("{problem}");
        }
    }
    match problems.is_empty() {
        true => Exit::Ok,
        false => Exit::Partial,
    }
}

/// So many runs after a time.
fn next(schedule: &Schedule, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
    let after = |last: &DateTime<Utc>| due::next(schedule, *last);
    std::iter::successors(after(&from), after)
        .take(count)
        .collect()
}

/// A row for each run; the first one says whose they are.
fn rows(schedule: &Schedule, runs: &[DateTime<Utc>]) -> Vec<[String; 5]> {
    let head = [
        schedule.name.clone(),
        schedule.cron.as_str().to_owned(),
        schedule.zone.name().to_owned(),
    ];
    let mut rows: Vec<[String; 5]> = runs
        .iter()
        .map(|at| {
            let none = String::new;
            [none(), none(), none(), local(*at, schedule), rfc3339(*at)]
        })
        .collect();
    if rows.is_empty() {
        let none = String::new;
        let when = if schedule.follows() { FOLLOWS } else { "never" };
        rows.push([none(), none(), none(), when.to_owned(), none()]);
    }
    if let Some(first) = rows.first_mut() {
        let [_, _, _, local, utc] = std::mem::take(first);
        let [name, cron, zone] = head;
        *first = [name, cron, zone, local, utc];
    }
    rows
}

/// Everything that is wrong: with the folder, with files, and with what they name.
fn problems(folder: &Folder, settings: &Settings, now: DateTime<Utc>) -> Vec<BadSchedule> {
    let mut problems = Vec::new();
    if folder.is_missing() {
        problems.push(BadSchedule {
            file: settings.warm.dir.clone(),
            at: None,
            field: "warm.dir".to_owned(),
            message: "there is no such folder".to_owned(),
        });
    }
    problems.extend(folder.problems().iter().cloned());
    let models: Vec<KnownModel> = kiln_model::described(&settings.models.dir)
        .into_iter()
        .map(|(name, version, input)| KnownModel {
            name,
            version,
            input,
        })
        .collect();
    let known = Known::of(&models, settings, now);
    problems.extend(folder.misfits(&known, |_| true));
    problems.extend(folder.refused_misfits(&known));
    problems.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
    problems
}

fn as_json(problem: &BadSchedule) -> serde_json::Value {
    json!({
        "problem": problem.to_string(), "file": problem.file, "line": problem.at.map(|at| at.line),
        "column": problem.at.map(|at| at.column), "field": problem.field, "message": problem.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_instant_a_time_of_day_or_a_day() {
        let read = |text: &str| time(text).map(rfc3339);
        for (text, instant) in [
            ("2026-03-28T00:30:00+01:00", "2026-03-27T23:30:00.000Z"),
            ("2026-03-28T00:30:05", "2026-03-28T00:30:05.000Z"),
            ("2026-03-28 00:30", "2026-03-28T00:30:00.000Z"),
            ("2026-03-28", "2026-03-28T00:00:00.000Z"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(instant));
        }
        for text in ["", "tomorrow", "2026-02-30", "2026-03-28T25:00"] {
            assert!(
                read(text).is_err_and(|said| said.contains("2026-03-28")),
                "{text}"
            );
        }
    }
}
