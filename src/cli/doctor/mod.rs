//! `kiln doctor`: settings, servers and models, and what to do about what isn't well.
//!
//! Promises to look at everything, whatever else fails, and to change nothing.

mod broker;
mod check;
mod local;
mod partitions;
mod postgres;
mod problem;
mod queue;
mod redis;
mod replication;
mod shards;
mod worth;

use super::Exit;
use crate::config::Loaded;
use check::{Check, Status, table};
use clap::Args;
use std::io::{self, IsTerminal};

/// Checks the settings, every server and every model, and says what to do about each problem.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is created or changed: what it needs to test a server (a queue, a key) is gone when it
ends. Servers that aren't configured are listed, and the rest is checked. Exit code 1: at
least one check failed; warnings don't count.

Example:
  KILN_AMQP_URL=amqp://127.0.0.1 KILN_REDIS_URL=redis://127.0.0.1 kiln doctor")]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = &loaded.settings;
    // Two doctors at once must not meet in each other's queue or key.
    let token = format!("{:016x}", rand::random::<u64>());
    let (broker, redis, postgres, models, http) = tokio::join!(
        broker::check(settings, &token),
        redis::check(settings, &token),
        postgres::check(settings),
        local::models(settings),
        local::http(settings),
    );
    let (models, registry) = models;
    // On its own: what else is asked at the same time would be measured with it.
    let worth = match &registry {
        Some(registry) => worth::check(settings, registry, &token).await,
        None => None,
    };
    let mut checks = vec![local::settings(&loaded)];
    checks.extend(broker);
    checks.extend(redis);
    checks.extend(postgres);
    checks.extend(local::embedded(settings));
    checks.extend(models);
    checks.extend(worth);
    checks.push(http);
    let failed = count(&checks, Status::Fail);
    if arguments.json {
        let report = serde_json::json!({"ok": failed == 0, "checks": checks});
        reported!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        reported!("{}", table(&checks, colours).trim_fmt());
        reported!("\n{}", verdict(&checks));
    }
    Ok(if failed > 0 { Exit::Failed } else { Exit::Ok })
}

fn count(checks: &[Check], status: Status) -> usize {
    checks.iter().filter(|c| c.status == status).count()
}

fn verdict(checks: &[Check]) -> String {
    let (failed, warned) = (count(checks, Status::Fail), count(checks, Status::Warn));
    match (failed, warned) {
        (0, 0) => "all checks passed".into(),
        (0, _) => format!("it works; warnings: {warned}"),
        (_, 0) => format!("{failed} failed"),
        _ => format!("{failed} failed; warnings: {warned}"),
    }
}
