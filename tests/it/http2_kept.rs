//! What a client of HTTP/2 can keep from others: seats, connections of the database, room on its connection.

use sqlx::{Connection, Executor, PgConnection};
use tokio::time::timeout;

use crate::harness::frames::{
    CANCELLED, DATA, END_HEADERS, Frames, HEADERS, REFUSED, ROOM, RST_STREAM, WINDOW, fields,
    get_and_reset,
};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};

const LIVE: &str = "/v1/live";
const LARGE: &str = "/page/uplot.js";
/// Statements that wait for a lock.
const WAITING: &str = "SELECT coalesce(string_agg(pid::text, ' ' ORDER BY pid), '') FROM pg_stat_activity \
    WHERE wait_event_type = 'Lock' AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probes_connection_is_for_one_request_whatever_its_client_goes_on_to_ask() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__CONNECTIONS", "1");
    let worker = settings.start().await;
    let mut client = Frames::open(worker.http_port, &[]).await;
    client.get(1, LIVE).await.expect("a request");
    let answer = client.wait_for(|frame| frame.kind == HEADERS).await;
    answer.expect("the only place is taken");
    let mut probe = Frames::open(worker.http_port, &[]).await;
    let asking = async {
        let mut came = Vec::new();
        let mut stream = 1;
        // It never says that it heard the goodbye.
        while probe.get(stream, "/livez").await.is_ok()
            && let Some(frames) = probe.heard().await
        {
            came.extend(frames);
            stream += 2;
        }
        came
    };
    let came = timeout(PATIENCE, asking).await.expect("it is cut");
    let answered = came.iter().filter(|frame| frame.kind == HEADERS);
    let answered: Vec<u32> = answered.map(|frame| frame.stream).collect();
    assert_eq!(answered, [1]);
    let mut refused = came.iter().filter(|frame| frame.kind == RST_STREAM);
    assert!(refused.all(|frame| frame.code() == REFUSED), "{came:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_was_asked_is_answered_though_its_request_is_given_up() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let connected = PgConnection::connect(&stack.database_url()).await;
    let mut other = connected.expect("a connection");
    let locked = other.execute("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE");
    locked.await.expect("the table is locked");
    let mut frames = Frames::open(worker.http_port, &[]).await;
    let both = get_and_reset(1, "/v1/jobs/none");
    let (ask, reset) = both.split_at(both.len() - 13);
    frames.put(ask).await.expect("a request");
    let waiting = eventually("the database is asked", PATIENCE, async || {
        let waiting = stack.text(WAITING).await;
        (!waiting.is_empty()).then_some(waiting)
    })
    .await;
    frames.put(reset).await.expect("it is given up");
    // Whoever comes next would end what has no owner.
    for _each in 0..20 {
        assert!(frames.is_heard().await);
        assert_eq!(worker.get("/v1/fleet").await.map(|a| a.0), Some(200));
    }
    assert_eq!(stack.text(WAITING).await, waiting, "it goes on");
    other.execute("COMMIT").await.expect("the lock's end");
    eventually("it has its answer", PATIENCE, async || {
        stack.text(WAITING).await.is_empty().then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_answer_that_waits_for_its_client_keeps_its_place_until_it_is_ended() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__CONNECTIONS", "2");
    let worker = settings.start().await;
    // A byte of each may come.
    let mut frames = Frames::open(worker.http_port, &[(WINDOW, 1)]).await;
    for stream in [1, 3] {
        frames.get(stream, "/version").await.expect("a request");
        let begun = frames.wait_for(|frame| frame.kind == DATA && frame.stream == stream);
        assert_eq!(begun.await.map(|frame| frame.payload.len()), Some(1));
    }
    assert_eq!(worker.get("/version").await.map(|a| a.0), Some(503));
    for _each in 0..2 {
        let ended = frames.wait_for(|frame| frame.kind == RST_STREAM).await;
        assert_eq!(ended.map(|frame| frame.code()), Some(CANCELLED));
    }
    eventually("there is room", PATIENCE, async || {
        (worker.get("/version").await?.0 == 200).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_one_answer_too_slowly_loses_that_one_alone() {
    let stack = Stack::shared().await;
    let settings = stack.worker().set("KILN_HTTP__TIMEOUT_MS", "2000");
    let worker = settings.start().await;
    let mut frames = Frames::open(worker.http_port, &[(WINDOW, 0)]).await;
    frames.get(1, LARGE).await.expect("a request");
    frames.get(3, LIVE).await.expect("a request");
    let room = frames.send(ROOM, 0, 3, &0x100_0000_u32.to_be_bytes()).await;
    room.expect("room for one of them");
    let ended = frames.wait_for(|frame| frame.kind == RST_STREAM).await;
    let ended = ended.expect("the other one ends");
    assert_eq!((ended.stream, ended.code()), (1, CANCELLED));
    let goes_on = frames.wait_for(|frame| frame.kind == DATA && frame.stream == 3);
    assert!(goes_on.await.is_some());
    frames.get(5, "/livez").await.expect("a request");
    let answer = frames.wait_for(|frame| frame.kind == HEADERS && frame.stream == 5);
    assert!(answer.await.is_some(), "the connection is as good as ever");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_nobody_reads_take_no_room_of_a_connection() {
    let stack = Stack::shared().await;
    let worker = stack.worker().start().await;
    let mut frames = Frames::open(worker.http_port, &[]).await;
    assert!(frames.is_heard().await);
    let path = fields("/v1/jobs/none/wait?seconds=30");
    for stream in [1, 3] {
        let asked = frames.send(HEADERS, END_HEADERS, stream, &path).await;
        asked.expect("a request");
        // As much as may come before a client hears more.
        for bytes in [16_384, 16_384, 16_384, 16_383] {
            let sent = frames.send(DATA, 0, stream, &vec![b' '; bytes]).await;
            sent.expect("a part of its body");
        }
    }
    let mut came = Vec::new();
    for _each in 0..50 {
        came.extend(frames.heard().await.expect("it is there"));
    }
    let mut room = came.iter().filter(|frame| frame.kind == ROOM);
    assert!(room.any(|frame| frame.stream == 0), "{came:?}");
    assert!(!came.iter().any(|frame| frame.kind == HEADERS), "they wait");
    worker.stop().await;
}
