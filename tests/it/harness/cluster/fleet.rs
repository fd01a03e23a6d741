//! All three servers as clusters, with a proxy before each node for those who connect, workers on them, and what may befall each.
//!
//! A fault ends healed: when its function returns, the cluster is whole again, so that no two faults together take a majority.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::postgres::{Pair, Replication};
use super::rabbitmq::RabbitCluster;
use super::redis::RedisCluster;
use crate::harness::bus::JOBS;
use crate::harness::proxy::Proxy;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually};

/// How long what is away stays away, where nothing else says when it comes back.
const AWAY: Duration = Duration::from_secs(2);
/// Longer than a worker waits for a heartbeat of the broker's.
const SILENCE: Duration = Duration::from_secs(8);

/// Says what happens now. The caller knows when it began.
pub type Say<'a> = &'a dyn Fn(String);

/// Faults in a drawn order, each of them once before any comes again.
pub struct Deck<T> {
    all: Vec<T>,
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    pub fn of(all: &[T]) -> Self {
        Self {
            all: all.to_vec(),
            left: Vec::new(),
        }
    }

    pub fn draw(&mut self, dice: &mut StdRng) -> T {
        if self.left.is_empty() {
            self.left = self.all.clone();
            self.left.shuffle(dice);
        }
        self.left.pop().expect("a fault")
    }
}

/// A cluster or some workers, which one fault at a time may befall.
pub trait Breaks {
    /// Does the next thing to it, and returns what that was when it is whole again.
    async fn fault(&mut self, dice: &mut StdRng, say: Say<'_>) -> String;
}

/// Passes nothing on for a while, and says so to nobody or to everybody.
async fn cut_off(proxy: &Proxy, silently: bool, time: Duration) {
    if silently {
        proxy.blackhole().await;
    } else {
        proxy.cut().await;
    }
    sleep(time).await;
    proxy.resume().await;
}

async fn proxies(ports: impl Iterator<Item = u16>) -> Vec<Proxy> {
    join_all(ports.map(Proxy::start)).await
}

fn hosts(proxies: &[Proxy]) -> String {
    let hosts: Vec<String> = proxies
        .iter()
        .map(|proxy| format!("127.0.0.1:{}", proxy.port))
        .collect();
    hosts.join(",")
}

#[derive(Clone, Copy, Debug)]
pub enum RabbitFault {
    Kill,
    KillLeader,
    Freeze,
    FreezeUntilLost,
    Reset,
    Silence,
    HandOver,
    Rolling,
}

/// RabbitMQ's nodes.
pub struct Rabbits {
    pub cluster: RabbitCluster,
    proxies: Vec<Proxy>,
    deck: Deck<RabbitFault>,
}

impl Rabbits {
    pub async fn start() -> Self {
        use RabbitFault::*;
        let cluster = RabbitCluster::start().await;
        Self {
            proxies: proxies(cluster.nodes.iter().map(|node| node.port)).await,
            cluster,
            deck: Deck::of(&[
                Kill,
                KillLeader,
                Freeze,
                FreezeUntilLost,
                Reset,
                Silence,
                HandOver,
                Rolling,
            ]),
        }
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", hosts(&self.proxies))
    }
}

impl Breaks for Rabbits {
    async fn fault(&mut self, dice: &mut StdRng, say: Say<'_>) -> String {
        let (fault, drawn) = (self.deck.draw(dice), dice.random_range(0..3));
        say(format!("rabbitmq {}: {fault:?}", drawn + 1));
        let (cluster, proxy) = (&self.cluster, &self.proxies[drawn]);
        let number = match fault {
            RabbitFault::KillLeader => cluster.home(JOBS, drawn).await,
            _ => drawn,
        };
        let node = &cluster.nodes[number];
        match fault {
            RabbitFault::Kill | RabbitFault::KillLeader => {
                node.kill();
                sleep(AWAY).await;
                node.start().await;
            }
            RabbitFault::Freeze => {
                node.freeze();
                sleep(AWAY).await;
                node.thaw();
            }
            RabbitFault::FreezeUntilLost => {
                node.freeze();
                let other = (number + 1) % cluster.nodes.len();
                cluster.wait_running(other, 2).await;
                node.thaw();
                sleep(AWAY).await;
                // What operators are to do with a node that was counted as lost while it lived.
                node.kill();
                node.start().await;
            }
            RabbitFault::Reset => cut_off(proxy, false, AWAY).await,
            RabbitFault::Silence => cut_off(proxy, true, SILENCE).await,
            RabbitFault::HandOver => cluster.hand_over(JOBS, number).await,
            RabbitFault::Rolling => {
                for node in &cluster.nodes {
                    node.stop().await;
                    node.start().await;
                    cluster.wait_whole().await;
                }
            }
        }
        cluster.wait_whole().await;
        format!("rabbitmq {fault:?}")
    }
}

#[derive(Clone, Copy, Debug)]
pub enum RedisFault {
    KillPrimary,
    FreezePrimary,
    HandOver,
    Reset,
    Silence,
    KillReplica,
}

/// The servers of a Redis Cluster.
pub struct Shards {
    cluster: RedisCluster,
    proxies: Vec<Proxy>,
    deck: Deck<RedisFault>,
}

impl Shards {
    pub async fn start() -> Self {
        use RedisFault::*;
        let mut cluster = RedisCluster::prepare();
        let ports: Vec<u16> = cluster.servers.iter().map(|server| server.port).collect();
        let proxies = proxies(ports.into_iter()).await;
        for (number, proxy) in proxies.iter().enumerate() {
            cluster.announce(number, proxy.port);
        }
        cluster.form().await;
        Self {
            cluster,
            proxies,
            deck: Deck::of(&[
                KillPrimary,
                FreezePrimary,
                HandOver,
                Reset,
                Silence,
                KillReplica,
            ]),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}/0", hosts(&self.proxies))
    }

