//! `kiln dead`: the commands about dead letters, and what they share: which queue, how many letters at most, the progress.

mod letter;
mod list;
mod purge;
mod replay;

use super::{Exit, actor, progress::on_terminal};
use crate::{
    amqp::{connection::Broker, dead_letters::DeadLetterScan, topology::Topology},
    config::Settings,
    parts,
    store::ActionKind,
};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use letter::Filter;

/// Lists, shows, replays or purges dead letters: the jobs that were rejected.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln dead list --code invalid
  kiln dead show reviews-7
  kiln dead replay --job-id 'reviews-*'
  kiln dead purge --older-than 30d --yes")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArguments),
    Show(ShowArguments),
    Replay(ReplayArguments),
    Purge(PurgeArguments),
}

/// Lists dead letters, the oldest first, and leaves them where they are.
#[derive(Debug, Args)]
#[command(after_help = "\
Letters that another `kiln dead` holds are not listed.

Example:
  kiln dead list --code unknown_model --older-than 1h")]
struct ListArguments {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    scan: Scan,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Shows the letters of one job: headers and body.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln dead show reviews-7")]
struct ShowArguments {
    /// The job's id.
    id: String,
    #[command(flatten)]
    scan: Scan,
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Posts dead letters to the queue that they came from, as their producer posted them, and then removes them.
#[derive(Debug, Args)]
#[command(after_help = "\
A letter is removed only after the broker has confirmed the job that was posted from it. If
that fails in between, the job is there twice, under one id, and is scored once. A job that
is rejected again comes back as a new letter, which the same command doesn't see. Exit code 3:
some letters could not be posted and stay.

Example:
  kiln dead replay --code unknown_model")]
struct ReplayArguments {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    scan: Scan,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// Deletes dead letters for good.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --yes it wants a filter, and asks before it deletes.

Example:
  kiln dead purge --older-than 30d --yes")]
struct PurgeArguments {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    scan: Scan,
    /// Delete without asking.
    #[arg(long)]
    yes: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, Args)]
struct Scan {
    /// Maximum number of letters to look at and leave; nobody else gets them meanwhile.
    #[arg(long = "scan", value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max: u32,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if settings.amqp.url.is_none() {
        eprintln!("kiln: no broker is set: give KILN_AMQP_URL");
        return Ok(Exit::Usage);
    }
    let queue = DeadLetterQueue {
        broker: parts::broker(&settings)?,
        name: Topology::new(&settings.queues, &settings.retry).dead,
        settings,
    };
    match arguments.action {
        Action::List(arguments) => list::list(&queue, arguments).await,
        Action::Show(arguments) => list::show(&queue, arguments).await,
        Action::Replay(arguments) => replay::run(&queue, arguments).await,
        Action::Purge(arguments) => purge::run(&queue, arguments).await,
    }
}

/// Where the dead letters are.
struct DeadLetterQueue {
    broker: Broker,
    name: String,
    settings: Settings,
}

impl DeadLetterQueue {
    async fn open(&self, scan: Scan) -> anyhow::Result<DeadLetterScan> {
        Ok(DeadLetterScan::open(&self.broker, &self.name, scan.max).await?)
    }

    /// Notes among operators' actions what was done to so many letters that a filter meant.
    async fn note(&self, kind: ActionKind, filter: &Filter, letters: u64) {
        let detail = format!("{}: {letters} letters", filter.words());
        actor::note_where_set(&self.settings, kind, &detail).await;
    }
}

/// A bar over the letters that were there at the start, on a terminal.
fn progress(scan: &DeadLetterScan) -> ProgressBar {
    let bar = ProgressBar::new(scan.waiting.into());
    on_terminal(bar, "{bar:40} {pos}/{len} letters  {msg}  {eta} left")
}

/// Says on standard error when letters were left unseen.
fn warn_of_unseen(seen: u32, waiting: u32, scan: Scan) {
    if seen < waiting {
        eprintln!(
            "looked at {seen} of {waiting} letters: at most {} are held, see --scan",
            scan.max
        );
    }
}
