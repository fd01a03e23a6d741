//! What `kiln doctor` asks of RabbitMQ: version, rights, and each of Kiln's queues.
//!
//! Promises to create no queue that stays: it tries on one that goes with its connection.

use super::{
    check::{Check, Status},
    queue::{queue, shown},
    shards,
};
use crate::{
    amqp::{
        confirm::{ConfirmChannel, PublishOutcome},
        connection::{Broker, ConnectError, NoAnswer},
        message::Message,
        topology::Topology,
    },
    cli::{
        lane_queues::{self, LaneSeen},
        post::close,
    },
    config::Settings,
};
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Connection,
    options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use std::time::Duration;

const NAME: &str = "rabbitmq";
const CLUSTER: &str = "rabbitmq cluster";
const RIGHTS: &str = "rabbitmq rights";
const QUEUES: &str = "queues";
/// The oldest version that has what Kiln's queues need: at-least-once dead-lettering.
const OLDEST: [u64; 2] = [3, 10];

/// Reachable, version, rights, and each of Kiln's queues.
pub(super) async fn check(settings: &Settings, token: &str) -> Vec<Check> {
    let Some(url) = &settings.amqp.url else {
        return vec![Check::off(
            NAME,
            "not configured",
            "`kiln run` needs KILN_AMQP_URL",
        )];
    };
    let broker = Broker::new(url, &settings.amqp);
    let (mut checks, connected) = addresses(&broker).await;
    let Some((broker, connection)) = connected else {
        return checks;
    };
    let topology = Topology::new(&settings.queues, &settings.retry);
    checks.push(rights(&broker, &connection, &topology.trial(token)).await);
    let specs = topology.queues();
    let queues = specs
        .iter()
        .map(|spec| queue(&connection, spec, &topology, broker.timeout()));
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (spec, check) in specs.iter().zip(join_all(queues).await) {
        match check {
            Some(check) => there.push(check),
            None => missing.push(spec.name.as_str()),
        }
    }
    if !missing.is_empty() {
        let advice = "`kiln run` declares them when it starts";
        let found = format!("missing: {}", missing.join(", "));
        checks.push(Check::warn(QUEUES, found, advice));
    }
    checks.extend(there);
    checks.extend(shards::check(&broker, &connection, &topology, token).await);
    checks.extend(lanes(&connection, &topology, settings, broker.timeout()).await);
    close(&connection).await;
    checks
}

/// What becomes of each address, and a connection to one that answers.
async fn addresses(broker: &Broker) -> (Vec<Check>, Option<(Broker, Connection)>) {
    let each = broker.each();
    let looks = each.into_iter().map(|one| async move {
        let (connected, greeting) = tokio::join!(one.connect("doctor"), one.greeting());
        (one, connected, greeting.unwrap_or_default())
    });
    let (mut checks, mut clusters) = (Vec::new(), Vec::new());
    let mut first: Option<(Broker, Connection)> = None;
    for (one, connected, greeting) in join_all(looks).await {
        match connected {
            Ok(connection) => {
                checks.push(greeted(&one, greeting.version.as_deref()));
                clusters.push((one.host(), greeting.cluster));
                match &first {
                    None => first = Some((one, connection)),
                    Some(_) => close(&connection).await,
                }
            }
            Err(error) => checks.push(unreachable(&one, &error)),
        }
    }
    if first.is_some() {
        // Jobs go on by the other addresses.
        for check in checks.iter_mut().filter(|c| c.status == Status::Fail) {
            check.status = Status::Warn;
        }
    }
    let count = checks.len();
    if count > 1 {
        for (number, check) in (1..).zip(&mut checks) {
            check.name = format!("{NAME} {number}");
        }
    }
    checks.extend(cluster(&clusters, count));
    (checks, first)
}

/// Whether several addresses are of one cluster; each answering one is given with the cluster's name.
fn cluster(clusters: &[(String, Option<String>)], addresses: usize) -> Option<Check> {
    let (_, first) = clusters.first().filter(|_| addresses > 1)?;
    let of = |(host, name): &(String, Option<String>)| {
        format!("{host} of {}", name.as_deref().unwrap_or("an unnamed one"))
    };
    let answering = format!("{} of {addresses} addresses answer", clusters.len());
    if clusters.iter().any(|(_, name)| name != first) {
        let found = clusters.iter().map(of).collect::<Vec<_>>().join(", ");
        let advice = "without a name each node tells its own: `rabbitmqctl set_cluster_name NAME`. If they are of several clusters, name one: jobs posted to one aren't in the other";
        let found = format!("{answering}, by different names: {found}");
        return Some(Check::warn(CLUSTER, found, advice));
    }
    let name = first.as_deref().unwrap_or("unnamed");
    Some(Check::ok(CLUSTER, format!("{name}: {answering}")))
}

fn unreachable(broker: &Broker, error: &ConnectError) -> Check {
    let advice = match error {
        ConnectError::Credentials(_) => "check the user and password in KILN_AMQP_URL",
        ConnectError::VirtualHost(_) => {
            "check the virtual host in KILN_AMQP_URL, and that the user may use it: `rabbitmqctl list_permissions`"
        }
        ConnectError::Url(_) | ConnectError::Refused(_) => {
            "start RabbitMQ, or correct KILN_AMQP_URL"
        }
    };
    let found = match error {
        ConnectError::Url(_) => error.to_string(),
        _ => format!("{}: {error}", broker.host()),
    };
    Check::fail(NAME, found, advice)
}

