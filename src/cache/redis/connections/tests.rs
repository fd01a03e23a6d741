//! Round trips against a server that answers `OK` to everything, until some of its connections fall silent, or refuse writes.

use super::*;
use std::sync::{Arc, atomic::AtomicBool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Some of its connections, those that came first, behave otherwise once the test says so.
struct Server {
    port: u16,
    is_silent: Arc<AtomicBool>,
}

impl Server {
    /// Connections with a number below it fall silent.
    async fn start(silent_below: usize) -> Self {
        Self::answering(silent_below, "").await
    }

    /// They answer that to each command.
    async fn answering(below: usize, answer: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let is_silent = Arc::new(AtomicBool::new(false));
        let silent = is_silent.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.expect("a client");
                let other = (number < below).then_some(answer);
                tokio::spawn(serve(client, silent.clone(), other));
            }
        });
        Self { port, is_silent }
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    fn connections(&self, connections: usize) -> Connections {
        self.resting(connections, 3_600_000)
    }

    fn resting(&self, connections: usize, cooldown_ms: u64) -> Connections {
        let url = Secret::new(format!("redis://127.0.0.1:{}/0", self.port));
        let settings = Redis {
            connections,
            timeout_ms: 400,
            cooldown_ms,
            ..Redis::default()
        };
        let source = Source::One(url.clone());
        let made = Arc::default();
        Connections::new(&url, source, &settings, Metrics::new(), made)
    }
}

async fn serve(mut client: TcpStream, silent: Arc<AtomicBool>, other: Option<&str>) {
    let mut buffer = vec![0; 4_096];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        let other = other.filter(|_| silent.load(Ordering::SeqCst));
        let commands = buffer[..length].iter().filter(|byte| **byte == b'*');
        let answer = other.unwrap_or("+OK\r\n").repeat(commands.count());
        if client.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn asked(connections: &Connections, again: Again) -> &'static str {
    let question = Question::from(redis::cmd("ECHO"));
    match connections
        .ask::<String>(&question, Size::SMALL, again)
        .await
    {
        Ok(_) => "answered",
        Err(Unanswered::Failed(_)) => "failed",
        Err(Unanswered::Unsent(_)) => "unsent",
        Err(Unanswered::Skipped) => "skipped",
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_costs_one_time_out() {
    for count in [1, 4] {
        let server = Server::start(usize::MAX).await;
        let connections = server.connections(count);
        assert_eq!(asked(&connections, Again::Yes).await, "answered");
        server.fall_silent();
        assert_eq!(asked(&connections, Again::Yes).await, "failed");
        assert!(connections.is_closed());
        assert_eq!(asked(&connections, Again::Yes).await, "skipped");
    }
}

#[tokio::test]
async fn a_connection_that_is_slow_alone_is_left_and_the_question_asked_elsewhere() {
    let server = Server::start(1).await;
    let connections = server.connections(4);
    assert_eq!(asked(&connections, Again::Yes).await, "answered");
    server.fall_silent();
    assert_eq!(asked(&connections, Again::Yes).await, "answered");
    assert!(!connections.is_closed());
    assert_eq!(asked(&connections, Again::Yes).await, "answered");
}

#[tokio::test]
async fn what_may_not_be_asked_twice_fails_and_the_others_go_on() {
    let server = Server::start(1).await;
    let connections = server.connections(4);
    assert_eq!(asked(&connections, Again::No).await, "answered");
    server.fall_silent();
    assert_eq!(asked(&connections, Again::No).await, "failed");
    assert!(!connections.is_closed());
    assert_eq!(asked(&connections, Again::No).await, "answered");
}

#[tokio::test]
async fn a_server_that_is_gone_is_left_alone_at_once() {
    // Nobody listens on the port of a listener that was dropped.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let gone = Server {
        port: listener.local_addr().expect("an address").port(),
        is_silent: Arc::default(),
    };
    drop(listener);
    let connections = gone.connections(4);
    assert_eq!(asked(&connections, Again::Yes).await, "unsent");
    assert_eq!(asked(&connections, Again::Yes).await, "skipped");
}

#[tokio::test]
async fn a_server_that_has_become_a_replica_is_left_for_the_one_that_its_name_means_now() {
    for answer in [
        "-READONLY You can't write against a read only replica.\r\n",
        "-MASTERDOWN Link with MASTER is down.\r\n",
        "-LOADING Redis is loading the dataset in memory\r\n",
    ] {
        let server = Server::answering(1, answer).await;
        let connections = server.resting(1, 0);
        assert_eq!(asked(&connections, Again::Yes).await, "answered");
        server.fall_silent();
        assert_eq!(asked(&connections, Again::Yes).await, "failed");
        assert!(!connections.is_closed(), "look-ups go on meanwhile");
        assert_eq!(asked(&connections, Again::Yes).await, "answered");
    }
}

#[tokio::test]
async fn a_server_that_stays_a_replica_is_connected_to_once_a_cooldown() {
    let server = Server::answering(1, "-READONLY It is one.\r\n").await;
    let connections = server.connections(1);
    server.fall_silent();
    for _ in 0..3 {
        assert_eq!(asked(&connections, Again::Yes).await, "failed");
    }
    assert!(!connections.is_closed());
}

#[tokio::test]
async fn what_is_connected_to_another_address_than_the_last_one_is_left() {
    let (one, other) = (Server::start(0).await, Server::start(0).await);
    let url = |port| Secret::new(format!("redis://127.0.0.1:{port}/0"));
    let source = Source::Several(vec![url(one.port), url(other.port)]);
    let settings = Redis {
        connections: 2,
        ..Redis::default()
    };
    let made = Arc::default();
    let all = Connections::new(&url(one.port), source, &settings, Metrics::new(), made);
    let generation = async |index| all.connection(index).await.expect("a connection").1;
    assert_eq!((generation(0).await, generation(0).await), (1, 1));
    all.followed().demoted("it is none any more");
    assert_eq!((generation(0).await, generation(1).await), (1, 1));
    assert_eq!(generation(0).await, 2, "it was at the address before");
    assert_eq!((generation(0).await, generation(1).await), (2, 1));
    all.close_all();
    assert_eq!((generation(0).await, generation(1).await), (3, 2));
}
