//! Owns which servers a Redis Cluster has, and what each of them has.
//!
//! Promises that this is asked again when an answer, or none, says that it may have changed: by one at a time, with a bounded and random
//! wait between two times. One that is asked meanwhile goes by what is known.

use super::Layout;
use crate::{
    backoff::Backoff,
    cache::redis::{
        connections::Connections,
        find::first_of,
        followed::moved,
        open::{LATE, connect_one},
        question::{Again, Question, Unanswered, is_refusal},
        size::Size,
        source::Source,
    },
    config::{self, Redis},
    redact::Redact,
    secret::Secret,
    telemetry::metrics::Metrics,
};
use futures_util::future::BoxFuture;
use kiln_contract::slot;
use rand::seq::SliceRandom;
use redis::{ErrorKind, Pipeline, RedisError, RedisResult, Value};
use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// First wait between two times that a cluster is asked for its slots.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// Longest such wait, while nobody answers.
const ASK_RARELY: Duration = Duration::from_secs(1);
/// Servers without slots of their own that are remembered: those that slots are moving to.
const MAX_OTHERS: usize = 16;

/// A server of a cluster.
pub(in crate::cache::redis) struct Node {
    /// Host and port.
    pub address: String,
    pub connections: Connections,
}

impl Node {
    /// What it answers to each command of a pipeline that takes refusals for answers. `anyway`: whatever rests.
    pub async fn ask(
        &self,
        question: Question,
        size: Size,
        again: Again,
        anyway: bool,
    ) -> Result<Vec<RedisResult<Value>>, Unanswered> {
        let answer = match anyway {
            true => {
                let answer = self.connections.ask_anyway(&question).await;
                answer.map_err(Unanswered::Failed)
            }
            false => self.connections.ask(&question, size, again).await,
        };
        answer.map_err(|why| match why {
            Unanswered::Failed(error) if !is_refusal(&error) => {
                Unanswered::Failed(self.names(error))
            }
            Unanswered::Unsent(error) if !is_refusal(&error) => {
                Unanswered::Unsent(self.names(error))
            }
            _ => why,
        })
    }

    /// A failure with the server's address.
    pub fn names(&self, error: RedisError) -> RedisError {
        let what = error.redacted();
        let what = format!("{}: {}", self.address, what);
        let kind = match is_refusal(&error) {
            true => error.kind(),
            false => ErrorKind::Io,
        };
        RedisError::from((kind, "cluster", what))
    }
}

/// The servers of a cluster, and what each of them has.
#[derive(Default)]
pub(in crate::cache::redis) struct Map {
    pub layout: Layout,
    /// In the order of the layout's primaries.
    pub nodes: Vec<Arc<Node>>,
}

impl Map {
    /// The server that has a key.
    pub fn node_of(&self, key: &[u8]) -> Option<&Arc<Node>> {
        self.nodes.get(self.layout.owner(slot::of_key(key))?)
    }

    /// Why nobody is asked.
    pub fn nobody(&self) -> RedisError {
        let why = match self.layout.is_empty() {
            true => "no server of the cluster answers",
            false => "no server of the cluster has the slot",
        };
        RedisError::from((ErrorKind::Io, why))
    }
}

/// When the cluster may be asked for its slots again.
struct Next {
    at: Instant,
    backoff: Backoff,
}

/// The servers of a cluster, as they are known.
pub(in crate::cache::redis) struct Servers {
    url: Secret,
    settings: Redis,
    metrics: Metrics,
    made: Arc<AtomicU64>,
    map: RwLock<Arc<Map>>,
    is_stale: AtomicBool,
    next: tokio::sync::Mutex<Next>,
    others: Mutex<Vec<Arc<Node>>>,
}

impl Servers {
    /// None is known yet but those that the settings name.
    pub fn new(url: &Secret, settings: &Redis, metrics: Metrics, made: Arc<AtomicU64>) -> Self {
        Self {
            url: url.clone(),
            settings: settings.clone(),
            metrics,
            made,
            map: RwLock::default(),
            is_stale: AtomicBool::new(false),
            next: tokio::sync::Mutex::new(Next {
                at: Instant::now(),
                backoff: Backoff::new(ASK_AGAIN, ASK_RARELY),
            }),
            others: Mutex::default(),
        }
    }

    /// A server by the address that a redirection names.
    pub fn node_at(&self, map: &Map, address: &str) -> Arc<Node> {
        let known = map.nodes.iter().find(|node| node.address == address);
        if let Some(node) = known {
            return node.clone();
        }
        // It is sound after a panic elsewhere: every change to it is one call.
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = others.iter().find(|node| node.address == address) {
            return node.clone();
        }
        let node = Arc::new(self.node(address));
        others.truncate(MAX_OTHERS - 1);
        others.insert(0, node.clone());
        node
    }

    fn node(&self, address: &str) -> Node {
        let scheme = self.url.parts().map_or("redis", |(scheme, ..)| scheme);
        let url = self.url.at(scheme, address, "");
        let source = Source::Node(url.clone());
        let (metrics, made) = (self.metrics.clone(), self.made.clone());
        Node {
            address: address.to_owned(),
            connections: Connections::new(&url, source, &self.settings, metrics, made),
        }
    }

