//! `/v1/models/{name}/…` while a server is away: what waits for one holds up nobody who needs another.

use serde_json::{Value, json};

use crate::harness::jobs::text_job;
use crate::harness::proxy::Proxy;
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};
use crate::models::Shelf;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_compared_while_jobs_that_warm_one_wait_for_the_broker() {
    let stack = Stack::private().await;
    let proxy = Proxy::start(stack.broker.port).await;
    let shelf = Shelf::with(&["1.0.0", "2.0.0"]);
    let settings = stack.worker().models(&[]).expect_trouble();
    let worker = settings
        .set("KILN_MODELS_DIR", shelf.path())
        .set("KILN_MODELS__ACTIVE__SENTIMENT", "1.0.0")
        .set("KILN_AMQP_URL", &stack.amqp_url_at(proxy.port))
        .start()
        .await;
    let texts = ["a nice word", "another one", "and a third"];
    stack
        .bus
        .answer(&text_job("asks", "sentiment", &texts))
        .await;
    let shift = async || {
        let path = "/v1/models/sentiment/shift?version=2.0.0";
        let (status, body) = worker.get(path).await.expect("an answer");
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    eventually("workers say what is hot", PATIENCE, async || {
        (shift().await.1["hot_inputs"] == 3).then_some(())
    })
    .await;
    proxy.blackhole().await;
    for _ in 0..2 {
        let body = json!({"version": "2.0.0"}).to_string();
        let path = "/v1/models/sentiment/warm";
        let warming = worker.ask("POST", path, &[], body.as_bytes());
        let (warmed, (status, shown)) = tokio::join!(warming, shift());
        assert_eq!((status, &shown["hot_inputs"]), (200, &json!(3)), "{shown}");
        let warmed = warmed.expect("an answer");
        assert_eq!(warmed.status, 503, "{}", warmed.body);
        assert!(
            warmed.body.contains("didn't confirm the jobs in time"),
            "{}",
            warmed.body
        );
        let (status, shown) = shift().await;
        assert_eq!((status, &shown["hot_inputs"]), (200, &json!(3)), "{shown}");
    }
    proxy.resume().await;
}
