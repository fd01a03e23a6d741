//! Batches through a whole engine that needs no server: a SQLite file and memory.

mod ends;

use super::*;
use crate::{
    cache::Cache,
    config::Settings,
    health::Health,
    heat::Heat,
    store::{SqliteStore, Store},
    telemetry::metrics::Metrics,
};
use kiln_contract::{
    failure::Code,
    key::hash_text,
    split::{Point, Share},
};
use kiln_model::{Choices, Registry, SplitChoice};
use std::sync::Arc;
use tempfile::TempDir;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

async fn engine(models: &str) -> (Engine, TempDir) {
    engine_with(models, Settings::default()).await
}

async fn engine_with(models: &str, settings: Settings) -> (Engine, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (engine_over(models, settings, &folder).await, folder)
}

/// An engine over the file in that folder.
async fn engine_over(models: &str, mut settings: Settings, folder: &TempDir) -> Engine {
    settings.models.dir = models.into();
    settings.models.threads = 1;
    let metrics = Metrics::new();
    let path = folder.path().join("kiln.db");
    let file = SqliteStore::open(&path).await.expect("a file");
    let parts = EngineParts {
        registry: Registry::open(&settings.models).expect("models"),
        cache: Cache::file(file.clone(), metrics.clone()),
        store: Store::Sqlite(file),
        health: Health::new(metrics.clone()),
        metrics,
        heat: Some(Arc::new(Heat::default())),
        insight: Some(Arc::new(insight::Insight::default())),
        shadows: Shadows::new(&settings.models.shadow),
    };
    Engine::new(parts, &settings)
}

fn job(id: &str, model: &str, texts: &[&str], more: &str) -> String {
    let inputs: Vec<_> = texts
        .iter()
        .map(|text| serde_json::json!({"key": text, "text": text}))
        .collect();
    let inputs = serde_json::Value::from(inputs);
    format!(r#"{{"job_id":"{id}","model":"{model}","inputs":{inputs}{more}}}"#)
}

async fn run(engine: &Engine, bodies: &[String]) -> (Vec<Outcome>, InputCounts) {
    run_with(engine, bodies, |_, source| source).await
}

/// Runs jobs in one batch, and adds up how their inputs got their scores.
async fn run_with(
    engine: &Engine,
    bodies: &[String],
    with: impl Fn(usize, JobSource) -> JobSource,
) -> (Vec<Outcome>, InputCounts) {
    let jobs = bodies
        .iter()
        .map(|body| JobSource::awaited(body.as_bytes(), None));
    let (sources, ends): (Vec<_>, Vec<_>) = jobs.unzip();
    engine.submit(sources.into_iter().enumerate().map(|(n, job)| with(n, job)));
    let (mut outcomes, mut counts) = (Vec::new(), InputCounts::default());
    for ended in ends {
        let ended = ended.await.expect("an end");
        if !matches!(ended.outcome, Outcome::Rejected { .. }) {
            counts.add(&ended.counts);
        }
        outcomes.push(ended.outcome);
    }
    (outcomes, counts)
}

fn results(outcome: &Outcome) -> Vec<serde_json::Value> {
    let Outcome::Done { result, .. } = outcome else {
        panic!("{outcome:?}");
    };
    serde_json::from_str(&result.results).expect("results")
}

fn code(outcome: &Outcome) -> Code {
    let Outcome::Rejected { rejection, .. } = outcome else {
        panic!("{outcome:?}");
    };
    rejection.code
}

fn counted(counts: InputCounts) -> [u64; 4] {
    [counts.hits, counts.misses, counts.coalesced, counts.skipped]
}

#[test]
fn a_runtime_that_ends_while_jobs_wait_gives_them_back() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (engine, folder, ends) = runtime.block_on(async {
        let mut settings = Settings::default();
        settings.intake.batch_jobs = 1;
        let (engine, folder) = engine_with(SHIPPED, settings).await;
        let bodies = (0..8).map(|number| job(&number.to_string(), "sentiment", &["great"], ""));
        let jobs = bodies.map(|body| JobSource::awaited(body.into_bytes(), None));
        let (sources, ends): (Vec<_>, Vec<_>) = jobs.unzip();
        engine.submit(sources);
        (engine, folder, ends)
    });
    drop(runtime);
    for mut end in ends {
        assert!(end.try_recv().is_err(), "nobody runs it");
    }
    drop((engine, folder));
}

