//! Owns the bounds of every number among the settings. `docs/settings.md` shows them.

use super::Range;
use crate::config::{
    Amqp, Audit, Cache, Callbacks, Database, Drain, Http, Intake, Lane, LaneLimits, Namespace,
    Queues, Redis, Reply, Retry, Settings, Warm,
};
use kiln_contract::job::{MAX_INPUTS, MAX_TTL_SECONDS};
use std::collections::BTreeMap;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;
const DAY_SECONDS: u64 = 86_400;

fn range(name: &'static str, value: impl Into<u64>, min: u64, max: u64) -> Range {
    let value = value.into();
    Range {
        name,
        value,
        min,
        max,
    }
}

/// [`range`] of a number that counts what is in memory.
fn count(name: &'static str, value: usize, min: u64, max: u64) -> Range {
    range(name, value as u64, min, max)
}

pub(super) fn all(settings: &Settings) -> Vec<Range> {
    let mut all = Vec::new();
    all.extend(amqp(&settings.amqp));
    all.extend(redis(&settings.redis));
    all.extend(database(&settings.database));
    all.extend(http(&settings.http));
    all.extend(queues(&settings.queues));
    all.extend(intake(&settings.intake));
    all.extend(lane(&settings.lane));
    all.extend(lanes(&settings.lanes));
    all.extend(retry(&settings.retry));
    all.extend(reply(&settings.reply));
    all.extend(callbacks(&settings.callbacks));
    all.extend(cache(&settings.cache));
    all.extend(namespaces(&settings.namespaces));
    all.extend(drain(&settings.drain));
    all.extend(warm(&settings.warm));
    all.extend(audit(&settings.audit));
    all
}

fn amqp(amqp: &Amqp) -> [Range; 2] {
    [
        range("amqp.timeout_ms", amqp.timeout_ms, 1, HOUR_MS),
        range("amqp.max_backoff_ms", amqp.max_backoff_ms, 1, HOUR_MS),
    ]
}

fn redis(redis: &Redis) -> [Range; 3] {
    [
        count("redis.connections", redis.connections, 1, 64),
        range("redis.timeout_ms", redis.timeout_ms, 1, HOUR_MS),
        range("redis.cooldown_ms", redis.cooldown_ms, 1, HOUR_MS),
    ]
}

fn database(database: &Database) -> [Range; 4] {
    let Database {
        connections,
        timeout_ms,
        statement_timeout_ms,
        max_backoff_ms,
        ..
    } = *database;
    [
        range("database.connections", connections, 1, 1_000),
        range("database.timeout_ms", timeout_ms, 1, HOUR_MS),
        range(
            "database.statement_timeout_ms",
            statement_timeout_ms,
            1,
            HOUR_MS,
        ),
        range("database.max_backoff_ms", max_backoff_ms, 1, HOUR_MS),
    ]
}

fn http(http: &Http) -> [Range; 2] {
    [
        range("http.timeout_ms", http.timeout_ms, 10, HOUR_MS),
        count("http.connections", http.connections, 1, 65_536),
    ]
}

fn queues(queues: &Queues) -> [Range; 2] {
    let limit = queues.delivery_limit;
    [
        range("queues.delivery_limit", limit, 10, 1_000_000),
        count("queues.shards", queues.shards, 0, 32),
    ]
}

fn intake(intake: &Intake) -> [Range; 13] {
    let Intake {
        prefetch,
        warm_prefetch,
        warm_idle_ms,
        batch_jobs,
        batch_tokens,
        batch_wait_ms,
        batches_in_flight,
        max_body_bytes,
        max_bytes_in_hand,
        max_hold_seconds,
        ..
    } = *intake;
    let (after, runs) = (intake.suspect_after, intake.suspect_runs);
    let seconds = intake.suspect_seconds;
    [
        range("intake.prefetch", prefetch, 1, 2_000),
        range("intake.warm_prefetch", warm_prefetch, 1, 2_000),
        range("intake.warm_idle_ms", warm_idle_ms, 0, HOUR_MS),
        count("intake.batch_jobs", batch_jobs, 1, 10_000),
        count("intake.batch_tokens", batch_tokens, 1, 1 << 32),
        range("intake.batch_wait_ms", batch_wait_ms, 0, 10_000),
        count("intake.batches_in_flight", batches_in_flight, 1, 64),
        count("intake.max_body_bytes", max_body_bytes, 1, 128 << 20),
        count(
            "intake.max_bytes_in_hand",
            max_bytes_in_hand,
            1 << 20,
            1 << 40,
        ),
        range("intake.max_hold_seconds", max_hold_seconds, 2, DAY_SECONDS),
        range("intake.suspect_after", after, 1, 1_000),
        range("intake.suspect_runs", runs, 1, 1_000),
        range("intake.suspect_seconds", seconds, 1, 1_200),
    ]
}

