//! What a run will do: the entries that it posts, and what it leaves out.

use crate::warm::{
    plan::{self, Candidate, MemoryRoom},
    schedule::Budget,
    source::Row,
};

/// How many bad rows are reported; the rest are only counted.
const MAX_REPORTED: usize = 3;

/// One entry of the plan: an input, or a ranking with all its inputs.
#[derive(Debug, Clone)]
pub struct PlannedEntry {
    /// The key that readers use; none for an input without one.
    pub key: Option<String>,
    pub rows: Vec<Row>,
    pub candidate: Candidate,
    /// Remaining TTL of its entry in seconds, if it exists; below 0 it is served in its grace time.
    pub left: Option<f64>,
}

/// What a run will do.
#[derive(Debug, Default)]
pub struct RunPlan {
    /// In the order in which they are posted.
    pub chosen: Vec<PlannedEntry>,
    /// Inputs whose entries outlive the next run.
    pub fresh: usize,
    /// Inputs beyond the budget.
    pub over_budget: usize,
    pub bad: usize,
    /// The first bad rows.
    pub reported: Vec<String>,
}

impl RunPlan {
    /// Inputs to post.
    pub fn inputs(&self) -> usize {
        self.chosen.iter().map(|p| p.rows.len()).sum()
    }

    /// Expected model time, in seconds.
    pub fn model_seconds(&self) -> f64 {
        self.chosen
            .iter()
            .fold(0.0, |all, p| all + p.candidate.cost)
    }

    /// Expected saving of waiting time, in seconds, if any rate is known.
    pub fn saved_seconds(&self) -> Option<f64> {
        let mut known = self
            .chosen
            .iter()
            .filter_map(|p| p.candidate.saves())
            .peekable();
        known.peek()?;
        Some(known.sum())
    }

    /// What is wrong with its source's rows, for people.
    pub fn message(&self) -> Option<String> {
        if self.bad == 0 {
            return None;
        }
        let more = self.bad.saturating_sub(self.reported.len());
        let more = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        Some(format!("bad rows: {}{more}", self.reported.join("; ")))
    }

    /// Counts an invalid row.
    pub(super) fn leave_out(&mut self, problem: String) {
        self.bad += 1;
        if self.reported.len() < MAX_REPORTED {
            self.reported.push(problem);
        }
    }

    /// Chooses the most worthwhile candidates within the budget.
    pub(super) fn choose(&mut self, candidates: Vec<PlannedEntry>, budget: &Budget) {
        let weights: Vec<Candidate> = candidates.iter().map(|p| p.candidate).collect();
        let choice = plan::choose(&weights, budget, MemoryRoom::UNKNOWN);
        let mut slots: Vec<Option<PlannedEntry>> = candidates.into_iter().map(Some).collect();
        self.chosen = choice
            .chosen
            .into_iter()
            .filter_map(|index| slots.get_mut(index).and_then(Option::take))
            .collect();
        self.over_budget = choice.left.inputs();
    }
}
