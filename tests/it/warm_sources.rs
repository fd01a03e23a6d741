//! Warming from what others keep: sorted sets and streams in a Redis, lists over HTTP.

use serde_json::{Value, json};

use crate::harness::cluster::redis::RedisCluster;
use crate::harness::redis::Server;
use crate::harness::stack::Stack;
use crate::harness::worker::Settings;
use crate::warm::{Schedules, on_request};

async fn add(server: &Server, key: &str, members: &[(&str, &str)]) {
    let pairs = members.iter().flat_map(|(score, member)| [*score, *member]);
    let words: Vec<&str> = ["ZADD", key].into_iter().chain(pairs).collect();
    let _: i64 = server.command(&words).await;
}

fn dry_run(schedules: &Schedules, stack: &Stack, name: &str, more: &[(&str, &str)]) -> Value {
    let words = ["warm", name, "--dry-run", "--json"];
    let (_, lines, said) = tokio::task::block_in_place(|| schedules.kiln_with(stack, &words, more));
    let line = lines.into_iter().next();
    line.unwrap_or_else(|| panic!("no plan: {said}"))
}

fn with(settings: Settings, more: &[(&str, &str)]) -> Settings {
    let set = |settings: Settings, (name, value): &(&str, &str)| settings.set(name, value);
    more.iter().fold(settings, set)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_top_of_a_sorted_set_in_a_redis_of_the_shops_own_is_warmed_by_its_scores() {
    let stack = Stack::shared().await;
    let shop = Server::prepare(&[]);
    shop.start().await;
    let members: Vec<(String, String)> = (1..=600)
        .map(|n| (format!("{}", n * 60), format!("nice word {}", 1_000 + n)))
        .collect();
    let members: Vec<(&str, &str)> = members
        .iter()
        .map(|(n, m)| (n.as_str(), m.as_str()))
        .collect();
    add(&shop, "trending", &members).await;
    let schedules = Schedules::new();
    let source = "[source]\nkind = \"redis\"\nserver = \"shop\"\nsorted_set = \"trending\"\nper_seconds = 60.0\nkey_prefix = \"q:\"\n";
    let request = on_request();
    schedules.put("top", &format!("{request}{source}top = 510\n"));
    schedules.put(
        "gone",
        &format!("{request}{}", source.replace("\"trending\"", "\"no such\"")),
    );
    let url = format!("redis://{}", shop.address());
    let more = [("KILN_REDIS_SOURCES__SHOP__URL", url.as_str())];
    let worker = with(schedules.worker(&stack), &more).allow("a warming run failed");
    let _worker = worker.start().await;

    let plan = dry_run(&schedules, &stack, "top", &more);
    assert_eq!(
        (&plan["inputs"], &plan["bad"]),
        (&json!(510), &json!(0)),
        "{plan}"
    );
    let first = (&plan["first"][0]["key"], &plan["first"][0]["rate"]);
    assert_eq!(first, (&json!("q:nice word 1600"), &json!(600.0)), "{plan}");
    let (code, run) = schedules.run_now(&stack, "top").await;
    assert_eq!((code, &run["done"]), (0, &json!(510)), "{run}");
    assert!(
        stack
            .redis
            .json("kiln:k:warmed:q:nice word 1091")
            .await
            .is_some()
    );
    assert!(
        stack
            .redis
            .json("kiln:k:warmed:q:nice word 1090")
            .await
            .is_none()
    );
    let (code, run) = schedules.run_now(&stack, "gone").await;
    assert_eq!((code, &run["planned"]), (0, &json!(0)), "{run}");
    let _: i64 = shop.command(&["SADD", "no such", "a"]).await;
    let (_, run) = schedules.run_now(&stack, "gone").await;
    let said = run["message"].as_str().unwrap_or_default();
    assert!(
        run["state"] == "failed" && said.contains("WRONGTYPE"),
        "{run}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_streams_latest_entries_ask_for_oftenest_is_warmed() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let request = on_request();
    let source = format!(
        "{request}[source]\nkind = \"redis\"\nstream = \"{}asked\"\nfield = \"q\"\nwindow_seconds = 100\n",
        stack.database()
    );
    schedules.put("asked", &format!("{source}top = 2\n"));
    schedules.put("latest", &format!("{source}limit_entries = 3\n"));
    let key = format!("{}asked", stack.database());
    let add = async |id: &str, field: &str, text: &str| {
        let _: String = stack.redis.command(&["XADD", &key, id, field, text]).await;
    };
    // Outside the window.
    for n in 1..=9 {
        add(&format!("{n}-1"), "q", "an old word").await;
    }
    for text in ["nice word", "poor word", "nice word", "some word"] {
        add("*", "q", text).await;
    }
    add("*", "other", "nice word").await;
    for _ in 0..300 {
        add("*", "q", "nice word").await;
    }
    add("*", "q", "poor word").await;
    let plan = dry_run(&schedules, &stack, "asked", &[]);
    let rates: Vec<_> = [0, 1]
        .map(|n| (&plan["first"][n]["key"], plan["first"][n]["rate"].as_f64()))
        .into();
    assert_eq!(plan["inputs"], 2, "{plan}");
    assert_eq!(
        rates,
        [
            (&json!("nice word"), Some(3.02)),
            (&json!("poor word"), Some(0.02))
        ]
    );
    let plan = dry_run(&schedules, &stack, "latest", &[]);
    assert_eq!(plan["inputs"], 2, "{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_sorted_set_get_the_inputs_that_readers_were_served_last() {
    let stack = Stack::shared().await;
    let schedules = Schedules::new();
    let request = on_request();
    let key = format!("{}ids", stack.database());
    schedules.put("words", &format!("{request}{}", crate::warm::words(3)));
    schedules.put("ids", &format!("{request}[source]\nkind = \"redis\"\nsorted_set = \"{key}\"\nmember = \"key\"\nkey_prefix = \"k\"\n"));
    let _worker = schedules.worker(&stack).start().await;
    let (code, run) = schedules.run_now(&stack, "words").await;
    assert_eq!((code, &run["done"]), (0, &json!(3)), "{run}");
    add(
        &stack.redis,
        &key,
        &[("5", "2"), ("7", "1"), ("9", "unknown")],
    )
    .await;
    for n in 0..3 {
        let name = format!("kiln:k:warmed:k{n}");
        let _: i64 = stack.redis.command(&["DEL", &name]).await;
    }
    let (code, run) = schedules.run_now(&stack, "ids").await;
    assert_eq!(
        (code, &run["done"], &run["hits"], &run["bad"]),
        (3, &json!(2), &json!(2), &json!(1)),
        "{run}"
    );
    let message = run["message"].as_str().unwrap_or_default();
    assert!(message.contains("key 1: nobody has asked"), "{run}");
    assert!(stack.redis.json("kiln:k:warmed:k2").await.is_some());
    assert!(stack.redis.json("kiln:k:warmed:k0").await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sorted_set_and_a_stream_in_a_redis_cluster_are_read_where_they_are() {
    let stack = Stack::shared().await;
    let cluster = RedisCluster::start().await;
    let schedules = Schedules::new();
    let request = on_request();
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..6 {
        let (set, stream) = (format!("top:{n}"), format!("asked:{n}"));
        let owner = cluster.owner(set.as_bytes(), None).await;
        owners.insert(owner.port);
        add(owner, &set, &[("2", "nice word"), ("1", "bad word")]).await;
        let owner = cluster.owner(stream.as_bytes(), None).await;
        let _: String = owner
            .command(&["XADD", &stream, "*", "text", "nice word"])
            .await;
        let source = format!("{request}[source]\nkind = \"redis\"\nserver = \"shop\"\n");
        schedules.put(
            &format!("set{n}"),
            &format!("{source}sorted_set = \"{set}\"\n"),
        );
        schedules.put(
            &format!("stream{n}"),
            &format!("{source}stream = \"{stream}\"\n"),
        );
    }
    assert!(owners.len() > 1, "the keys are on one server");
    let url = cluster.url();
    let more = [("KILN_REDIS_SOURCES__SHOP__URL", url.as_str())];
    for n in 0..6 {
        let plan = dry_run(&schedules, &stack, &format!("set{n}"), &more);
        assert_eq!(plan["inputs"], 2, "{plan}");
        let plan = dry_run(&schedules, &stack, &format!("stream{n}"), &more);
        assert_eq!(plan["inputs"], 1, "{plan}");
    }
}

/// A web server that answers each request for `/top` with a list, where the request has the token.
async fn web(token: &'static str, list: Value) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let is_good = request.starts_with("GET /top?n=9 HTTP/1.1\r\n")
                && request.contains(&format!("authorization: Bearer {token}\r\n"));
            let answer = if is_good {
                let body = list.to_string();
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            } else {
                "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_owned()
            };
            let _gone = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/top?n=9")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_over_http_is_warmed_from_where_the_settings_allow() {
    let stack = Stack::shared().await;
    let rows = json!([{"id": 1, "title": "nice word", "views": 120}, {"id": 2, "title": 7}, {"id": 3, "title": "bad word", "views": 60}]);
    let url = web("hunter2", json!({"data": {"items": rows}})).await;
    let schedules = Schedules::new();
    let fields = "[source.fields]\nkey = \"id\"\ntext = \"/title\"\nrate = \"views\"\n";
    let source = format!(
        "[source]\nkind = \"http\"\nurl = \"{url}\"\nlist = \"/data/items\"\nkey_prefix = \"h:\"\nper_seconds = 60.0\n"
    );
    let header =
        "[source.headers]\nAuthorization = { env = \"SHOP_TOKEN\", prefix = \"Bearer \" }\n";
    schedules.put("web", &format!("{}{source}{fields}{header}", on_request()));
    let private = [
        ("SHOP_TOKEN", "hunter2"),
        ("KILN_WARM__PRIVATE_NETWORKS", "[\"127.0.0.0/8\"]"),
    ];
    let dry_run = |more: &[(&str, &str)]| {
        let words = ["warm", "web", "--dry-run"];
        tokio::task::block_in_place(|| schedules.kiln_with(&stack, &words, more))
    };
    let refused = dry_run(&private[..1]);
    assert!(
        refused.0 != 0 && refused.2.contains("private address"),
        "{refused:?}"
    );
    let wrong = [("SHOP_TOKEN", "another"), private[1]];
    let refused = dry_run(&wrong);
    assert!(
        refused.0 != 0 && refused.2.contains("answered 403") && !refused.2.contains("n=9"),
        "{refused:?}"
    );

    let _worker = with(schedules.worker(&stack), &private).start().await;
    let (code, run) = schedules.run_now(&stack, "web").await;
    assert_eq!(
        (code, &run["planned"], &run["bad"]),
        (3, &json!(2), &json!(1)),
        "{run}"
    );
    assert!(
        run["message"]
            .as_str()
            .is_some_and(|said| said.contains("element 2: `text`")),
        "{run}"
    );
    assert!(stack.redis.json("kiln:k:warmed:h:3").await.is_some());
}