fn greeted(broker: &Broker, version: Option<&str>) -> Check {
    let host = broker.host();
    match version {
        None => Check::warn(
            NAME,
            format!("{host} answers without its version"),
            "Kiln is made for RabbitMQ 3.10 to 4.x",
        ),
        Some(version) if is_older(version, OLDEST) => Check::fail(
            NAME,
            format!("{host}, version {version}"),
            "upgrade to RabbitMQ 3.10 or newer",
        ),
        Some(version) => Check::ok(NAME, format!("{host}, version {version}")),
    }
}

/// Whether a version such as `3.9.27` is older than `min`; what can't be read is not.
fn is_older(version: &str, min: [u64; 2]) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => [major, minor] < min,
        _ => false,
    }
}

/// Tries what a worker does, on a queue that goes with this connection.
async fn rights(broker: &Broker, connection: &Connection, queue: &str) -> Check {
    match try_rights(broker, connection, queue).await {
        Ok(true) => Check::ok(RIGHTS, "may declare, publish, read and delete"),
        Ok(false) => Check::fail(
            RIGHTS,
            "a message published to a queue did not come out of it",
            "see the broker's log",
        ),
        Err(NoAnswer::Failed(problem)) => Check::fail(
            RIGHTS,
            problem,
            "grant them: `rabbitmqctl set_permissions -p VHOST USER '^kiln' '.*' '.*'`",
        ),
        Err(NoAnswer::Silent(_)) if connection.status().blocked() => Check::fail(
            RIGHTS,
            "the broker takes no messages",
            "its memory or disk alarm is on: see `rabbitmq-diagnostics alarms`",
        ),
        Err(silent) => Check::fail(RIGHTS, silent.to_string(), "see the broker's log"),
    }
}

/// Whether a message that is published to a queue of our own comes out of it.
async fn try_rights(
    broker: &Broker,
    connection: &Connection,
    queue: &str,
) -> Result<bool, NoAnswer> {
    let confirm = ConfirmChannel::open(broker, connection).await?;
    let channel = confirm.channel();
    let trial = async {
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), exclusive, FieldTable::default())
            .await?;
        let properties = BasicProperties::default();
        let message = Message::new(queue.into(), b"trial".to_vec(), properties);
        let outcome = confirm.write(&message).await?.outcome().await?;
        let got = channel
            .basic_get(queue.into(), BasicGetOptions { no_ack: true })
            .await?;
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
        Ok(outcome == PublishOutcome::Confirmed && got.is_some())
    };
    broker.within(trial).await
}

/// The queues of each lane that has some.
async fn lanes(
    connection: &Connection,
    topology: &Topology,
    settings: &Settings,
    timeout: Duration,
) -> Vec<Check> {
    let names = lane_queues::names(settings);
    let looks = names
        .iter()
        .map(|lane| lane_queues::look(connection, topology, settings, lane, timeout));
    let looked = names.iter().zip(join_all(looks).await);
    let checks = looked.filter_map(|(lane, looked)| {
        let name = format!("lane {lane}");
        Some(match looked {
            Ok(queues) => lane_check(name, lane, queues?),
            Err(error) => Check::fail(name, error.to_string(), "see the broker's log"),
        })
    });
    checks.collect()
}

fn lane_check(name: String, lane: &str, queues: LaneSeen) -> Check {
    let mut found = shown(queues.seen);
    let Some(advice) = queues.advice(lane) else {
        return Check::ok(name, found);
    };
    if queues.seen.consumers > 0 {
        let untaken = queues.untaken;
        found.push_str(&format!("; {untaken} in a queue that nobody takes from"));
    }
    Check::warn(name, found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::topology::Seen;

    #[test]
    fn addresses_of_several_clusters_are_a_warning() {
        let one = |host: &str, name: &str| (host.to_owned(), Some(name.to_owned()));
        assert!(cluster(&[one("a", "rabbit@a")], 1).is_none(), "one address");
        let same = [one("a", "rabbit@a"), one("b", "rabbit@a")];
        let fine = cluster(&same, 3).expect("a check");
        assert_eq!(fine.status, Status::Ok);
        assert_eq!(fine.found, "rabbit@a: 2 of 3 addresses answer");
        let other = cluster(&[one("a", "rabbit@a"), one("b", "rabbit@b")], 2);
        let other = other.expect("a check");
        assert_eq!(other.status, Status::Warn);
        assert!(other.found.contains("b of rabbit@b"), "{}", other.found);
        assert!(cluster(&[], 3).is_none(), "nobody answers");
    }

    #[test]
    fn a_lane_whose_jobs_nobody_takes_is_a_warning() {
        let check = |messages, consumers| {
            let seen = Seen {
                messages,
                consumers,
            };
            let untaken = if consumers == 0 { messages } else { 0 };
            let queues = LaneSeen {
                queues: 1,
                seen,
                untaken,
            };
            lane_check("lane gpu".into(), "gpu", queues)
        };
        let stranded = check(7, 0);
        assert_eq!(stranded.status, Status::Warn);
        assert_eq!(stranded.found, "7 messages, 0 consumers");
        assert!(stranded.advice.contains("kiln run --lanes gpu"));
        for fine in [check(0, 0), check(7, 1)] {
            assert_eq!(fine.status, Status::Ok);
        }
        let queues = LaneSeen {
            queues: 2,
            seen: Seen {
                messages: 9,
                consumers: 1,
            },
            untaken: 7,
        };
        let partly = lane_check("lane gpu".into(), "gpu", queues);
        assert_eq!(partly.status, Status::Warn);
        assert!(
            partly
                .found
                .ends_with("; 7 in a queue that nobody takes from")
        );
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("3.9.27", OLDEST));
        assert!(!is_older("3.10.8", OLDEST));
        assert!(!is_older("4.1.0-rc.1", OLDEST));
        assert!(!is_older("unknown", OLDEST));
    }
}
