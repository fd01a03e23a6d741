//! What `kiln doctor` asks of RabbitMQ.

use super::check::Check;
use crate::{
    amqp::{
        connection::{Broker, ConnectError},
        topology::{QueueSpec, Seen, Topology, TopologyError, look as look_at},
    },
    config::Settings,
};
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Confirmation, Connection,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::FieldTable,
};
use std::time::Duration;

const NAME: &str = "rabbitmq";
const RIGHTS: &str = "rabbitmq rights";
const QUEUES: &str = "queues";
/// The oldest version that has what Kiln's queues need: at-least-once dead-lettering.
const OLDEST: [u64; 2] = [3, 10];

/// Reachable, version, rights, and each of Kiln's queues.
pub(super) async fn look(settings: &Settings, token: &str) -> Vec<Check> {
    let Some(url) = &settings.amqp.url else {
        return vec![Check::off(
            NAME,
            "not configured",
            "`kiln run` needs KILN_AMQP_URL",
        )];
    };
    let broker = Broker::new(url, &settings.amqp);
    let (connected, version) = tokio::join!(broker.connect("doctor"), broker.version());
    let connection = match connected {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(&broker, &error)],
    };
    let topology = Topology::new(&settings.queues, &settings.retry);
    let version = version.ok().flatten();
    let mut checks = vec![greeted(&broker, version.as_deref())];
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
    // Everything was answered: a slow goodbye changes nothing.
    let _gone_too =
        tokio::time::timeout(Duration::from_secs(1), connection.close(200, "done".into())).await;
    checks
}

fn unreachable(broker: &Broker, error: &ConnectError) -> Check {
    let found = match error {
        ConnectError::Url(_) => error.to_string(),
        ConnectError::Refused(_) => format!("{}: {error}", broker.host()),
    };
    let advice = if found.contains("ACCESS_REFUSED") {
        "check the user and password in KILN_AMQP_URL"
    } else if found.contains("NOT_ALLOWED") || found.contains("access to vhost") {
        "check the virtual host in KILN_AMQP_URL, and that the user may use it: `rabbitmqctl list_permissions`"
    } else {
        "start RabbitMQ, or correct KILN_AMQP_URL"
    };
    Check::fail(NAME, found, advice)
}

fn greeted(broker: &Broker, version: Option<&str>) -> Check {
    let place = broker.host();
    match version {
        None => Check::warn(
            NAME,
            format!("{place} answers and tells no version"),
            "Kiln is made for RabbitMQ 3.10 to 4.x",
        ),
        Some(version) if is_older(version, OLDEST) => Check::fail(
            NAME,
            format!("{place}, version {version}"),
            "upgrade to RabbitMQ 3.10 or newer",
        ),
        Some(version) => Check::ok(NAME, format!("{place}, version {version}")),
    }
}

/// Whether a version such as `3.9.27` is older than `least`; what can't be read is not.
fn is_older(version: &str, least: [u64; 2]) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => [major, minor] < least,
        _ => false,
    }
}

/// Tries what a worker does, on a queue that goes with this connection.
async fn rights(broker: &Broker, connection: &Connection, queue: &str) -> Check {
    let trial = async {
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.into(), exclusive, FieldTable::default())
            .await?;
        let publish = channel.basic_publish(
            "".into(),
            queue.into(),
            BasicPublishOptions::default(),
            b"trial",
            BasicProperties::default(),
        );
        let confirmation = publish.await?.await?;
        let got = channel
            .basic_get(queue.into(), BasicGetOptions { no_ack: true })
            .await?;
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
        Ok::<_, lapin::Error>((confirmation, got.is_some()))
    };
    match tokio::time::timeout(broker.timeout(), trial).await {
        Ok(Ok((Confirmation::Ack(None), true))) => {
            Check::ok(RIGHTS, "may declare, publish, read and delete")
        }
        Ok(Ok(_)) => Check::fail(
            RIGHTS,
            "a message published to a queue did not come out of it",
            "look into the broker's log",
        ),
        Ok(Err(error)) => Check::fail(
            RIGHTS,
            broker.scrub(&error),
            "grant them: `rabbitmqctl set_permissions -p VHOST USER '^kiln' '.*' '.*'`",
        ),
        Err(_) if connection.status().blocked() => Check::fail(
            RIGHTS,
            "the broker takes no messages",
            "its memory or disk alarm is on: see `rabbitmq-diagnostics alarms`",
        ),
        Err(_) => Check::fail(
            RIGHTS,
            format!("no answer within {:?}", broker.timeout()),
            "look into the broker's log",
        ),
    }
}

/// Whether a queue has Kiln's arguments; `None` where there is none of its name, and that stays so.
async fn queue(
    connection: &Connection,
    spec: &QueueSpec,
    topology: &Topology,
    timeout: Duration,
) -> Option<Check> {
    let name = format!("queue {}", spec.name);
    let seen = match look_at(connection, &spec.name, timeout).await {
        Ok(seen) => seen?,
        Err(error) => {
            let found = error.to_string();
            return Some(Check::fail(name, found, "look into the broker's log"));
        }
    };
    // To declare what exists compares the arguments and changes nothing.
    Some(match spec.declare(connection, timeout).await {
        Ok(()) => {
            let mut check = Check::ok(name, shown(seen));
            if spec.name == topology.dead && seen.messages > 0 {
                check.advice = "see `kiln dead list`".into();
            }
            check
        }
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

fn shown(seen: Seen) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_older("3.9.27", OLDEST));
        assert!(!is_older("3.10.8", OLDEST));
        assert!(!is_older("4.1.0-rc.1", OLDEST));
        assert!(!is_older("unknown", OLDEST));
    }
}
