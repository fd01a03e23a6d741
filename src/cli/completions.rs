//! `kiln completions`: the script by which a shell completes Kiln's commands and options.

use super::Exit;
use clap::Args;
use clap_complete::{Generator, Shell};
use std::io;

/// Prints the script by which a shell completes commands and options.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs neither settings nor servers.

Examples:
  kiln completions bash > /etc/bash_completion.d/kiln
  kiln completions fish > ~/.config/fish/completions/kiln.fish")]
pub(super) struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let script = script(arguments.shell)?;
    print!("{}", String::from_utf8(script)?);
    Ok(Exit::Ok)
}

fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let mut command = super::command();
    command.set_bin_name("kiln");
    command.build();
    let mut script = Vec::new();
    shell.try_generate(&command, &mut script)?;
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell).expect("a script")).expect("text");
            for word in ["submit", "replay", "simulate", "max-flips", "completions"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