fn lane(lane: &LaneLimits) -> [Range; 5] {
    let (bytes, batches) = (lane.max_bytes_in_hand, lane.batches_in_flight);
    [
        range("lane.turn_ms", lane.turn_ms, 1, 60_000),
        count("lane.max_bytes_in_hand", bytes, 1 << 20, 1 << 40),
        count("lane.batches_in_flight", batches, 1, 64),
        count("lane.queues", lane.queues, 1, 64),
        range("lane.max_moves", lane.max_moves, 1, 1_000),
    ]
}

fn lanes(lanes: &BTreeMap<String, Lane>) -> Vec<Range> {
    let mut all = Vec::new();
    for lane in lanes.values() {
        if let Some(turn) = lane.turn_ms {
            all.push(range("lanes.*.turn_ms", turn, 1, 60_000));
        }
        let bytes = "lanes.*.max_bytes_in_hand";
        all.extend(
            lane.max_bytes_in_hand
                .map(|n| count(bytes, n, 1 << 20, 1 << 40)),
        );
        let batches = "lanes.*.batches_in_flight";
        all.extend(lane.batches_in_flight.map(|n| count(batches, n, 1, 64)));
        all.extend(lane.queues.map(|n| count("lanes.*.queues", n, 1, 64)));
    }
    all
}

fn retry(retry: &Retry) -> Vec<Range> {
    let delays = &retry.delays_ms;
    let mut all = vec![
        range("retry.max_tries", retry.max_tries, 1, 1_000),
        count("retry.delays_ms (how many)", delays.len(), 1, 8),
    ];
    all.extend(
        delays
            .iter()
            .map(|delay| range("retry.delays_ms", *delay, 1, DAY_MS)),
    );
    all
}

fn reply(reply: &Reply) -> [Range; 2] {
    [
        count("reply.max_bytes", reply.max_bytes, 1_024, 128 << 20),
        range("reply.timeout_ms", reply.timeout_ms, 100, HOUR_MS),
    ]
}

fn callbacks(callbacks: &Callbacks) -> [Range; 7] {
    let waiting = callbacks.max_waiting;
    let per_host = callbacks.at_once_per_host;
    let age = callbacks.max_age_seconds;
    [
        range("callbacks.timeout_ms", callbacks.timeout_ms, 100, 120_000),
        count("callbacks.at_once", callbacks.at_once, 1, 256),
        count("callbacks.at_once_per_host", per_host, 1, 256),
        range(
            "callbacks.first_wait_ms",
            callbacks.first_wait_ms,
            10,
            HOUR_MS,
        ),
        range("callbacks.max_tries", callbacks.max_tries, 1, 100),
        range("callbacks.max_age_seconds", age, 1, 30 * DAY_SECONDS),
        range("callbacks.max_waiting", waiting, 1, 10_000_000u64),
    ]
}

fn cache(cache: &Cache) -> [Range; 4] {
    let (ttl, grace) = (cache.ttl_seconds, cache.grace_seconds);
    [
        range("cache.ttl_seconds", ttl, 1, MAX_TTL_SECONDS),
        range("cache.grace_seconds", grace, 0, MAX_TTL_SECONDS),
        range("cache.memory_mib", cache.memory_mib, 1, 1 << 20),
        range("cache.lease_ms", cache.lease_ms, 10, 600_000),
    ]
}

fn namespaces(namespaces: &BTreeMap<String, Namespace>) -> Vec<Range> {
    let mut all = Vec::new();
    for namespace in namespaces.values() {
        if let Some(ttl) = namespace.ttl_seconds {
            all.push(range("namespaces.*.ttl_seconds", ttl, 1, MAX_TTL_SECONDS));
        }
        if let Some(grace) = namespace.grace_seconds {
            let name = "namespaces.*.grace_seconds";
            all.push(range(name, grace, 0, MAX_TTL_SECONDS));
        }
        if let Some(age) = namespace.max_age_seconds {
            let name = "namespaces.*.max_age_seconds";
            all.push(range(name, age, 1, 2 * MAX_TTL_SECONDS));
        }
        if let Some(seconds) = namespace.max_staleness_seconds {
            let name = "namespaces.*.max_staleness_seconds";
            all.push(range(name, seconds, 1, DAY_SECONDS));
        }
    }
    all
}

fn drain(drain: &Drain) -> [Range; 1] {
    let limit = drain.limit_seconds;
    [range("drain.limit_seconds", limit, 1, DAY_SECONDS)]
}

fn warm(warm: &Warm) -> [Range; 3] {
    let piece = warm.piece_inputs;
    [
        count("warm.piece_inputs", piece, 1, MAX_INPUTS as u64),
        count("warm.runs_at_once", warm.runs_at_once, 1, 64),
        range("warm.claim_seconds", warm.claim_seconds, 1, 3_600),
    ]
}

fn audit(audit: &Audit) -> [Range; 2] {
    [
        count("audit.sample", audit.sample, 1, 100_000),
        range(
            "audit.interval_seconds",
            audit.interval_seconds,
            1,
            DAY_SECONDS,
        ),
    ]
}
