//! Keeps a session open: migrates, connects, declares the queues, takes jobs, and connects again when the connection is lost.

use super::{
    process::Workshop,
    session::{End, Session},
    supervisor::Stop,
    tasks,
};
use crate::{
    amqp::{
        connection::{Broker, ConnectError},
        topology::{Topology, TopologyError},
    },
    backoff::Backoff,
    config,
    health::{Health, Part},
    store::PostgresStore,
};
use anyhow::{Context, bail};
use std::{sync::Arc, time::Duration};

/// Migrates, connects, consumes, and connects again, until the worker stops.
pub(super) async fn consume(
    broker: Broker,
    topology: Arc<Topology>,
    workshop: Workshop,
    store: PostgresStore,
    health: Health,
    mut stop: Stop,
    mut pause: Stop,
) -> anyhow::Result<()> {
    let most = config::ms(workshop.settings.database.max_backoff_ms);
    let migrated = store.migrate_when_up(most, |reason, _| {
        health.down(Part::Migrations, &reason.to_string())
    });
    tokio::select! {
        () = stop.wait() => return Ok(()),
        result = migrated => result.context("migrations")?,
    }
    health.up(Part::Migrations);
    // The first job is to meet the chosen versions already.
    let mut backoff = Backoff::new(Duration::from_millis(100), most);
    while tasks::models::choose(workshop.engine.registry(), &store)
        .await
        .is_err()
    {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
    let mut backoff = Backoff::new(
        Duration::from_millis(100),
        config::ms(workshop.settings.amqp.max_backoff_ms),
    );
    loop {
        if pause.is_given() {
            tracing::info!("taking jobs is paused");
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = pause.wait_off() => tracing::info!("taking jobs goes on"),
            }
        }
        let session = tokio::select! {
            () = stop.wait() => return Ok(()),
            session = open_session(&broker, &topology, &workshop, &store) => session,
        };
        match session {
            Ok((connection, session)) => {
                backoff.reset();
                health.up(Part::Broker);
                tracing::info!(queue = topology.jobs, "taking jobs");
                let end = session.run(&mut stop, &mut pause).await;
                let goodbye = Duration::from_millis(500);
                let _gone_counts_too =
                    tokio::time::timeout(goodbye, connection.close(200, "stopped".into())).await;
                match end {
                    End::Stopped if stop.is_given() => return Ok(()),
                    End::Stopped => continue,
                    End::Lost(reason) => {
                        workshop.metrics.reconnect();
                        health.down(Part::Broker, &reason);
                    }
                }
            }
            Err(Unopened::Hopeless(reason)) => bail!(reason),
            Err(Unopened::Later(reason)) => health.down(Part::Broker, &reason),
        }
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// Why no session was opened.
enum Unopened {
    /// Waiting doesn't mend it.
    Hopeless(String),
    Later(String),
}

/// A connection with its queues declared and its consumers started. The database comes first: jobs taken
/// without it would only be held.
async fn open_session(
    broker: &Broker,
    topology: &Topology,
    workshop: &Workshop,
    store: &PostgresStore,
) -> Result<(lapin::Connection, Session), Unopened> {
    store
        .ping()
        .await
        .map_err(|e| Unopened::Later(format!("postgres comes first: {e}")))?;
    let connection = broker.connect("consume").await.map_err(|e| match e {
        ConnectError::Url(_) => Unopened::Hopeless(e.to_string()),
        ConnectError::Refused(_) => Unopened::Later(e.to_string()),
    })?;
    topology
        .declare(&connection, broker.timeout())
        .await
        .map_err(|e| match e {
            TopologyError::Mismatch { .. } => Unopened::Hopeless(e.to_string()),
            TopologyError::Unavailable { .. } => Unopened::Later(e.to_string()),
        })?;
    let open = Session::open(&connection, topology, workshop.clone());
    match tokio::time::timeout(broker.timeout(), open).await {
        Ok(Ok(session)) => Ok((connection, session)),
        Ok(Err(error)) => Err(Unopened::Later(broker.scrub(&error))),
        Err(_) => Err(Unopened::Later(
            "no answer to starting the consumers".into(),
        )),
    }
}
