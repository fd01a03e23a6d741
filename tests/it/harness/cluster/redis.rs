//! A Redis Cluster of three primaries with a replica each, and a primary with replicas that three Sentinels watch.

use std::fs;

use ::redis::Value;
use futures_util::future::join_all;
use kiln_contract::slot;

use crate::harness::redis::Server;
use crate::harness::{PATIENCE, eventually, sandbox};

/// How long the servers of a cluster wait for one of them before they hold it to be gone, in milliseconds.
const NODE_TIMEOUT_MS: &str = "2000";
/// The same of Sentinels.
const DOWN_AFTER_MS: u32 = 1_000;
/// What Sentinels call the primary.
pub const NAME: &str = "main";

fn addresses<'a>(servers: impl IntoIterator<Item = &'a Server>) -> String {
    let all: Vec<String> = servers.into_iter().map(Server::address).collect();
    all.join(",")
}

/// Three primaries, and a replica of each, which has the number three after its primary's.
pub struct RedisCluster {
    pub servers: Vec<Server>,
}

impl RedisCluster {
    /// Starts it, and returns when every slot has its primary and every primary its replica. While a shard is away, the others answer.
    pub async fn start() -> Self {
        let cluster = Self::prepare();
        cluster.form().await;
        cluster
    }

    /// Six servers that know nothing of each other and don't run.
    pub fn prepare() -> Self {
        let servers = (0..6)
            .map(|_| {
                let bus = sandbox::free_port().to_string();
                Server::prepare(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    NODE_TIMEOUT_MS,
                    "--cluster-replica-validity-factor",
                    "0",
                    "--cluster-require-full-coverage",
                    "no",
                ])
            })
            .collect();
        Self { servers }
    }

    /// Has clients, and the other servers, reach one at another port, a proxy's, from its start on.
    pub fn announce(&mut self, number: usize, port: u16) {
        let arguments = &mut self.servers[number].arguments;
        arguments.extend(["--cluster-announce-port".to_owned(), port.to_string()]);
    }

    /// Starts what was prepared, and makes one cluster of it.
    pub async fn form(&self) {
        join_all(self.servers.iter().map(Server::start)).await;
        self.meet().await;
        for (number, primary) in self.servers.iter().take(3).enumerate() {
            let id: String = primary.command(&["CLUSTER", "MYID"]).await;
            let replica = &self.servers[number + 3];
            eventually("it knows its primary", PATIENCE, || async {
                replica.ask::<()>(&["CLUSTER", "REPLICATE", &id]).await.ok()
            })
            .await;
        }
        self.wait_whole().await;
    }

    /// Waits until every slot has its primary and every primary its replica, as each of them sees it.
    pub async fn wait_whole(&self) {
        for server in &self.servers {
            eventually("the cluster is whole", PATIENCE, || async {
                let info = server.ask::<String>(&["CLUSTER", "INFO"]).await.ok()?;
                let replicas = server.ask::<Vec<Value>>(&["CLUSTER", "SLOTS"]).await.ok()?;
                let of_two = |range: &Value| matches!(range, Value::Array(all) if all.len() == 4);
                let is_whole = info.contains("cluster_state:ok") && replicas.len() == 3;
                (is_whole && replicas.iter().all(of_two)).then_some(())
            })
            .await;
            eventually("each follows its primary, or is one", PATIENCE, || async {
                let info = server.ask::<String>(&["INFO", "replication"]).await.ok()?;
                let follows = info.contains("master_link_status:up");
                (follows || info.contains("role:master")).then_some(())
            })
            .await;
        }
    }

    /// The numbers of the primary and of the replica of a shard, 0 to 2, once there is one of each.
    pub async fn shard(&self, shard: usize) -> (usize, usize) {
        let (one, other) = (shard, shard + 3);
        eventually("a shard has its primary", PATIENCE, || async {
            let leads = async |number: usize| {
                self.servers[number]
                    .says("replication", "role:master")
                    .await
            };
            match (leads(one).await, leads(other).await) {
                (true, false) => Some((one, other)),
                (false, true) => Some((other, one)),
                _ => None,
            }
        })
        .await
    }

    async fn meet(&self) {
        for (number, server) in self.servers.iter().enumerate() {
            let epoch = (number + 1).to_string();
            server
                .command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch])
                .await;
            let slots = usize::from(slot::SLOTS);
            let (first, last) = (number * slots / 3, (number + 1) * slots / 3 - 1);
            if number < 3 {
                let (first, last) = (first.to_string(), last.to_string());
                let add = ["CLUSTER", "ADDSLOTSRANGE", &first, &last];
                server.command::<()>(&add).await;
            }
        }
        let first = &self.servers[0];
        for other in self.servers.iter().skip(1) {
            let bus = other.arguments.iter();
            let mut bus = bus.skip_while(|argument| *argument != "--cluster-port");
            let (port, bus) = (other.port.to_string(), bus.nth(1).expect("a port"));
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, bus];
            first.command::<()>(&meet).await;
        }
        for server in &self.servers {
            eventually("all know each other", PATIENCE, || async {
                let info = server.ask::<String>(&["CLUSTER", "INFO"]).await.ok()?;
                info.contains("cluster_known_nodes:6").then_some(())
            })
            .await;
        }
    }

    /// The addresses of all its servers.
    pub fn url(&self) -> String {
        format!("redis://{}/0", addresses(&self.servers))
    }

    /// The server that takes writes for a key now, as another one than `except` says.
    pub async fn owner(&self, key: &[u8], except: Option<u16>) -> &Server {
        let slot = i64::from(slot::of_key(key));
        eventually("the key's slot has a server", PATIENCE, || async {
            let asked = self.servers.iter().find(|one| {
                Some(one.port) != except && one.pids().first().is_some_and(|pid| runs(*pid))
            });
            let ranges: Vec<(i64, i64, Vec<Value>)> = {
                let answer = asked?.ask::<Vec<Vec<Value>>>(&["CLUSTER", "SLOTS"]).await;
                let ranges = answer.ok()?.into_iter().filter_map(|range| {
                    let [
                        Value::Int(first),
                        Value::Int(last),
                        Value::Array(primary),
                        ..,
                    ] = range.as_slice()
                    else {
                        return None;
                    };
                    Some((*first, *last, primary.clone()))
                });
                ranges.collect()
            };
            let own = ranges
                .into_iter()
                .find(|(first, last, _)| (first..=last).contains(&&slot));
            let Some(Value::Int(port)) = own?.2.get(1).cloned() else {
                return None;
            };
            let owner = self.servers.iter().find(|one| i64::from(one.port) == port);
            owner.filter(|one| Some(one.port) != except)
        })
        .await
    }

    /// All keys that match on these servers, sorted.
    pub async fn keys(&self, servers: &[usize], pattern: &str) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for number in servers {
            let of_one: Vec<Vec<u8>> = self.servers[*number].command(&["KEYS", pattern]).await;
            keys.extend(of_one);
        }
        keys.sort();
        keys
    }

    /// A value that is JSON.
    pub async fn json(&self, key: &str) -> Option<serde_json::Value> {
        let owner = self.owner(key.as_bytes(), None).await;
        let value: Option<String> = owner.command(&["GET", key]).await;
        value.and_then(|text| serde_json::from_str(&text).ok())
    }
}

