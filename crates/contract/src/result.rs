//! Owns the JSON of a job's end: its results and its replies.
//!
//! Promises the contract's field names, and that a score prints as the shortest decimal that reads back as
//! the same 32-bit float.

use crate::{
    failure::Rejection,
    json::{push, push_numbers},
    model::{ModelInfo, Task},
    time,
};
use chrono::{DateTime, Utc};

/// Index of the largest value in a row; the first of equals.
#[inline]
pub fn best(row: &[f32]) -> usize {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (index, value) in row.iter().enumerate() {
        if *value > max {
            (best, max) = (index, *value);
        }
    }
    best
}

/// What an output row means: a class with its probability, a number, or an embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading<'a> {
    /// A classifier's row.
    Label {
        /// The label with the largest probability.
        label: &'a str,
        /// Its index among the model's labels.
        index: usize,
        /// Its probability, 0 to 1.
        score: f32,
    },
    /// One number, on the model's own scale.
    Score(f32),
    /// A vector.
    Embedding(&'a [f32]),
}

impl<'a> Reading<'a> {
    /// Reads one output row of a model.
    #[inline]
    pub fn of(info: &'a ModelInfo, row: &'a [f32]) -> Self {
        match &info.task {
            Task::Classification { labels } => {
                let index = best(row);
                let label = labels.get(index).map_or("", String::as_str);
                Self::Label {
                    label,
                    index,
                    score: row.get(index).copied().unwrap_or_default(),
                }
            }
            Task::Scalar => Self::Score(row.first().copied().unwrap_or_default()),
            Task::Embedding => Self::Embedding(row),
        }
    }

    /// The score that rankings sort by; `None` for embeddings.
    #[inline]
    pub fn score(&self) -> Option<f32> {
        match self {
            Self::Label { score, .. } | Self::Score(score) => Some(*score),
            Self::Embedding(_) => None,
        }
    }

    /// The label of a classifier's row; `None` for other models.
    #[inline]
    pub fn label(&self) -> Option<&'a str> {
        match self {
            Self::Label { label, .. } => Some(label),
            _ => None,
        }
    }
}

/// Writes the array of a job's results, one input after the other.
#[derive(Debug, Default)]
pub struct ResultsWriter {
    buffer: Vec<u8>,
    /// The job's version, where single results may be another one's.
    version: Option<String>,
}

impl ResultsWriter {
    /// An empty array with room for `inputs` results.
    pub fn new(inputs: usize) -> Self {
        let mut buffer = Vec::with_capacity(inputs * 64 + 2);
        buffer.push(b'[');
        Self {
            buffer,
            version: None,
        }
    }

    /// Has each result name its version that isn't by this one, the job's.
    #[must_use]
    pub fn of_version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    #[inline]
    fn open(&mut self, key: Option<&str>) {
        if self.buffer.len() > 1 {
            self.buffer.push(b',');
        }
        self.buffer.push(b'{');
        if let Some(key) = key {
            self.buffer.extend_from_slice(b"\"key\":");
            push(&mut self.buffer, key);
            self.buffer.push(b',');
        }
    }

    /// One scored input. With `detail`, a classifier's result carries every label's probability.
    pub fn scored(
        &mut self,
        key: Option<&str>,
        info: &ModelInfo,
        row: &[f32],
        cached: bool,
        detail: bool,
    ) {
        self.open(key);
        match Reading::of(info, row) {
            Reading::Label { label, score, .. } => {
                self.buffer.extend_from_slice(b"\"label\":");
                push(&mut self.buffer, label);
                self.buffer.extend_from_slice(b",\"score\":");
                push(&mut self.buffer, &score);
                if let (true, Task::Classification { labels }) = (detail, &info.task) {
                    self.buffer.extend_from_slice(b",\"scores\":{");
                    for (index, (label, value)) in labels.iter().zip(row).enumerate() {
                        if index > 0 {
                            self.buffer.push(b',');
                        }
                        push(&mut self.buffer, label);
                        self.buffer.push(b':');
                        push(&mut self.buffer, value);
                    }
                    self.buffer.push(b'}');
                }
            }
            Reading::Score(score) => {
                self.buffer.extend_from_slice(b"\"score\":");
                push(&mut self.buffer, &score);
            }
            Reading::Embedding(values) => {
                self.buffer.extend_from_slice(b"\"embedding\":");
                push_numbers(&mut self.buffer, values, info.precision);
            }
        }
        if self
            .version
            .as_ref()
            .is_some_and(|own| *own != info.version)
        {
            self.buffer.extend_from_slice(b",\"version\":");
            push(&mut self.buffer, &info.version);
        }
        self.buffer.extend_from_slice(if cached {
            b",\"cached\":true}"
        } else {
            b",\"cached\":false}"
        });
    }

