//! `kiln forget`: removes what readers find under single keys of a namespace.
//!
//! Promises that nothing older comes back, and that what is newer stays.

use super::Exit;
use crate::{
    cache::{Forgotten, REMOVED},
    clock,
    config::Settings,
    parts,
};
use anyhow::{anyhow, bail};
use clap::Args;
use kiln_contract::{
    job::key_problem,
    name,
    order::{AsOf, EXPECTED_AS_OF, Order},
    reader::Provenance,
};
use serde_json::json;
use std::time::Duration;

/// Removes what readers find under keys of a namespace, so that nothing older comes back.
#[derive(Debug, Args)]
#[command(after_help = "\
A job that was accepted before doesn't bring the entry back, whenever it ends, and neither does warming; a newer one does. The
same is asked for by a job's input with `\"remove\": true`. Rankings that list the key keep it until they are made anew.

Examples:
  kiln forget reviews review:42
  kiln forget reviews review:42 --as-of 2026-11-20T12:00:00Z --json")]
pub(super) struct Arguments {
    /// The namespace; jobs that name none are in their model's.
    namespace: String,
    /// The keys, as jobs give them.
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// How new this is, as in a job's `as_of`: RFC 3339, or a sequence number; now, if absent.
    #[arg(long, value_name = "TIME|NUMBER")]
    as_of: Option<String>,
    /// Print a line of JSON for each key.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let Arguments {
        namespace,
        keys,
        as_of,
        json,
    } = arguments;
    if !name::is_name(&namespace) {
        bail!("namespace: {}", name::EXPECTED_NAME);
    }
    for key in &keys {
        if let Some(problem) = key_problem(key) {
            bail!("key `{key}`: {problem}");
        }
    }
    let as_of = match &as_of {
        Some(text) => Some(AsOf::parse(text).ok_or_else(|| anyhow!("--as-of: {EXPECTED_AS_OF}"))?),
        None => None,
    };
    let redis = parts::redis_at_hand(&settings).await?;
    let ttl_seconds = settings.ttl_seconds(None, &namespace, None);
    let grace_seconds = settings.grace_seconds(&namespace);
    // It is gone for readers without that, too.
    let mut history = match settings.store.served && settings.database.url.is_some() {
        true => Some(parts::postgres(&settings)?),
        false => None,
    };
    let life = REMOVED.max(Duration::from_secs(ttl_seconds + grace_seconds));
    for key in &keys {
        let said = Provenance {
            job_id: None,
            as_of: as_of.as_ref(),
            order: Order::new(as_of.as_ref(), clock::moment(clock::received())),
        };
        let forgotten = redis.forget(&namespace, key, &said, life).await;
        let forgotten =
            forgotten.map_err(|reason| anyhow!("redis at {}: {reason}", redis.host()))?;
        if let (Forgotten::Removed, Some(store)) = (&forgotten, &history) {
            let noted = store.forgotten(&namespace, key, said.order.into()).await;
            if let Err(error) = noted {
                eprintln!("kiln: the history doesn't hear of `{key}` and what follows: {error}");
                history = None;
            }
        }
        if json {
            let outcome = match forgotten {
                Forgotten::Removed => "removed",
                Forgotten::Absent => "absent",
                Forgotten::Newer => "newer",
            };
            let line = json!({"namespace": namespace, "key": key, "outcome": outcome});
            reported!("{line}");
        } else {
            let outcome = match forgotten {
                Forgotten::Removed => "is removed",
                Forgotten::Absent => "was not there; nothing older comes back",
                Forgotten::Newer => "stays as it is: it is newer",
            };
            reported!("{namespace} {key} {outcome}");
        }
    }
    Ok(Exit::Ok)
}
