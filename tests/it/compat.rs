//! Clients of other servers are answered in the forms that they know.

use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::sandbox;
use crate::harness::stack::Stack;
use crate::harness::worker::{Answer, Worker};
use crate::harness::{PATIENCE, eventually};
use crate::models::{self, Shelf};

pub const PARITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/models");
const CLIENT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/clients/embeddings.py"
);

/// A worker with `sentiment`, and with models that turn texts into embeddings and rank pairs of them.
async fn worker(stack: &Stack) -> (Shelf, Worker) {
    let shelf = Shelf::with(&["1.0.0"]);
    for (name, folder, pair) in [
        ("sentence", "bert-sentence", "none"),
        ("reranker", "bert-reranker", "required"),
    ] {
        let folder = format!("{PARITY}/{folder}");
        let import = [
            "import",
            &folder,
            "--name",
            name,
            "--version",
            "1",
            "--pair",
            pair,
        ];
        let (code, said) = tokio::task::block_in_place(|| shelf.kiln(stack, &import));
        assert_eq!(code, 0, "{said}");
    }
    let worker = models::worker(stack, &shelf).await;
    (shelf, worker)
}

async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let answer = worker.ask("POST", path, &[], body.as_bytes()).await;
    answer.expect("an answer")
}

async fn ask(worker: &Worker, path: &str, body: Value) -> Value {
    let answer = post(worker, path, &body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

/// The status, and the field that is at fault.
async fn refused(worker: &Worker, path: &str, body: Value) -> (u16, String) {
    let answer = post(worker, path, &body).await;
    let field = answer.json()["error"]["field"].as_str().map(str::to_owned);
    (answer.status, field.unwrap_or_default())
}

/// What Kiln's own form says of texts, or pairs of them.
async fn scored(worker: &Worker, model: &str, inputs: Value) -> Vec<Value> {
    let job = json!({"model": model, "inputs": inputs, "detail": true});
    let said = ask(worker, "/v1/score/batch", job).await;
    said["results"].as_array().expect("results").clone()
}

fn floats(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list").iter();
    list.map(|number| number.as_f64().expect("a number"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embeddings_are_given_as_openais_api_gives_them() {
    let stack = Stack::shared().await;
    let (_shelf, worker) = worker(&stack).await;
    let path = "/v1/embeddings";
    let said = ask(
        &worker,
        path,
        json!({"model": "sentence", "input": ["a fox", "a dog"], "user": "u"}),
    )
    .await;
    assert_eq!(
        (&said["object"], &said["model"]),
        (&json!("list"), &json!("sentence@1"))
    );
    let own = scored(
        &worker,
        "sentence",
        json!([{"text": "a fox"}, {"text": "a dog"}]),
    )
    .await;
    for (index, own) in own.iter().enumerate() {
        assert_eq!(own["cached"], true, "the other form shares the cache");
        let given = &said["data"][index];
        assert_eq!(
            (&given["index"], &given["object"]),
            (&json!(index), &json!("embedding"))
        );
        assert_eq!(given["embedding"], own["embedding"]);
    }
    let one = ask(
        &worker,
        path,
        json!({"model": "sentence@1", "input": "a fox", "dimensions": 4}),
    )
    .await;
    let (short, long) = (
        floats(&one["data"][0]["embedding"]),
        floats(&own[0]["embedding"]),
    );
    let length = long[..4]
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        .sqrt();
    assert_eq!(short.len(), 4);
    for (short, long) in short.iter().zip(&long) {
        assert!((short - long / length).abs() < 1e-6, "{short} {long}");
    }

    let fails = async |body| refused(&worker, path, body).await;
    assert_eq!(
        fails(json!({"model": "sentence", "input": [[1, 2]]})).await,
        (400, "input".into())
    );
    assert_eq!(
        fails(json!({"model": "sentence", "input": ["a", 5]})).await,
        (400, "input".into())
    );
    assert_eq!(
        fails(json!({"model": "sentence", "input": 5})).await,
        (400, "input".into())
    );
    assert_eq!(
        fails(json!({"model": "sentence", "input": []})).await,
        (400, "input".into())
    );
    assert_eq!(
        fails(json!({"model": "sentiment", "input": "a"})).await,
        (400, "model".into())
    );
    assert_eq!(
        fails(json!({"model": "nobody", "input": "a"})).await,
        (404, "model".into())
    );
    assert_eq!(
        fails(json!({"model": "sentence", "input": "a", "dimensions": 4000})).await,
        (400, "dimensions".into())
    );
    assert_eq!(
        fails(json!({"model": "sentence", "input": "a", "encoding_format": "hex"})).await,
        (400, "encoding_format".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_embedded_classified_and_ranked_as_text_embeddings_inference_does() {
    let stack = Stack::shared().await;
    let (_shelf, worker) = worker(&stack).await;
    let embedded = ask(&worker, "/embed", json!({"inputs": "a fox"})).await;
    let own = scored(&worker, "sentence", json!([{"text": "a fox"}])).await;
    assert_eq!(own[0]["cached"], true);
    let (given, own) = (floats(&embedded[0]), floats(&own[0]["embedding"]));
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!((length(&given) - 1.0).abs() < 1e-5);
    assert_eq!(given.len(), own.len());
    for (given, one) in given.iter().zip(&own) {
        assert!((given - one / length(&own)).abs() < 1e-6, "{given} {one}");
    }

    let path = "/predict?model=sentiment";
    let one = ask(&worker, path, json!({"inputs": "I love this"})).await;
    let own = scored(&worker, "sentiment", json!([{"text": "I love this"}])).await;
    assert_eq!(
        (&one[0]["label"], &one[0]["score"]),
        (&own[0]["label"], &own[0]["score"])
    );
    assert_eq!(
        one.as_array().map(Vec::len),
        own[0]["scores"].as_object().map(serde_json::Map::len)
    );
    let several = ask(
        &worker,
        path,
        json!({"inputs": [["I love this"], ["I hate this"]]}),
    )
    .await;
    assert_eq!(several[0], one);
    assert_eq!(several[1][0]["label"], "negative");
    assert_eq!(
        refused(&worker, path, json!({"inputs": ["a", "b", "c"]})).await,
        (400, "inputs".into())
    );
    assert_eq!(
        refused(&worker, path, json!({"inputs": [["a"], "b"]})).await,
        (400, "inputs".into())
    );
    assert_eq!(
        refused(&worker, path, json!({"inputs": "a", "raw_scores": true})).await,
        (400, "raw_scores".into())
    );
    assert_eq!(
        refused(&worker, "/predict", json!({"inputs": "a"})).await,
        (400, "model".into()),
        "two fit"
    );

    let texts = json!(["the lazy dog", "The quick brown fox", "a"]);
    let ranked = ask(
        &worker,
        "/rerank",
        json!({"query": "what is a fox", "texts": texts, "return_text": true}),
    )
    .await;
    let pairs = texts.as_array().expect("texts").iter();
    let pairs: Vec<_> = pairs
        .map(|text| json!({"text": "what is a fox", "text_pair": text}))
        .collect();
    let own = scored(&worker, "reranker", json!(pairs)).await;
    let ranked = ranked.as_array().expect("a ranking");
    assert_eq!(ranked.len(), 3);
    assert!(ranked.is_sorted_by_key(|one| -one["score"].as_f64().expect("a score")));
    for one in ranked {
        let index = usize::try_from(one["index"].as_u64().expect("an index")).expect("small");
        assert_eq!(
            (&one["score"], &one["text"]),
            (&own[index]["score"], &texts[index])
        );
    }
    // A long query counts as often as it has texts.
    let long = json!({"query": "q".repeat(1 << 20), "texts": vec!["t"; 4096]});
    assert_eq!(refused(&worker, "/rerank", long).await.0, 413);
    assert_eq!(
        refused(&worker, "/rerank", json!({"query": "q", "texts": ["a", 7]})).await,
        (400, "texts[1]".into())
    );
    assert_eq!(
        refused(&worker, "/rerank", json!({"query": 7, "texts": ["a"]})).await,
        (400, "query".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_were_written_for_other_servers_get_their_embeddings() {
    let stack = Stack::shared().await;
    let (_shelf, worker) = worker(&stack).await;
    let python = std::env::var("CLIENTS_PYTHON").expect("CLIENTS_PYTHON: see scripts/test");
    let run = |arguments: &[&str]| {
        let mut command = sandbox::clean_command(&python, &sandbox::folder("client"));
        command.env("KILN_URL", format!("http://127.0.0.1:{}", worker.http_port));
        let output = tokio::task::block_in_place(|| command.args(arguments).output());
        let output = output.expect("python runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    };
    assert_eq!(run(&[CLIENT]), "0 32 1.000\n1 32 1.000\n");
    let hub = "import os; from huggingface_hub import InferenceClient\n\
        client = InferenceClient(model=os.environ['KILN_URL'] + '/embed')\n\
        print(client.feature_extraction('a fox').shape)";
    assert_eq!(run(&["-c", hub]), "(1, 32)\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_can_be_read_and_tried_in_a_browser() {
    let stack = Stack::shared().await;
    let worker = stack.worker().models(&["sentiment"]).start().await;
    let browser = Browser::open(1200, 900).await;
    browser
        .go(&format!("http://127.0.0.1:{}/docs", worker.http_port))
        .await;
    let wait = async |what: &str, script: &str| {
        eventually(what, PATIENCE, async || {
            (browser.run(script).await == json!(true)).then_some(())
        })
        .await;
    };
    wait(
        "every route is listed",
        "return document.querySelectorAll('.opblock').length > 30",
    )
    .await;
    browser.picture("docs").await;
    // A route without parameters is opened and tried.
    browser
        .click("[id$=-version] button.opblock-summary-control")
        .await;
    wait(
        "the route is shown",
        "return !!document.querySelector('[id$=-version] .execute, [id$=-version] .try-out__btn')",
    )
    .await;
    let execute = "const one = document.querySelector('[id$=-version]');\
        const button = one.querySelector('.execute') || one.querySelector('.try-out__btn');\
        button.click();\
        const said = one.querySelector('.live-responses-table .microlight');\
        return !!said && said.textContent.includes('schema_version')";
    wait("the worker's answer is shown", execute).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
