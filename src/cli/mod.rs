//! Owns the command line: parse arguments, load the settings, start logging, run, and map the end to an exit code.
//!
//! Promises that scripts can rely on the exit codes and on `--json`: results go to standard output, everything else to standard
//! error. Refuses to start a command whose settings can't be used.

#[macro_use]
mod reported;

mod actor;
mod age;
mod audit;
mod completions;
mod config;
mod dead;
mod doctor;
mod explain;
mod file;
mod forget;
mod health;
mod hot;
mod init;
mod invalidate;
mod jobs;
mod key;
mod lane_queues;
mod lanes;
mod man;
mod migrate;
mod models;
mod pause;
mod plain;
mod post;
mod progress;
mod prune;
#[cfg(test)]
mod reference;
mod run;
mod run_suspect;
mod schedules;
mod score;
mod status;
mod stop;
mod submit;
mod version;
mod warm;
mod worker_api;

use crate::{
    config::{self as settings, ConfigError, Loaded},
    redact::Redact,
    telemetry::logs::{self, Speaker},
    worker,
};
use clap::{CommandFactory, Parser, Subcommand};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::runtime::Runtime;

/// How a command ended; scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything went well.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The arguments or settings can't be used; clap exits with the same number.
    Usage = 2,
    /// It went on to the end, and something in the input was bad.
    Partial = 3,
    /// A limit that was given speaks against it, and nothing was switched.
    Limited = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Keeps scores hot: takes scoring jobs from RabbitMQ, runs models on what Redis doesn't hold, and stores,
/// replies and acknowledges.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 well, 1 failed, 2 bad arguments or settings, 3 done with some bad input, 4 not done because of a limit that was given.
With --version, --json names the commit, the features and the target that it was built of.

Example:
  kiln score examples/reviews.jsonl"
)]
struct Arguments {
    /// Settings file [default: kiln.toml, if it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Work(Work),
    Init(init::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// The commands that want the settings.
#[derive(Debug, Subcommand)]
enum Work {
    Run(run::Arguments),
    #[command(hide = true)]
    RunSuspect(run_suspect::Arguments),
    Score(Box<score::Arguments>),
    Submit(Box<submit::Arguments>),
    Dead(dead::Arguments),
    Jobs(jobs::Arguments),
    Doctor(doctor::Arguments),
    Models(Box<models::Arguments>),
    Schedules(schedules::Arguments),
    Status(status::Arguments),
    Lanes(lanes::Arguments),
    Warm(warm::Arguments),
    Hot(hot::Arguments),
    Explain(explain::Arguments),
    Audit(audit::Arguments),
    Invalidate(invalidate::Arguments),
    Forget(forget::Arguments),
    Pause(pause::Arguments),
    Resume(pause::ResumeArguments),
    Health(health::Arguments),
    Key(key::Arguments),
    Migrate(migrate::Arguments),
    Prune(prune::Arguments),
    Config(config::Arguments),
}

/// All of the command line, for what is generated from it.
fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if version::is_asked(std::env::args_os().skip(1)) {
        end_quietly_when_output_is_closed();
        println!("{}", version::Built::this().json());
        return Exit::Ok.into();
    }
    let arguments = Arguments::parse();
    let is_for_suspects = matches!(arguments.command, Command::Work(Work::RunSuspect(_)));
    if is_for_suspects {
        worker::stand_back();
    }
    if !matches!(arguments.command, Command::Work(_)) {
        end_quietly_when_output_is_closed();
    }
    let result = match arguments.command {
        Command::Init(arguments) => init::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
        Command::Work(work) => match prepare(arguments.config.as_deref(), &work) {
            Ok((loaded, runtime)) => {
                let result = runtime.block_on(work.run(loaded));
                // Work that hangs on a server must not keep the process: everything that matters was awaited.
                runtime.shutdown_background();
                result
            }
            Err(unusable) => {
                if is_for_suspects {
                    worker::refuse(&unusable.to_string());
                } else {
                    eprintln!("kiln: {unusable}");
                }
                return unusable.exit().into();
            }
        },
    };
    match result {
        Ok(Exit::Ok) if reported::is_lost() => Exit::Failed.into(),
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("kiln: {}", error.redacted());
            Exit::Failed.into()
        }
    }
}

