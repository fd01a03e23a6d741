//! `kiln submit`: posts a file of jobs or inputs, and collects the replies where they are wanted.
//!
//! Promises that each job is confirmed by the broker, and that submitting a file twice scores it once.

mod cut;
mod flow;
mod replies;
mod source;
mod tally;

use super::{
    Exit,
    post::Post,
    score::{self, FileArguments, JobArguments},
};
use crate::{amqp::topology::Topology, config::Settings, parts};
use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use cut::Cut;
use flow::Submission;
use lapin::types::ShortString;
use replies::Replies;
use source::{NoModel, open, progress, read};
use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};
use tally::Tally;
use tokio::sync::mpsc;

/// Jobs that are read ahead of posting.
const AHEAD: usize = 4;
/// Jobs without an answer that are named.
const NAMED: usize = 5;

/// Inputs of a job, if nothing else is said.
const INPUTS_PER_JOB: u16 = 100;

/// Posts a file of jobs or inputs, each message confirmed by the broker; with --output, has workers score it and writes the results.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --output, FILE is one file of JSONL. A line with `inputs` is a whole job and is posted as it is; any other object is
an input, and inputs are cut into jobs of --inputs-per-job. A job that has no `job_id` of its own
gets one that follows from its content: the prefix and a hash. So the same file with the same
options gives the same ids, and submitting it again (after a failure, or twice by mistake) scores
nothing twice: Kiln answers with the first result.

With --wait, each reply is printed as one line of JSON on standard output, as it comes. The
closing summary goes to standard error. Exit code 1: posting failed, or replies are missing;
3: all else was posted, and there were bad lines or rejected jobs.

With --output, it is `kiln score --fleet`: the same formats and options, in and out; jobs are posted a bounded number at a
time and cut by the model time that they are expected to take; a run that is killed goes on without posting twice what is done.

Examples:
  kiln submit jobs.jsonl
  kiln submit reviews.jsonl --model sentiment --wait > replies.jsonl
  zcat items.jsonl.gz | kiln submit - --model feed-ranker --queue warm
  kiln submit 'reviews/*.parquet' --text-column review --model sentiment --output scored.parquet")]
pub(super) struct Arguments {
    #[command(flatten)]
    file: FileArguments,
    #[command(flatten)]
    jobs: JobArguments,
    /// Collect the replies.
    #[arg(long, conflicts_with = "output")]
    wait: bool,
    /// Prefix of the ids that are derived from content.
    #[arg(long, value_name = "PREFIX", default_value = "submit-", value_parser = cut::prefix, conflicts_with = "output")]
    id_prefix: String,
    /// With --wait: give up after so many seconds without a reply.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), conflicts_with = "output")]
    timeout: u64,
}

/// Where jobs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Queue {
    /// The producers' queue.
    Jobs,
    /// The queue that is served with capacity left over.
    Warm,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if settings.amqp.url.is_none() {
        eprintln!("kiln: no broker is set: give KILN_AMQP_URL. `kiln score FILE` needs none.");
        return Ok(Exit::Usage);
    }
    let Arguments { file, jobs, .. } = &arguments;
    if file.output.is_some() {
        return score::over_fleet(file, jobs, &settings).await;
    }
    let said = file
        .only_with_output()
        .or(jobs.in_flight.map(|_| "--in-flight"));
    if let Some(option) = said {
        eprintln!("kiln: {option} goes with --output alone");
        return Ok(Exit::Usage);
    }
    let [only] = file.files.as_slice() else {
        eprintln!("kiln: several files go with --output alone");
        return Ok(Exit::Usage);
    };
    post_file(only, &arguments, &settings).await
}

/// Posts a file of JSONL, and prints the replies where they are wanted.
async fn post_file(
    file: &Path,
    arguments: &Arguments,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let is_json = arguments.file.json;
    let Arguments { jobs, .. } = arguments;
    let (file, bytes) = open(file)?;
    let (post, queue) = connect(settings, jobs.queue.unwrap_or(Queue::Jobs)).await?;
    let replies = match arguments.wait {
        true => Some(Replies::open(&post.broker).await?),
        false => None,
    };
    let bar = progress(bytes);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (reading, max_inputs) = (
        bar.clone(),
        usize::from(jobs.inputs_per_job.unwrap_or(INPUTS_PER_JOB)),
    );
    let cut = Cut {
        model: arguments.file.model.clone(),
        namespace: jobs.namespace.clone(),
        named: jobs.named,
        prefix: arguments.id_prefix.clone(),
    };
    let reader =
        tokio::task::spawn_blocking(move || read(file(reading), max_inputs, &cut, &sender));
    let mut submission = Submission {
        post: &post,
        queue: ShortString::try_new(queue.as_str())?,
        wait: arguments.wait,
        quiet: Duration::from_secs(arguments.timeout),
        unanswered: HashMap::new(),
        tally: Tally::default(),
        bar: &bar,
    };
    let ended = submission.run(receiver, replies).await;
    let (mut tally, missing) = (submission.tally, submission.unanswered);
    bar.finish_and_clear();
    // A file that was not read to its end may be a pipe on which nothing comes: its thread isn't waited for.
    let ended = match ended {
        Ok(true) => reader.await.context("the reading thread panicked")?,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    tally.missing = missing.len() as u64;
    tally.print(begun.elapsed(), arguments.wait, is_json, &queue);
    if let Err(error) = ended {
        return failed(error, tally.posted);
    }
    post.close().await;
    if !missing.is_empty() {
        return Err(unanswered(
            &missing,
            tally.posted,
            arguments.timeout,
            &queue,
        ));
    }
    Ok(if tally.bad_lines.count() > 0 || tally.rejected > 0 {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

/// A connection for posting, and the name of the queue, which is there from now on.
async fn connect(settings: &Settings, queue: Queue) -> anyhow::Result<(Post, String)> {
    let topology = Topology::new(&settings.queues, &settings.retry);
    let post = Post::open(parts::broker(settings)?, "submit").await?;
    let queue = match queue {
        Queue::Jobs => topology.jobs.clone(),
        Queue::Warm => topology.warm.clone(),
    };
    if !post.knows(&queue).await? {
        // Before the first worker has started there are no queues: jobs may wait for it.
        let limit = post.broker.timeout();
        topology.declare(&post.connection, limit, limit).await?;
    }
    Ok((post, queue))
}

/// How the command ends when reading or posting failed.
fn failed(error: anyhow::Error, posted: u64) -> anyhow::Result<Exit> {
    if error.is::<NoModel>() {
        eprintln!("kiln: {error}");
        return Ok(Exit::Usage);
    }
    Err(error.context(format!(
        "{posted} jobs are confirmed; submitting the same file again is safe"
    )))
}

/// Says which replies didn't come.
fn unanswered(
    missing: &HashMap<u64, String>,
    posted: u64,
    seconds: u64,
    queue: &str,
) -> anyhow::Error {
    let mut ids: Vec<&str> = missing.values().map(String::as_str).collect();
    ids.sort_unstable();
    let more = if ids.len() > NAMED { ", …" } else { "" };
    ids.truncate(NAMED);
    anyhow!(
        "{} of {posted} replies are missing after {seconds} s without any ({}{more}); the jobs are in `{queue}` or in progress: \
         is a worker running?",
        missing.len(),
        ids.join(", ")
    )
}
