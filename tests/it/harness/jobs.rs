//! The jobs that tests post, as the contract writes them, and what comes back.

use serde_json::{Value, json};

/// A job of `texts` for `model`, with no optional field set. Texts for the `fault` model may ask for trouble.
pub fn text_job(job_id: &str, model: &str, texts: &[&str]) -> Value {
    let inputs: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    json!({"job_id": job_id, "model": model, "inputs": inputs})
}

/// A job of one text for the `fault` model.
pub fn fault_job(job_id: &str, text: &str) -> Value {
    text_job(job_id, "fault", &[text])
}

/// `count` jobs with ids `prefix-0` and so on, each of one text of its own that costs the model `milliseconds`.
pub fn slow_jobs(prefix: &str, count: usize, milliseconds: u64) -> Vec<Value> {
    (0..count)
        .map(|n| {
            fault_job(
                &format!("{prefix}-{n}"),
                &format!("sleep:{milliseconds} {prefix} {n}"),
            )
        })
        .collect()
}

/// `count` jobs with ids `prefix-0` and so on, each of one text of its own.
pub fn quick_jobs(prefix: &str, count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| fault_job(&format!("{prefix}-{n}"), &format!("{prefix} number {n}")))
        .collect()
}

/// The id of a job made by this module, or `""`.
pub fn job_id(job: &Value) -> &str {
    job["job_id"].as_str().unwrap_or_default()
}

/// The ids of `jobs`, sorted.
pub fn job_ids(jobs: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = jobs.iter().map(|job| job_id(job).to_owned()).collect();
    ids.sort();
    ids
}

/// A row of the table `jobs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub job_id: String,
    pub status: String,
    pub model: Option<String>,
    pub version: Option<String>,
    pub namespace: Option<String>,
    pub hits: Option<i64>,
    pub misses: Option<i64>,
    pub results: Option<Value>,
    pub error: Option<Value>,
    pub finished_at: Option<String>,
}

/// A reply as it was delivered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    /// Its header `traceparent`.
    pub traceparent: Option<String>,
    pub body: Value,
}

impl Reply {
    pub fn job_id(&self) -> &str {
        job_id(&self.body)
    }

    pub fn status(&self) -> &str {
        self.body["status"].as_str().unwrap_or_default()
    }

    /// The body without the one part that tells how long this very answer took.
    pub fn without_time(&self) -> Value {
        let mut body = self.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("elapsed_ms");
        }
        body
    }
}

/// A message taken from the dead letter queue.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub message_id: Option<String>,
    pub code: String,
    pub field: String,
    pub message: String,
    pub body: Vec<u8>,
}

impl DeadLetter {
    /// The job's id: the message's, or the body's where it can be read.
    pub fn job_id(&self) -> String {
        let of_body = || {
            serde_json::from_slice::<Value>(&self.body)
                .ok()
                .map(|body| job_id(&body).to_owned())
        };
        self.message_id.clone().or_else(of_body).unwrap_or_default()
    }
}
