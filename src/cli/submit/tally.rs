//! Owns what a submission counts, and its closing summary.

use crate::cli::file::BadLines;
use serde::Deserialize;
use std::time::Duration;

/// What the summary counts of a reply.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
struct Reported {
    #[serde(default)]
    status: String,
    #[serde(default)]
    hits: u64,
    #[serde(default)]
    misses: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) posted: u64,
    pub(super) ok: u64,
    pub(super) rejected: u64,
    pub(super) missing: u64,
    hits: u64,
    misses: u64,
    pub(super) bad_lines: BadLines,
}

impl Tally {
    pub(super) fn reply(&mut self, body: &[u8]) {
        let reported: Reported = serde_json::from_slice(body).unwrap_or_default();
        if reported.status == "ok" {
            self.ok += 1;
            self.hits += reported.hits;
            self.misses += reported.misses;
        } else {
            self.rejected += 1;
        }
    }

    pub(super) fn print(&self, elapsed: Duration, waited: bool, json: bool, queue: &str) {
        let seconds = elapsed.as_secs_f64();
        let done = if waited {
            self.ok + self.rejected
        } else {
            self.posted
        };
        let per_second = (done as f64 / seconds.max(1e-9)).round();
        if json {
            let mut summary = serde_json::json!({
                "queue": queue, "posted": self.posted, "bad_lines": self.bad_lines.count(),
                "seconds": (seconds * 1e3).round() / 1e3, "jobs_per_s": per_second,
            });
            if let (true, Some(fields)) = (waited, summary.as_object_mut()) {
                for (name, count) in self.answers() {
                    fields.insert(name.replace(' ', "_"), count.into());
                }
            }
            eprintln!("{summary}");
            return;
        }
        self.bad_lines.print_rest();
        let line = |name: &str, value: String| eprintln!("{name:<12}{value:>12}");
        line("jobs posted", self.posted.to_string());
        if waited {
            for (name, count) in self.answers() {
                line(name, count.to_string());
            }
        }
        line("bad lines", self.bad_lines.count().to_string());
        line("seconds", format!("{seconds:.3}"));
        line("jobs/s", per_second.to_string());
    }

    fn answers(&self) -> [(&'static str, u64); 5] {
        [
            ("ok", self.ok),
            ("rejected", self.rejected),
            ("missing", self.missing),
            ("hits", self.hits),
            ("misses", self.misses),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_by_what_they_say() {
        let mut tally = Tally::default();
        tally.reply(br#"{"job_id":"a","status":"ok","results":[],"hits":3,"misses":2}"#);
        tally.reply(br#"{"job_id":"b","status":"rejected","error":{"code":"invalid"}}"#);
        tally.reply(b"not a reply");
        assert_eq!((tally.ok, tally.rejected), (1, 2));
        assert_eq!((tally.hits, tally.misses), (3, 2));
    }
}
