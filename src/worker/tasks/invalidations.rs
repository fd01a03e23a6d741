//! Removes, in the background, what readers find of namespaces that were invalidated.

use super::news::{self, Heard};
use crate::{
    backoff::Backoff,
    config,
    pipeline::Engine,
    store::{News, PostgresStore, Removable},
    telemetry::metrics::Metrics,
};
use anyhow::bail;
use kiln_contract::name::is_name;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, mpsc};

/// Namespaces that may wait for their removal.
const WAITING: usize = 64;
/// How often those are looked for that workers of earlier releases have left.
const RARELY: Duration = Duration::from_secs(10);
/// How soon the right to remove is renewed: well before it ends.
const RENEW: Duration = Duration::from_secs(5);

/// Where namespaces are named, and where they are heard.
pub(in crate::worker) fn channel() -> (mpsc::Sender<Removable>, Named) {
    let (sender, named) = mpsc::channel(WAITING);
    (sender, Arc::new(Mutex::new(named)))
}

/// Namespaces whose readers' entries are to be removed; one task at a time hears of them.
pub(in crate::worker) type Named = Arc<Mutex<mpsc::Receiver<Removable>>>;

/// What removing takes.
#[derive(Clone)]
pub(in crate::worker) struct Remover {
    pub engine: Arc<Engine>,
    pub store: PostgresStore,
    pub metrics: Metrics,
    /// Longest wait for a Redis that is out of reach.
    pub most_ms: u64,
}

/// Removes one namespace after the other. While Redis is out of reach, it waits. Takes up what a worker that is gone has left, and what a
/// Redis that was started again, or took over from another one, has back.
pub(in crate::worker) async fn remove(
    namespaces: Named,
    mut heard: Heard,
    remover: Remover,
) -> anyhow::Result<()> {
    let mut namespaces = namespaces.lock().await;
    let mut tick = tokio::time::interval(RARELY);
    let (mut seen, mut known): (Vec<String>, Option<Run>) = (Vec::new(), None);
    loop {
        tokio::select! {
            named = namespaces.recv() => match named {
                Some(named) => remover.remove_one(&named).await,
                None => bail!("nobody can ask for invalidations any more"),
            },
            news = news::next(&mut heard) => {
                // A server that is new has back what was removed of many namespaces.
                while let Some(one) = remover.claim(&news, &mut known).await {
                    remover.remove_one(&one).await;
                }
            }
            _ = tick.tick() => {
                let left = remover.left_over().await;
                // One that is new to this worker is on its way elsewhere.
                let (late, new) = left.into_iter().partition(|one| seen.contains(one));
                seen = new;
                for namespace in Vec::into_iter(late) {
                    remover.remove_one(&unstored(namespace)).await;
                }
            }
        }
    }
}

/// Which server Redis is, asked when so many connections to it had been made.
type Run = (u64, String);

/// A removal of which the database knows nothing.
fn unstored(namespace: String) -> Removable {
    Removable {
        namespace,
        stamp: 0,
        is_first: true,
    }
}

impl Remover {
    /// A removal that nobody is at, where there may be one.
    async fn claim(&self, news: &News, known: &mut Option<Run>) -> Option<Removable> {
        let redis = self.engine.cache().server()?;
        if news.removed_on.is_empty() {
            return None;
        }
        // A server that has come in another's stead isn't reached over the same connection.
        let made = redis.connections_made();
        if known.as_ref().is_none_or(|(before, _)| *before != made) {
            *known = Some((made, redis.server_run().await.ok()?));
        }
        let (_, run) = known.as_ref()?;
        if news.removed_on.iter().all(|on| on.as_ref() == Some(run)) {
            return None;
        }
        // That the database is out of reach is told by its own check.
        self.store.claim_removal(run).await.ok().flatten()
    }

    async fn left_over(&self) -> Vec<String> {
        match self.engine.cache().server() {
            Some(redis) => {
                let mut left = redis.unremoved().await.unwrap_or_default();
                // Whatever else lies there is no name, and would be a pattern.
                left.retain(|name| is_name(name));
                left
            }
            None => Vec::new(),
        }
    }

    async fn remove_one(&self, one: &Removable) {
        let Some(redis) = self.engine.cache().server() else {
            return;
        };
        let mut backoff = Backoff::new(Duration::from_millis(100), config::ms(self.most_ms));
        let mut renewed = Instant::now();
        let mut run = redis.server_run().await.ok();
        let namespace = one.namespace.as_str();
        let until = (!one.is_first).then_some(one.stamp);
        let mut removal = redis.removal(namespace, until);
        while !removal.done {
            let before = removal.removed;
            let went = removal.step().await;
            self.metrics.invalidated(removal.removed - before);
            match went {
                Ok(()) => backoff.reset(),
                // It is claimed again. Meanwhile other namespaces have their turn at the servers that work.
                Err(_) if removal.is_partial => return,
                Err(_) => {
                    tokio::time::sleep(backoff.next_wait()).await;
                    // Another server may have come in its stead: it is to be asked from the beginning.
                    let now = redis.server_run().await.ok();
                    if now.is_none() || now != run {
                        run = now;
                        let removed = removal.removed;
                        removal = redis.removal(namespace, until);
                        removal.removed = removed;
                    }
                }
            }
            if renewed.elapsed() > RENEW {
                renewed = Instant::now();
                let _others_may_join = self.store.renew_removal(one).await;
            }
        }
        // Where this isn't noted, it is done once more.
        if let Some(run) = run.filter(|_| one.stamp > 0) {
            let _again = self.store.note_removed(one, &run).await;
        }
        let removed = removal.removed;
        tracing::info!(
            namespace,
            removed,
            "what readers found of an invalidated namespace is removed"
        );
    }
}
