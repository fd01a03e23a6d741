//! Owns what a worker and the process that runs its suspects say to each other, over that process's standard input and output.
//!
//! A frame is the length of its head and of its body, four bytes each, the lower byte first; then the head, which is JSON; then the
//! body, which is bytes. Promises that a frame is read whole or refused, and that no reader takes more than [`MAX_HEAD_BYTES`] and
//! [`MAX_BODY_BYTES`], whatever is written. Refuses to talk to another version: both sides are the same program.

use crate::{
    pipeline::{InputCounts, Outcome},
    redact::Redact,
    telemetry::trace::Stages,
};
use chrono::DateTime;
use kiln_contract::{failure::Rejection, result::Finished};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, io, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest head of a frame.
pub(super) const MAX_HEAD_BYTES: u32 = 16 << 20;
/// Largest body of a frame: what Postgres takes as one JSON value, and so more than any result.
pub(super) const MAX_BODY_BYTES: u32 = 1 << 28;

/// Why a frame was not written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The other side has ended, or has closed its pipe.
    #[error("the pipe is closed")]
    Gone,
    #[error("the pipe failed: {0}")]
    Io(io::Error),
    #[error("a frame of {bytes} bytes is larger than {max}")]
    TooLarge { bytes: usize, max: u32 },
    #[error("a frame that can't be read: {0}")]
    Malformed(String),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// One job to run; the frame's body is the job's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Request {
    /// The job's id in its message's properties.
    pub message_id: Option<String>,
    /// Tries made before.
    pub tries: u32,
    /// Whether it is a warming job.
    pub is_warming: bool,
    /// Milliseconds since it was received.
    pub waited_ms: u64,
    /// When a worker first accepted it, in microseconds since 1970.
    pub accepted_us: u64,
    /// The API key that posted it.
    pub posted_by: Option<String>,
    /// The version that each model's bare name means.
    pub active: BTreeMap<String, String>,
    /// The version that has a share of each model's inputs, and how many millionths.
    pub splits: BTreeMap<String, (String, u32)>,
}

/// What the process says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Said {
    /// It takes a request.
    Ready,
    /// It can't start.
    Unready { reason: String },
    /// It loads the model of the job that it was given: what goes wrong meanwhile is no fault of the job's.
    Loading { model: String },
    /// The model is loaded, and the job begins.
    Loaded,
    /// The model that the job names can't be had here.
    Unserved { model: String, reason: String },
    /// The job waits for the database, and can't help that.
    Waiting,
    /// What became of the job; the frame's body is its results.
    Ended(Ended),
}

