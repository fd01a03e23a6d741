//! Asks the database what operators and other workers want, for everybody in this worker who wants to know, and hands the answer on.
//!
//! Promises that a worker with nothing to do asks little, however many tasks follow the answer; and that a change is known to it at once where the
//! database tells of it, and within about a second where it doesn't. While the database is out of reach, what was said last goes on.

use crate::{
    backoff::Backoff,
    health::{Health, Part},
    pipeline::Engine,
    store::{Listener, News, PostgresStore},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How often the tables are waited for.
const WAIT: Duration = Duration::from_millis(200);
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Longest rest after a failure.
const MAX_REST: Duration = Duration::from_secs(1);

/// Where the latest answer is heard; nothing before the first one.
pub(in crate::worker) type Heard = watch::Receiver<Option<Arc<News>>>;

/// The next answer, for as long as there is somebody who asks.
pub(in crate::worker) async fn next(heard: &mut Heard) -> Arc<News> {
    loop {
        if heard.changed().await.is_err() {
            // Who asks is gone, and the worker with it.
            std::future::pending::<()>().await;
        }
        if let Some(news) = heard.borrow_and_update().clone() {
            return news;
        }
    }
}

/// Asks again and again.
pub(in crate::worker) async fn ask(
    sender: Arc<watch::Sender<Option<Arc<News>>>>,
    store: PostgresStore,
    engine: Arc<Engine>,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(WAIT);
    while !health.is_up(Part::Migrations) {
        tick.tick().await;
    }
    let mut listener = Listener::new(store.with_limit(LIMIT));
    let mut backoff = Backoff::new(WAIT, MAX_REST);
    loop {
        let redis = engine.cache().server();
        let asking = match redis {
            Some(redis) => redis.asking().await,
            None => (i64::MAX, 0),
        };
        // That the database is out of reach is told by its own check.
        let Ok(news) = listener.news(asking.0).await else {
            tokio::time::sleep(backoff.next_wait()).await;
            continue;
        };
        backoff.reset();
        let is_all = match redis {
            Some(redis) => redis.heard(&news.marks, asking).await,
            None => true,
        };
        sender.send_replace(Some(Arc::new(news)));
        if !is_all {
            continue;
        }
        if let Some(redis) = redis {
            let _later = redis.hand_over().await;
        }
        listener.changed().await;
    }
}
