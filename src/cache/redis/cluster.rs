//! Owns the conversation with a Redis Cluster: one round trip for each server that has some of the keys.
//!
//! Promises that a server which fails costs only its own keys, that what has moved is followed once, and that what can't be answered while
//! its slot moves is asked a few times more. Refuses to send one command for keys of several slots.

mod layout;
mod servers;

pub(super) use layout::Layout;
pub(super) use servers::{Map, Node, learn_at};

use super::{
    question::{Again, Unanswered, is_try_again, may_have_moved, redirection},
    size::parts,
};
use crate::{backoff::Backoff, config::Redis, secret::Secret, telemetry::metrics::Metrics};
use futures_util::{StreamExt, future::BoxFuture, stream};
use redis::{Cmd, Pipeline, Value};
use servers::Servers;
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// First wait before a question is asked again whose keys are on both servers while their slot moves.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// How often it is asked again.
const TRIES: u32 = 4;

/// Commands on keys of several slots.
pub(super) struct Many<'a> {
    /// About what each of them takes, there and back.
    pub bytes: &'a [usize],
    pub key: &'a (dyn Fn(usize) -> &'a [u8] + Sync),
    pub command: &'a (dyn Fn(usize) -> Cmd + Sync),
}

/// An answer for each of several commands, in order.
pub(super) type Answers = Vec<Result<Value, Unanswered>>;

/// Some of many commands, at one server.
struct Visit {
    node: Arc<Node>,
    /// Whether the server is asked for what is on its way to it.
    asking: bool,
    numbers: Vec<usize>,
}

/// A Redis Cluster.
pub(super) struct Cluster {
    pub servers: Servers,
    connections: usize,
}

impl Cluster {
    /// One of which nothing is known yet but where some of it is.
    pub fn new(url: &Secret, settings: &Redis, metrics: Metrics, made: Arc<AtomicU64>) -> Self {
        Self {
            connections: settings.connections.max(1),
            servers: Servers::new(url, settings, metrics, made),
        }
    }

    /// Runs commands, each where its key is. `anyway`: whatever rests.
    pub async fn each(&self, many: &Many<'_>, again: Again, anyway: bool) -> Answers {
        let mut answers: Answers = vec![Err(Unanswered::Skipped); many.bytes.len()];
        let mut numbers: Vec<usize> = (0..many.bytes.len()).collect();
        let mut backoff = Backoff::new(TRY_AGAIN, TRY_AGAIN * 4);
        loop {
            self.each_of(&numbers, &mut answers, many, again, anyway)
                .await;
            numbers.retain(|number| is_between_servers(answers.get(*number)));
            if numbers.is_empty() || backoff.attempts() == TRIES {
                return answers;
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn each_of(
        &self,
        numbers: &[usize],
        answers: &mut Answers,
        many: &Many<'_>,
        again: Again,
        anyway: bool,
    ) {
        let map = self.servers.map().await;
        let mut visits = Visits::default();
        for number in numbers.iter().copied() {
            match map.node_of((many.key)(number)) {
                Some(node) => visits.add(node, false, number),
                None => {
                    self.servers.doubt();
                    set(answers, number, Err(Unanswered::Unsent(map.nobody())));
                }
            }
        }
        let mut redirected = Visits::default();
        for (number, answer) in self.visit(visits.0, many, again, anyway).await {
            let error = answer.as_ref().err().and_then(Unanswered::error);
            if error.is_some_and(may_have_moved) {
                self.servers.doubt();
            }
            let elsewhere = error.and_then(redirection);
            set(answers, number, answer);
            if let Some((address, is_once)) = elsewhere {
                redirected.add(&self.servers.node_at(&map, &address), is_once, number);
            }
        }
        for (number, answer) in self.visit(redirected.0, many, again, anyway).await {
            set(answers, number, answer);
        }
    }

    /// Goes to several servers at the same time.
    async fn visit(
        &self,
        visits: Vec<Visit>,
        many: &Many<'_>,
        again: Again,
        anyway: bool,
    ) -> Vec<(usize, Result<Value, Unanswered>)> {
        let servers = visits.len().max(1);
        let mut asked: Vec<BoxFuture<'_, (Vec<usize>, _)>> = Vec::new();
        for visit in visits {
            let bytes = visit.numbers.iter();
            let bytes = bytes.map(|number| many.bytes.get(*number).copied().unwrap_or_default());
            for part in parts(&bytes.collect::<Vec<usize>>()) {
                let numbers = visit.numbers.get(part.keys.clone()).unwrap_or_default();
                let (numbers, node) = (numbers.to_vec(), visit.node.clone());
                let mut pipeline = Pipeline::with_capacity(numbers.len());
                pipeline.ignore_errors();
                for number in &numbers {
                    if visit.asking {
                        pipeline.cmd("ASKING").ignore();
                    }
                    pipeline.add_command((many.command)(*number));
                }
                asked.push(Box::pin(async move {
                    let answer = node.ask(pipeline.into(), part.size, again, anyway).await;
                    (numbers, answer)
                }));
            }
        }
        let at_once = self.connections * servers;
        let mut all = Vec::with_capacity(many.bytes.len());
        let mut asked = stream::iter(asked).buffer_unordered(at_once);
        while let Some((numbers, answer)) = asked.next().await {
            match answer {
                Ok(values) => {
                    let values = values.into_iter().map(|v| v.map_err(Unanswered::Failed));
                    all.extend(numbers.into_iter().zip(values));
                }
                Err(why) => all.extend(numbers.into_iter().map(|n| (n, Err(why.clone())))),
            }
        }
        all
    }
}

#[derive(Default)]
struct Visits(Vec<Visit>);

impl Visits {
    fn add(&mut self, node: &Arc<Node>, asking: bool, number: usize) {
        let mut all = self.0.iter_mut();
        let there = all.find(|visit| visit.asking == asking && Arc::ptr_eq(&visit.node, node));
        match there {
            Some(visit) => visit.numbers.push(number),
            None => self.0.push(Visit {
                node: node.clone(),
                asking,
                numbers: vec![number],
            }),
        }
    }
}

fn set(answers: &mut Answers, number: usize, answer: Result<Value, Unanswered>) {
    if let Some(known) = answers.get_mut(number) {
        *known = answer;
    }
}

/// Whether a question's keys are on two servers just now, or on their way.
fn is_between_servers(answer: Option<&Result<Value, Unanswered>>) -> bool {
    matches!(answer, Some(Err(Unanswered::Failed(error))) if is_try_again(error))
}
