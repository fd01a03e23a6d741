//! What `kiln doctor` asks of the shards of `kiln.jobs` and of the exchange in front of them.
//!
//! Promises to change nothing: what a broker ends a connection over is tried on another one.

use super::{
    check::Check,
    queue::{queue, shown},
};
use crate::{
    amqp::{
        connection::Broker,
        shards::{ExchangeError, Shards},
        topology::{Seen, Topology, TopologyError, inspect},
    },
    cli::post::close,
};
use futures_util::future::join_all;
use lapin::Connection;

const SHARDS: &str = "shards";

/// The exchange, the shards that the settings want, and those that are left over. Nothing where there are none and none are wanted.
pub(super) async fn check(
    broker: &Broker,
    connection: &Connection,
    topology: &Topology,
    token: &str,
) -> Vec<Check> {
    let (shards, timeout) = (&topology.shards, broker.timeout());
    let mut checks = Vec::new();
    if !shards.wanted().is_empty() {
        checks.push(exchange(broker, connection, shards, &topology.trial(token)).await);
        let specs = topology.shard_queues();
        let queues = specs
            .iter()
            .map(|spec| queue(connection, spec, topology, timeout));
        let mut missing = Vec::new();
        for (spec, check) in specs.iter().zip(join_all(queues).await) {
            match check {
                Some(check) => checks.push(check),
                None => missing.push(spec.name.as_str()),
            }
        }
        if !missing.is_empty() {
            let found = format!("missing: {}", missing.join(", "));
            let advice = "`kiln run` declares them when it starts";
            checks.push(Check::warn(SHARDS, found, advice));
        }
    }
    for number in shards.beyond() {
        let spec = topology.shard_queue(number);
        let name = &spec.name;
        match inspect(connection, name, timeout).await {
            Ok(Some(seen)) => match spec.declare(connection, timeout).await {
                Err(TopologyError::Mismatch { .. }) => checks.push(foreign(name)),
                Ok(()) | Err(TopologyError::Unavailable { .. }) => {
                    checks.push(left_over(name, seen, shards));
                }
            },
            // Where there never were any, the broker's log isn't filled.
            Ok(None) if number == 0 => match shards.has_exchange(connection, timeout).await {
                Ok(false) | Err(_) => break,
                Ok(true) => {}
            },
            Ok(None) => {}
            Err(error) => {
                let name = format!("queue {name}");
                checks.push(Check::fail(name, error.to_string(), "see the broker's log"));
            }
        }
    }
    checks
}

/// A shard that is there and isn't wanted.
fn left_over(queue: &str, seen: Seen, shards: &Shards) -> Check {
    let found = format!("left over from more shards: {}", shown(seen));
    let exchange = shards.exchange();
    let advice = if seen.is_stranded() {
        "restart a worker: it takes from every shard that is there".to_owned()
    } else if shards.wanted().is_empty() {
        format!(
            "workers take from it. Once nobody publishes to the exchange `{exchange}` and it is empty: `rabbitmqctl delete_queue {queue}`"
        )
    } else {
        format!(
            "workers take from it. Once every worker runs with these settings and it is empty: `rabbitmqctl delete_queue {queue}`"
        )
    };
    Check::warn(format!("queue {queue}"), found, advice)
}

/// A queue with a shard's name that isn't one.
fn foreign(queue: &str) -> Check {
    let found = "a shard's name, and other arguments than Kiln's";
    let advice = "workers leave it alone; delete it, or name the queue of jobs otherwise, before there are to be so many shards";
    Check::warn(format!("queue {queue}"), found, advice)
}

async fn exchange(broker: &Broker, connection: &Connection, shards: &Shards, trial: &str) -> Check {
    let name = format!("exchange {}", shards.exchange());
    let timeout = broker.timeout();
    let own = match broker.connect("doctor").await {
        Ok(own) => own,
        Err(error) => return Check::fail(name, error.to_string(), "see the broker's log"),
    };
    let found = match shards.has_exchange(connection, timeout).await {
        Ok(true) => shards.declare_hashing(&own, timeout).await.map(|()| true),
        Ok(false) => {
            let tried = Shards::try_type(&own, trial, timeout).await;
            tried.map(|()| false)
        }
        Err(error) => Err(error),
    };
    close(&own).await;
    exchange_check(name, found)
}

fn exchange_check(name: String, found: Result<bool, ExchangeError>) -> Check {
    match found {
        Ok(true) => Check::ok(name, "exists, of Kiln's type and arguments"),
        Ok(false) => Check::warn(name, "missing", "`kiln run` declares it when it starts"),
        Err(error @ ExchangeError::NoPlugin) => {
            let advice = "until then only jobs that are published to the queues themselves arrive";
            Check::fail(name, error.to_string(), advice)
        }
        Err(ExchangeError::Mismatch(detail)) => Check::fail(
            name,
            format!("another type or other arguments than Kiln's: {detail}"),
            "delete it, or name another one: queues.exchange",
        ),
        Err(ExchangeError::Unavailable(detail)) => Check::fail(
            name,
            detail,
            "the user needs the right to configure it: `rabbitmqctl set_permissions`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::doctor::check::Status,
        config::{Queues, Retry},
    };

    #[test]
    fn a_shard_that_is_left_over_says_what_becomes_of_it() {
        let of = |shards: usize, messages: u32, consumers: u32| {
            let queues = Queues {
                shards,
                ..Queues::default()
            };
            let topology = Topology::new(&queues, &Retry::default());
            let seen = Seen {
                messages,
                consumers,
            };
            left_over("kiln.jobs.5", seen, &topology.shards)
        };
        let stranded = of(1, 7, 0);
        assert!(stranded.advice.contains("restart a worker"));
        assert!(of(1, 7, 2).advice.contains("with these settings"));
        let unset = of(0, 0, 2);
        assert_eq!(unset.status, Status::Warn);
        assert!(unset.advice.contains("publishes to the exchange `kiln`"));
    }

    #[test]
    fn a_missing_plugin_is_named() {
        let check = exchange_check("exchange kiln".into(), Err(ExchangeError::NoPlugin));
        assert_eq!(check.status, Status::Fail);
        assert!(check.found.contains("rabbitmq-plugins enable"));
    }
}
