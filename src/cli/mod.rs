//! The commands: parse arguments, load the settings, start logging, run, and map the end to an exit code.

mod age;
mod config;
mod dead;
mod doctor;
mod file;
mod health;
mod hot;
mod invalidate;
mod key;
mod migrate;
mod models;
mod pause;
mod post;
mod progress;
mod prune;
mod run;
mod schedules;
mod score;
mod submit;
mod warm;

use crate::{config as settings, telemetry::logs};
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

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
Exit codes: 0 well, 1 failed, 2 bad arguments or settings, 3 done with some bad input.

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
    Run(run::Arguments),
    Score(score::Arguments),
    Submit(submit::Arguments),
    Dead(dead::Arguments),
    Doctor(doctor::Arguments),
    Models(models::Arguments),
    Schedules(schedules::Arguments),
    Warm(warm::Arguments),
    Hot(hot::Arguments),
    Invalidate(invalidate::Arguments),
    Pause(pause::Arguments),
    Resume(pause::ResumeArguments),
    Health(health::Arguments),
    Key(key::Arguments),
    Migrate(migrate::Arguments),
    Prune(prune::Arguments),
    Config(config::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let loaded = match settings::load_from_process(arguments.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("kiln: {error}");
            return Exit::Usage.into();
        }
    };
    // Only the worker talks in log lines; the other commands show progress and results.
    let quiet = !matches!(arguments.command, Command::Run(_));
    if let Err(error) = logs::start(&loaded.settings.log, quiet) {
        eprintln!("kiln: {error}");
        return Exit::Usage.into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("kiln")
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("kiln: the runtime could not be started: {error}");
            return Exit::Failed.into();
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Run(arguments) => run::run(arguments, loaded.settings).await,
            Command::Score(arguments) => score::run(arguments, loaded.settings).await,
            Command::Submit(arguments) => submit::run(arguments, loaded.settings).await,
            Command::Dead(arguments) => dead::run(arguments, loaded.settings).await,
            Command::Doctor(arguments) => doctor::run(arguments, loaded).await,
            Command::Models(arguments) => models::run(arguments, loaded.settings).await,
            Command::Schedules(arguments) => schedules::run(arguments, loaded.settings).await,
            Command::Warm(arguments) => warm::run(arguments, loaded.settings).await,
            Command::Hot(arguments) => hot::run(arguments, loaded.settings).await,
            Command::Invalidate(arguments) => invalidate::run(arguments, loaded.settings).await,
            Command::Pause(arguments) => pause::pause(arguments, loaded.settings).await,
            Command::Resume(arguments) => pause::resume(arguments, loaded.settings).await,
            Command::Health(arguments) => health::run(&arguments, &loaded.settings),
            Command::Key(arguments) => key::run(&arguments),
            Command::Migrate(arguments) => migrate::run(arguments, loaded.settings).await,
            Command::Prune(arguments) => prune::run(arguments, loaded.settings).await,
            Command::Config(arguments) => config::run(arguments, loaded),
        }
    });
    // Work that hangs on a server must not keep the process: everything that matters is awaited above.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("kiln: {error:#}");
            Exit::Failed.into()
        }
    }
}
