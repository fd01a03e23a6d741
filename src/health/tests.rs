//! The whole of health, on the process's own clock: only what holds at once.

use super::*;

fn well() -> Health {
    let health = Health::new(Metrics::new());
    assert_eq!(health.report().readiness(), Readiness::NotReady);
    for part in Part::ALL {
        health.up(*part);
    }
    assert_eq!(health.report().to_string(), "ready\n");
    health
}

#[test]
fn ready_only_when_every_part_works_that_jobs_need() {
    let health = Health::new(Metrics::new());
    assert_eq!(
        health.report().to_string(),
        "not ready\nworker: it is starting\nmodels: not tried yet\npostgres: not tried yet\nmigrations: not tried yet\n\
         broker: not tried yet\nredis: not tried yet\n"
    );
    let health = well();
    health.down(Part::Models, "no model is loaded");
    let report = health.report();
    assert_eq!(report.readiness(), Readiness::NotReady);
    assert_eq!(
        report.to_string(),
        "not ready\nmodels: no model is loaded\n"
    );
    health.degraded(Part::Models, "one of\ntwo   versions is refused");
    let report = health.report();
    assert_eq!(report.readiness(), Readiness::Degraded);
    assert_eq!(
        report.to_string(),
        "degraded: models: one of two versions is refused\n"
    );
    health.up(Part::Models);
    assert_eq!(health.report().readiness(), Readiness::Ready);
}

#[test]
fn the_worker_is_ready_without_what_it_can_do_without() {
    let health = well();
    health.down(Part::Warming, "a schedule is refused");
    health.down(Part::Worker, "it is stopping");
    assert_eq!(
        health.report().to_string(),
        "not ready\nworker: it is stopping\ndegraded: warming: a schedule is refused\n"
    );
}

#[test]
fn a_queue_that_jobs_can_do_without_is_named_until_it_can_be_used() {
    let health = well();
    health.queue("kiln.warm", Err("no answer"));
    health.queue("kiln.expired", Err("cancelled"));
    let report = health.report();
    assert_eq!(report.readiness(), Readiness::Degraded);
    assert_eq!(
        report.to_string(),
        "degraded: queues: kiln.expired: cancelled; kiln.warm: no answer\n"
    );
    health.queue("kiln.expired", Ok(()));
    health.queue("kiln.warm", Ok(()));
    assert_eq!(health.report().to_string(), "ready\n");
}

#[test]
fn a_lane_that_failed_is_named_until_it_works() {
    let health = well();
    health.lane_failed("encoder", "its model panics");
    health.lane_failed("big", "its model can't be loaded");
    assert_eq!(
        health.report().to_string(),
        "not ready\nlanes: big: its model can't be loaded; encoder: its model panics\n"
    );
    assert!(!health.is_up(Part::Lanes));
    health.lane_works("big");
    health.lane_works("encoder");
    assert!(health.is_up(Part::Lanes));
}

#[test]
fn one_failure_of_a_server_that_worked_changes_nothing_yet() {
    let health = well();
    health.down(Part::Postgres, "reset");
    health.down(Part::Broker, "reset");
    health.down(Part::Publisher, "blocked");
    health.checked(Part::Redis, Instant::now(), Err("refused"));
    assert_eq!(health.report().readiness(), Readiness::Ready);
    assert!(!health.is_up(Part::Broker), "who uses it knows at once");
}
