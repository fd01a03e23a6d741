//! Owns docs/commands.md: what `--help` says of every command, as Markdown.
//!
//! Promises that the file follows from the command line's own definition, and that every command has an example.

use super::Exit;
use clap::{Arg, ArgAction, Command};
use std::fmt::Write;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");

const HEAD: &str = "\
# Commands

Every command of `kiln` with its arguments and options, as `--help` shows them. This file is generated: see
[CONTRIBUTING.md](../CONTRIBUTING.md#how-to-add).

Results go to standard output; progress, summaries and problems go to standard error. With `--json`, what a command prints is for programs:
one JSON object, or one a line. Settings come from a file and the environment: [settings.md](settings.md).
`kiln --version --json` names the version, the commit (where `KILN_COMMIT` named it to the build), the features and the target that a binary
was built of.
";

/// What the exit codes mean, for every command.
const EXITS: [(Exit, &str); 5] = [
    (Exit::Ok, "everything went well"),
    (Exit::Failed, "it failed"),
    (Exit::Usage, "the arguments or settings can't be used"),
    (
        Exit::Partial,
        "it went on to the end, and something in the input was bad",
    ),
    (
        Exit::Limited,
        "a limit that was given speaks against it, and nothing was switched",
    ),
];

/// The whole file.
fn reference() -> String {
    let mut root = super::command().disable_help_subcommand(true);
    root.build();
    let mut text = HEAD.to_owned();
    text.push_str("\n## Exit codes\n\n| code | meaning |\n| --- | --- |\n");
    for (exit, meaning) in EXITS {
        text.push_str(&format!("| {} | {meaning} |\n", exit as u8));
    }
    text.push_str(
        "\nWhere a command means something more particular by one of them, it says so below.\n",
    );
    text.push_str("\n## Options of every command\n\n");
    options(&mut text, root.get_arguments());
    text.push_str("\n## All commands\n\n| command | what it does |\n| --- | --- |\n");
    for command in commands(&root) {
        let name = command.get_bin_name().unwrap_or_default();
        let anchor = name.replace(' ', "-");
        writeln!(
            text,
            "| [`{name}`](#{anchor}) | {} |",
            cell(&about(command))
        )
        .expect("text");
    }
    for command in commands(&root) {
        section(&mut text, command);
    }
    text
}

/// Every command but `kiln` itself and what only a worker starts, each before its subcommands.
fn commands(root: &Command) -> Vec<&Command> {
    root.get_subcommands()
        .filter(|command| !command.is_hide_set())
        .flat_map(|one| std::iter::once(one).chain(commands(one)))
        .collect()
}

/// A link to a command's section.
fn link(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_default();
    format!("[`{name}`](#{})", name.replace(' ', "-"))
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let closed = about.ends_with(['.', '!', '?']);
    format!("{about}{}", if closed { "" } else { "." })
}

fn section(text: &mut String, command: &Command) {
    let name = command.get_bin_name().unwrap_or_default();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:");
    let usage: Vec<&str> = usage.lines().map(str::trim).collect();
    write!(
        text,
        "\n## `{name}`\n\n{}\n\n```text\n{}\n```\n",
        about(command),
        usage.join("\n")
    )
    .expect("text");
    let subcommands: Vec<String> = commands(command).into_iter().map(link).collect();
    if !subcommands.is_empty() {
        write!(text, "\nIts commands: {}.\n", subcommands.join(", ")).expect("text");
    }
    let arguments: Vec<&Arg> = command.get_positionals().collect();
    if !arguments.is_empty() {
        text.push_str("\n| argument | meaning |\n| --- | --- |\n");
        for argument in arguments {
            let (meaning, default) = meaning(argument);
            let default = match default.as_str() {
                "" => default,
                default => format!(" Default: {default}."),
            };
            writeln!(text, "| `{argument}` | {meaning}{default} |").expect("text");
        }
    }
    if own_options(command).next().is_some() {
        text.push('\n');
        options(text, own_options(command));
    }
    let (notes, examples) = after_help(command);
    if !notes.is_empty() {
        write!(text, "\n{}\n", notes.join("\n\n")).expect("text");
    }
    write!(text, "\n```sh\n{}\n```\n", examples.join("\n")).expect("text");
}

/// The options that a command has beside those of every command.
fn own_options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        let of_every_command = arg.get_id() == "config"
            || matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            );
        !arg.is_positional() && !arg.is_hide_set() && !of_every_command
    })
}

