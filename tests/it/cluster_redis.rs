//! Redis as a cluster, behind Sentinels, and at several addresses: jobs go on through every failover, and Redis is used again after it.

use serde_json::{Value, json};

use crate::harness::cluster::redis::{RedisCluster, Watched};
use crate::harness::jobs::{Reply, text_job};
use crate::harness::redis::Server;
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually};

const PRIMARIES: [usize; 3] = [0, 1, 2];

/// A worker whose Redis is at `url`.
fn settings(stack: &Stack, url: &str) -> Settings {
    stack.worker().set("KILN_REDIS_URL", url)
}

fn texts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix} {n}")).collect()
}

/// A job of some texts, each of which readers find under its own key.
fn named_job(id: &str, texts: &[String]) -> Value {
    let inputs = texts.iter();
    let inputs: Vec<Value> = inputs
        .map(|text| json!({"key": text, "text": text}))
        .collect();
    let rank = json!({"key": "page:1", "top": 3});
    json!({"job_id": id, "model": "fault", "namespace": "n", "named": true, "inputs": inputs, "rank": rank})
}

async fn answer(stack: &Stack, id: &str, texts: &[String]) -> Reply {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let reply = stack.bus.answer(&text_job(id, "fault", &texts)).await;
    assert_eq!(reply.status(), "ok", "{}", reply.body);
    reply
}

/// How many of a reply's inputs were in the cache.
fn hits(reply: &Reply) -> usize {
    reply.body["hits"].as_u64().expect("a number") as usize
}

/// Posts jobs of new texts, each of which must end well, until the server has entries of them.
async fn is_written_to(stack: &Stack, prefix: &str, server: &Server) {
    let count = async || {
        let keys = server.ask::<Vec<Vec<u8>>>(&["KEYS", "kiln:s:*"]).await;
        keys.map_or(0, |keys| keys.len())
    };
    let (before, mut round) = (count().await, 0);
    eventually(
        "entries are written to the new primary",
        PATIENCE,
        async || {
            round += 1;
            let id = format!("{prefix}-{round}");
            answer(stack, &id, &texts(&id, 12)).await;
            (count().await > before).then_some(())
        },
    )
    .await;
}

async fn failovers(worker: &Worker) -> f64 {
    let of_redis = [("server", "redis")];
    worker.metric("kiln_failovers_total", &of_redis).await
}

