//! The harness itself: a test that breaks a server proves nothing where the server only seemed broken.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::bus::{REPLIES, persistent};
use crate::harness::postgres::Postgres;
use crate::harness::proxy::Proxy;
use crate::harness::redis::Redis;
use crate::harness::stack::{Own, Stack};
use crate::harness::{PATIENCE, eventually, eventually_equals};

/// Long enough for a loopback answer on a busy machine, short enough to wait for where none may come.
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_keeps_confirmed_messages_through_a_kill_and_a_restart() {
    let stack = Stack::with(Own {
        broker: true,
        postgres: false,
    })
    .await;
    stack
        .bus
        .publish(
            REPLIES,
            vec![(b"1".to_vec(), persistent()), (b"2".to_vec(), persistent())],
        )
        .await;

    stack.broker.flush_declarations().await;
    stack.broker.kill();
    assert!(!stack.broker.accepts().await);
    stack.broker.start().await;
    eventually_equals("messages after a kill", PATIENCE, Some(2), || {
        stack.bus.waiting(REPLIES)
    })
    .await;

    stack.broker.stop().await;
    assert!(!stack.broker.accepts().await);
    stack.broker.start().await;
    eventually_equals("messages after a restart", PATIENCE, Some(2), || {
        stack.bus.waiting(REPLIES)
    })
    .await;
    assert_eq!(stack.unsettled(REPLIES).await, Some(2));

    stack.broker.block_publishers().await;
    let publishing = stack
        .bus
        .publish(REPLIES, vec![(b"3".to_vec(), persistent())]);
    let unblocking = async {
        eventually("the publisher is blocked", PATIENCE, async || {
            let states = stack
                .broker
                .ctl(&["list_connections", "--no-table-headers", "state"])
                .await;
            states.lines().any(|state| state == "blocked").then_some(())
        })
        .await;
        stack.broker.unblock_publishers().await;
    };
    tokio::join!(publishing, unblocking);
    assert!(
        stack.bus.waiting(REPLIES).await >= Some(3),
        "the message went through in the end"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_server_can_be_killed_paused_and_filled() {
    let redis = Redis::prepare();
    redis.start().await;
    redis.command::<()>(&["SET", "a", "1"]).await;
    assert_eq!(redis.keys("*").await, [b"a"]);

    redis.fill().await;
    let refused = redis.connection().await.expect("redis is up");
    let refused = redis::cmd("SET")
        .arg("b")
        .arg("2")
        .query_async::<()>(&mut refused.clone())
        .await;
    assert!(
        refused
            .expect_err("a full server refuses writes")
            .to_string()
            .contains("OOM")
    );
    redis.make_room().await;
    redis.command::<()>(&["SET", "b", "2"]).await;

    redis.pause();
    assert!(
        timeout(SILENCE, redis.connection()).await.is_err(),
        "a paused server is silent"
    );
    redis.resume();
    assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 2);

    redis.kill();
    assert!(redis.connection().await.is_err());
    redis.start().await;
    assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_cluster_can_be_killed_and_paused() {
    let postgres = Postgres::prepare();
    postgres.start().await;
    postgres.add_database("kept").await;

    postgres.kill();
    assert!(
        TcpStream::connect(("127.0.0.1", postgres.port))
            .await
            .is_err()
    );
    postgres.start().await;
    let pool = sqlx::PgPool::connect(&postgres.url("kept"))
        .await
        .expect("the database outlived the kill");

    postgres.pause();
    assert!(
        timeout(SILENCE, sqlx::query("SELECT 1").execute(&pool))
            .await
            .is_err(),
        "a paused server is silent"
    );
    postgres.resume();
    let query = || async { sqlx::query("SELECT 1").execute(&pool).await.ok() };
    eventually("an answer after the pause", PATIENCE, query).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_passes_delays_swallows_and_cuts() {
    let redis = Redis::prepare();
    redis.start().await;
    let proxy = Proxy::start(redis.port).await;

    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy listens");
    assert!(answers(&mut connection).await);
    proxy.delay(Duration::from_millis(20)).await;
    assert!(answers(&mut connection).await);

    proxy.blackhole().await;
    assert!(
        !answers(&mut connection).await,
        "an existing connection is silent"
    );
    let mut late = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("a blackhole accepts");
    assert!(!answers(&mut late).await, "a new connection is silent");
    proxy.resume().await;
    expect_reset(connection).await;
    expect_reset(late).await;

    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy listens again");
    assert!(answers(&mut connection).await);
    proxy.cut().await;
    expect_reset(connection).await;
    assert!(
        TcpStream::connect(("127.0.0.1", proxy.port)).await.is_err(),
        "a cut refuses"
    );
    proxy.resume().await;
    let mut connection = TcpStream::connect(("127.0.0.1", proxy.port))
        .await
        .expect("the proxy listens again");
    assert!(answers(&mut connection).await);
    assert_eq!(proxy.accepted(), 4);
}

async fn answers(connection: &mut TcpStream) -> bool {
    let exchange = async {
        connection.write_all(b"PING\r\n").await?;
        let mut answer = [0; 7];
        connection.read_exact(&mut answer).await.map(|_| answer)
    };
    matches!(timeout(SILENCE, exchange).await, Ok(Ok(answer)) if &answer == b"+PONG\r\n")
}

async fn expect_reset(mut connection: TcpStream) {
    let ended = timeout(PATIENCE, connection.read_u8())
        .await
        .expect("the connection ends");
    assert!(ended.is_err(), "nothing more arrives");
}
