//! Decides in which order due runs are claimed. Pure.

use super::{
    due::{self, DueRun},
    schedule::Schedule,
};
use chrono::{DateTime, Utc};
use std::{collections::BTreeMap, sync::Arc};

/// What is known of the runs of each schedule.
pub(super) struct Last {
    /// When this worker began to look.
    pub since: DateTime<Utc>,
    /// The latest due time by schedule, as it was asked last; none of one that had no run.
    pub due: BTreeMap<String, Option<DateTime<Utc>>>,
    /// When schedules were added, switched on or given other times while this worker ran: before that they weren't due.
    pub retimed: BTreeMap<String, DateTime<Utc>>,
}

impl Last {
    pub fn since(since: DateTime<Utc>) -> Self {
        Self {
            since,
            due: BTreeMap::new(),
            retimed: BTreeMap::new(),
        }
    }

    /// Forgets what lies after now: the database's clock was ahead for a while, and nothing would be due until it is there again.
    pub fn forget_after(&mut self, now: DateTime<Utc>) {
        self.since = self.since.min(now);
        self.due.retain(|_, due| due.is_none_or(|due| due <= now));
        for added in self.retimed.values_mut() {
            *added = now.min(*added);
        }
    }

    /// The time after which runs of a schedule count, if it isn't all of this worker's: the latest due time that was dealt with, or
    /// when it was added.
    pub fn of(&self, schedule: &str) -> Option<DateTime<Utc>> {
        let last = self.due.get(schedule).copied().flatten();
        let added = self.retimed.get(schedule).copied();
        last.max(added)
    }
}

/// The due runs of all these schedules, the oldest first; of those due together first the one whose schedule had its turn the longest ago, so that
/// no name goes before another for ever.
pub(super) fn in_turn<'s>(
    wanted: &[&'s Arc<Schedule>],
    last: &Last,
    now: DateTime<Utc>,
    starting: bool,
) -> Vec<(&'s Arc<Schedule>, DueRun)> {
    let mut all = Vec::new();
    for schedule in wanted {
        let known = last.of(&schedule.name);
        let due = due::due(schedule, known, last.since, now, starting);
        all.extend(due.into_iter().map(|run| (known, *schedule, run)));
    }
    // Stable: runs of one schedule stay in their order.
    all.sort_by_key(|(known, _, run)| (run.at, *known));
    let runs = all.into_iter();
    runs.map(|(_, schedule, run)| (schedule, run)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::schedule::parse;
    use chrono::Duration;
    use std::path::Path;

    fn schedule(name: &str, cron: &str) -> Arc<Schedule> {
        let text = format!(
            "name = \"{name}\"\ncron = \"{cron}\"\nmodel = \"m\"\n[source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"t\" }}]"
        );
        Arc::new(parse(Path::new("s.toml"), &text).expect("a schedule"))
    }

    #[test]
    fn a_slow_schedule_leaves_its_turn_to_the_others_whatever_their_names() {
        let start: DateTime<Utc> = "2026-11-21T08:00:00Z".parse().expect("an instant");
        let all = [
            schedule("a", "* * * * *"),
            schedule("b", "* * * * *"),
            schedule("c", "*/10 * * * *"),
        ];
        let wanted: Vec<&Arc<Schedule>> = all.iter().collect();
        let (mut last, mut ran) = (Last::since(start), BTreeMap::<String, usize>::new());
        // One run at a time, each of which takes longer than a minute.
        for turn in 1..=60 {
            let now = start + Duration::seconds(70 * turn);
            let due = in_turn(&wanted, &last, now, false);
            let Some((schedule, run)) = due.first() else {
                continue;
            };
            *ran.entry(schedule.name.clone()).or_default() += 1;
            last.due.insert(schedule.name.clone(), Some(run.at));
        }
        let count = |name: &str| ran.get(name).copied().unwrap_or_default();
        assert!(
            count("a") >= 20 && count("b") >= 20 && count("c") >= 6,
            "{ran:?}"
        );
    }

    #[test]
    fn a_clock_that_was_ahead_for_a_while_holds_up_nothing() {
        let start: DateTime<Utc> = "2026-11-21T08:00:00Z".parse().expect("an instant");
        let all = [
            schedule("known", "* * * * *"),
            schedule("retimed", "* * * * *"),
        ];
        let wanted: Vec<&Arc<Schedule>> = all.iter().collect();
        let mut last = Last::since(start);
        let ahead = start + Duration::hours(2);
        last.due.insert("known".to_owned(), Some(ahead));
        last.retimed.insert("retimed".to_owned(), ahead);
        let now = start + Duration::seconds(70);
        last.forget_after(now);
        let names = |now| -> Vec<String> {
            let due = in_turn(&wanted, &last, now, false);
            due.iter().map(|(one, _)| one.name.clone()).collect()
        };
        assert_eq!(names(now), ["known"]);
        assert_eq!(names(now + Duration::seconds(60)), ["known", "retimed"]);
    }

    #[test]
    fn the_oldest_run_comes_first() {
        let start: DateTime<Utc> = "2026-11-21T08:00:30Z".parse().expect("an instant");
        let (often, seldom) = (schedule("a", "* * * * * *"), schedule("z", "*/5 * * * *"));
        let last = Last::since(start);
        let now = start + Duration::seconds(275);
        let due = in_turn(&[&often, &seldom], &last, now, false);
        let names: Vec<&str> = due.iter().map(|(one, _)| one.name.as_str()).collect();
        assert_eq!(names.first(), Some(&"z"), "{names:?}");
        assert_eq!(names.last(), Some(&"a"));
    }
}
