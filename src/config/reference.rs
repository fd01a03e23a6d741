//! Owns docs/settings.md: every setting with its meaning, type, unit, default, bounds and variables, as Markdown.
//!
//! Promises that the file follows from the code: names, types and meanings from the types' source and its doc comments, defaults
//! from [`Settings::default`], bounds from the checks, other names from the tables by which they are read.

use super::{
    Lane, Namespace, Settings, check, environment,
    environment::SHORT_NAMES,
    loaded::joined,
    loaded::known_settings,
    names::{FREE_TABLES, RENAMED},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
/// Where the types are.
const SOURCES: [&str; 13] = [
    "src/config/tree.rs",
    "src/config/tree/audit.rs",
    "src/config/tree/callbacks.rs",
    "src/config/tree/entries.rs",
    "src/config/tree/http.rs",
    "src/config/tree/jobs.rs",
    "src/config/tree/lanes.rs",
    "src/config/tree/observe.rs",
    "src/config/tree/reply.rs",
    "src/config/tree/servers.rs",
    "src/config/tree/warm.rs",
    "src/tls.rs",
    "crates/model/src/settings.rs",
];
/// Stands for a key that a user chooses.
const NAME: &str = "NAME";

const HEAD: &str = "\
# Settings

Every setting of Kiln. They come from a TOML file (`kiln.toml`, or what `--config` or `KILN_CONFIG` names) and from the environment, which overrides
the file; a setting that neither gives has its default. [kiln.example.toml](../kiln.example.toml) is a file with all of them, and `kiln config` shows the
ones in force and where each came from. An unknown setting is an error that names the nearest known one. Former names keep working, in the file and as
variables; giving a setting by both names in one place is an error. `NAME` stands for a name that you choose, which a variable spells in upper case.
The URLs of servers, and secrets, may lie in files, such as mounted ones: the variable's name with `_FILE` then holds the path, as in `KILN_AMQP_URL_FILE` and
`KILN_CALLBACKS__SECRET_FILE`.
This file is generated: see [CONTRIBUTING.md](../CONTRIBUTING.md#how-to-add).
";

#[derive(Debug, Default)]
struct Item {
    doc: String,
    /// Fields with their types, or variants without.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    kind: String,
    doc: String,
}

/// One line of the reference.
struct Row {
    name: String,
    kind: String,
    doc: String,
    default: String,
}

/// The structs and enumerations of a source file, as `cargo fmt` writes them.
fn parse(source: &str) -> BTreeMap<String, Item> {
    let mut items = BTreeMap::new();
    let mut current: Option<(String, Item)> = None;
    let mut doc = String::new();
    let mut renamed = None;
    for line in source.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("/// ") {
            if !doc.is_empty() {
                doc.push(' ');
            }
            doc.push_str(more);
            continue;
        }
        if let Some(name) = line.strip_prefix("#[serde(rename = \"") {
            renamed = name.strip_suffix("\")]");
        }
        let begun = line.strip_suffix(" {").and_then(|line| {
            line.strip_prefix("pub struct ")
                .or_else(|| line.strip_prefix("pub enum "))
        });
        if let Some(name) = begun {
            let doc = std::mem::take(&mut doc);
            let item = Item {
                doc,
                members: Vec::new(),
            };
            current = Some((name.to_owned(), item));
        } else if line == "}" {
            items.extend(current.take());
        } else if let Some((_, item)) = &mut current
            && let Some(member) = line.strip_suffix(',')
            && !line.starts_with('#')
        {
            let member = member.trim_start_matches("pub ");
            let (name, kind) = member.split_once(": ").unwrap_or((member, ""));
            let name = renamed.take().unwrap_or(name);
            item.members.push(Member {
                name: name.to_owned(),
                kind: kind.to_owned(),
                doc: std::mem::take(&mut doc),
            });
        }
        if !line.starts_with('#') {
            doc.clear();
        }
    }
    items
}

fn items() -> BTreeMap<String, Item> {
    let mut items = BTreeMap::new();
    for file in SOURCES {
        let source = std::fs::read_to_string(format!("{ROOT}/{file}")).expect(file);
        items.extend(parse(&source));
    }
    items
}

fn within<'a>(kind: &'a str, around: &str) -> Option<&'a str> {
    kind.strip_prefix(around)?
        .strip_prefix('<')?
        .strip_suffix('>')
}

/// The settings under `prefix`, whose type is `kind`.
struct Walk<'a> {
    items: &'a BTreeMap<String, Item>,
    defaults: &'a BTreeMap<String, Value>,
    rows: Vec<Row>,
}

impl Walk<'_> {
    fn walk(&mut self, name: &str, kind: &str, doc: &str) {
        if let Some(value) = within(kind, "BTreeMap").and_then(|of| of.strip_prefix("String, ")) {
            self.walk(&joined(name, NAME), value, doc);
        } else if let Some(item) = self.items.get(kind).filter(|item| is_struct(item)) {
            for member in &item.members {
                self.walk(&joined(name, &member.name), &member.kind, &member.doc);
            }
        } else {
            let inner = within(kind, "Option").unwrap_or(kind);
            self.rows.push(Row {
                name: name.to_owned(),
                kind: match name.ends_with(".secret") {
                    true => "text".to_owned(),
                    false => self.shown(inner),
                },
                doc: doc.to_owned(),
                default: match self.defaults.get(name) {
                    Some(default) => shown_default(default),
                    // Of a table that a user adds.
                    None if inner == kind && !is_value_of_table(name) => "required".to_owned(),
                    None => String::new(),
                },
            });
        }
    }

    /// A type in a user's words.
    fn shown(&self, kind: &str) -> String {
        if let Some(of) = within(kind, "Vec") {
            return match self.items.get(of) {
                Some(item) => format!("list of {}", variants(item)),
                None => format!("list of {}s", self.shown(of)),
            };
        }
        match kind {
            "u16" | "u32" | "u64" | "usize" => "whole number",
            "f64" => "number",
            "bool" => "`true` or `false`",
            "String" => "text",
            "PathBuf" => "path",
            "Secret" => "URL",
            "SocketAddr" => "address with port",
            other => {
                let item = self.items.get(other);
                return variants(item.unwrap_or_else(|| panic!("{other}")));
            }
        }
        .to_owned()
    }
}

