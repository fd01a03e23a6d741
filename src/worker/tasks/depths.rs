//! Owns asking the broker how many messages wait in each queue, and who takes those of the lanes.
//!
//! Promises to ask about a bounded number of queues at a time, however many lanes there are; and that a queue which somebody deletes is there
//! again soon, whoever needs it.

use crate::{
    amqp::{
        connection::Broker,
        lane_depths::LaneDepths,
        topology::{self, QueueSpec, Seen, Topology},
    },
    health::{Health, Part},
    pipeline::{Engine, LaneFigures},
    telemetry::metrics::{Metrics, QueueKind},
    worker::{optional::Missing, switch::Switch},
};
use lapin::{Channel, Connection};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often queue depths are asked.
const DEPTHS: Duration = Duration::from_secs(5);
/// Queues of lanes that are asked about each time; further ones the next time.
const MAX_LANE_QUEUES: usize = 64;

/// Looks in a row at a shard from which nobody takes before that is said.
const UNTAKEN_LOOKS: u32 = 2;
const UNTAKEN: &str = "the broker doesn't answer for it, or counts no consumer: the majority of its nodes may be away";

/// What asks about the queues.
#[derive(Clone)]
pub(in crate::worker) struct DepthWatch {
    pub broker: Broker,
    pub topology: Arc<Topology>,
    pub engine: Arc<Engine>,
    pub lanes: LaneDepths,
    pub metrics: Metrics,
    pub health: Health,
    pub pause: Switch,
}

/// What was seen of the shards, by number.
struct Untaken {
    looks: BTreeMap<usize, Looks>,
    missing: Missing,
}

/// What was seen of one shard.
#[derive(Default)]
struct Looks {
    /// Looks in a row that saw that nobody takes from it.
    untaken: u32,
    /// Messages that waited when it was last known.
    messages: u32,
}

impl Looks {
    /// What waits there. Of a queue that has no leader the broker says that nothing is in it and nobody takes from it, while this worker
    /// does: what waited before is still there.
    fn note(&mut self, seen: Seen, takes: bool) -> u32 {
        if seen != Seen::default() || !takes {
            self.messages = seen.messages;
        }
        self.untaken = if seen.consumers == 0 && takes {
            self.untaken.saturating_add(1)
        } else {
            0
        };
        self.messages
    }
}

/// What the log and health call the leader of a queue.
fn leader_of(queue: &str) -> String {
    format!("leader of {queue}")
}

/// A connection with the channel that is asked on.
struct Asked {
    connection: Connection,
    channel: Channel,
}

/// The broker doesn't answer, or a queue isn't there: asked anew the next time.
struct Lost;

pub(in crate::worker) async fn watch(watch: DepthWatch) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(DEPTHS);
    let mut asked: Option<Asked> = None;
    let mut first_lane = 0;
    let mut untaken = Untaken {
        looks: BTreeMap::new(),
        missing: Missing::of(&watch.health),
    };
    loop {
        tick.tick().await;
        // Before the first session the queues may not be declared.
        if !watch.health.is_up(Part::Broker) {
            asked = None;
            continue;
        }
        let known = match asked.take() {
            Some(known) => Some(known),
            None => watch.open().await,
        };
        let Some(known) = known else { continue };
        let round = watch.round(known, &mut first_lane, &mut untaken);
        asked = round.await.ok();
    }
}

impl DepthWatch {
    async fn open(&self) -> Option<Asked> {
        let connection = self.broker.connect("depths").await.ok()?;
        let channel = self.channel(&connection).await.ok()?;
        Some(Asked {
            connection,
            channel,
        })
    }

    async fn channel(&self, connection: &Connection) -> Result<Channel, Lost> {
        let open = tokio::time::timeout(self.broker.timeout(), connection.create_channel());
        open.await.map_err(|_| Lost)?.map_err(|_| Lost)
    }

    /// Asks about Kiln's own queues, and about those of some lanes.
    async fn round(
        &self,
        mut asked: Asked,
        first_lane: &mut usize,
        untaken: &mut Untaken,
    ) -> Result<Asked, Lost> {
        let (counted, others): (Vec<_>, Vec<_>) = self
            .topology
            .queues()
            .into_iter()
            .map(|queue| (self.kind(&queue.name), queue))
            .partition(|(kind, _)| kind.is_some());
        for (kind, queue) in counted {
            let is_jobs = queue.name == self.topology.jobs;
            let mut seen = match self.look(&asked.channel, &queue.name).await? {
                Some(seen) => seen,
                // Whoever takes from it declares it, with a session of its own.
                None if is_jobs && !self.pause.is_on() => return Err(Lost),
                None => {
                    self.declare(&asked.connection, &queue).await;
                    // The broker closed it with its answer.
                    asked.channel = self.channel(&asked.connection).await?;
                    Seen::default()
                }
            };
            if is_jobs {
                seen = seen.and(self.shards(&asked, untaken).await?);
            }
            if let Some(kind) = kind {
                self.metrics.queue(kind, seen.messages);
            }
        }
        let mut lanes = self.engine.lanes();
        lanes.retain(|lane| lane.queues > 0);
        let (some, next) = turn(&lanes, *first_lane);
        *first_lane = next;
        for lane in some {
            let mut all = Seen::default();
            for number in 0..lane.queues {
                let queue = self.topology.lane(&lane.name, number);
                match self.look(&asked.channel, &queue).await? {
                    Some(seen) => all = all.and(seen),
                    None => asked.channel = self.channel(&asked.connection).await?,
                }
            }
            self.lanes.set(&lane.name, all);
            let (messages, consumers) = (all.messages, all.consumers);
            self.metrics.lane_queue(&lane.name, messages, consumers);
        }
        for (_, queue) in others {
            let timeout = self.broker.timeout();
            let there = topology::inspect(&asked.connection, &queue.name, timeout).await;
            if matches!(there, Ok(None)) {
                self.declare(&asked.connection, &queue).await;
            }
        }
        Ok(asked)
    }

