//! What `kiln doctor` says of jobs in partitions: how many days there are, or that the move into them was cut short.
//!
//! Only reads.

use super::check::Check;
use sqlx::{PgConnection, Row};

const NAME: &str = "postgres jobs";
const ASK: &str = "\
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('jobs') AND relkind = 'v') AS is_moved,
  to_regclass('job_partitioning') IS NOT NULL AS is_begun, to_regclass('jobs_before') IS NOT NULL AS has_before,
  (SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('job_results')) AS days,
  to_regclass('job_results_' || to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')) IS NOT NULL AS has_next,
  current_setting('max_locks_per_transaction')::bigint AS locks";

/// How jobs are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Partitions {
    is_moved: bool,
    is_begun: bool,
    has_before: bool,
    days: i64,
    has_next: bool,
    /// That the server provides for, a connection.
    locks: i64,
}

pub(super) async fn ask(connection: &mut PgConnection) -> Result<Partitions, sqlx::Error> {
    let row = sqlx::query(ASK)
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(Partitions {
        is_moved: row.try_get("is_moved")?,
        is_begun: row.try_get("is_begun")?,
        has_before: row.try_get("has_before")?,
        days: row.try_get("days")?,
        has_next: row.try_get("has_next")?,
        locks: row.try_get("locks")?,
    })
}

impl Partitions {
    /// What is to be said; nothing of the one table that `jobs` is at first.
    pub fn check(self) -> Option<Check> {
        if self.is_begun {
            let found = "the move into daily partitions was begun and hasn't ended";
            let advice = "`kiln migrate --partition` goes on with it";
            return Some(Check::warn(NAME, found, advice));
        }
        if !self.is_moved {
            return None;
        }
        let before = match self.has_before {
            true => ", and what was there before them",
            false => "",
        };
        let found = format!("in daily partitions, {} of them{before}", self.days);
        // Whoever looks a job up locks each one and its index.
        let locks = 2 * self.days;
        Some(match self.has_next {
            true if locks > self.locks => Check::warn(
                NAME,
                format!(
                    "{found}; each look-up takes {locks} locks, and the server provides for {} a connection",
                    self.locks
                ),
                "raise max_locks_per_transaction above that, or prune sooner",
            ),
            true => Check::ok(NAME, found),
            false => Check::warn(
                NAME,
                format!("{found}; none for the next day"),
                "workers make them ahead: start one; a day's first job makes it else",
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Status;

    #[test]
    fn a_move_that_was_cut_short_and_a_day_that_is_missing_are_said() {
        let plain = Partitions::default();
        assert!(plain.check().is_none());
        let begun = Partitions {
            is_begun: true,
            ..plain
        };
        assert_eq!(begun.check().map(|check| check.status), Some(Status::Warn));
        let moved = Partitions {
            is_moved: true,
            days: 5,
            has_next: true,
            locks: 64,
            ..plain
        };
        assert_eq!(moved.check().map(|check| check.status), Some(Status::Ok));
        let many = Partitions { days: 33, ..moved };
        assert_eq!(many.check().map(|check| check.status), Some(Status::Warn));
        let late = Partitions {
            has_next: false,
            ..moved
        };
        assert_eq!(late.check().map(|check| check.status), Some(Status::Warn));
    }
}
