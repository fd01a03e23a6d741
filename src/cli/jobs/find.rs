//! `kiln jobs find`: jobs that have ended, the latest first, or by the beginning of their ids.
//!
//! Promises that each statement reads a bounded number of rows, however long the whole takes, and that it says when it stops before the list's end.

use super::job_id;
use crate::{
    cli::{Exit, age::age, plain::plain},
    clock::{self, rfc3339},
    config::Settings,
    parts,
    store::{JobFilter, JobMark, ListedJob},
};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use kiln_contract::failure::Code;
use serde_json::json;

/// Jobs of one question.
const PAGE: usize = 500;

/// Finds jobs that have ended: the latest first, or, with --id-prefix, in the order of their ids.
#[derive(Debug, Args)]
#[command(after_help = "\
With a model, a namespace or a status alone, it looks through all jobs from the latest on until it has enough: name a time where
there are millions. Rejected jobs are found at once, however few they are; a code among them.

Examples:
  kiln jobs find --namespace reviews --from 2h
  kiln jobs find --code invalid --limit 20
  kiln jobs find --id-prefix order-17 --json | jq .job_id")]
pub(super) struct Arguments {
    /// Only jobs whose ids begin so.
    #[arg(long, value_name = "PREFIX", value_parser = job_id)]
    id_prefix: Option<String>,
    /// Only jobs of this model: a name, or name@version.
    #[arg(long)]
    model: Option<String>,
    /// Only jobs of this namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// Only jobs that ended so.
    #[arg(long)]
    status: Option<Status>,
    /// Only jobs that were rejected with this code.
    #[arg(long, value_parser = code)]
    code: Option<Code>,
    /// Ended then or later: RFC 3339, or an age such as 2h.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<DateTime<Utc>>,
    /// Ended before that: RFC 3339, or an age such as 30m.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
    /// Maximum number of jobs.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    limit: u64,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Ok,
    Rejected,
}

fn code(text: &str) -> Result<Code, String> {
    let known = Code::ALL.into_iter().find(|code| code.as_str() == text);
    known.ok_or_else(|| {
        let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", all.join(", "))
    })
}

fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    let expected = || "expected RFC 3339, or a number with s, m, h or d".to_owned();
    let age = age(text).map_err(|_| expected())?;
    let age = chrono::Duration::from_std(age).map_err(|_| expected())?;
    clock::now().checked_sub_signed(age).ok_or_else(expected)
}

pub(super) async fn run(arguments: Arguments, settings: &Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(settings)?;
    store.migrate().await?;
    let filter = arguments.filter();
    let mut left = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let (mut after, mut looked_at, mut found) = (None::<JobMark>, 0, 0_u64);
    let mut table = (!arguments.json).then(new_table);
    loop {
        let page = store.list_jobs(&filter, after, left.min(PAGE)).await?;
        (after, looked_at) = (page.next, looked_at + page.looked_at);
        left = left.saturating_sub(page.jobs.len());
        found += page.jobs.len() as u64;
        for job in &page.jobs {
            match &mut table {
                Some(table) => drop(table.add_row(cells(job))),
                None => println!("{}", as_json(job)),
            }
        }
        if left == 0 || after.is_none() {
            break;
        }
    }
    if let Some(table) = table.filter(|_| found > 0) {
        println!("{}", table.trim_fmt());
    }
    if !arguments.json {
        let more = match &after {
            Some(mark) if filter.id_prefix.is_some() => {
                format!("; there may be more after `{}`", plain(&mark.job_id))
            }
            Some(mark) => format!("; there may be more before {}", rfc3339(mark.finished_at)),
            None => String::new(),
        };
        eprintln!("{found} jobs, {looked_at} rows looked at{more}");
    }
    Ok(Exit::Ok)
}

impl Arguments {
    fn filter(&self) -> JobFilter {
        let parts = self
            .model
            .as_deref()
            .map(|model| match model.split_once('@') {
                Some((name, version)) => (name, Some(version)),
                None => (model, None),
            });
        JobFilter {
            id_prefix: self.id_prefix.clone(),
            model: parts.map(|(name, _)| name.to_owned()),
            version: parts.and_then(|(_, version)| version).map(str::to_owned),
            namespace: self.namespace.clone(),
            rejected: self.status.map(|status| matches!(status, Status::Rejected)),
            code: self.code.map(|code| code.as_str().to_owned()),
            from: self.from,
            to: self.to,
            posted_by: None,
        }
    }
}

fn new_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header([
        "ENDED",
        "JOB ID",
        "STATUS",
        "MODEL",
        "NAMESPACE",
        "HITS",
        "MISSES",
        "MS",
    ]);
    for column in table.column_iter_mut().skip(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn cells(job: &ListedJob) -> [String; 8] {
    let model = match (&job.model, &job.version) {
        (Some(model), Some(version)) => format!("{model}@{version}"),
        (Some(model), None) => model.clone(),
        (None, _) => "-".to_owned(),
    };
    let status = match &job.code {
        Some(code) => format!("{}: {code}", job.status),
        None => job.status.clone(),
    };
    [
        rfc3339(job.finished_at),
        plain(&job.job_id),
        plain(&status),
        plain(&model),
        plain(job.namespace.as_deref().unwrap_or("-")),
        job.hits.to_string(),
        job.misses.to_string(),
        job.elapsed_ms
            .map_or_else(String::new, |ms| format!("{ms:.1}")),
    ]
}

fn as_json(job: &ListedJob) -> serde_json::Value {
    json!({
        "job_id": job.job_id, "status": job.status, "model": job.model, "version": job.version, "namespace": job.namespace, "code": job.code,
        "hits": job.hits, "misses": job.misses, "elapsed_ms": job.elapsed_ms, "finished_at": rfc3339(job.finished_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_an_age() {
        assert_eq!(
            moment("2026-11-27T03:00:00+01:00").map(|at| at.timestamp()),
            Ok(1_795_744_800)
        );
        let hours = (clock::now() - moment("2h").expect("an age")).num_minutes();
        assert!((119..=121).contains(&hours));
        assert!(moment("yesterday").is_err() && moment("9999999999999d").is_err());
    }
}