    /// How many keys the primaries hold, and in how many bytes of memory.
    pub async fn held(&self) -> (u64, u64) {
        let (mut keys, mut bytes) = (0, 0);
        for shard in 0..3 {
            let (primary, _) = self.cluster.shard(shard).await;
            let server = &self.cluster.servers[primary];
            keys += server.command::<u64>(&["DBSIZE"]).await;
            bytes += server.figure("memory", "used_memory").await as u64;
        }
        (keys, bytes)
    }

    async fn wait_leads(&self, number: usize) {
        let server = &self.cluster.servers[number];
        eventually("a replica takes over", PATIENCE, async || {
            let leads = server.says("replication", "role:master").await;
            leads.then_some(())
        })
        .await;
    }
}

impl Breaks for Shards {
    async fn fault(&mut self, dice: &mut StdRng, say: Say<'_>) -> String {
        let (fault, shard) = (self.deck.draw(dice), dice.random_range(0..3));
        let (primary, replica) = self.cluster.shard(shard).await;
        say(format!("redis {primary} and {replica}: {fault:?}"));
        let servers = &self.cluster.servers;
        match fault {
            RedisFault::KillPrimary => {
                servers[primary].kill();
                // Back before a replica has taken over, it would be an empty primary, and its replica would copy that.
                self.wait_leads(replica).await;
                servers[primary].start().await;
            }
            RedisFault::FreezePrimary => {
                servers[primary].pause();
                self.wait_leads(replica).await;
                servers[primary].resume();
            }
            RedisFault::HandOver => {
                let hand = ["CLUSTER", "FAILOVER"];
                servers[replica].command::<()>(&hand).await;
                self.wait_leads(replica).await;
            }
            RedisFault::Reset => cut_off(&self.proxies[primary], false, AWAY).await,
            RedisFault::Silence => cut_off(&self.proxies[primary], true, AWAY).await,
            RedisFault::KillReplica => {
                servers[replica].kill();
                sleep(AWAY).await;
                servers[replica].start().await;
            }
        }
        self.cluster.wait_whole().await;
        format!("redis {fault:?}")
    }
}

#[derive(Clone, Copy, Debug)]
pub enum PostgresFault {
    KillPrimary,
    KillAndPromote,
    FreezePrimary,
    FreezeAndPromote,
    DemoteAndPromote,
    Reset,
    Silence,
    KillStandby,
    FreezeStandby,
}

/// The Postgres pair, whose commits wait for the standby.
pub struct Databases {
    pub pair: Pair,
    proxies: Vec<Proxy>,
    deck: Deck<PostgresFault>,
}

impl Databases {
    pub async fn start() -> Self {
        use PostgresFault::*;
        let pair = Pair::start(Replication::Synchronous).await;
        let ports = [pair.primary.port, pair.standby.port];
        Self {
            proxies: proxies(ports.into_iter()).await,
            pair,
            deck: Deck::of(&[
                KillPrimary,
                KillAndPromote,
                FreezePrimary,
                FreezeAndPromote,
                DemoteAndPromote,
                Reset,
                Silence,
                KillStandby,
                FreezeStandby,
            ]),
        }
    }

