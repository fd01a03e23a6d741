//! Removes, in the background, what readers find of namespaces that were invalidated.

use crate::{backoff::Backoff, config, pipeline::Engine, telemetry::metrics::Metrics};
use anyhow::bail;
use kiln_contract::name::is_name;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc};

/// Namespaces that may wait for their removal.
const WAITING: usize = 64;
/// How often left-over removals are looked for.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where namespaces are named, and where they are heard.
pub(in crate::worker) fn channel() -> (mpsc::Sender<String>, Named) {
    let (sender, named) = mpsc::channel(WAITING);
    (sender, Arc::new(Mutex::new(named)))
}

/// Namespaces whose readers' entries are to be removed; one task at a time hears of them.
pub(in crate::worker) type Named = Arc<Mutex<mpsc::Receiver<String>>>;

/// Removes one namespace after the other. While Redis is out of reach, it waits. Takes up what a worker that is gone has left.
pub(in crate::worker) async fn remove(
    namespaces: Named,
    engine: Arc<Engine>,
    metrics: Metrics,
    most_ms: u64,
) -> anyhow::Result<()> {
    let mut namespaces = namespaces.lock().await;
    let mut tick = tokio::time::interval(INTERVAL);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let due = tokio::select! {
            named = namespaces.recv() => match named {
                Some(namespace) => vec![namespace],
                None => bail!("nobody can ask for invalidations any more"),
            },
            _ = tick.tick() => {
                let left = left_over(&engine).await;
                // One that is new to this worker is on its way elsewhere.
                let (late, new) = left.into_iter().partition(|one| seen.contains(one));
                seen = new;
                late
            }
        };
        for namespace in due {
            remove_one(&engine, &metrics, &namespace, most_ms).await;
        }
    }
}

async fn left_over(engine: &Engine) -> Vec<String> {
    match engine.cache().server() {
        Some(redis) => {
            let mut left = redis.unremoved().await.unwrap_or_default();
            // Whatever else lies there is no name, and would be a pattern.
            left.retain(|name| is_name(name));
            left
        }
        None => Vec::new(),
    }
}

async fn remove_one(engine: &Engine, metrics: &Metrics, namespace: &str, most_ms: u64) {
    let Some(redis) = engine.cache().server() else {
        return;
    };
    let mut removal = redis.removal(namespace);
    let mut backoff = Backoff::new(Duration::from_millis(100), config::ms(most_ms));
    while !removal.done {
        let before = removal.removed;
        match removal.step().await {
            Ok(()) => {
                backoff.reset();
                metrics.invalidated(removal.removed - before);
            }
            Err(_) => tokio::time::sleep(backoff.next_wait()).await,
        }
    }
    let removed = removal.removed;
    tracing::info!(
        namespace,
        removed,
        "what readers found of an invalidated namespace is removed"
    );
}
