//! What a run will do: the entries that it posts, and what it leaves out.

use super::{held::MAX_BYTES, knowledge::Knowledge};
use crate::{
    store::PlanTotals,
    warm::{
        plan::{self, Candidate, LeftOver},
        schedule::Budget,
        source::Row,
    },
};

/// How many bad rows are reported; the rest are only counted.
const MAX_REPORTED: usize = 3;
const MEBIBYTE: f64 = 1_048_576.0;

/// One entry of the plan: an input, or a ranking with all its inputs.
#[derive(Debug, Clone)]
pub struct PlannedEntry {
    /// The key that readers use; none for an input without one.
    pub key: Option<String>,
    pub rows: Vec<Row>,
    pub candidate: Candidate,
    /// Remaining TTL of its entry in seconds, if it exists; below 0 it is served in its grace time.
    pub left: Option<f64>,
    /// Inputs whose scores are known from the table of scores alone.
    pub from_table: usize,
    /// Model time that it takes if no score is known any more, in seconds.
    pub full_seconds: f64,
    /// TTL of its entry, in seconds.
    pub ttl_seconds: u64,
    /// Which of its rows the model must compute.
    pub missing: Vec<usize>,
}

/// What a run will do.
#[derive(Debug, Default)]
pub struct RunPlan {
    /// In the order in which they are posted: those that are only renewed first.
    pub chosen: Vec<PlannedEntry>,
    /// Inputs whose entries outlive the next run.
    pub fresh: usize,
    /// Inputs that are to be asked for again from where they come from: nobody has said for too long what they are.
    pub too_old: usize,
    /// Inputs whose scores aren't kept: their model scores them sooner than they are looked up.
    pub unkept: usize,
    /// Inputs that were left out, by what they didn't fit into.
    pub left: LeftOver,
    pub bad: usize,
    /// The first bad rows.
    pub reported: Vec<String>,
    /// About what its entries fill of Redis, in bytes, those included that are fresh.
    pub kept_bytes: f64,
    /// The same if there were room for all that its budget allows.
    pub wanted_bytes: f64,
    /// How long its entries live at the longest, with their grace, in seconds.
    pub kept_seconds: f64,
    /// Whether its source has more than a plan can hold.
    pub is_cut_short: bool,
    /// Whether Redis says nothing of its memory.
    pub is_memory_unknown: bool,
    /// What bounds that, where Redis says so, in bytes; and why it is less than usual.
    pub max_bytes: Option<f64>,
    pub limited: Option<String>,
    /// What Redis has evicted since it started, where it says so.
    pub evicted_keys: Option<u64>,
    /// Whether calls have measured what inputs cost, here or elsewhere.
    pub costs_are_measured: bool,
}

impl RunPlan {
    /// Inputs to post.
    pub fn inputs(&self) -> usize {
        self.chosen.iter().map(|p| p.rows.len()).sum()
    }

    /// Those of them that the model computes.
    pub fn computes(&self) -> usize {
        self.chosen.iter().map(|p| p.candidate.computes).sum()
    }

    /// Those whose known scores are renewed.
    pub fn renewed(&self) -> usize {
        self.inputs().saturating_sub(self.computes())
    }

