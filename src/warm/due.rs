//! Decides which runs of a schedule are due. Pure: takes the time and the last run.

use super::schedule::{Missed, Schedule};
use chrono::{DateTime, Duration, Utc};
use sha2::{Digest, Sha256};

/// A run that would start later than this counts as missed, and so does an earlier one when the next one is due already.
const ON_TIME: Duration = Duration::seconds(60);
/// A run that is this late is on time whatever the next one is: due runs are looked for every second.
const SLACK: Duration = Duration::seconds(2);
/// Maximum number of runs that are found due at once.
const MAX_RUNS: usize = 1_000;
/// Jitter that is longer is cut: a file's is no longer.
const MAX_JITTER: std::time::Duration = std::time::Duration::from_secs(86_400);
/// How far back to search for the last due time at a worker's start.
const START_REACH: Duration = Duration::days(366);

/// A run to start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueRun {
    pub at: DateTime<Utc>,
    /// Whether it makes up for one that was missed, or follows one that does: those before it are to come first.
    pub queues: bool,
}

/// The runs to start now, the oldest first.
///
/// `last` is the latest due time that has been dealt with by any worker; without one, runs count from `since` on.
/// `starting` says whether the worker has just started.
pub fn due(
    schedule: &Schedule,
    last: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
    starting: bool,
) -> Vec<DueRun> {
    let reach = match schedule.missed {
        Missed::Skip => ON_TIME,
        Missed::Once | Missed::All => Duration::from_std(schedule.missed_max_age)
            .unwrap_or(ON_TIME)
            .max(ON_TIME),
    };
    let jitter = jitter_of(schedule);
    let since = last.unwrap_or(since - Duration::nanoseconds(1));
    let reached = now
        .checked_sub_signed(jitter)
        .and_then(|at| at.checked_sub_signed(reach))
        .and_then(|at| at.checked_sub_signed(Duration::nanoseconds(1)));
    let mut from = reached.map_or(since, |reached| since.max(reached));
    let mut on_time: Vec<DateTime<Utc>> = Vec::new();
    let mut late = Vec::new();
    while let Some(at) = schedule
        .cron
        .next_after(from, schedule.zone)
        .filter(|at| *at <= now)
    {
        from = at;
        // Each starts as much later than it is due: those after it don't start either.
        let Some(starts) = at.checked_add_signed(jitter).filter(|at| *at <= now) else {
            break;
        };
        // The one before it can be on time no more: this one is due.
        let missed = |at: &DateTime<Utc>| now - *at - jitter > SLACK;
        if let Some(before) = on_time.pop_if(|before| missed(before)) {
            late.push(before);
        }
        if now - starts <= ON_TIME {
            on_time.push(at);
        } else {
            late.push(at);
        }
        if on_time.len() + late.len() >= MAX_RUNS {
            break;
        }
    }
    let mut due = match schedule.missed {
        Missed::Skip => Vec::new(),
        Missed::Once if on_time.is_empty() => late.pop().into_iter().collect(),
        Missed::Once => Vec::new(),
        Missed::All => late,
    };
    let queues = schedule.missed == Missed::All && !due.is_empty();
    due.append(&mut on_time);
    if starting && schedule.at_start && due.is_empty() {
        let before = schedule
            .cron
            .last_before(now, now - START_REACH, schedule.zone);
        due.extend(before.filter(|at| last.is_none_or(|last| last < *at)));
    }
    due.into_iter().map(|at| DueRun { at, queues }).collect()
}

/// When the next run is due.
pub fn next(schedule: &Schedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    schedule.cron.next_after(now, schedule.zone)
}

/// How much later than its due time a run starts: the same on every worker and for every run, so that runs stay in order, and
/// different between schedules.
fn jitter_of(schedule: &Schedule) -> Duration {
    let max = schedule.jitter.min(MAX_JITTER).as_millis() as u64;
    if max == 0 {
        return Duration::zero();
    }
    let digest = Sha256::digest(schedule.name.as_bytes());
    let random = digest
        .iter()
        .take(8)
        .fold(0u64, |all, byte| all << 8 | u64::from(*byte));
    Duration::milliseconds((random % max) as i64)
}

#[cfg(test)]
mod tests {
    use super::super::schedule::parse;
    use super::*;
    use std::path::Path;

    fn schedule(more: &str) -> Schedule {
        let text = format!(
            "name = \"s\"\ncron = \"*/10 * * * *\"\nmodel = \"m\"\n{more}\n[source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"t\" }}]"
        );
        parse(Path::new("s.toml"), &text).expect("a schedule")
    }

    fn at(time: &str) -> DateTime<Utc> {
        format!("2026-11-21T{time}Z").parse().expect("an instant")
    }

    fn found(more: &str, last: Option<&str>, now: &str, starting: bool) -> Vec<String> {
        let since = at("08:00:01");
        due(&schedule(more), last.map(at), since, at(now), starting)
            .into_iter()
            .map(|run| run.at.format("%H:%M").to_string())
            .collect()
    }