fn options<'a>(text: &mut String, options: impl Iterator<Item = &'a Arg>) {
    text.push_str("| option | default | meaning |\n| --- | --- | --- |\n");
    for arg in options {
        let (meaning, default) = meaning(arg);
        let names = [
            arg.get_short().map(|short| format!("-{short}")),
            arg.get_long().map(|long| format!("--{long}")),
        ];
        let mut names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
        if arg.get_action().takes_values() {
            let values = arg.get_value_names().unwrap_or_default();
            write!(names, " {}", values.join(" ")).expect("text");
        }
        let required = if arg.is_required_set() {
            "required"
        } else {
            ""
        };
        let default = if default.is_empty() {
            required.to_owned()
        } else {
            default
        };
        writeln!(text, "| `{names}` | {default} | {meaning} |").expect("text");
    }
}

/// What an argument means, with the values that it may have, and its default.
fn meaning(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, stated) = match help.split_once(" [default: ") {
        Some((before, rest)) => {
            let (default, after) = rest.split_once(']').expect("a bracket that closes");
            (format!("{before}{after}"), default.to_owned())
        }
        None => (help, String::new()),
    };
    let closed = help.ends_with(['.', '!', '?']);
    let mut meaning = format!("{help}{}", if closed { "" } else { "." });
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set() && arg.get_action().takes_values())
        .map(|value| match value.get_help() {
            Some(help) => {
                let help = help.to_string();
                let help = help.trim_end_matches('.');
                format!("`{}` ({})", value.get_name(), uncapitalised(help))
            }
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !values.is_empty() {
        write!(meaning, " One of {}.", values.join(", ")).expect("text");
    }
    let set: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let default = if set.is_empty() || !arg.get_action().takes_values() {
        stated
    } else {
        format!("`{}`", set.join(","))
    };
    (cell(&meaning), cell(&default))
}

fn uncapitalised(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// The paragraphs and the examples that end a command's help.
fn after_help(command: &Command) -> (Vec<String>, Vec<String>) {
    let text = command.get_after_help().map(ToString::to_string);
    let text = text.unwrap_or_default();
    let (mut notes, mut examples, mut is_example) = (Vec::new(), Vec::new(), false);
    for paragraph in text.split("\n\n") {
        let mut lines = paragraph.lines();
        if lines
            .clone()
            .next()
            .is_some_and(|line| line.starts_with("Example"))
        {
            is_example = true;
            lines.next();
        }
        if is_example {
            examples.extend(lines.map(|line| line.trim().to_owned()));
        } else {
            notes.push(paragraph.to_owned());
        }
    }
    (notes, examples)
}

#[test]
fn every_command_has_an_example() {
    let root = super::command();
    for command in std::iter::once(&root).chain(commands(&root)) {
        let name = command.get_name();
        let help = command.get_after_help().map(ToString::to_string);
        assert!(help.is_some_and(|help| help.contains("Example")), "{name}");
        let (_, examples) = after_help(command);
        let named = |line: &String| line.contains("kiln") && line.contains(name);
        assert!(examples.iter().any(named), "{name}: {examples:?}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {argument}: no help");
        }
    }
}

#[test]
fn the_reference_is_what_the_commands_say() {
    let text = reference();
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(FILE, &text).expect("docs/commands.md can be written");
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == text,
        "docs/commands.md isn't what the commands say: KILN_BLESS=1 cargo test -p kiln --lib cli::reference"
    );
}