    /// Those of them that Redis has lost, and the table of scores holds.
    pub fn from_table(&self) -> usize {
        self.chosen.iter().map(|p| p.from_table).sum()
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

    /// What is wrong with its source's rows, and what it leaves out for want of memory, for people.
    pub fn message(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.bad > 0 {
            let more = self.bad.saturating_sub(self.reported.len());
            let more = if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            };
            parts.push(format!("bad rows: {}{more}", self.reported.join("; ")));
        }
        if self.too_old > 0 {
            parts.push(format!(
                "{} inputs are left to expire: who knows what they are hasn't said so for as long as `max_age_seconds` allows",
                self.too_old
            ));
        }
        if self.unkept > 0 {
            parts.push(format!(
                "{} inputs are left out: their scores aren't kept, since they take less time than a look-up (`cache.mode`)",
                self.unkept
            ));
        }
        if self.left.memory > 0 {
            let mebibytes = self.max_bytes.unwrap_or_default() / MEBIBYTE;
            let limited = self.limited.as_deref().unwrap_or_default();
            parts.push(format!(
                "{} inputs find no memory: its entries may fill {mebibytes:.1} MiB of Redis by `warm.max_redis_share`{limited}",
                self.left.memory
            ));
        }
        if self.is_cut_short {
            let bytes = MAX_BYTES >> 20;
            parts.push(format!(
                "its source is read as far as a plan holds its rows, {bytes} MiB"
            ));
        }
        if self.is_memory_unknown {
            let unknown =
                "Redis doesn't say what memory it has: nothing bounds what its entries fill of it";
            parts.push(unknown.to_owned());
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// What its row says of it; `pieces` is how many jobs it is cut into.
    pub fn totals(&self, budget: &Budget, pieces: usize) -> PlanTotals {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let left = self.left.inputs();
        PlanTotals {
            planned: count(self.inputs()),
            skipped: count(self.fresh + self.too_old + self.unkept + left),
            bad: count(self.bad),
            pieces: count(pieces),
            model_seconds: self.model_seconds(),
            saved_seconds: self.saved_seconds(),
            message: self.message(),
            computes: count(self.computes()),
            left_over: count(left),
            budget_inputs: count(budget.inputs),
            budget_seconds: budget.model_seconds,
            kept_bytes: self.kept_bytes as i64,
            wanted_bytes: self.wanted_bytes as i64,
            kept_seconds: self.kept_seconds,
            evicted_keys: self.evicted_keys.and_then(|keys| i64::try_from(keys).ok()),
        }
    }

    /// Counts an invalid row.
    pub(super) fn leave_out(&mut self, problem: String) {
        self.bad += 1;
        if self.reported.len() < MAX_REPORTED {
            self.reported.push(problem);
        }
    }

    /// Chooses the most worthwhile candidates within the budget and the memory.
    pub(super) fn choose(
        &mut self,
        candidates: Vec<PlannedEntry>,
        budget: &Budget,
        knowledge: &Knowledge,
        share: f64,
    ) {
        let room = knowledge.room(share, self.kept_bytes);
        self.is_memory_unknown = knowledge.is_unsaid;
        self.max_bytes = knowledge.memory.map(|_| knowledge.room(share, 0.0).keeps);
        self.limited = match knowledge.evicted {
            _ if room.adds < room.keeps => Some(format!(
                ", and Redis, which makes no room by itself, has {:.1} MiB left",
                room.adds / MEBIBYTE
            )),
            0 => None,
            keys => Some(format!(
                ", half of what they may fill otherwise, since Redis has evicted {keys} keys since the last run"
            )),
        };
        self.evicted_keys = knowledge.evicted_keys;
        let weights: Vec<Candidate> = candidates.iter().map(|p| p.candidate).collect();
        let choice = plan::choose(&weights, budget, room);
        let mut slots: Vec<Option<PlannedEntry>> = candidates.into_iter().map(Some).collect();
        self.chosen = choice
            .chosen
            .into_iter()
            .filter_map(|index| slots.get_mut(index).and_then(Option::take))
            .collect();
        bring_lives_together(&mut self.chosen);
        self.left.add(choice.left);
        let chosen = self.chosen.iter().map(|p| p.candidate.bytes);
        self.kept_bytes += chosen.sum::<f64>();
    }
}

/// Entries within which those of one life come together: a job has one life for all that it has.
const SORTED: usize = 1_024;

/// Brings entries of one life together. What is computed stays near its place: the last of it may be left over.
fn bring_lives_together(chosen: &mut [PlannedEntry]) {
    let renewed = chosen
        .iter()
        .take_while(|one| one.candidate.computes == 0)
        .count();
    let (renewed, computed) = chosen.split_at_mut(renewed);
    let life = |one: &PlannedEntry| std::cmp::Reverse(one.ttl_seconds);
    renewed.sort_by_key(life);
    for some in computed.chunks_mut(SORTED) {
        some.sort_by_key(life);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::plan::RedisMemory;

    fn candidates(count: usize) -> Vec<PlannedEntry> {
        let candidate = Candidate {
            inputs: 1,
            ttl: 60.0,
            bytes: MEBIBYTE,
            ..Candidate::default()
        };
        let one = PlannedEntry {
            key: None,
            rows: Vec::new(),
            candidate,
            left: Some(1.0),
            from_table: 0,
            full_seconds: 0.0,
            ttl_seconds: 60,
            missing: Vec::new(),
        };
        vec![one; count]
    }

    #[test]
    fn what_finds_no_memory_is_said_with_the_reason() {
        let knowledge = |evicted| Knowledge {
            memory: Some(RedisMemory {
                used: 0.0,
                max: 20.0 * MEBIBYTE,
                makes_room: true,
                evicts: evicted > 0,
            }),
            evicted,
            ..Knowledge::default()
        };
        let plan = |evicted| {
            let mut plan = RunPlan {
                kept_bytes: 2.0 * MEBIBYTE,
                ..RunPlan::default()
            };
            let (all, budget) = (candidates(10), Budget::default());
            plan.choose(all, &budget, &knowledge(evicted), 0.5);
            plan
        };
        let usual = plan(0);
        assert_eq!((usual.chosen.len(), usual.left.memory), (8, 2));
        assert_eq!(usual.kept_bytes, 10.0 * MEBIBYTE);
        let message = usual.message().expect("a message");
        assert!(message.starts_with("2 inputs find no memory"), "{message}");
        assert!(
            message.ends_with("10.0 MiB of Redis by `warm.max_redis_share`"),
            "{message}"
        );
        let evicting = plan(7);
        assert_eq!((evicting.chosen.len(), evicting.left.memory), (3, 7));
        let message = evicting.message().expect("a message");
        assert!(
            message.contains("5.0 MiB") && message.contains("evicted 7 keys"),
            "{message}"
        );
        let mut unbounded = RunPlan::default();
        unbounded.choose(
            candidates(10),
            &Budget::default(),
            &Knowledge::default(),
            0.5,
        );
        assert_eq!((unbounded.chosen.len(), unbounded.message()), (10, None));
    }

    #[test]
    fn what_is_left_to_expire_and_what_is_not_kept_is_said() {
        let plan = RunPlan {
            too_old: 3,
            unkept: 4,
            ..RunPlan::default()
        };
        let message = plan.message().expect("a message");
        let [old, unkept] = message.split("; ").collect::<Vec<_>>()[..] else {
            panic!("two parts: {message}");
        };
        assert!(old.starts_with("3 inputs") && old.contains("`max_age_seconds`"));
        assert!(unkept.starts_with("4 inputs") && unkept.contains("`cache.mode`"));
        assert_eq!(plan.totals(&Budget::default(), 0).skipped, 7);
    }
}