    #[test]
    fn what_is_due_runs_once_and_what_was_missed_by_its_rule() {
        for rule in ["skip", "once", "all"] {
            let rule = format!("missed = \"{rule}\"");
            assert_eq!(found(&rule, None, "08:10:00", false), ["08:10"]);
            assert_eq!(
                found(&rule, Some("08:10:00"), "08:10:01", false),
                Vec::<String>::new()
            );
            assert_eq!(found(&rule, None, "08:09:59", true), Vec::<String>::new());
        }
        assert_eq!(
            found("missed = \"skip\"", Some("08:00:00"), "08:45:00", false),
            Vec::<String>::new()
        );
        assert_eq!(
            found("missed = \"once\"", Some("08:00:00"), "08:45:00", false),
            ["08:40"]
        );
        assert_eq!(
            found("missed = \"once\"", Some("08:00:00"), "08:50:20", false),
            ["08:50"]
        );
        assert_eq!(
            found("missed = \"all\"", Some("08:10:00"), "08:40:20", false),
            ["08:20", "08:30", "08:40"]
        );
        let young = "missed = \"all\"\nmissed_max_age_seconds = 900";
        assert_eq!(
            found(young, Some("05:10:00"), "08:45:00", false),
            ["08:30", "08:40"]
        );
        let old = "missed = \"once\"\nmissed_max_age_seconds = 60";
        assert_eq!(
            found(old, Some("05:10:00"), "08:45:00", false),
            Vec::<String>::new()
        );
    }

    #[test]
    fn below_a_minute_a_run_is_missed_when_the_next_one_is_due() {
        let found = |more: &str, last: &str, now: &str| {
            let mut schedule = schedule(more);
            schedule.cron = crate::warm::cron::Cron::parse("*/10 * * * * *").expect("a cron");
            due(&schedule, Some(at(last)), at(last), at(now), false)
                .into_iter()
                .map(|run| run.at.format("%H:%M:%S").to_string())
                .collect::<Vec<_>>()
        };
        let (skip, once, all) = ("missed = \"skip\"", "", "missed = \"all\"");
        for rule in [skip, once, all] {
            assert_eq!(found(rule, "08:00:00", "08:00:19"), ["08:00:10"]);
            assert_eq!(found(rule, "08:00:20", "08:00:31"), ["08:00:30"]);
        }
        assert_eq!(found(skip, "08:00:00", "08:00:45"), ["08:00:40"]);
        assert_eq!(found(once, "08:00:00", "08:00:45"), ["08:00:40"]);
        assert_eq!(
            found(all, "08:00:00", "08:00:45"),
            ["08:00:10", "08:00:20", "08:00:30", "08:00:40"]
        );
    }

    #[test]
    fn every_second_none_is_missed_by_who_looks_every_second() {
        let mut every = schedule("missed = \"skip\"");
        every.cron = crate::warm::cron::Cron::parse("* * * * * *").expect("a cron");
        let last = at("08:00:00");
        let now = last + Duration::milliseconds(2_020);
        assert_eq!(due(&every, Some(last), last, now, false).len(), 2);
        let now = last + Duration::seconds(30);
        assert_eq!(due(&every, Some(last), last, now, false).len(), 3);
    }

    #[test]
    fn a_clock_stepped_back_brings_nothing_up_again() {
        assert_eq!(
            found("", Some("08:40:00"), "08:20:30", false),
            Vec::<String>::new()
        );
        assert_eq!(
            found("at_start = true", Some("08:40:00"), "08:20:30", true),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_start_makes_up_for_the_last_due_time_once() {
        assert_eq!(found("at_start = true", None, "08:05:00", true), ["08:00"]);
        assert_eq!(
            found("at_start = true", Some("08:00:00"), "08:05:00", true),
            Vec::<String>::new()
        );
        assert_eq!(
            found("at_start = true", None, "08:05:00", false),
            Vec::<String>::new()
        );
    }

    #[test]
    fn jitter_is_the_same_everywhere_and_bounded() {
        let one = schedule("jitter_seconds = 300");
        let delay = jitter_of(&one);
        assert!(delay > Duration::zero() && delay < Duration::seconds(300));
        let other = Schedule {
            name: "t".to_owned(),
            ..one.clone()
        };
        assert_ne!(jitter_of(&other), delay);
        let (last, starts) = (at("08:00:00"), at("08:10:00") + delay);
        let early = starts - Duration::milliseconds(1);
        assert!(due(&one, Some(last), last, early, false).is_empty());
        let found = due(&one, Some(last), last, starts, false);
        let expected = DueRun {
            at: at("08:10:00"),
            queues: false,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn runs_that_are_all_made_up_for_wait_for_each_other_and_others_do_not() {
        let queues = |rule: &str, now: &str| -> Vec<bool> {
            let (schedule, last) = (schedule(rule), at("08:10:00"));
            let runs = due(&schedule, Some(last), last, at(now), false);
            runs.iter().map(|run| run.queues).collect()
        };
        let all = "missed = \"all\"";
        assert_eq!(queues(all, "08:40:20"), [true; 3], "the newest as well");
        assert_eq!(queues(all, "08:20:20"), [false]);
        assert_eq!(queues("", "08:40:20"), [false]);
    }

    #[test]
    fn the_longest_jitter_and_age_cost_no_more_steps_than_there_are_runs_to_start() {
        let mut far = schedule("jitter_seconds = 86400\nmissed_max_age_seconds = 31622400");
        far.cron = crate::warm::cron::Cron::parse("* * * * * *").expect("a cron");
        let now = at("08:00:00");
        let begun = std::time::Instant::now();
        for tick in 0..2_000 {
            let now = now + Duration::seconds(tick);
            let last = now - jitter_of(&far);
            assert!(due(&far, Some(last), last, now, false).is_empty());
        }
        // Stepping through a day of due times takes seconds each time.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        far.jitter = std::time::Duration::MAX;
        far.missed_max_age = std::time::Duration::MAX;
        due(&far, None, now, now, false);
    }
}
