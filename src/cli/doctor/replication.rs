//! What `kiln doctor` says of who stands behind the database: nobody, standbys that a commit waits for or doesn't, a pooler before it.
//!
//! Only reads.

use super::{check::Check, problem::Problem};
use sqlx::{PgConnection, Row};

const NAME: &str = "postgres kind";
/// Whether commits of this session wait for a standby, for how many of them, and how many there are. Who may not see a standby's state sees
/// at least that it is there.
const STANDBYS: &str = "\
SELECT current_setting('synchronous_standby_names') AS names, current_setting('synchronous_commit') AS commits,
  count(*) FILTER (WHERE state IS NULL OR state = 'streaming') AS all_of_them,
  count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) AS waited_for
FROM pg_stat_replication";

/// What is known before the server is asked.
#[derive(Debug, Default)]
pub(super) struct Kind {
    is_pooled: bool,
    /// What is to be said of the other addresses.
    pub others: Vec<String>,
}

impl Kind {
    /// Whether a session lasts as long as a transaction only.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    pub fn of(is_pooled: bool) -> Self {
        Self {
            is_pooled,
            others: Vec::new(),
        }
    }
}

/// What the server says of those who follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standbys {
    names: String,
    commits: String,
    all: i64,
    waited_for: i64,
}

pub(super) async fn ask(connection: &mut PgConnection) -> Result<Standbys, sqlx::Error> {
    let row = sqlx::query(STANDBYS)
        .persistent(false)
        .fetch_one(connection)
        .await?;
    Ok(Standbys {
        names: row.try_get("names")?,
        commits: row.try_get("commits")?,
        all: row.try_get("all_of_them")?,
        waited_for: row.try_get("waited_for")?,
    })
}

/// Which of them it is, and what its loss would cost.
pub(super) fn check(kind: Kind, is_read_only: bool, standbys: Result<Standbys, Problem>) -> Check {
    let standbys = match standbys {
        Ok(standbys) => standbys,
        Err(problem) => return Check::fail(NAME, problem.to_string(), "see Postgres' log"),
    };
    let mut said = Vec::new();
    if kind.is_pooled {
        said.push("behind a pooler such as pgbouncer".to_owned());
    }
    let (what, advice) = what(is_read_only, &standbys);
    said.push(what);
    said.extend(kind.others);
    let found = said.join("; ");
    match advice {
        Some(advice) => Check::warn(NAME, found, advice),
        None => Check::ok(NAME, found),
    }
}

/// What it is, and what should be done about it.
fn what(is_read_only: bool, standbys: &Standbys) -> (String, Option<&'static str>) {
    if is_read_only {
        return ("read-only: a standby, or set so".to_owned(), None);
    }
    let waits =
        !standbys.names.is_empty() && !["off", "local"].contains(&standbys.commits.as_str());
    let count = |count: i64, kind: &str| match count {
        1 => format!("a primary with one {kind} standby"),
        _ => format!("a primary with {count} {kind} standbys"),
    };
    match (waits, standbys.all) {
        (false, 0) => ("a single server".to_owned(), None),
        (false, all) => (
            count(all, "asynchronous"),
            Some(
                "jobs acknowledged in the primary's last moments are lost with it: set synchronous_standby_names, or post such jobs again",
            ),
        ),
        (true, 0) => (
            "a primary without the synchronous standby that its commits wait for".to_owned(),
            Some("start the standby, or empty synchronous_standby_names"),
        ),
        (true, all) => (
            count(standbys.waited_for.max(1).min(all), "synchronous"),
            None,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(names: &str, commits: &str, all: i64, waited_for: i64) -> (String, bool) {
        let standbys = Standbys {
            names: names.to_owned(),
            commits: commits.to_owned(),
            all,
            waited_for,
        };
        let (what, advice) = what(false, &standbys);
        (what, advice.is_some())
    }

    #[test]
    fn a_primary_says_what_its_loss_would_cost() {
        assert_eq!(said("", "on", 0, 0), ("a single server".into(), false));
        let one = "a primary with one asynchronous standby";
        assert_eq!(said("", "on", 1, 0), (one.into(), true));
        // Nobody waits for the standby that is named.
        assert_eq!(said("*", "local", 1, 1), (one.into(), true));
        let two = "a primary with 2 synchronous standbys";
        assert_eq!(said("ANY 2 (*)", "on", 3, 2), (two.into(), false));
        // Who may not see their states sees that they are there.
        let hidden = "a primary with one synchronous standby";
        assert_eq!(said("*", "on", 2, 0), (hidden.into(), false));
        let alone = "a primary without the synchronous standby that its commits wait for";
        assert_eq!(said("*", "on", 0, 0), (alone.into(), true));
    }
}