#[tokio::test]
async fn every_job_of_a_batch_gets_its_own_outcome_and_its_own_rows() {
    let (engine, _folder) = engine(SHIPPED).await;
    let features: Vec<f32> = (0..32u8).map(|n| f32::from(n) / 32.0).collect();
    let features = serde_json::json!(features);
    let bodies = [
        job("a", "sentiment", &["awful", "great"], ""),
        format!(r#"{{"job_id":"b","model":"feed-ranker","inputs":[{{"features":{features}}}]}}"#),
        job("c", "sentiment", &["great", "fine"], r#","named":true"#),
        "{".to_owned(),
        job("a", "sentiment", &["awful", "great"], ""),
        job("d", "nobody", &["x"], ""),
        r#"{"job_id":"e","model":"sentiment","on_error":"skip","inputs":[{"features":[1]},{"text":"fine"}]}"#.to_owned(),
    ];
    let (outcomes, counts) = run(&engine, &bodies).await;
    let [a, b, c, malformed, repeat, unknown, skip] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    let (first, third) = (results(a), results(c));
    assert!(first.iter().all(|one| one["label"].is_string()));
    assert_ne!(first[0]["score"], first[1]["score"]);
    assert_eq!(first[1]["score"], third[0]["score"], "one input, one row");
    assert!(results(b)[0]["score"].is_number());
    assert_eq!(code(malformed), Code::Malformed);
    assert_eq!(results(repeat), first);
    assert!(matches!(repeat, Outcome::Done { repeated: true, .. }));
    assert_eq!(code(unknown), Code::UnknownModel);
    let skipped = results(skip);
    assert_eq!(skipped[0]["error"]["field"], "inputs[0].features");
    assert_eq!(skipped[1]["score"], third[1]["score"]);
    assert_eq!(counted(counts), [0, 4, 2, 1]);

    let again = [
        job("f", "sentiment", &["great", "new"], ""),
        job("a", "sentiment", &["awful", "great"], ""),
        job("a", "sentiment", &["other"], ""),
    ];
    let (outcomes, counts) = run(&engine, &again).await;
    assert_eq!(code(&outcomes[2]), Code::Conflict);
    assert_eq!(results(&outcomes[0])[0]["score"], first[1]["score"]);
    assert_eq!(results(&outcomes[0])[0]["cached"], true);
    assert_eq!(results(&outcomes[0])[1]["cached"], false);
    assert_eq!(results(&outcomes[1]), first, "the first run's answer");
    assert_eq!(counted(counts), [2, 1, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_at_once_agree_bit_for_bit() {
    let (engine, _folder) = engine(SHIPPED).await;
    let engine = Arc::new(engine);
    let texts: Vec<String> = (0..64).map(|n| format!("a good one of {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let bodies: Vec<String> = (0..4)
        .map(|n| job(&n.to_string(), "sentiment", &texts, ""))
        .collect();
    let runs = bodies.into_iter().map(|body| {
        let engine = engine.clone();
        tokio::spawn(async move { run(&engine, &[body]).await })
    });
    let mut all = Vec::new();
    for run in futures_util::future::join_all(runs).await {
        let (outcomes, _) = run.expect("a batch");
        let scores = results(&outcomes[0]).into_iter();
        all.push(scores.map(|one| one["score"].clone()).collect::<Vec<_>>());
    }
    assert!(all.iter().all(|scores| scores.len() == 64));
    assert!(all.windows(2).all(|two| two[0] == two[1]), "bit for bit");
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_job_that_its_model_fails_on_costs_only_itself() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
    let (engine, _folder) = engine(models).await;
    let bodies = [
        job("good", "fault", &["one", "two"], ""),
        job("bad", "fault", &["three", "nan"], ""),
        job("last", "fault", &["nan too"], ""),
    ];
    let last = |number: usize, source: JobSource| {
        if number == 2 {
            source.without_retry()
        } else {
            source
        }
    };
    let (outcomes, counts) = run_with(&engine, &bodies, last).await;
    assert_eq!(results(&outcomes[0]).len(), 2);
    let Outcome::Retry { job_id, .. } = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(job_id.as_deref(), Some("bad"));
    assert_eq!(code(&outcomes[2]), Code::Exhausted);
    assert_eq!(counted(counts), [0, 2, 0, 0]);
}

fn postponed(outcome: &Outcome) -> &str {
    let Outcome::Postponed { reason } = outcome else {
        panic!("{outcome:?}");
    };
    reason
}

#[tokio::test]
async fn a_request_or_a_warming_job_of_a_lane_that_is_not_served_here_is_given_back() {
    let mut settings = Settings::default();
    settings.intake.lanes = vec!["feed-ranker".into()];
    let (engine, _folder) = engine_with(SHIPPED, settings).await;
    let bodies = ["request", "warming", "suspect"].map(|id| job(id, "sentiment", &[id], ""));
    let kinds = |number: usize, source: JobSource| match number {
        0 => source.with_urgency(Urgency::First).postponable(true),
        1 => source.with_urgency(Urgency::Warming).postponable(true),
        _ => source,
    };
    let (outcomes, _) = run_with(&engine, &bodies, kinds).await;
    let reason = "lane `sentiment` isn't served by this worker";
    assert_eq!(postponed(&outcomes[0]), reason);
    assert_eq!(postponed(&outcomes[1]), reason);
    assert_eq!(results(&outcomes[2]).len(), 1, "whoever asks for it alone");
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_lane_with_much_in_hand_gives_requests_and_warming_back() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
    let mut settings = Settings::default();
    settings.intake.batches_in_flight = 1;
    settings.lane.max_seconds_in_hand = 0.2;
    let (engine, _folder) = engine_with(models, settings).await;
    let texts: Vec<String> = (0..20).map(|n| format!("sleep:10 slow {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Before the first one was scored, each is taken to cost 25 ms.
    let slow = job("slow", "fault", &texts, "");
    let (source, slow) = JobSource::awaited(slow, None);
    engine.submit([source]);
    while engine.lanes().iter().all(|lane| lane.jobs == 0) {
        tokio::task::yield_now().await;
    }
    let late = |id: &str, urgency| {
        let (source, end) = JobSource::awaited(job(id, "fault", &[id], ""), None);
        let source = source.with_urgency(urgency);
        engine.submit([source.postponable(urgency != Urgency::Normal)]);
        async move { end.await.expect("an end").outcome }
    };
    let (request, warming, queued) = tokio::join!(
        late("request", Urgency::First),
        late("warming", Urgency::Warming),
        late("queued", Urgency::Normal),
    );
    assert_eq!(postponed(&request), "lane `fault` is full");
    assert_eq!(postponed(&warming), "jobs wait in lane `fault`");
    assert_eq!(results(&queued).len(), 1);
    assert_eq!(results(&slow.await.expect("an end").outcome).len(), 20);
    let again = late("again", Urgency::Warming).await;
    assert_eq!(results(&again).len(), 1, "once nobody waits any more");
}

/// The shipped classifier as two versions, the labels of the second one the other way round.
fn two_versions() -> TempDir {
    let models = tempfile::tempdir().expect("a folder");
    let source = std::path::Path::new(SHIPPED).join("sentiment/1.0.0");
    for version in ["1.0.0", "2.0.0"] {
        let folder = models.path().join("sentiment").join(version);
        std::fs::create_dir_all(&folder).expect("a folder");
        for file in std::fs::read_dir(&source).expect("the shipped model") {
            let file = file.expect("a file");
            std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
        }
    }
    let manifest = models.path().join("sentiment/2.0.0/manifest.toml");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let labels = r#"["negative", "neutral", "positive"]"#;
    assert!(text.contains(labels), "{text}");
    let text = text.replace(labels, r#"["positive", "neutral", "negative"]"#);
    std::fs::write(manifest, text).expect("a manifest");
    models
}

/// A job of one text under these keys.
fn keyed(id: &str, model: &str, keys: &[&str], more: &str) -> String {
    let inputs: Vec<_> = keys
        .iter()
        .map(|key| serde_json::json!({"key": key, "text": "great"}))
        .collect();
    let inputs = serde_json::Value::from(inputs);
    format!(r#"{{"job_id":"{id}","model":"{model}","inputs":{inputs}{more}}}"#)
}

fn version(outcome: &Outcome) -> &str {
    let Outcome::Done { result, .. } = outcome else {
        panic!("{outcome:?}");
    };
    &result.version
}

#[tokio::test]
async fn a_share_of_the_keys_goes_to_another_version_within_one_job() {
    let models = two_versions();
    let (engine, _folder) = engine(models.path().to_str().expect("a plain path")).await;
    let share = Share::parse("30%").expect("a share");
    let split = SplitChoice {
        version: "2.0.0".to_owned(),
        share,
    };
    engine.registry().choose(Choices {
        active: [("sentiment".to_owned(), "1.0.0".to_owned())].into(),
        splits: [("sentiment".to_owned(), split)].into(),
    });
    let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let goes = |key: &str| share.takes(Point::of_key("sentiment", key));
    let (second, first): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| goes(key));
    assert!(second.len() > 5 && first.len() > 20);
    for (id, cached) in [("a", false), ("b", true)] {
        let (outcomes, counts) = run(&engine, &[keyed(id, "sentiment", &keys, "")]).await;
        assert_eq!(version(&outcomes[0]), "1.0.0", "the active one");
        let slots = if cached { [2, 0, 58, 0] } else { [0, 2, 58, 0] };
        assert_eq!(counted(counts), slots, "the text once for each version");
        for (key, result) in keys.iter().zip(results(&outcomes[0])) {
            let (label, version) = match goes(key) {
                true => ("negative", serde_json::json!("2.0.0")),
                false => ("positive", serde_json::Value::Null),
            };
            assert_eq!(
                (&result["label"], &result["version"]),
                (&label.into(), &version)
            );
            assert_eq!(result["cached"], cached);
        }
    }
    let in_rank = |key: &str| format!(r#","rank":{{"key":"{key}"}}"#);
    let bodies = [
        keyed("second", "sentiment", &second, ""),
        keyed("pinned", "sentiment@1.0.0", &second, ""),
        keyed("other", "sentiment@2.0.0", &first, ""),
        keyed("ranked", "sentiment", &keys, &in_rank(second[0])),
        keyed("also", "sentiment", &keys, &in_rank(first[0])),
    ];
    let (outcomes, _) = run(&engine, &bodies).await;
    let versions: Vec<&str> = outcomes.iter().map(version).collect();
    assert_eq!(versions, ["2.0.0", "1.0.0", "2.0.0", "2.0.0", "1.0.0"]);
    let named = outcomes
        .iter()
        .flat_map(results)
        .filter(|one| one["version"].is_string());
    assert_eq!(named.count(), 0, "the whole job is of one version");

    let texts: Vec<String> = (0..40).map(|n| format!("great {n}")).collect();
    let inputs: Vec<_> = texts
        .iter()
        .map(|text| serde_json::json!({"text": text}))
        .collect();
    let inputs = serde_json::Value::from(inputs);
    let body = format!(r#"{{"job_id":"keyless","model":"sentiment","inputs":{inputs}}}"#);
    let (outcomes, _) = run(&engine, &[body]).await;
    for (text, result) in texts.iter().zip(results(&outcomes[0])) {
        let point = Point::of_input("sentiment", &hash_text(text, None));
        assert_eq!(result["version"].is_string(), share.takes(point), "{text}");
    }
}
