//! Groups a source's rows into entries: single inputs, or rankings.
//!
//! Refuses rows without the key or the group that the schedule's entries need, and more rows of a ranking than a job may have.

use super::held::{MAX_BYTES, bytes_of};
use crate::warm::{schedule::Keep, source::Row};
use kiln_contract::job;
use std::collections::{HashMap, hash_map};

/// The rows of one entry.
#[derive(Debug)]
pub(super) struct Group {
    pub key: Option<String>,
    pub rows: Vec<Row>,
    /// How long it may live at the longest, in seconds, if that is bounded.
    pub life: Option<u64>,
}

/// Groups rows as they come.
pub(super) struct Grouping<'a> {
    keep: &'a Keep,
    singles: Vec<Group>,
    rankings: HashMap<String, Vec<Row>>,
    /// Names of the rankings, in order of appearance.
    order: Vec<String>,
    /// Bytes of the rankings' rows.
    bytes: usize,
}

impl<'a> Grouping<'a> {
    /// No rows yet.
    pub fn new(keep: &'a Keep) -> Self {
        Self {
            keep,
            singles: Vec::new(),
            rankings: HashMap::new(),
            order: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds a row. An error says why it is refused.
    pub fn push(&mut self, row: Row) -> Result<(), String> {
        self.push_for(row, None)
    }

    /// Adds a row whose entry may live for so many seconds at the longest.
    pub fn push_for(&mut self, row: Row, life: Option<u64>) -> Result<(), String> {
        match self.keep {
            Keep::Rank { key, .. } => return self.rank(row, key.as_deref()),
            Keep::Named if row.key.is_none() => {
                return Err("a row without a key, which a named entry needs".into());
            }
            Keep::Named | Keep::Scores => {}
        }
        self.singles.push(Group {
            key: row.key.clone(),
            rows: vec![row],
            life,
        });
        Ok(())
    }

    fn rank(&mut self, row: Row, key: Option<&str>) -> Result<(), String> {
        let Some(name) = row.group.clone().or_else(|| key.map(str::to_owned)) else {
            return Err("a row without a group, and no `rank.key`".into());
        };
        // A group's name is a value of a row: what it is isn't said.
        if row.key.is_none() {
            return Err("a row of a group without a key".into());
        }
        let bytes = self.bytes + bytes_of(&row);
        if bytes > MAX_BYTES {
            let max = MAX_BYTES >> 20;
            return Err(format!(
                "a row of rankings that have more than {max} MiB together"
            ));
        }
        let rows = match self.rankings.entry(name) {
            hash_map::Entry::Occupied(entry) if entry.get().len() >= job::MAX_INPUTS => {
                return Err(format!("more than {} rows of one group", job::MAX_INPUTS));
            }
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => {
                self.order.push(entry.key().clone());
                entry.insert(Vec::new())
            }
        };
        rows.push(row);
        self.bytes = bytes;
        Ok(())
    }

    /// The single inputs so far, once there are `enough` of them.
    pub fn take(&mut self, enough: usize) -> Option<Vec<Group>> {
        (self.singles.len() >= enough).then(|| std::mem::take(&mut self.singles))
    }

    /// The rest at the source's end: single inputs, then rankings, in order of appearance.
    pub fn finish(self) -> impl Iterator<Item = Group> {
        let mut rankings = self.rankings;
        let ranked = self.order.into_iter().filter_map(move |name| {
            let rows = rankings.remove(&name);
            debug_assert!(rows.is_some(), "each name in the order has its rows");
            rows.map(|rows| Group {
                key: Some(name),
                rows,
                life: None,
            })
        });
        self.singles.into_iter().chain(ranked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::source::RowContent;

    fn row(key: Option<&str>, group: Option<&str>) -> Row {
        Row {
            key: key.map(str::to_owned),
            group: group.map(str::to_owned),
            content: RowContent::Features(vec![1.0]),
            rate: None,
        }
    }

    fn keys(groups: impl IntoIterator<Item = Group>) -> Vec<(Option<String>, usize)> {
        let each = groups
            .into_iter()
            .map(|group| (group.key, group.rows.len()));
        each.collect()
    }

    #[test]
    fn inputs_come_by_themselves_in_their_order() {
        let mut grouping = Grouping::new(&Keep::Named);
        assert!(grouping.push(row(None, None)).is_err());
        for key in ["b", "a", "c"] {
            grouping.push(row(Some(key), Some("g"))).expect("a row");
        }
        assert!(grouping.take(4).is_none());
        let taken = keys(grouping.take(3).expect("three"));
        let one = |key: &str| (Some(key.to_owned()), 1);
        assert_eq!(taken, [one("b"), one("a"), one("c")]);
        grouping.push(row(Some("d"), None)).expect("a row");
        assert_eq!(keys(grouping.finish()), [one("d")]);
        let mut scores = Grouping::new(&Keep::Scores);
        scores.push(row(None, None)).expect("no key is needed");
        assert_eq!(keys(scores.finish()), [(None, 1)]);
    }

    #[test]
    fn a_ranking_gets_the_rows_of_its_group_as_far_as_a_job_takes_them() {
        let keep = |key: Option<&str>| Keep::Rank {
            key: key.map(str::to_owned),
            top: None,
        };
        let (bare, named) = (keep(None), keep(Some("rest")));
        let mut grouping = Grouping::new(&bare);
        let refused = |result: Result<(), String>| result.expect_err("refused");
        assert!(refused(grouping.push(row(Some("a"), None))).contains("`rank.key`"));
        assert!(refused(grouping.push(row(None, Some("g")))).contains("without a key"));
        for _ in 0..job::MAX_INPUTS {
            grouping.push(row(Some("a"), Some("g"))).expect("a row");
        }
        let over = refused(grouping.push(row(Some("a"), Some("g"))));
        assert_eq!(
            over,
            format!("more than {} rows of one group", job::MAX_INPUTS)
        );
        grouping.push(row(Some("a"), Some("f"))).expect("a row");
        let (g, f) = (Some("g".to_owned()), Some("f".to_owned()));
        assert_eq!(keys(grouping.finish()), [(g, job::MAX_INPUTS), (f, 1)]);
        let mut grouping = Grouping::new(&named);
        grouping.push(row(Some("a"), None)).expect("a row");
        assert_eq!(keys(grouping.finish()), [(Some("rest".to_owned()), 1)]);
    }
}
