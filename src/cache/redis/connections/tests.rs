//! Round trips against a server that answers `OK` to everything, until some of its connections fall silent.

use super::*;
use std::sync::{Arc, atomic::AtomicBool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Connections with a number below it are silent once the test says so.
struct Server {
    port: u16,
    is_silent: Arc<AtomicBool>,
}

impl Server {
    async fn start(silent_below: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let is_silent = Arc::new(AtomicBool::new(false));
        let silent = is_silent.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.expect("a client");
                let is_one = number < silent_below;
                tokio::spawn(serve(client, silent.clone(), is_one));
            }
        });
        Self { port, is_silent }
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    fn connections(&self, connections: usize) -> Connections {
        let url = Secret::new(format!("redis://127.0.0.1:{}/0", self.port));
        let settings = Redis {
            connections,
            timeout_ms: 400,
            cooldown_ms: 3_600_000,
            ..Redis::default()
        };
        Connections::new(&url, &settings, Metrics::new())
    }
}

async fn serve(mut client: TcpStream, silent: Arc<AtomicBool>, is_one: bool) {
    let mut buffer = vec![0; 4_096];
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        if is_one && silent.load(Ordering::SeqCst) {
            continue;
        }
        let commands = buffer[..length].iter().filter(|byte| **byte == b'*');
        let answer = "+OK\r\n".repeat(commands.count());
        if client.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn asked(connections: &Connections, again: Again) -> &'static str {
    let question = Question::One(redis::cmd("ECHO"));
    match connections
        .ask::<String>(&question, Size::SMALL, again)
        .await
    {
        Ok(_) => "answered",
        Err(Unanswered::Failed(_)) => "failed",
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
    assert_eq!(asked(&connections, Again::Yes).await, "failed");
    assert_eq!(asked(&connections, Again::Yes).await, "skipped");
}
