//! Owns which tables hold the jobs: `jobs` itself, or `job_ids` with the partitions of `job_results`, of which `jobs` is a view.
//!
//! Promises that it is asked once, and again whenever a statement turns out to be made for other tables than there are: they may be changed while
//! workers run. A day that has no partition gets one when its first row comes, whatever the clocks say. Refuses to change anything else: that is `partitions`.

use super::{PostgresStore, StoreError};
use chrono::NaiveDate;
use sqlx::error::DatabaseError;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

/// Whether `jobs` is a view. Where there is no such table, the statements for it are right: their error says so.
const ASK: &str =
    "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass('jobs') AND relkind = 'v')";
const ADD_DAY: &str = "SELECT kiln_add_job_day($1)";

/// What a server says to a statement for other tables: a view takes no rows; there is no such table, column or key; a function is missing.
const OTHERS: [&str; 6] = ["55000", "42P01", "42703", "42P10", "42809", "42883"];
/// What it says of a row that no partition is for. It says it of a constraint as well, and names that.
const NO_PARTITION: &str = "23514";

/// Tries of one statement while the tables are changed.
pub(super) const TRIES: u32 = 3;

/// The tables that hold the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// One: `jobs`.
    Plain,
    /// `job_ids`, and a partition a day of `job_results`.
    Partitioned,
}

/// What is known of them in this process.
#[derive(Debug, Default)]
pub(super) struct KnownTables {
    /// 0: nothing.
    known: AtomicU8,
    /// How often a statement was for others.
    doubts: AtomicU64,
}

impl KnownTables {
    fn get(&self) -> Option<Tables> {
        match self.known.load(Ordering::Relaxed) {
            1 => Some(Tables::Plain),
            2 => Some(Tables::Partitioned),
            _ => None,
        }
    }

    fn set(&self, tables: Tables) {
        let known = match tables {
            Tables::Plain => 1,
            Tables::Partitioned => 2,
        };
        self.known.store(known, Ordering::Relaxed);
    }

    /// How often a statement was for others.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Relaxed)
    }

    /// They are to be asked for again.
    pub fn doubt(&self) {
        self.known.store(0, Ordering::Relaxed);
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether the server says that a statement is for other tables than there are.
pub(super) fn is_for_others(error: &(dyn DatabaseError + 'static)) -> bool {
    let Some(code) = error.code() else {
        return false;
    };
    OTHERS.contains(&code.as_ref()) || (code == NO_PARTITION && error.constraint().is_none())
}

/// What is asked or made of the tables may take too long or be refused, and says nothing of the rows that wait for it: none is given up for that.
fn of_no_row(error: StoreError) -> StoreError {
    match error {
        StoreError::TimedOut(reason)
        | StoreError::Objected(reason)
        | StoreError::Refused(reason) => StoreError::Unavailable(reason),
        other => other,
    }
}

impl PostgresStore {
    /// Which tables hold the jobs.
    pub(super) async fn tables(&self) -> Result<Tables, StoreError> {
        if let Some(known) = self.tables.get() {
            return Ok(known);
        }
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, bool>(ASK);
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        let tables = match self.end(lease, answer).await? {
            true => Tables::Partitioned,
            false => Tables::Plain,
        };
        self.tables.set(tables);
        Ok(tables)
    }

    /// Runs what is written for one kind of tables or the other; again where they turn out to be others, or where one of these days
    /// has no partition.
    pub(super) async fn for_tables<T, W: Future<Output = Result<T, StoreError>>>(
        &self,
        days: impl Fn() -> BTreeSet<NaiveDate>,
        run: impl Fn(Tables) -> W,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            let doubts = self.tables.doubts();
            let error = match run(self.tables().await.map_err(of_no_row)?).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if tries == TRIES || self.tables.doubts() == doubts {
                return Err(error);
            }
            tries += 1;
            if self.tables().await.map_err(of_no_row)? == Tables::Partitioned {
                self.add_days(days()).await.map_err(of_no_row)?;
            }
        }
    }

    /// Makes the partitions of these days, where they are missing.
    pub(super) async fn add_days(
        &self,
        days: impl IntoIterator<Item = NaiveDate>,
    ) -> Result<(), StoreError> {
        for day in days {
            self.execute(sqlx::query(ADD_DAY).bind(day)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_lasts_until_it_is_doubted() {
        let known = KnownTables::default();
        assert_eq!(known.get(), None);
        for tables in [Tables::Plain, Tables::Partitioned] {
            known.set(tables);
            assert_eq!(known.get(), Some(tables));
            known.doubt();
            assert_eq!(known.get(), None);
        }
    }

    #[test]
    fn no_row_is_given_up_because_its_table_is_late() {
        let late = of_no_row(StoreError::TimedOut("late".into()));
        assert!(matches!(late, StoreError::Unavailable(_)), "{late}");
    }
}
