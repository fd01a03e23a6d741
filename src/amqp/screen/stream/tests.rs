//! What a connection leaves behind that isn't made, or that is lost: nothing.

use super::*;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::options::ConfirmSelectOptions;
use std::future::pending;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::{sleep, timeout},
};

const TIMES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may come.
const LIMIT: Duration = Duration::from_millis(300);

/// The frame of a method.
const METHOD: u8 = 1;
const END: u8 = 0xce;

/// How far somebody goes along who takes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// It says nothing.
    Accepted,
    /// It greets.
    Greeted,
    /// The connection is made.
    Opened,
    /// A channel as well.
    Channel,
    /// It answers everything.
    Forever,
}

/// What it does then.
#[derive(Debug, Clone, Copy)]
enum Then {
    Closes,
    Resets,
    Babbles,
    /// It begins to say something.
    BreaksOff,
    /// It says that the connection is to be closed.
    Dismisses,
    Silent,
}

const ENDS: [Then; 5] = [
    Then::Closes,
    Then::Resets,
    Then::Babbles,
    Then::BreaksOff,
    Then::Dismisses,
];

fn method(channel: u16, id: [u8; 4], arguments: &[u8]) -> Vec<u8> {
    let payload = [&id[..], arguments].concat();
    let length = u32::try_from(payload.len()).expect("a short payload");
    let head = [&[METHOD][..], &channel.to_be_bytes(), &length.to_be_bytes()].concat();
    [head, payload, vec![END]].concat()
}

/// `connection.start`, with its mechanisms and locales.
fn greeting() -> Vec<u8> {
    let length = |text: &[u8]| u32::try_from(text.len()).expect("a short text");
    let long = |text: &[u8]| [&length(text).to_be_bytes(), text].concat();
    let arguments = [&[0, 9, 0, 0, 0, 0][..], &long(b"PLAIN"), &long(b"en_US")].concat();
    method(0, [0, 10, 0, 10], &arguments)
}

/// The next frame's channel and method; nothing where the client has gone.
async fn heard(client: &mut TcpStream) -> Option<(u16, [u8; 4])> {
    loop {
        let mut head = [0; 7];
        client.read_exact(&mut head).await.ok()?;
        let [kind, a, b, length @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes(length) as usize + 1];
        client.read_exact(&mut payload).await.ok()?;
        if kind == METHOD {
            let id = payload.first_chunk::<4>().copied();
            return Some((u16::from_be_bytes([a, b]), id.expect("a method")));
        }
    }
}

/// What a broker answers, and how far that brings the conversation.
fn answer(channel: u16, id: [u8; 4]) -> Option<(Vec<u8>, Until)> {
    let (answer, arguments, until): ([u8; 4], &[u8], Until) = match id {
        // So many channels, bytes of a frame, and seconds between heartbeats.
        [0, 10, 0, 11] => ([0, 10, 0, 30], &[0, 9, 0, 2, 0, 0, 0, 0], Until::Greeted),
        [0, 10, 0, 40] => ([0, 10, 0, 41], &[0], Until::Opened),
        [0, 10, 0, 50] => ([0, 10, 0, 51], &[], Until::Forever),
        [0, 20, 0, 10] => ([0, 20, 0, 11], &[0, 0, 0, 0], Until::Channel),
        [0, 20, 0, 40] => ([0, 20, 0, 41], &[], Until::Forever),
        [0, 85, 0, 10] => ([0, 85, 0, 11], &[], Until::Forever),
        _ => return None,
    };
    Some((method(channel, answer, arguments), until))
}

/// Says what a broker says, so far; nothing where the client has gone.
async fn go_along(client: &mut TcpStream, until: Until) -> Option<()> {
    client.read_exact(&mut [0; 8]).await.ok()?;
    if until == Until::Accepted {
        return Some(());
    }
    client.write_all(&greeting()).await.ok()?;
    if until == Until::Greeted {
        return Some(());
    }
    loop {
        let (channel, id) = heard(client).await?;
        if let Some((answer, reached)) = answer(channel, id) {
            client.write_all(&answer).await.ok()?;
            if reached == until && until != Until::Forever {
                return Some(());
            }
        }
    }
}