fn is_struct(item: &Item) -> bool {
    item.members.iter().all(|member| !member.kind.is_empty())
}

/// Whether it is a value of a table of values: nothing has to be there.
fn is_value_of_table(name: &str) -> bool {
    name.ends_with(NAME)
}

fn variants(item: &Item) -> String {
    let all = item.members.iter();
    let all: Vec<String> = all
        .map(|variant| format!("`{}`", variant.name.to_lowercase()))
        .collect();
    all.join(", ")
}

fn shown_default(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{}`", other.to_string().replace(',', ", ")),
    }
}

fn unit(name: &str) -> &'static str {
    let units = [
        ("_ms", "ms"),
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_mib", "MiB"),
    ];
    let mut units = units.into_iter();
    let unit = units.find_map(|(end, unit)| name.ends_with(end).then_some(unit));
    unit.unwrap_or_default()
}

/// The bounds of numbers by the settings' names.
fn bounds() -> BTreeMap<String, String> {
    let mut settings = Settings::default();
    let namespace = Namespace {
        ttl_seconds: Some(1),
        grace_seconds: Some(1),
        ..Namespace::default()
    };
    settings.namespaces.insert("feed".to_owned(), namespace);
    let lane = Lane {
        turn_ms: Some(1),
        max_bytes_in_hand: Some(1),
        batches_in_flight: Some(1),
        queues: Some(1),
        ..Lane::default()
    };
    settings.lanes.insert("gpu".to_owned(), lane);
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for range in check::ranges(&settings) {
        let name = range.name.replace('*', NAME);
        let (name, how_many) = match name.strip_suffix(" (how many)") {
            Some(name) => (name.to_owned(), " of them"),
            None => (name, ""),
        };
        let shown = format!("{} to {}{how_many}", range.min, range.max);
        let known = all.entry(name).or_default();
        if known.split(", ").all(|one| one != shown) {
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(&shown);
        }
    }
    all
}

/// The variables that set a setting, the shortest first.
fn variables(name: &str) -> String {
    let short = SHORT_NAMES.into_iter().filter(|(.., of)| *of == name);
    let short =
        short.flat_map(|(first, others, _)| std::iter::once(first).chain(others.iter().copied()));
    let mut all: Vec<String> = short.map(str::to_owned).collect();
    all.push(environment::variable(name));
    let all: Vec<String> = all.iter().map(|name| format!("`{name}`")).collect();
    all.join(", ")
}

fn rows(items: &BTreeMap<String, Item>, name: &str, kind: &str) -> Vec<Row> {
    let defaults: BTreeMap<String, Value> = known_settings().into_iter().collect();
    let mut walk = Walk {
        items,
        defaults: &defaults,
        rows: Vec::new(),
    };
    walk.walk(name, kind, "");
    walk.rows
}

/// The whole file.
fn reference() -> String {
    let items = items();
    let bounds = bounds();
    let mut text = HEAD.to_owned();
    for section in &items["Settings"].members {
        let kind = section.kind.trim_start_matches("BTreeMap<String, ");
        let about = &items[kind.trim_end_matches('>')].doc;
        write!(text, "\n## {}\n\n{about}\n\n", section.name).expect("text");
        text.push_str("| setting | meaning | type | unit | default | bounds | variable |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        for row in rows(&items, &section.name, &section.kind) {
            let former = RENAMED.iter().filter(|(_, new)| *new == row.name);
            let former: String = former
                .map(|(old, _)| format!(" Formerly `{old}`."))
                .collect();
            writeln!(
                text,
                "| `{}` | {}{former} | {} | {} | {} | {} | {} |",
                row.name,
                row.doc.replace('|', "\\|"),
                row.kind,
                unit(&row.name),
                row.default,
                bounds.get(&row.name).map_or("", String::as_str),
                variables(&row.name)
            )
            .expect("text");
        }
    }
    text
}

#[test]
fn the_reference_is_what_the_settings_say() {
    let text = reference();
    if std::env::var_os("KILN_BLESS").is_some() {
        std::fs::write(FILE, &text).expect("docs/settings.md can be written");
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == text,
        "docs/settings.md isn't what the settings say: KILN_BLESS=1 cargo test -p kiln --lib config::reference"
    );
}

#[test]
fn no_setting_is_left_out_and_each_has_a_meaning() {
    let items = items();
    let rows = rows(&items, "", "Settings");
    for row in &rows {
        assert!(!row.doc.is_empty(), "{} has no doc comment", row.name);
    }
    let fixed = rows.iter().map(|row| row.name.as_str());
    let fixed: BTreeSet<&str> = fixed.filter(|name| !name.contains(NAME)).collect();
    let known = known_settings();
    let known = known.iter().map(|(name, _)| name.as_str());
    let known: BTreeSet<&str> = known.filter(|name| !FREE_TABLES.contains(name)).collect();
    assert_eq!(fixed, known);
    for table in FREE_TABLES {
        let inside = format!("{table}.{NAME}");
        assert!(
            rows.iter().any(|row| row.name.starts_with(&inside)),
            "{table}"
        );
    }
    for (name, _) in bounds() {
        assert!(rows.iter().any(|row| row.name == name), "{name} is bounded");
    }
}