/// Has a command end, and say nothing, whose standard output nobody reads any more, as in `kiln models list | head`: whoever reads has
/// what they wanted. On a full disk it fails. `println!` panics then, and the system's own way, a signal, is for unsafe code alone to choose. What changes something
/// uses `reported!` instead, and goes on.
fn end_quietly_when_output_is_closed() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        let Some(reason) = said.strip_prefix("failed printing to stdout: ") else {
            return usual(panic);
        };
        if reason.contains("Broken pipe") {
            std::process::exit(Exit::Ok as i32);
        }
        eprintln!("kiln: standard output can't be written: {reason}");
        std::process::exit(Exit::Failed as i32);
    }));
}

/// Why no command can be started.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0}")]
    Settings(#[from] ConfigError),
    #[error("{0}")]
    Log(String),
    #[error("the runtime could not be started: {0}")]
    Runtime(#[from] std::io::Error),
}

impl Unusable {
    fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) | Self::Log(_) => Exit::Usage,
            Self::Runtime(_) => Exit::Failed,
        }
    }
}

/// The settings and the runtime; logging is on.
fn prepare(config: Option<&Path>, work: &Work) -> Result<(Loaded, Runtime), Unusable> {
    let loaded = settings::load_from_process(config)?;
    // Only the worker talks in log lines; the other commands show progress and results.
    let speaker = match work {
        Work::Run(_) => Speaker::Worker,
        Work::RunSuspect(_) => Speaker::Suspects,
        _ => Speaker::Command,
    };
    logs::start(&loaded.settings.log, speaker).map_err(Unusable::Log)?;
    if speaker == Speaker::Command {
        end_quietly_when_output_is_closed();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("kiln")
        .build()?;
    Ok((loaded, runtime))
}

impl Work {
    async fn run(self, loaded: Loaded) -> anyhow::Result<Exit> {
        match self {
            Self::Run(arguments) => run::run(arguments, loaded.settings, loaded.file).await,
            Self::RunSuspect(arguments) => run_suspect::run(arguments, loaded.settings).await,
            Self::Score(arguments) => score::run(*arguments, loaded.settings).await,
            Self::Submit(arguments) => submit::run(*arguments, loaded.settings).await,
            Self::Dead(arguments) => dead::run(arguments, loaded.settings).await,
            Self::Jobs(arguments) => jobs::run(arguments, loaded.settings).await,
            Self::Doctor(arguments) => doctor::run(arguments, loaded).await,
            Self::Models(arguments) => models::run(*arguments, loaded.settings).await,
            Self::Schedules(arguments) => schedules::run(arguments, loaded.settings).await,
            Self::Status(arguments) => status::run(arguments, loaded.settings).await,
            Self::Lanes(arguments) => lanes::run(arguments, loaded.settings).await,
            Self::Warm(arguments) => warm::run(arguments, loaded.settings).await,
            Self::Hot(arguments) => hot::run(arguments, loaded.settings).await,
            Self::Explain(arguments) => explain::run(arguments, loaded.settings).await,
            Self::Audit(arguments) => audit::run(arguments, loaded.settings).await,
            Self::Invalidate(arguments) => invalidate::run(arguments, loaded.settings).await,
            Self::Forget(arguments) => forget::run(arguments, loaded.settings).await,
            Self::Pause(arguments) => pause::pause(arguments, loaded.settings).await,
            Self::Resume(arguments) => pause::resume(arguments, loaded.settings).await,
            Self::Health(arguments) => health::run(&arguments, &loaded.settings),
            Self::Key(arguments) => key::run(&arguments),
            Self::Migrate(arguments) => migrate::run(arguments, loaded.settings).await,
            Self::Prune(arguments) => prune::run(arguments, loaded.settings).await,
            Self::Config(arguments) => config::run(arguments, loaded),
        }
    }
}
