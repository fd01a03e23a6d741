//! `kiln submit`: posts a file of jobs or inputs, and collects the replies where they are wanted.
//!
//! Promises that each job is confirmed by the broker, and that submitting a file twice scores it once.

mod cut;
mod flow;
mod replies;
mod source;
mod tally;

use super::{Exit, post::Post};
use crate::{amqp::topology::Topology, config::Settings, parts};
use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use cut::Cut;
use flow::Submission;
use kiln_contract::job;
use kiln_contract::name;
use lapin::types::ShortString;
use replies::Replies;
use source::{NoModel, open, progress, read};
use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};
use tally::Tally;
use tokio::sync::mpsc;

/// Jobs that are read ahead of posting.
const AHEAD: usize = 4;
/// Jobs without an answer that are named.
const NAMED: usize = 5;

/// Posts a file of jobs or inputs, each message confirmed by the broker.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is JSONL. A line with `inputs` is a whole job and is posted as it is; any other object is
an input, and inputs are cut into jobs of --inputs-per-job. A job that has no `job_id` of its own
gets one that follows from its content: the prefix and a hash. So the same file with the same
options gives the same ids, and submitting it again (after a failure, or twice by mistake) scores
nothing twice: Kiln answers with the first result.

With --wait, each reply is printed as one line of JSON on standard output, as it comes. The
closing summary goes to standard error. Exit code 1: posting failed, or replies are missing;
3: all else was posted, and there were bad lines or rejected jobs.

Examples:
  kiln submit jobs.jsonl
  kiln submit reviews.jsonl --model sentiment --wait > replies.jsonl
  zcat items.jsonl.gz | kiln submit - --model feed-ranker --queue warm")]
pub(super) struct Arguments {
    /// The file, or - for standard input.
    file: PathBuf,
    /// Collect the replies.
    #[arg(long)]
    wait: bool,
    /// The model for inputs, and for jobs that name none: a name, or name@version.
    #[arg(long)]
    model: Option<String>,
    /// The namespace for inputs, and for jobs that name none.
    #[arg(long, value_parser = namespace)]
    namespace: Option<String>,
    /// Store named entries for inputs with a key, also for jobs that don't say.
    #[arg(long)]
    named: bool,
    /// Inputs per job; a job is also cut at 1 MiB.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=job::MAX_INPUTS as i64))]
    inputs_per_job: u16,
    /// Prefix of the ids that are derived from content.
    #[arg(long, value_name = "PREFIX", default_value = "submit-", value_parser = cut::prefix)]
    id_prefix: String,
    /// The queue.
    #[arg(long, value_enum, default_value_t = Queue::Jobs)]
    queue: Queue,
    /// Print the closing summary as JSON.
    #[arg(long)]
    json: bool,
    /// With --wait: give up after so many seconds without a reply.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Where jobs go.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Queue {
    /// The producers' queue.
    Jobs,
    /// The queue that is served with capacity left over.
    Warm,
}

fn namespace(text: &str) -> Result<String, String> {
    if name::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(name::EXPECTED_NAME.into())
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if settings.amqp.url.is_none() {
        eprintln!("kiln: no broker is set: give KILN_AMQP_URL. `kiln score FILE` needs none.");
        return Ok(Exit::Usage);
    }
    let begun = Instant::now();
    let (file, bytes) = open(&arguments.file)?;
    let (post, queue) = connect(&settings, arguments.queue).await?;
    let replies = match arguments.wait {
        true => Some(Replies::open(&post.broker).await?),
        false => None,
    };
    let bar = progress(bytes);
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (reading, max_inputs) = (bar.clone(), usize::from(arguments.inputs_per_job));
    let cut = Cut {
        model: arguments.model,
        namespace: arguments.namespace,
        named: arguments.named,
        prefix: arguments.id_prefix,
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
    tally.print(begun.elapsed(), arguments.wait, arguments.json, &queue);
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
