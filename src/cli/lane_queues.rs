//! Owns what commands ask the broker about the lanes: which lanes there may be, and what is in their queues.
//!
//! Refuses to load models: a model's folder is enough to know its lane.

use crate::{
    amqp::topology::{Seen, Topology, TopologyError, inspect},
    config::{self, Settings},
};
use kiln_contract::name::is_name;
use lapin::Connection;
use std::{collections::BTreeSet, fs, path::Path, time::Duration};

/// Queues of one lane that are looked at.
const MAX_QUEUES: usize = 64;

/// The queues of a lane, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LaneSeen {
    pub(super) queues: usize,
    pub(super) seen: Seen,
    /// Messages in those of them that nobody takes from.
    pub(super) untaken: u32,
}

impl LaneSeen {
    fn add(&mut self, seen: Seen) {
        self.queues += 1;
        self.seen = self.seen.and(seen);
        if seen.is_stranded() {
            self.untaken = self.untaken.saturating_add(seen.messages);
        }
    }

    /// What to do where jobs wait that nobody takes.
    pub(super) fn advice(self, lane: &str) -> Option<String> {
        match (self.untaken, self.seen.consumers) {
            (0, _) => None,
            (_, 0) => Some(format!(
                "start a worker that serves it: `kiln run --lanes {lane}`"
            )),
            _ => Some(
                "restart a worker that serves it: it takes from every queue that the lane has"
                    .into(),
            ),
        }
    }
}

/// The lanes that the settings name, and those of the models in the models folder.
pub(super) fn names(settings: &Settings) -> BTreeSet<String> {
    let shared = config::lanes_by_model(&settings.lanes);
    let models = models(&settings.models.dir).into_iter();
    let of_models = models.map(|model| shared.get(&model).cloned().unwrap_or(model));
    let named = settings.lanes.keys().chain(&settings.intake.lanes).cloned();
    named.chain(of_models).collect()
}

/// The models that have a folder; none where there is no models folder.
fn models(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_name(name)).collect()
}

/// What is in a lane's queues; nothing where it has none. Queues beyond those that the settings give it are looked at as well: they
/// were its own before the settings changed.
pub(super) async fn look(
    connection: &Connection,
    topology: &Topology,
    settings: &Settings,
    lane: &str,
    timeout: Duration,
) -> Result<Option<LaneSeen>, TopologyError> {
    let limits = settings.lanes.get(lane);
    let queues = limits.and_then(|own| own.queues);
    let queues = queues.unwrap_or(settings.lane.queues);
    let mut all = LaneSeen::default();
    for number in 0..MAX_QUEUES {
        let queue = topology.lane(lane, number);
        match inspect(connection, &queue, timeout).await? {
            Some(seen) => all.add(seen),
            None if number == 0 || number >= queues => break,
            None => {}
        }
    }
    Ok((all.queues > 0).then_some(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Lane;

    #[test]
    fn jobs_in_one_queue_that_nobody_takes_are_noticed_beside_others() {
        let mut lane = LaneSeen::default();
        for (messages, consumers) in [(5, 2), (0, 0), (3, 1)] {
            lane.add(Seen {
                messages,
                consumers,
            });
        }
        assert_eq!((lane.untaken, lane.advice("gpu")), (0, None));
        lane.add(Seen {
            messages: 7,
            consumers: 0,
        });
        assert_eq!((lane.queues, lane.seen.messages, lane.untaken), (4, 15, 7));
        let advice = lane.advice("gpu").unwrap_or_default();
        assert!(advice.contains("restart"), "{advice}");
    }

    #[test]
    fn a_lane_is_known_from_the_settings_or_from_a_models_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        for model in ["sentiment", "encoder-a", "encoder-b", "not a name"] {
            fs::create_dir(folder.path().join(model)).expect("a model's folder");
        }
        fs::write(folder.path().join("readme"), "").expect("a file");
        let mut settings = Settings::default();
        settings.models.dir = folder.path().to_owned();
        settings.intake.lanes = vec!["far".into()];
        let shared = Lane {
            models: vec!["encoder-a".into(), "encoder-b".into()],
            ..Lane::default()
        };
        settings.lanes.insert("encoders".into(), shared);
        let names: Vec<String> = names(&settings).into_iter().collect();
        assert_eq!(names, ["encoders", "far", "sentiment"]);
        settings.models.dir = folder.path().join("gone");
        assert_eq!(super::names(&settings).len(), 2);
    }
}