/// What became of a job.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    outcome: WireOutcome,
    counts: WireCounts,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum WireOutcome {
    Done {
        job_id: String,
        model: String,
        version: String,
        namespace: String,
        hits: u32,
        misses: u32,
        /// The bits of a number that JSON might not give back exactly.
        elapsed_ms: u64,
        /// Seconds since 1970, and nanoseconds.
        finished_at: (i64, u32),
        repeated: bool,
    },
    Rejected {
        job_id: Option<String>,
        rejection: Rejection,
    },
    Retry {
        job_id: Option<String>,
        reason: String,
    },
    Abandoned,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct WireCounts {
    hits: u64,
    misses: u64,
    uncached: u64,
    coalesced: u64,
    skipped: u64,
    looked_up: Duration,
    scored: Duration,
    stored: Duration,
}

impl Ended {
    /// An outcome as it is sent: the head's part, and the frame's body.
    pub fn of(outcome: Outcome, counts: InputCounts) -> (Self, Vec<u8>) {
        let (outcome, results) = match outcome {
            Outcome::Done {
                job_id,
                result,
                repeated,
            } => {
                let done = Arc::unwrap_or_clone(result);
                let at = done.finished_at;
                let head = WireOutcome::Done {
                    job_id: job_id.as_ref().into(),
                    model: done.model,
                    version: done.version,
                    namespace: done.namespace,
                    hits: done.hits,
                    misses: done.misses,
                    elapsed_ms: done.elapsed_ms.to_bits(),
                    finished_at: (at.timestamp(), at.timestamp_subsec_nanos()),
                    repeated,
                };
                (head, done.results.into_bytes())
            }
            Outcome::Rejected { job_id, rejection } => {
                (WireOutcome::Rejected { job_id, rejection }, Vec::new())
            }
            Outcome::Retry { job_id, reason } => {
                (WireOutcome::Retry { job_id, reason }, Vec::new())
            }
            Outcome::Postponed { .. } | Outcome::Moved(_) | Outcome::Abandoned => {
                (WireOutcome::Abandoned, Vec::new())
            }
        };
        let counts = WireCounts {
            hits: counts.hits,
            misses: counts.misses,
            uncached: counts.uncached,
            coalesced: counts.coalesced,
            skipped: counts.skipped,
            looked_up: counts.stages.looked_up,
            scored: counts.stages.scored,
            stored: counts.stages.stored,
        };
        (Self { outcome, counts }, results)
    }

    /// The outcome that was sent with this body.
    pub fn into_outcome(self, results: Vec<u8>) -> Result<(Outcome, InputCounts), FrameError> {
        let malformed = |what: &str| FrameError::Malformed(what.to_owned());
        let outcome = match self.outcome {
            WireOutcome::Done {
                job_id,
                model,
                version,
                namespace,
                hits,
                misses,
                elapsed_ms,
                finished_at: (seconds, nanos),
                repeated,
            } => {
                let result = Finished {
                    model,
                    version,
                    namespace,
                    results: String::from_utf8(results)
                        .map_err(|_| malformed("results that aren't UTF-8"))?,
                    hits,
                    misses,
                    elapsed_ms: f64::from_bits(elapsed_ms),
                    finished_at: DateTime::from_timestamp(seconds, nanos)
                        .ok_or_else(|| malformed("a time out of range"))?,
                };
                Outcome::Done {
                    job_id: job_id.into(),
                    result: Arc::new(result),
                    repeated,
                }
            }
            WireOutcome::Rejected { job_id, rejection } => Outcome::Rejected { job_id, rejection },
            WireOutcome::Retry { job_id, reason } => Outcome::Retry { job_id, reason },
            WireOutcome::Abandoned => Outcome::Abandoned,
        };
        let WireCounts {
            hits,
            misses,
            uncached,
            coalesced,
            skipped,
            looked_up,
            scored,
            stored,
        } = self.counts;
        let counts = InputCounts {
            hits,
            misses,
            uncached,
            coalesced,
            skipped,
            // Their run heard of it with the job's row.
            model_nanos: 0,
            stages: Stages {
                looked_up,
                scored,
                stored,
            },
        };
        Ok((outcome, counts))
    }
}

/// Writes one frame whole.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    head: &impl Serialize,
    body: &[u8],
) -> Result<(), FrameError> {
    to.write_all(&beginning(head, body)?).await?;
    to.write_all(body).await?;
    Ok(to.flush().await?)
}

/// What stands before a frame's body: both lengths, and the head.
pub(super) fn beginning(head: &impl Serialize, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let head = serde_json::to_vec(head).map_err(|e| FrameError::Malformed(e.redacted()))?;
    let of_head = length(&head, MAX_HEAD_BYTES)?.to_le_bytes();
    let of_body = length(body, MAX_BODY_BYTES)?.to_le_bytes();
    Ok([&of_head, &of_body, head.as_slice()].concat())
}

fn length(bytes: &[u8], max: u32) -> Result<u32, FrameError> {
    let fits = u32::try_from(bytes.len()).ok().filter(|len| *len <= max);
    fits.ok_or(FrameError::TooLarge {
        bytes: bytes.len(),
        max,
    })
}

/// Reads one frame whole: its head and its body.
pub(super) async fn read<H: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<(H, Vec<u8>), FrameError> {
    let of_head = from.read_u32_le().await?;
    let of_body = from.read_u32_le().await?;
    let head = part(from, of_head, MAX_HEAD_BYTES).await?;
    let body = part(from, of_body, MAX_BODY_BYTES).await?;
    let head = serde_json::from_slice(&head).map_err(|e| FrameError::Malformed(e.redacted()))?;
    Ok((head, body))
}

/// Reads so many bytes. Memory is taken as they come, not as they are announced.
async fn part(
    from: &mut (impl AsyncRead + Unpin),
    length: u32,
    max: u32,
) -> Result<Vec<u8>, FrameError> {
    if length > max {
        return Err(FrameError::TooLarge {
            bytes: length as usize,
            max,
        });
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if bytes.len() < length as usize {
        return Err(FrameError::Gone);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
