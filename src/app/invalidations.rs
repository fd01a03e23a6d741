//! Removes, in the background, what readers find of namespaces that were invalidated.

use crate::{backoff::Backoff, config, pipeline::Engine, telemetry::metrics::Metrics};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Namespaces that may wait for their removal.
const WAITING: usize = 64;

/// Where namespaces are named, and where they are heard.
pub(super) fn channel() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    mpsc::channel(WAITING)
}

/// Removes one namespace after the other. While Redis is out of reach, it waits.
pub(super) async fn remove(
    mut namespaces: mpsc::Receiver<String>,
    engine: Arc<Engine>,
    metrics: Metrics,
    most_ms: u64,
) -> Result<(), String> {
    while let Some(namespace) = namespaces.recv().await {
        let Some(redis) = engine.cache().server() else {
            continue;
        };
        let mut removal = redis.removal(&namespace);
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
    Err("nobody can ask for invalidations any more".to_owned())
}
