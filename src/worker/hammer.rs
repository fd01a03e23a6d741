//! Every background task of a worker, started and stopped again and again from several sides at once, with no server in reach: River's
//! way to hold that nothing is deaf to a stop, runs twice, or is stopped only half.

use super::{
    build::{Servers, Worker},
    suspects::Program,
};
use crate::{
    config::Settings,
    health::{Health, Part},
    parts,
    secret::Secret,
    telemetry::metrics::Metrics,
};
use std::{sync::Arc, time::Duration};

/// Nobody listens there.
const NOWHERE: &str = "127.0.0.1:1";
/// Longest that a task may take to hear of its stop; a connection attempt that is under way included.
const LIMIT: Duration = Duration::from_secs(20);
/// Sides that start and stop a task at once.
const SIDES: usize = 8;
/// Starts and stops of each side.
const ROUNDS: usize = 25;

fn worker(folder: &std::path::Path) -> Worker {
    let mut settings = Settings::default();
    settings.amqp.url = Some(Secret::new(format!("amqp://{NOWHERE}")));
    settings.redis.url = Some(Secret::new(format!("redis://{NOWHERE}")));
    settings.database.url = Some(Secret::new(format!("postgres://{NOWHERE}/kiln")));
    settings.trace.endpoint = Some(format!("http://{NOWHERE}"));
    settings.callbacks.hosts = vec!["hooks.example".to_owned()];
    settings.callbacks.secret = Some(Secret::new("x".repeat(32)));
    settings.models.dir = folder.to_owned();
    settings.warm.dir = folder.to_owned();
    let metrics = Metrics::new();
    let servers = Servers {
        broker: parts::broker(&settings).expect("a broker's address"),
        store: parts::postgres(&settings).expect("a database's address"),
        redis: parts::redis(&settings, metrics.clone()).expect("a cache's address"),
    };
    let registry = parts::open_registry(&settings).expect("an empty folder of models");
    let health = Health::new(metrics.clone());
    // So that tasks go beyond waiting for the tables and the queues.
    health.up(Part::Migrations);
    health.up(Part::Broker);
    let suspects = Program::own(None);
    Worker::build(
        Arc::new(settings),
        servers,
        registry,
        suspects,
        health,
        metrics,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_task_bears_any_order_of_starts_and_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let worker = worker(folder.path());
    let tasks = Arc::new(worker.tasks());
    let names: Vec<&str> = tasks.tasks().iter().map(|task| task.name()).collect();
    assert_eq!(
        names,
        [
            "intake",
            "lane intake",
            "suspects",
            "followers",
            "warming",
            "health",
            "publisher check",
            "redis check",
            "postgres check",
            "days ahead",
            "queue depths",
            "jobs too long in hand",
            "lanes",
            "models folder",
            "news",
            "model choice",
            "controls",
            "model costs",
            "fleet",
            "invalidations",
            "heat",
            "hints",
            "audit",
            "callbacks",
            "publisher",
            "replies",
            "traces"
        ]
    );
    for (number, name) in names.into_iter().enumerate() {
        let task = &tasks.tasks()[number];
        assert!(task.stop(LIMIT).await, "`{name}` stops before its start");
        let sides = (0..SIDES).map(|side| {
            let tasks = tasks.clone();
            tokio::spawn(async move {
                let task = &tasks.tasks()[number];
                for round in 0..ROUNDS {
                    if (side + round) % 2 == 0 {
                        task.start();
                    } else {
                        assert!(task.stop(LIMIT).await, "`{name}` is deaf to a stop");
                    }
                }
            })
        });
        for side in sides.collect::<Vec<_>>() {
            side.await.expect("no side fails");
        }
        task.start();
        task.start();
        assert!(!task.has_ended(), "`{name}` runs");
        let (first, second) = tokio::join!(task.stop(LIMIT), task.stop(LIMIT));
        assert!(first && second, "`{name}` stops, whoever asks");
        assert!(task.has_ended(), "the end of `{name}` was awaited");
        assert_eq!(task.max_live(), 1, "`{name}` never runs twice at once");
    }
    assert_eq!(tasks.failure_so_far(), None, "none failed meanwhile");
}