/// Waits for the one line that says so, and gives it.
async fn moved(worker: &Worker) -> Value {
    let line = worker
        .wait_for_line("the failover is said", |line| {
            line.contains("another address than before")
        })
        .await;
    serde_json::from_str(&line).expect("a line of JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_find_on_a_cluster_what_was_scored_before() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let worker = settings(&stack, &cluster.url()).start().await;
    let all = texts("a text of", 60);
    let first = stack.bus.answer(&named_job("first", &all)).await;
    assert_eq!((first.status(), hits(&first)), ("ok", 0), "{}", first.body);
    let second = stack.bus.answer(&named_job("second", &all)).await;
    assert_eq!(hits(&second), 60, "{}", second.body);
    for primary in PRIMARIES {
        let entries = cluster.keys(&[primary], "kiln:s:*").await;
        assert!(!entries.is_empty(), "each has some: {primary}");
    }
    assert_eq!(cluster.keys(&PRIMARIES, "kiln:s:*").await.len(), 60);
    worker.wait_in_hand(0).await;
    for text in &all {
        let entry = cluster.json(&format!("kiln:k:n:{text}")).await;
        let entry = entry.expect("a named entry");
        assert_eq!(entry["job_id"], "second", "{entry}");
    }
    let page = cluster.json("kiln:k:n:page:1").await.expect("a ranking");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
    // When jobs were accepted is noted where it belongs, and forgotten after a while.
    assert_eq!(cluster.keys(&PRIMARIES, "kiln:a:*").await.len(), 2);
    assert!(worker.is_ready().await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_word_stands_on_every_shard() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let worker = settings(&stack, &cluster.url()).start().await;
    let shell = Shell::on(&stack).set("KILN_REDIS_URL", &cluster.url());
    let all = texts("word", 20);
    let as_of = |id: &str, as_of: u64| {
        let mut job = named_job(id, &all);
        job["as_of"] = json!(as_of);
        job
    };
    for (id, at) in [("newer", 7), ("older", 5)] {
        stack.bus.answer(&as_of(id, at)).await;
        worker.wait_in_hand(0).await;
    }
    let says = async |key: &str| {
        let entry = cluster.json(&format!("kiln:k:n:{key}")).await?;
        entry["job_id"].as_str().map(str::to_owned)
    };
    for key in &all {
        assert_eq!(says(key).await.as_deref(), Some("newer"), "{key}");
    }
    let older = worker.metric("kiln_older_words_total", &[]).await;
    assert_eq!(older, 21.0, "twenty names and a ranking");

    // A removal leaves its mark in its entry's slot: nothing older comes back.
    for key in all.iter().take(4) {
        let forget = ["forget", "n", key, "--as-of", "9", "--json"];
        shell.kiln(&forget).await.with(0);
        assert_eq!(says(key).await, None);
    }
    stack.bus.answer(&as_of("late", 8)).await;
    worker.wait_in_hand(0).await;
    for (number, key) in all.iter().enumerate() {
        let expected = (number >= 4).then_some("late");
        assert_eq!(says(key).await.as_deref(), expected, "{key}");
    }
    // A script that no server knows any more is shown to it again.
    for primary in PRIMARIES {
        let server = &cluster.servers[primary];
        server.command::<()>(&["SCRIPT", "FLUSH"]).await;
    }
    stack.bus.answer(&as_of("latest", 10)).await;
    worker.wait_in_hand(0).await;
    for key in &all {
        assert_eq!(says(key).await.as_deref(), Some("latest"), "{key}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_and_the_commands_reach_every_shard() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let one = settings(&stack, &cluster.url()).start().await;
    let other = settings(&stack, &cluster.url()).start().await;
    let shell = Shell::on(&stack).set("KILN_REDIS_URL", &cluster.url());
    let all = texts("fact", 40);
    stack.bus.answer(&named_job("first", &all)).await;
    one.wait_in_hand(0).await;
    other.wait_in_hand(0).await;
    assert_eq!(cluster.keys(&PRIMARIES, "kiln:k:n:*").await.len(), 41);

    let explained = shell.kiln(&["explain", "n", "fact 7", "--json"]).await;
    let explained = explained.with(0).lines().remove(0);
    assert_eq!(explained["now"]["state"], "entry", "{explained}");
    let audit = ["audit", "--namespace", "n", "--json"];
    let audited = shell.kiln(&audit).await.with(0).lines().remove(0);
    assert_eq!(audited["all"]["right"], 81, "{audited}");
    let found = shell.kiln(&["doctor", "--json"]).await;
    let kind = "Redis Cluster, 3 primaries, 3 replicas";
    assert!(found.out.contains(kind), "{}", found.out);
    let heat = async || {
        let ended = shell.kiln(&["hot", "--json"]).await;
        (ended.code == 0 && ended.out.contains("\"n\"")).then_some(())
    };
    eventually("what is hot is shared", PATIENCE, heat).await;

    let invalidated = shell.kiln(&["invalidate", "n", "--json"]).await.with(0);
    assert_eq!(invalidated.lines()[0]["removed"], 41, "{}", invalidated.out);
    assert!(cluster.keys(&PRIMARIES, "kiln:k:n:*").await.is_empty());
    let again = stack.bus.answer(&named_job("again", &all)).await;
    assert_eq!(hits(&again), 0, "{}", again.body);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_shard_costs_only_its_own_keys_until_its_replica_has_them() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let worker = settings(&stack, &cluster.url()).expect_trouble();
    let worker = worker.start().await;
    let all = texts("a text of", 60);
    answer(&stack, "first", &all).await;
    let lost = cluster.keys(&[0], "kiln:s:*").await;
    let replica = &cluster.servers[3];
    eventually("the replica has them", PATIENCE, async || {
        let copied: usize = replica.command(&["DBSIZE"]).await;
        (copied >= lost.len()).then_some(())
    })
    .await;

    let dead = &cluster.servers[0];
    dead.kill();
    let meanwhile = answer(&stack, "meanwhile", &all).await;
    assert_eq!(hits(&meanwhile), 60 - lost.len(), "{}", meanwhile.body);
    assert!(worker.is_ready().await);

    let owner = cluster.owner(&lost[0], Some(dead.port)).await;
    assert_eq!(owner.port, replica.port);
    is_written_to(&stack, "after", owner).await;
    assert!(failovers(&worker).await >= 1.0);
    let line = moved(&worker).await;
    assert_eq!(line["from"], dead.address(), "{line}");
    assert_eq!(line["to"], replica.address(), "{line}");
    // It comes back as a replica, without its keys, and nobody asks it.
    dead.start().await;
    let after = answer(&stack, "last", &all).await;
    assert_eq!(hits(&after), 60, "{}", after.body);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_move_to_another_server_are_followed() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let worker = settings(&stack, &cluster.url()).expect_trouble();
    let worker = worker.start().await;
    let all = texts("a text of", 60);
    answer(&stack, "first", &all).await;
    // One slot is on its way: what is there is asked where it was, what isn't is asked where it goes.
    let (from, to) = (&cluster.servers[0], &cluster.servers[1]);
    let key = cluster.keys(&[0], "kiln:s:*").await.remove(0);
    let slot = kiln_contract::slot::of_key(&key).to_string();
    let from_id: String = from.command(&["CLUSTER", "MYID"]).await;
    let to_id: String = to.command(&["CLUSTER", "MYID"]).await;
    let importing = ["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id];
    to.command::<()>(&importing).await;
    let migrating = ["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id];
    from.command::<()>(&migrating).await;
    let mut migrate = ::redis::cmd("MIGRATE");
    migrate.arg("127.0.0.1").arg(to.port).arg(&key);
    let mut connection = from.connection().await.expect("it is up");
    let moved: String = migrate
        .arg(0)
        .arg(5_000)
        .query_async(&mut connection)
        .await
        .expect("it moves");
    assert_eq!(moved, "OK");
    let asked = answer(&stack, "asked", &all).await;
    assert_eq!(hits(&asked), 60, "{}", asked.body);
    for server in [to, from] {
        let own = ["CLUSTER", "SETSLOT", &slot, "NODE", &to_id];
        server.command::<()>(&own).await;
    }
    let after = answer(&stack, "moved", &all).await;
    assert_eq!(hits(&after), 60, "{}", after.body);
    // A primary that is asked to hand over does so, and loses nothing.
    let next = &cluster.servers[4];
    next.command::<()>(&["CLUSTER", "FAILOVER"]).await;
    eventually("it has taken over", PATIENCE, async || {
        next.says("replication", "role:master").await.then_some(())
    })
    .await;
    is_written_to(&stack, "handed", next).await;
    let last = answer(&stack, "last", &all).await;
    assert_eq!(hits(&last), 60, "{}", last.body);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_that_sentinels_elect_is_followed() {
    let (stack, watched) = tokio::join!(Stack::shared(), Watched::start());
    let worker = settings(&stack, &watched.url()).expect_trouble();
    let worker = worker.start().await;
    let all = texts("a text of", 20);
    answer(&stack, "first", &all).await;
    assert_eq!(hits(&answer(&stack, "second", &all).await), 20);
    let shell = Shell::on(&stack).set("KILN_REDIS_URL", &watched.url());
    let found = shell.kiln(&["doctor", "--json"]).await;
    assert!(found.out.contains("3 Sentinels; "), "{}", found.out);

    // It is frozen: connections stay open, and nothing answers.
    let first = &watched.servers[0];
    first.pause();
    answer(&stack, "frozen", &all).await;
    let elected = watched.elected(first.port).await;
    is_written_to(&stack, "after", elected).await;
    let line = moved(&worker).await;
    let of = |server: &Server| format!("redis://{}/0", server.address());
    assert_eq!(line["from"], of(first), "{line}");
    assert_eq!(line["to"], of(elected), "{line}");
    assert_eq!(failovers(&worker).await, 1.0);
    first.resume();

    // It is told to hand over.
    let mut waited = 0;
    eventually(
        "the Sentinels are asked for another",
        PATIENCE,
        async || {
            waited += 1;
            let ask = ["SENTINEL", "FAILOVER", "main"];
            watched.sentinels[0].ask::<String>(&ask).await.ok()
        },
    )
    .await;
    let next = watched.elected(elected.port).await;
    is_written_to(&stack, "handed", next).await;
    assert!(failovers(&worker).await >= 2.0);
    assert!(worker.is_ready().await);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_addresses_the_one_that_takes_writes_is_used() {
    let stack = Stack::shared().await;
    let (one, other) = (Server::prepare(&[]), Server::prepare(&[]));
    tokio::join!(one.start(), other.start());
    let follow = async |who: &Server, whom: &Server| {
        let port = whom.port.to_string();
        let follow = ["REPLICAOF", "127.0.0.1", &port];
        who.command::<()>(&follow).await;
    };
    follow(&other, &one).await;
    let url = format!("redis://{},{}/0", one.address(), other.address());
    let worker = settings(&stack, &url).expect_trouble().start().await;
    answer(&stack, "first", &texts("a text of", 20)).await;
    assert!(one.command::<usize>(&["DBSIZE"]).await >= 20);

    // They change their parts, and no connection breaks.
    other.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    follow(&one, &other).await;
    is_written_to(&stack, "after", &other).await;
    let line = moved(&worker).await;
    assert!(
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("READONLY")),
        "{line}"
    );
    // Back, by its death.
    one.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    other.kill();
    is_written_to(&stack, "back", &one).await;
    assert_eq!(failovers(&worker).await, 2.0);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_nobody_serves_is_said_and_jobs_go_on() {
    let (stack, cluster) = tokio::join!(Stack::shared(), RedisCluster::start());
    let worker = settings(&stack, &cluster.url()).expect_trouble();
    let worker = worker.start().await;
    let all = texts("a text of", 60);
    answer(&stack, "first", &all).await;
    let others = cluster.keys(&[1, 2], "kiln:s:*").await.len();
    let (primary, replica) = (&cluster.servers[0], &cluster.servers[3]);
    replica.kill();
    primary.kill();
    eventually("the worker says which one", PATIENCE, async || {
        let (status, text) = worker.get("/readyz").await?;
        (status == 200 && text.starts_with("degraded") && text.contains(&primary.address()))
            .then_some(())
    })
    .await;
    let health = worker.get("/health").await.expect("an answer").1;
    assert!(health.contains(&cluster.servers[1].address()), "{health}");
    let other = settings(&stack, &cluster.url()).expect_trouble();
    let other = other.start().await;
    worker.stop().await;
    let meanwhile = answer(&stack, "meanwhile", &all).await;
    assert_eq!(hits(&meanwhile), others, "{}", meanwhile.body);
    let shell = Shell::on(&stack).set("KILN_REDIS_URL", &cluster.url());
    // That a replica is gone is known to the others after a while.
    eventually("doctor says what is missing", PATIENCE, async || {
        let found = shell.kiln(&["doctor", "--json"]).await.out;
        let is_said = ["has no replica", "can't be reached"]
            .iter()
            .all(|what| found.contains(what));
        is_said.then_some(())
    })
    .await;

    primary.start().await;
    is_written_to(&stack, "back", primary).await;
    eventually("the worker says so", PATIENCE, async || {
        let (_, text) = other.get("/readyz").await?;
        (text == "ready\n").then_some(())
    })
    .await;
    other.stop().await;
}