    pub fn url(&self, database: &str) -> String {
        let hosts = hosts(&self.proxies);
        format!("postgres://kiln@{hosts}/{database}?sslmode=disable")
    }
}

impl Breaks for Databases {
    async fn fault(&mut self, dice: &mut StdRng, say: Say<'_>) -> String {
        let fault = self.deck.draw(dice);
        let (primary, standby) = (self.pair.primary.clone(), self.pair.standby.clone());
        say(format!("postgres at {}: {fault:?}", primary.port));
        let number = usize::from(self.proxies[0].target() != primary.port);
        let proxy = &self.proxies[number];
        match fault {
            PostgresFault::KillPrimary => {
                primary.kill();
                primary.start().await;
            }
            PostgresFault::KillAndPromote => {
                primary.kill();
                self.pair.promote().await;
                self.pair.change_parts().await;
            }
            PostgresFault::FreezePrimary => {
                primary.pause();
                sleep(AWAY).await;
                primary.resume();
            }
            PostgresFault::FreezeAndPromote => {
                primary.pause();
                sleep(AWAY).await;
                // Its end is the fence: nobody it answered is answered by two.
                primary.kill();
                self.pair.promote().await;
                self.pair.change_parts().await;
            }
            PostgresFault::DemoteAndPromote => {
                self.pair.demote().await;
                sleep(AWAY).await;
                primary.stop().await;
                self.pair.promote().await;
                self.pair.change_parts().await;
            }
            PostgresFault::Reset => cut_off(proxy, false, AWAY).await,
            PostgresFault::Silence => cut_off(proxy, true, AWAY).await,
            PostgresFault::KillStandby => {
                standby.kill();
                sleep(AWAY).await;
                standby.start().await;
            }
            PostgresFault::FreezeStandby => {
                standby.pause();
                sleep(AWAY).await;
                standby.resume();
            }
        }
        self.pair.wait_streaming().await;
        format!("postgres {fault:?}")
    }
}

#[derive(Clone, Copy, Debug)]
pub enum WorkerFault {
    Kill,
    Freeze,
    Stop,
    FreezeSurvivor,
}

/// Workers, the first of which live through everything.
pub struct Workers {
    pub survivors: Vec<Arc<Worker>>,
    pub others: Vec<Worker>,
    settings: Settings,
    deck: Deck<WorkerFault>,
}

impl Workers {
    pub async fn start(settings: Settings, survivors: usize, others: usize) -> Self {
        use WorkerFault::*;
        let start = |count: usize| join_all((0..count).map(|_| settings.clone().start()));
        let (survivors, others) = tokio::join!(start(survivors), start(others));
        Self {
            survivors: survivors.into_iter().map(Arc::new).collect(),
            others,
            settings,
            deck: Deck::of(&[Kill, Freeze, Stop, FreezeSurvivor]),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Worker> {
        self.survivors.iter().map(Arc::as_ref).chain(&self.others)
    }
}

impl Breaks for Workers {
    async fn fault(&mut self, dice: &mut StdRng, say: Say<'_>) -> String {
        let fault = self.deck.draw(dice);
        let number = match fault {
            WorkerFault::FreezeSurvivor => dice.random_range(0..self.survivors.len()),
            _ => dice.random_range(0..self.others.len()),
        };
        say(format!("worker {number}: {fault:?}"));
        match fault {
            WorkerFault::Kill => self.others[number].kill(),
            WorkerFault::Stop => self.others[number].stop().await,
            WorkerFault::Freeze => freeze(&self.others[number]).await,
            WorkerFault::FreezeSurvivor => freeze(&self.survivors[number]).await,
        }
        if matches!(fault, WorkerFault::Kill | WorkerFault::Stop) {
            self.others[number] = self.settings.clone().spawn();
        }
        format!("worker {fault:?}")
    }
}

async fn freeze(worker: &Worker) {
    worker.pause();
    sleep(AWAY).await;
    worker.resume();
}
