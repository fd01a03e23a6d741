//! Owns what is known of one job: its end, as its producer was told it, and its inputs as far as they are stored.

use crate::store::{JobEnd, JobInput, PostgresStore, StoreError};
use kiln_contract::result;
use serde::{Deserialize, Serialize};

/// Inputs of a job that are looked up, at the most.
const MAX_INPUTS: usize = 100;

/// What is known of a job that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct JobKnown {
    pub end: JobEnd,
    pub inputs: Vec<JobInput>,
}

/// A result, of which only the key matters here.
#[derive(Deserialize)]
struct Keyed {
    key: Option<String>,
}

/// An input as it is shown.
#[derive(Serialize)]
struct InputShown<'a> {
    key: &'a str,
    input_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a [f32]>,
}

/// How a job ended, with its inputs if they are wanted; nothing where it has no row, or where it is asked for by a key that didn't post it. Inputs are found by the names that the job gave a word of: where
/// `store.served` and `store.inputs` were on, and the name's word was new.
pub async fn job(
    store: &PostgresStore,
    job_id: &str,
    posted_by: Option<&str>,
    with_inputs: bool,
) -> Result<Option<JobKnown>, StoreError> {
    let Some(end) = store.job(job_id, posted_by).await? else {
        return Ok(None);
    };
    let inputs = match &end {
        JobEnd::Done(done) if with_inputs => {
            let keys = keys(&done.results);
            store.job_inputs(job_id, &done.namespace, &keys).await?
        }
        _ => Vec::new(),
    };
    Ok(Some(JobKnown { end, inputs }))
}

/// The keys in a job's results.
fn keys(results: &str) -> Vec<String> {
    // Whatever can't be read names no key.
    let all: Vec<Keyed> = serde_json::from_str(results).unwrap_or_default();
    let keys = all.into_iter().filter_map(|one| one.key);
    keys.take(MAX_INPUTS).collect()
}

impl JobKnown {
    /// The reply that its producer got, as JSON, with the inputs that are known.
    pub fn to_json(&self, job_id: &str) -> Vec<u8> {
        let mut reply = match &self.end {
            JobEnd::Done(done) => result::ok_reply(job_id, done),
            JobEnd::Rejected(error) => result::stored_rejected_reply(job_id, error),
        };
        if self.inputs.is_empty() {
            return reply;
        }
        let shown: Vec<InputShown<'_>> = self.inputs.iter().map(InputShown::of).collect();
        if let (Some(b'}'), Ok(inputs)) = (reply.last(), serde_json::to_vec(&shown)) {
            reply.pop();
            reply.extend_from_slice(b",\"inputs\":");
            reply.extend_from_slice(&inputs);
            reply.push(b'}');
        }
        reply
    }
}

impl<'a> InputShown<'a> {
    fn of(input: &'a JobInput) -> Self {
        Self {
            key: &input.key,
            input_sha256: hex::encode(&input.input_sha256),
            text: input.text.as_deref(),
            text_pair: input.text_pair.as_deref(),
            features: input.features.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::result::Finished;
    use serde_json::Value;

    #[test]
    fn a_reply_with_inputs_is_the_reply_and_its_inputs() {
        let done = Finished {
            model: "m".into(),
            version: "1".into(),
            namespace: "n".into(),
            results: r#"[{"key":"a","score":0.5,"cached":false},{"score":1}]"#.into(),
            hits: 0,
            misses: 2,
            elapsed_ms: 1.0,
            finished_at: chrono::DateTime::UNIX_EPOCH,
        };
        assert_eq!(keys(&done.results), ["a"]);
        assert_eq!(keys("no json"), Vec::<String>::new());
        let input = JobInput {
            key: "a".into(),
            input_sha256: vec![1; 2],
            text: Some("fine".into()),
            text_pair: None,
            features: None,
        };
        let known = JobKnown {
            end: JobEnd::Done(Box::new(done)),
            inputs: vec![input],
        };
        let shown: Value = serde_json::from_slice(&known.to_json("j")).expect("JSON");
        assert_eq!(shown["inputs"][0]["text"], "fine");
        assert_eq!(shown["inputs"][0]["input_sha256"], "0101");
        assert_eq!(
            (&shown["job_id"], &shown["misses"]),
            (&"j".into(), &2.into())
        );
    }
}
