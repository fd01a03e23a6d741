//! Three RabbitMQ nodes that are one cluster, each of which may be killed, frozen and started again.

use std::sync::Arc;

use tokio::sync::SemaphorePermit;

use super::super::broker::Broker;
use super::super::{PATIENCE, eventually};
use crate::harness::stack::OWN_BROKERS;

const NAMES: [&str; 3] = ["kiln-a", "kiln-b", "kiln-c"];

/// The nodes; killed with their folders when dropped.
pub struct RabbitCluster {
    pub nodes: Vec<Arc<Broker>>,
    _turn: SemaphorePermit<'static>,
}

impl RabbitCluster {
    /// Starts the nodes and waits until each knows the others.
    pub async fn start() -> Self {
        let turn = OWN_BROKERS.acquire().await.expect("never closed");
        let nodes = Broker::prepare_cluster(&NAMES).into_iter().map(Arc::new);
        let nodes: Vec<Arc<Broker>> = nodes.collect();
        // The others join the first one.
        nodes[0].start().await;
        tokio::join!(nodes[1].start(), nodes[2].start());
        let cluster = Self { nodes, _turn: turn };
        cluster.wait_complete().await;
        cluster
    }

    /// Waits until every node runs and is seen by the first one.
    pub async fn wait_complete(&self) {
        eventually("the cluster's nodes see each other", PATIENCE, async || {
            let seen = self.nodes[0].ctl(&["eval", "length(rabbit_nodes:all_running())."]);
            (seen.await.trim() == NAMES.len().to_string()).then_some(())
        })
        .await;
    }

    /// The URLs of its nodes, one each, on the virtual host that a broker has from the start.
    pub fn urls(&self) -> Vec<String> {
        let url = |node: &Arc<Broker>| format!("amqp://guest:guest@127.0.0.1:{}/%2f", node.port);
        self.nodes.iter().map(url).collect()
    }

    /// One URL that names them all.
    pub fn url(&self) -> String {
        let hosts = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port));
        let hosts: Vec<String> = hosts.collect();
        format!("amqp://guest:guest@{}/%2f", hosts.join(","))
    }

    /// The number of the node that leads a quorum queue, or on which a classic one lives; `asked` is the node that is asked.
    pub async fn home(&self, queue: &str, asked: usize) -> usize {
        let what = format!("the home of {queue}");
        let home = eventually(&what, PATIENCE, async || {
            let columns = ["list_queues", "--no-table-headers", "name", "pid", "leader"];
            let listed = self.nodes[asked].ctl(&columns).await;
            let line = listed.lines().find_map(|line| {
                let rest = line.strip_prefix(queue)?;
                rest.starts_with('\t').then(|| rest.to_owned())
            })?;
            NAMES.iter().position(|name| line.contains(name))
        });
        home.await
    }
}