async fn serve(mut client: TcpStream, until: Until, then: Then) {
    if go_along(&mut client, until).await.is_none() {
        return;
    }
    let dismissal = || {
        let said = [&[1, 64, 4][..], b"over", &[0, 0, 0, 0]].concat();
        method(0, [0, 10, 0, 50], &said)
    };
    let says = match then {
        Then::Babbles => vec![0xff; 100],
        Then::BreaksOff => vec![METHOD, 0, 0],
        Then::Dismisses => dismissal(),
        Then::Closes | Then::Resets | Then::Silent => Vec::new(),
    };
    let _said = client.write_all(&says).await;
    match then {
        Then::Resets => client.set_zero_linger().expect("a socket"),
        Then::Silent | Then::Dismisses => {
            let mut rest = Vec::new();
            let _until_it_goes = client.read_to_end(&mut rest).await;
        }
        _ => {}
    }
}

async fn listen(until: Until, then: Then) -> (JoinSet<()>, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut served = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(()) = served.next() => {}
                client = listener.accept() => {
                    let (client, _) = client.expect("a client");
                    served.push(serve(client, until, then));
                }
            }
        }
    });
    (tasks, port)
}

async fn attempt(port: u16, limit: Option<Duration>) -> Result<Connection, lapin::Error> {
    let uri: AMQPUri = format!("amqp://127.0.0.1:{port}").parse().expect("a URI");
    let silence = limit.map(|limit| Silence {
        limit,
        noted: Arc::new(|_| {}),
    });
    let (properties, tls) = (ConnectionProperties::default(), OwnedTLSConfig::default());
    connect(uri, properties, tls, silence).await
}

fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn nothing_is_left(before: usize, what: &str) {
    let settled = async {
        while alive() > before {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let settled = timeout(PATIENCE, settled).await;
    let left = alive();
    assert!(settled.is_ok(), "{what}: {left} tasks, {before} before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_leaves_no_task() {
    let (closed, port) = listen(Until::Accepted, Then::Closes).await;
    drop(closed);
    eventually_refused(port).await;
    let before = alive();
    for _ in 0..TIMES {
        attempt(port, None).await.expect_err("nobody is there");
    }
    nothing_is_left(before, "refused").await;
}

async fn eventually_refused(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_before_it_is_made_leaves_no_task() {
    for until in [Until::Accepted, Until::Greeted] {
        for then in ENDS {
            let (_listening, port) = listen(until, then).await;
            let before = alive();
            for _ in 0..TIMES {
                let made = timeout(LIMIT, attempt(port, Some(LIMIT))).await;
                assert!(!matches!(made, Ok(Ok(_))), "{then:?} isn't a broker");
            }
            nothing_is_left(before, &format!("{until:?}, {then:?}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_is_given_up_leaves_no_task() {
    for until in [Until::Accepted, Until::Greeted] {
        // Nobody would notice its end where there are no heartbeats.
        for limit in [None, Some(LIMIT)] {
            let (_listening, port) = listen(until, Then::Silent).await;
            let before = alive();
            for wait_ms in [0, 1, 5, 50, 200] {
                let wait = Duration::from_millis(wait_ms);
                let given_up = timeout(wait, attempt(port, limit)).await;
                assert!(given_up.is_err(), "{until:?} isn't a broker");
            }
            nothing_is_left(before, &format!("{until:?}, {limit:?}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_leaves_no_task_whatever_was_asked_on_it() {
    let ends = ENDS.into_iter().chain([Then::Silent]);
    for then in ends {
        for until in [Until::Opened, Until::Channel] {
            let (_listening, port) = listen(until, then).await;
            let before = alive();
            for _ in 0..TIMES {
                // It may be gone before it is handed over.
                let Ok(connection) = attempt(port, Some(LIMIT)).await else {
                    continue;
                };
                let asking = async {
                    let channel = connection.create_channel().await?;
                    let confirmed = channel.confirm_select(ConfirmSelectOptions::default());
                    confirmed.await?;
                    pending::<Result<(), lapin::Error>>().await
                };
                let answered = timeout(LIMIT / 2, asking).await;
                assert!(!matches!(answered, Ok(Ok(()))));
            }
            nothing_is_left(before, &format!("{until:?}, {then:?}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_needs_leaves_no_task() {
    let (_listening, port) = listen(Until::Forever, Then::Closes).await;
    let before = alive();
    for is_closed in [true, false] {
        for _ in 0..TIMES {
            let connection = attempt(port, None).await.expect("a broker");
            let channel = connection.create_channel().await.expect("a channel");
            let confirmed = channel.confirm_select(ConfirmSelectOptions::default());
            confirmed.await.expect("confirms");
            if is_closed {
                let closed = connection.close(200, "over".into()).await;
                closed.expect("closed");
            }
        }
        nothing_is_left(before, &format!("closed: {is_closed}")).await;
    }
}
