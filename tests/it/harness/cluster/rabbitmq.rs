//! Three RabbitMQ nodes that are one cluster, each of which may be killed, frozen and started again.

use std::sync::Arc;

use super::super::broker::Broker;
use super::super::{PATIENCE, eventually};
use crate::harness::turn::{Turn, own_turn};

const NAMES: [&str; 3] = ["kiln-a", "kiln-b", "kiln-c"];

/// The nodes; killed with their folders when dropped.
pub struct RabbitCluster {
    pub nodes: Vec<Arc<Broker>>,
    /// The test's, which its stack has as well.
    pub turn: Arc<Turn>,
}

impl RabbitCluster {
    /// Starts the nodes and waits until each knows the others.
    pub async fn start() -> Self {
        let turn = own_turn().await;
        let nodes = Broker::prepare_cluster(&NAMES).into_iter().map(Arc::new);
        let nodes: Vec<Arc<Broker>> = nodes.collect();
        // The others join the first one.
        nodes[0].start().await;
        tokio::join!(nodes[1].start(), nodes[2].start());
        let cluster = Self { nodes, turn };
        cluster.wait_complete().await;
        cluster
    }

    /// Waits until every node runs and is seen by the first one.
    pub async fn wait_complete(&self) {
        self.wait_running(0, NAMES.len()).await;
    }

    /// Waits until so many nodes run, as one of them sees it.
    pub async fn wait_running(&self, asked: usize, count: usize) {
        eventually("so many nodes are seen", PATIENCE, async || {
            let seen = self.nodes[asked].ctl(&["eval", "length(rabbit_nodes:all_running())."]);
            (seen.await.trim() == count.to_string()).then_some(())
        })
        .await;
    }

    /// Waits until each node accepts clients, and all know each other.
    pub async fn wait_whole(&self) {
        for node in &self.nodes {
            eventually("a node accepts clients", PATIENCE, async || {
                node.accepts().await.then_some(())
            })
            .await;
        }
        self.wait_complete().await;
    }

    /// Has another node lead a quorum queue.
    pub async fn hand_over(&self, queue: &str, to: usize) {
        let from = self.home(queue, to).await;
        let member = |number: usize| format!("{{'%2F_{queue}','{}@localhost'}}", NAMES[number]);
        let hand = format!("ra:transfer_leadership({}, {}).", member(from), member(to));
        self.nodes[to].ctl(&["eval", &hand]).await;
    }

    /// Breaks the connections between one node and the others, and lets none be made anew, until [`RabbitCluster::join`].
    pub async fn cut_off(&self, number: usize) {
        self.between(number, "wrong", "erlang:disconnect_node(N)")
            .await;
    }

    /// Ends [`RabbitCluster::cut_off`].
    pub async fn join(&self, number: usize) {
        let cookie = "(erlang:get_cookie())";
        self.between(number, cookie, "ok").await;
    }

    /// What one node says to the others when they shake hands, and something more.
    async fn between(&self, number: usize, cookie: &str, more: &str) {
        let others = NAMES.iter().filter(|name| **name != NAMES[number]);
        let others: Vec<String> = others.map(|name| format!("'{name}@localhost'")).collect();
        let change = format!(
            "[begin erlang:set_cookie(N, {cookie}), {more} end || N <- [{}]].",
            others.join(", ")
        );
        self.nodes[number].ctl(&["eval", &change]).await;
    }

    /// Its queues and who takes from them, as one of its nodes sees them.
    pub async fn report(&self, asked: usize) -> String {
        let node = &self.nodes[asked];
        let running = node.ctl(&["eval", "{rabbit_nodes:all_running(), nodes()}."]);
        let mut report = running.await;
        let columns = "name leader online messages_ready messages_unacknowledged consumers";
        let mut queues = vec!["list_queues", "--timeout", "20", "--no-table-headers"];
        queues.extend(columns.split(' '));
        report.push_str(&node.ctl(&queues).await);
        report.push_str(&node.ctl(&["list_consumers", "--timeout", "20"]).await);
        report
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