    /// The servers as they are known, without asking.
    pub fn known(&self) -> Arc<Map> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.clone()
    }

    /// Has the next one to ask for the servers learn them anew.
    pub fn doubt(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// Whether every server that is known can be asked.
    pub fn is_whole(&self) -> bool {
        let map = self.known();
        map.nodes.iter().all(|node| !node.connections.is_closed())
    }

    /// Whether one of them can be asked.
    pub fn any_answers(&self) -> bool {
        let map = self.known();
        map.nodes.iter().any(|node| !node.connections.is_closed())
    }

    /// The servers, which are learned anew if need be and it is time.
    pub async fn map(&self) -> Arc<Map> {
        let map = self.known();
        let is_new = map.layout.is_empty();
        if !is_new && !self.is_stale.load(Ordering::Relaxed) {
            return map;
        }
        let mut next = match is_new {
            true => self.next.lock().await,
            // Somebody is at it.
            false => match self.next.try_lock() {
                Ok(next) => next,
                Err(_) => return map,
            },
        };
        let now = self.known();
        if Instant::now() < next.at || !Arc::ptr_eq(&now, &map) {
            return now;
        }
        self.is_stale.store(false, Ordering::Relaxed);
        match self.learn(&map).await {
            Some(()) => next.backoff.reset(),
            None => self.is_stale.store(true, Ordering::Relaxed),
        }
        next.at = Instant::now() + next.backoff.next_wait();
        self.known()
    }

    /// The servers, learned now.
    pub async fn map_now(&self) -> RedisResult<Arc<Map>> {
        let mut next = self.next.lock().await;
        let map = self.known();
        let learned = self.learn(&map).await;
        next.at = Instant::now() + next.backoff.next_wait();
        let map = self.known();
        match learned {
            Some(()) => Ok(map),
            None => Err(Map::default().nobody()),
        }
    }

    /// Asks the servers that are known, and then those that the settings name, for the slots; the first answer counts.
    async fn learn(&self, map: &Map) -> Option<()> {
        let (limit, mut known) = (config::ms(self.settings.timeout_ms), map.nodes.clone());
        known.retain(|node| !node.connections.is_closed());
        known.shuffle(&mut rand::rng());
        let mut tries: Vec<BoxFuture<'_, RedisResult<Layout>>> = Vec::new();
        for node in known {
            tries.push(Box::pin(async move {
                let answer = node.ask(slots(), Size::SMALL, Again::Yes, false).await;
                match answer.map(|answers| answers.into_iter().next()) {
                    Ok(Some(Ok(answer))) => read(&answer, &node.address),
                    _ => Err(RedisError::from((ErrorKind::Io, LATE))),
                }
            }));
        }
        let mut seeds = self.url.addresses();
        seeds.shuffle(&mut rand::rng());
        for url in seeds {
            tries.push(Box::pin(
                async move { learn_at(&url, &self.settings).await },
            ));
        }
        // The whole takes no longer than one answer.
        let learned = tokio::time::timeout(limit, first_of(tries, limit / 5)).await;
        self.take(learned.ok()?.ok()?);
        Some(())
    }

    fn take(&self, layout: Layout) {
        let before = self.known();
        for (from, to) in layout.moves(&before.layout) {
            let why = "another server of the cluster has its slots";
            moved(&self.metrics, &from, &to, why);
        }
        let nodes = layout
            .primaries
            .iter()
            .map(|one| self.node_at(&before, &one.address))
            .collect();
        let map = Arc::new(Map { layout, nodes });
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = map;
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.clear();
    }
}

/// What a cluster is asked for its slots.
fn slots() -> Question {
    let mut pipeline = Pipeline::new();
    pipeline.ignore_errors();
    pipeline.cmd("CLUSTER").arg("SLOTS");
    pipeline.into()
}

fn read(answer: &Value, asked: &str) -> RedisResult<Layout> {
    let layout = Layout::read(answer, asked);
    match layout.is_empty() {
        false => Ok(layout),
        true => Err(RedisError::from((
            ErrorKind::Io,
            "cluster",
            format!("{asked} knows no server that has slots"),
        ))),
    }
}

/// What the server at `url` says of its cluster, over a connection of its own.
pub(in crate::cache::redis) async fn learn_at(
    url: &Secret,
    settings: &Redis,
) -> RedisResult<Layout> {
    let mut connection = connect_one(url, settings).await?;
    let question = slots();
    let answer = question.send::<Vec<RedisResult<Value>>>(&mut connection);
    let late = |_| RedisError::from((ErrorKind::Io, LATE));
    let limit = config::ms(settings.timeout_ms);
    let answers = tokio::time::timeout(limit, answer).await.map_err(late)??;
    let host = url.parts().map_or("", |(_, host, _)| host);
    match answers.into_iter().next() {
        Some(answer) => read(&answer?, host),
        None => Err(RedisError::from((ErrorKind::Io, LATE))),
    }
}