    /// Declares a queue that was deleted: until then each message that must arrive there waits, with its job.
    async fn declare(&self, connection: &Connection, queue: &QueueSpec) {
        let declared = queue.declare(connection, self.broker.timeout()).await;
        if declared.is_ok() {
            tracing::info!(
                queue = queue.name,
                "a queue was deleted, and is declared again"
            );
        }
    }

    /// What a queue's depth is called, of those that have one.
    fn kind(&self, queue: &str) -> Option<QueueKind> {
        let topology = &self.topology;
        [
            (&topology.jobs, QueueKind::Jobs),
            (&topology.warm, QueueKind::Warm),
            (&topology.dead, QueueKind::Dead),
            (&topology.expired, QueueKind::Expired),
        ]
        .into_iter()
        .find_map(|(name, kind)| (name == queue).then_some(kind))
    }

    /// Asks about the shards that are there; gives what they come to.
    async fn shards(&self, asked: &Asked, untaken: &mut Untaken) -> Result<Seen, Lost> {
        let shards = &self.topology.shards;
        let numbers = shards.found().borrow().clone();
        let Untaken { looks, missing } = untaken;
        looks.retain(|number, _| {
            let is_there = numbers.contains(number);
            if !is_there {
                self.metrics.shard(*number, 0);
                missing.found(&leader_of(&shards.queue(*number)));
            }
            is_there
        });
        let mut all = Seen::default();
        let seen =
            topology::inspect_all(&asked.connection, shards, &numbers, self.broker.timeout());
        let seen = seen.await;
        if !asked.connection.status().connected() {
            return Err(Lost);
        }
        for (number, seen) in numbers.into_iter().zip(seen) {
            let mut seen = match seen {
                Ok(Some(seen)) => seen,
                Ok(None) => continue,
                Err(_) => Seen::default(),
            };
            let looks = looks.entry(number).or_default();
            seen.messages = looks.note(seen, !self.pause.is_on());
            all = all.and(seen);
            self.metrics.shard(number, seen.messages);
            let leader = leader_of(&shards.queue(number));
            match looks.untaken {
                0 => missing.found(&leader),
                UNTAKEN_LOOKS.. => missing.note(&leader, UNTAKEN),
                _ => {}
            }
        }
        Ok(all)
    }

    async fn look(&self, channel: &Channel, queue: &str) -> Result<Option<Seen>, Lost> {
        let look = tokio::time::timeout(self.broker.timeout(), topology::look(channel, queue));
        look.await.map_err(|_| Lost)?.map_err(|_| Lost)
    }
}

/// The lanes whose turn it is, and where the next turn begins: as many as have so many queues together, and one in any case.
fn turn(lanes: &[LaneFigures], first: usize) -> (Vec<&LaneFigures>, usize) {
    let mut queues = 0;
    let from = if first < lanes.len() { first } else { 0 };
    let circle = lanes.iter().cycle().skip(from).take(lanes.len());
    let some: Vec<&LaneFigures> = circle
        .take_while(|lane| {
            let is_first = queues == 0;
            queues += lane.queues;
            is_first || queues <= MAX_LANE_QUEUES
        })
        .collect();
    let next = (from + some.len()) % lanes.len().max(1);
    (some, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_a_shard_without_a_leader_is_not_forgotten() {
        let seen = |messages, consumers| Seen {
            messages,
            consumers,
        };
        let mut looks = Looks::default();
        let each = [(7, 1), (0, 0), (0, 0), (0, 1)];
        let each = each.map(|(messages, consumers)| {
            let waits = looks.note(seen(messages, consumers), true);
            (waits, looks.untaken)
        });
        assert_eq!(each, [(7, 0), (7, 1), (7, 2), (0, 0)]);
        looks.note(seen(7, 1), true);
        assert_eq!(looks.note(seen(0, 0), false), 0, "a worker that is paused");
    }

    fn lanes(queues: &[usize]) -> Vec<LaneFigures> {
        let numbered = queues.iter().zip(0..);
        let lane = |(queues, number): (&usize, usize)| LaneFigures {
            name: number.to_string(),
            queues: *queues,
            ..LaneFigures::default()
        };
        numbered.map(lane).collect()
    }

    fn asked(lanes: &[LaneFigures], first: usize) -> (Vec<&str>, usize) {
        let (some, next) = turn(lanes, first);
        (some.iter().map(|lane| lane.name.as_str()).collect(), next)
    }

    #[test]
    fn a_few_lanes_are_asked_about_each_time() {
        assert_eq!(asked(&[], 3), (vec![], 0));
        let few = lanes(&[4, 4, 4]);
        assert_eq!(asked(&few, 0), (vec!["0", "1", "2"], 0));
        assert_eq!(asked(&few, 7), (vec!["0", "1", "2"], 0));
    }

    #[test]
    fn many_lanes_take_turns_and_a_large_one_is_not_left_out() {
        let many = lanes(&[32, 32, 100, 4]);
        assert_eq!(asked(&many, 0), (vec!["0", "1"], 2));
        assert_eq!(asked(&many, 2), (vec!["2"], 3));
        assert_eq!(asked(&many, 3), (vec!["3", "0"], 1));
    }
}