/// Whether a process runs and isn't stopped.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('T' | 'Z'))
}

/// A primary and its replicas, and three Sentinels that watch them.
pub struct Watched {
    pub servers: Vec<Server>,
    pub sentinels: Vec<Server>,
}

impl Watched {
    /// Starts one primary, the first, and two replicas, and returns when the Sentinels could elect one of them.
    pub async fn start() -> Self {
        let primary = Server::prepare(&[]);
        primary.start().await;
        let port = primary.port.to_string();
        let follow = ["--replicaof", "127.0.0.1", &port];
        let mut servers = vec![primary];
        servers.extend((0..2).map(|_| Server::prepare(&follow)));
        join_all(servers.iter().skip(1).map(Server::start)).await;
        for replica in servers.iter().skip(1) {
            eventually("it follows the primary", PATIENCE, || async {
                let up = "master_link_status:up";
                replica.says("replication", up).await.then_some(())
            })
            .await;
        }
        let sentinels: Vec<Server> = (0..3).map(|_| sentinel(&port)).collect();
        join_all(sentinels.iter().map(Server::start)).await;
        let watched = Self { servers, sentinels };
        for sentinel in &watched.sentinels {
            eventually("the Sentinels know each other", PATIENCE, || async {
                let info = sentinel.ask::<String>(&["INFO", "sentinel"]).await.ok()?;
                info.contains("status=ok,address=").then_some(())?;
                info.contains("slaves=2,sentinels=3").then_some(())
            })
            .await;
        }
        watched
    }

    /// The Sentinels' addresses, for a worker.
    pub fn url(&self) -> String {
        let all = addresses(&self.sentinels);
        format!("redis+sentinel://{all}/{NAME}/0")
    }

    /// The server that the Sentinels call the primary, once it isn't the one with this port and takes writes.
    pub async fn elected(&self, other_than: u16) -> &Server {
        eventually("another primary is elected", PATIENCE, || async {
            let ask = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            let said = self.sentinels[0].ask::<(String, u16)>(&ask).await.ok()?;
            let mut servers = self.servers.iter();
            let server = servers.find(|one| one.port == said.1 && one.port != other_than)?;
            server
                .says("replication", "role:master")
                .await
                .then_some(server)
        })
        .await
    }
}

/// A Sentinel, which writes what it learns into its file.
fn sentinel(primary_port: &str) -> Server {
    let mut server = Server::prepare(&[]);
    let file = server.folder.join("sentinel.conf");
    let text = format!(
        "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {primary_port} 2\n\
         sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}\nsentinel failover-timeout {NAME} 3000\n",
        server.port,
        server.folder.display()
    );
    fs::write(&file, text).expect("the Sentinel's file");
    server.arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
    server
}