    /// One input that was skipped.
    pub fn skipped(&mut self, key: Option<&str>, rejection: &Rejection) {
        self.open(key);
        self.buffer.extend_from_slice(b"\"error\":");
        push(&mut self.buffer, rejection);
        self.buffer.push(b'}');
    }

    /// One input whose key was removed for readers.
    pub fn removed(&mut self, key: Option<&str>) {
        self.open(key);
        self.buffer.extend_from_slice(b"\"removed\":true}");
    }

    /// The finished array.
    pub fn finish(mut self) -> String {
        self.buffer.push(b']');
        String::from_utf8(self.buffer).unwrap_or_else(|_| "[]".into())
    }
}

/// A finished job, as its reply and its row have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// The model's name.
    pub model: String,
    /// The version that scored; of several, the active one.
    pub version: String,
    /// The job's namespace.
    pub namespace: String,
    /// The JSON array of results.
    pub results: String,
    /// Inputs whose scores were cached.
    pub hits: u32,
    /// Inputs that the model scored.
    pub misses: u32,
    /// From the job's arrival to its result, in milliseconds.
    pub elapsed_ms: f64,
    /// When the job was finished, to the millisecond.
    pub finished_at: DateTime<Utc>,
}

impl Finished {
    /// Whether both describe the same run of a job, not two runs of it.
    pub fn is_the_run_of(&self, other: &Self) -> bool {
        let run = |f: &Self| (f.finished_at, f.elapsed_ms.to_bits(), f.hits, f.misses);
        run(self) == run(other)
    }
}

/// The reply to a job that succeeded; it says that its results are left out where they weren't kept.
pub fn ok_reply(job_id: &str, done: &Finished) -> Vec<u8> {
    ok(
        job_id,
        done,
        Some(done.results.as_str()).filter(|results| !results.is_empty()),
    )
}

/// The reply to a job that succeeded, without its results: it says that they are left out.
pub fn ok_reply_without_results(job_id: &str, done: &Finished) -> Vec<u8> {
    ok(job_id, done, None)
}

fn ok(job_id: &str, done: &Finished, results: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(results.map_or(0, str::len) + 320);
    out.extend_from_slice(b"{\"job_id\":");
    push(&mut out, job_id);
    out.extend_from_slice(b",\"status\":\"ok\",\"model\":");
    push(&mut out, &done.model);
    out.extend_from_slice(b",\"version\":");
    push(&mut out, &done.version);
    out.extend_from_slice(b",\"namespace\":");
    push(&mut out, &done.namespace);
    match results {
        Some(results) => {
            out.extend_from_slice(b",\"results\":");
            out.extend_from_slice(results.as_bytes());
        }
        None => out.extend_from_slice(b",\"results_omitted\":true"),
    }
    out.extend_from_slice(
        format!(
            ",\"hits\":{},\"misses\":{},\"elapsed_ms\":",
            done.hits, done.misses
        )
        .as_bytes(),
    );
    push(&mut out, &done.elapsed_ms);
    out.extend_from_slice(b",\"finished_at\":");
    push(&mut out, &time::rfc3339(done.finished_at));
    out.push(b'}');
    out
}

/// The reply to a job that was rejected.
pub fn rejected_reply(job_id: &str, rejection: &Rejection) -> Vec<u8> {
    rejected(job_id, |out| push(out, rejection))
}

/// The same from a stored row: `error` is the rejection's JSON, as it was written by this version or another.
pub fn stored_rejected_reply(job_id: &str, error: &str) -> Vec<u8> {
    rejected(job_id, |out| out.extend_from_slice(error.as_bytes()))
}

fn rejected(job_id: &str, error: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"{\"job_id\":".to_vec();
    push(&mut out, job_id);
    out.extend_from_slice(b",\"status\":\"rejected\",\"error\":");
    error(&mut out);
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests;
