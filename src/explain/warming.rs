//! Owns what is known of a name's next warming: which schedules would write it, when, and why or why not.

use super::Sources;
use crate::{
    clock::rfc3339,
    store::SCHEDULE,
    warm::{
        due,
        schedule::{Budget, Keep, Schedule},
        source::SourceSpec,
    },
};
use serde::Serialize;
use utoipa::ToSchema;

/// One schedule of the name's namespace.
#[derive(Debug, Serialize, ToSchema)]
pub struct WarmingShown {
    pub schedule: String,
    /// When it runs next; null while it is disabled or paused, or never.
    pub next: Option<String>,
    /// Whether that run would write the name: `yes` (unless what is there outlives the run after it), `no`, or `unknown`.
    pub warms: &'static str,
    pub why: String,
}

/// What workers report of a name.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NameHeat {
    /// 1 for the hottest.
    pub rank: Option<usize>,
    /// Whether the input is known that it was made of.
    pub has_input: bool,
}

/// Every schedule of a namespace, the next one first. No heat is given where none could be read.
pub(super) fn all(
    sources: &Sources<'_>,
    namespace: &str,
    key: &str,
    heat: Option<&NameHeat>,
) -> Vec<WarmingShown> {
    let own = sources
        .schedules
        .iter()
        .filter(|schedule| schedule.namespace() == namespace);
    let mut all: Vec<WarmingShown> = own
        .map(|schedule| {
            let (warms, why) = judge(schedule, key, heat);
            let name = |name: &str| name.strip_prefix(SCHEDULE) == Some(&schedule.name);
            let paused = sources.paused.iter().any(|one| name(&one.name));
            let next = due::next(schedule, sources.now).filter(|_| schedule.enabled && !paused);
            let why = match next {
                None if paused => format!("it is paused; {why}"),
                None if !schedule.enabled => format!("it is off; {why}"),
                _ => why,
            };
            WarmingShown {
                schedule: schedule.name.clone(),
                next: next.map(rfc3339),
                warms,
                why,
            }
        })
        .collect();
    all.sort_by(|a, b| {
        let key = |one: &WarmingShown| (one.next.is_none(), one.next.clone());
        key(a).cmp(&key(b))
    });
    all
}

/// Whether a run would write the name, and why.
fn judge(schedule: &Schedule, key: &str, heat: Option<&NameHeat>) -> (&'static str, String) {
    match &schedule.keep {
        Keep::Scores => ("no", "it keeps scores only, and writes no names".into()),
        Keep::Rank { key: Some(own), .. } if own == key => ("yes", "it writes this ranking".into()),
        Keep::Rank { key: Some(own), .. } => ("no", format!("it writes the ranking `{own}` alone")),
        Keep::Rank { key: None, .. } => listed(schedule, key, Part::Group),
        Keep::Named => match &schedule.source {
            SourceSpec::Heat(spec) => hot(schedule, spec.top, heat),
            _ => listed(schedule, key, Part::Key),
        },
    }
}

/// What of a source's rows makes a name.
#[derive(Clone, Copy)]
enum Part {
    Key,
    Group,
}

fn listed(schedule: &Schedule, key: &str, part: Part) -> (&'static str, String) {
    let kind = match &schedule.source {
        SourceSpec::Static(list) => {
            let is_there = list.rows().any(|row| match part {
                Part::Key => row.key.as_deref() == Some(key),
                Part::Group => row.group.as_deref() == Some(key),
            });
            return if is_there {
                ("yes", "its list has it".into())
            } else {
                ("no", "its list doesn't have it".into())
            };
        }
        SourceSpec::File(_) => "file",
        SourceSpec::Sql(_) => "statement",
        SourceSpec::Redis(_) => "sorted set or stream",
        SourceSpec::Http(_) => "web server",
        SourceSpec::Changes(_) => {
            return (
                "unknown",
                "it follows a table, and writes what changes".into(),
            );
        }
        SourceSpec::Heat(_) => return ("no", "what is hot has no groups to rank".into()),
    };
    let why = format!("its {kind} is read when it runs: `kiln warm NAME --dry-run` shows the plan");
    ("unknown", why)
}

fn hot(schedule: &Schedule, top: usize, heat: Option<&NameHeat>) -> (&'static str, String) {
    let Some(heat) = heat else {
        return ("unknown", "how hot it is couldn't be read".into());
    };
    let Budget {
        inputs, renewals, ..
    } = schedule.budget;
    let bound = top.min(inputs.saturating_add(renewals));
    match heat.rank {
        None => ("no", "it isn't among the names that are read now".into()),
        Some(rank) if rank > bound => {
            let why =
                format!("it is number {rank} of the names that are read; the run takes {bound}");
            ("no", why)
        }
        Some(rank) if !heat.has_input => {
            let why = format!(
                "it is number {rank} of the names that are read, and no worker knows its input: a ranking, or written before they started"
            );
            ("no", why)
        }
        Some(rank) => {
            let why = format!(
                "it is number {rank} of the names that are read, and the run takes up to {bound}"
            );
            ("yes", why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::schedule::parse;
    use std::path::Path;

    fn schedule(more: &str) -> Schedule {
        let text = format!("name = \"s\"\ncron = \"*/10 * * * *\"\nmodel = \"m\"\n{more}");
        parse(Path::new("s.toml"), &text).expect("a schedule")
    }

    const LIST: &str =
        "[source]\nkind = \"static\"\ninputs = [{ key = \"k\", group = \"g\", text = \"t\" }]";
    const HEAT: &str = "[source]\nkind = \"heat\"\ntop = 5";

    fn verdict(more: &str, key: &str, heat: Option<NameHeat>) -> &'static str {
        judge(&schedule(more), key, heat.as_ref()).0
    }

    #[test]
    fn what_a_list_has_is_known_and_what_a_file_has_is_not() {
        let named = format!("keep = \"named\"\n{LIST}");
        assert_eq!(verdict(&named, "k", None), "yes");
        assert_eq!(verdict(&named, "other", None), "no");
        let scores = format!("keep = \"scores\"\n{LIST}");
        assert_eq!(verdict(&scores, "k", None), "no");
        let file = "keep = \"named\"\n[source]\nkind = \"file\"\npath = \"rows.jsonl\"";
        assert_eq!(verdict(file, "k", None), "unknown");
    }

    #[test]
    fn what_is_hot_is_taken_as_far_as_the_run_goes() {
        let named = format!("keep = \"named\"\n{HEAT}");
        let hot = |rank, has_input| Some(NameHeat { rank, has_input });
        assert_eq!(verdict(&named, "k", hot(Some(5), true)), "yes");
        assert_eq!(verdict(&named, "k", hot(Some(6), true)), "no");
        assert_eq!(verdict(&named, "k", hot(Some(1), false)), "no");
        assert_eq!(verdict(&named, "k", hot(None, true)), "no");
        assert_eq!(verdict(&named, "k", None), "unknown");
    }
}
