//! What `kiln doctor` says of one queue: whether it has Kiln's arguments, and what is in it.

use super::check::Check;
use crate::amqp::topology::{QueueSpec, Seen, Topology, TopologyError, inspect};
use lapin::Connection;
use std::time::Duration;

/// Whether a queue has Kiln's arguments; `None` where there is none of its name, and that stays so.
pub(super) async fn queue(
    connection: &Connection,
    spec: &QueueSpec,
    topology: &Topology,
    timeout: Duration,
) -> Option<Check> {
    let name = format!("queue {}", spec.name);
    let seen = match inspect(connection, &spec.name, timeout).await {
        Ok(seen) => seen?,
        Err(error) if spec.name == topology.hits => {
            return Some(Check::warn(name, error.to_string(), replace_hints(spec)));
        }
        Err(error) => {
            let found = error.to_string();
            return Some(Check::fail(name, found, "see the broker's log"));
        }
    };
    // To declare what exists compares the arguments and changes nothing.
    Some(match spec.declare(connection, timeout).await {
        Ok(()) if seen.consumers == 0 && is_shard(spec, topology) => {
            let advice = "start a worker; where one runs, the majority of its nodes may be away: `rabbitmqctl list_queues name leader online`";
            Check::warn(name, shown(seen), advice)
        }
        Ok(()) => {
            let mut check = Check::ok(name, shown(seen));
            if spec.name == topology.dead && seen.messages > 0 {
                check.advice = "see `kiln dead list`".into();
            }
            check
        }
        Err(TopologyError::Mismatch { detail, .. }) if spec.name == topology.hits => Check::warn(
            name,
            format!("no quorum queue as Kiln declares it: {detail}"),
            replace_hints(spec),
        ),
        Err(TopologyError::Mismatch { detail, .. }) => Check::fail(
            name,
            format!("other arguments than Kiln's: {detail}"),
            "delete it once it is empty, or name another one under [queues]",
        ),
        Err(TopologyError::Unavailable { detail, .. }) => Check::fail(
            name,
            detail,
            "the user needs the right to configure it: `rabbitmqctl set_permissions`",
        ),
    })
}

/// Whether it is a shard that the settings want. Of a queue that has no leader the broker says that nothing is in it and nobody takes from it.
fn is_shard(spec: &QueueSpec, topology: &Topology) -> bool {
    let shards = &topology.shards;
    let mut wanted = shards.wanted();
    wanted.any(|number| shards.queue(number) == spec.name)
}

/// How the queue of hints becomes one that outlives its node.
fn replace_hints(spec: &QueueSpec) -> String {
    format!(
        "jobs go on without it, and it is lost with its node: once no older release runs, `rabbitmqctl delete_queue {}`; \
         workers declare it anew within a minute, whose hints are lost",
        spec.name
    )
}

/// What is in a queue.
pub(super) fn shown(seen: Seen) -> String {
    let counted = |number: u32, thing: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {thing}{plural}")
    };
    format!(
        "{}, {}",
        counted(seen.messages, "message"),
        counted(seen.consumers, "consumer")
    )
}
