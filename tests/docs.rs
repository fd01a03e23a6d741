//! Owns that the documents hold together: every relative link, anchor and picture of every Markdown file resolves, and a link
//! that is named like a test leads to that test.
//!
//! Promises to read Markdown as far as these documents use it: inline links and pictures, `#` headings, fenced and inline
//! code. Refuses to ask other hosts: a link with a scheme is not looked at.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders without documents of this repository.
const SKIPPED: [&str; 3] = ["target", "node_modules", "__pycache__"];
/// Documents and folders of documents that must be among what is checked.
const EXPECTED: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/SUMMARY.md",
    "docs/promises.md",
    "ops/runbook.md",
    "models/README.md",
    "benches/README.md",
];

/// A document as its readers see it.
#[derive(Debug, Default)]
struct Document {
    anchors: BTreeSet<String>,
    /// Line, text and target of each link.
    links: Vec<(usize, String, String)>,
}

impl Document {
    fn parse(markdown: &str) -> Self {
        let mut document = Self::default();
        let mut fence: Option<String> = None;
        let mut repeats: BTreeMap<String, usize> = BTreeMap::new();
        for (number, line) in (1..).zip(markdown.lines()) {
            let marker = fence_of(line);
            if let Some(open) = &fence {
                let closes = |m: &str| m.starts_with(open.as_str()) && line.trim() == m;
                if marker.as_deref().is_some_and(closes) {
                    fence = None;
                }
                continue;
            }
            if marker.is_some() {
                fence = marker;
                continue;
            }
            if let Some(title) = heading(line) {
                let slug = slug(title);
                let before = repeats.entry(slug.clone()).or_default();
                document.anchors.insert(match *before {
                    0 => slug,
                    n => format!("{slug}-{n}"),
                });
                *before += 1;
            }
            let links = links(&without_code(line));
            let links = links.into_iter().map(|(text, to)| (number, text, to));
            document.links.extend(links);
        }
        document
    }
}

/// The marker of a line that opens or closes fenced code: three or more backticks or tildes.
fn fence_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    let mark = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let marker: String = line.chars().take_while(|c| *c == mark).collect();
    (marker.len() >= 3).then_some(marker)
}

fn heading(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    ((1..=6).contains(&level) && title.starts_with(' ')).then(|| title.trim())
}

/// A heading's anchor as GitHub makes it: the text of its links, lowercase, letters, digits, `-` and `_`, with `-` for spaces.
fn slug(title: &str) -> String {
    let mut text = title.to_owned();
    for (label, target) in links(title) {
        text = text.replace(&format!("[{label}]({target})"), &label);
    }
    text.to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

/// A line with what stands between equally many backticks blanked out. The code of a link's text goes as well; nobody reads it here.
fn without_code(line: &str) -> String {
    let mut kept = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let (before, from) = rest.split_at(start);
        kept.push_str(before);
        let after = from.trim_start_matches('`');
        let marker = &from[..from.len() - after.len()];
        let mut runs = after.match_indices('`').map(|(at, _)| at);
        let end = runs.find(|at| {
            let tail = &after[*at..];
            let opens = !after[..*at].ends_with('`');
            opens && tail.len() - tail.trim_start_matches('`').len() == marker.len()
        });
        match end {
            Some(end) => rest = &after[end + marker.len()..],
            None => {
                kept.push_str(marker);
                rest = after;
            }
        }
    }
    kept + rest
}

/// Text and target of every inline link and picture of a line.
fn links(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = line[from..].find("](").map(|at| from + at) {
        from = at + 2;
        let Some(end) = line[from..].find(')').map(|end| from + end) else {
            break;
        };
        let text = line[..at].rsplit('[').next().unwrap_or_default();
        // A title may follow the target.
        let target = line[from..end].split(' ').next().unwrap_or_default();
        found.push((text.to_owned(), target.to_owned()));
        from = end;
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn markdown_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || SKIPPED.contains(&name.as_ref()) {
            continue;
        }
        if path.is_dir() {
            markdown_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// Every document, by its path.
fn documents() -> BTreeMap<PathBuf, Document> {
    let mut files = Vec::new();
    markdown_files(root(), &mut files);
    let parsed = files.into_iter().map(|file| {
        let text = fs::read_to_string(&file).expect("a document is UTF-8");
        (file, Document::parse(&text))
    });
    parsed.collect()
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// What is wrong with a link from `file`, if anything.
fn problem(
    all: &BTreeMap<PathBuf, Document>,
    file: &Path,
    text: &str,
    target: &str,
) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let to = match path {
        "" => file.to_owned(),
        path => plain(&file.parent().unwrap_or(root()).join(path)),
    };
    if !to.starts_with(root()) {
        return Some("leads out of the repository".to_owned());
    }
    if !to.exists() {
        return Some("there is no such file".to_owned());
    }
    if let Some(anchor) = anchor {
        let known = all.get(&to).is_some_and(|d| d.anchors.contains(anchor));
        return (!known).then(|| format!("there is no heading `#{anchor}`"));
    }
    let names_a_test = text.contains('_') && !text.contains(['.', '/', ' ']);
    if names_a_test && to.extension().is_some_and(|end| end == "rs") {
        let source = fs::read_to_string(&to).unwrap_or_default();
        let there = source.contains(&format!("fn {text}("));
        return (!there).then(|| format!("there is no test `{text}`"));
    }
    None
}

#[test]
fn every_link_leads_somewhere() {
    let all = documents();
    for expected in EXPECTED {
        assert!(all.contains_key(&root().join(expected)), "{expected}");
    }
    let mut broken = Vec::new();
    for (file, document) in &all {
        let shown = file.strip_prefix(root()).unwrap_or(file).display();
        for (line, text, target) in &document.links {
            if let Some(problem) = problem(&all, file, text, target) {
                broken.push(format!("{shown}:{line}: {target}: {problem}"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_summary_lists_every_page_of_the_manual() {
    let all = documents();
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = all[&summary]
        .links
        .iter()
        .map(|(_, _, target)| docs.join(target))
        .collect();
    let pages = all.keys().filter(|file| file.starts_with(&docs));
    let missing: Vec<_> = pages
        .filter(|file| **file != summary && !listed.contains(*file))
        .collect();
    assert!(missing.is_empty(), "not in SUMMARY.md: {missing:?}");
}

#[test]
fn markdown_is_read_as_github_reads_it() {
    let document = Document::parse(
        "# One `two`: three, [four](#x)!\n## Same\n## Same\n```sh\n# no heading [no](link)\n```\n\
         See [a](b.md#c), `[not](this)` and ![p](q.png \"title\").\n~~~~\n~~~\n[no](link)\n~~~~\n#none\n``a ` [b](c)`` [d](e)\n",
    );
    let anchors: Vec<&str> = document.anchors.iter().map(String::as_str).collect();
    assert_eq!(anchors, ["one-two-three-four", "same", "same-1"]);
    let links: Vec<(usize, &str, &str)> = document
        .links
        .iter()
        .map(|(line, text, target)| (*line, text.as_str(), target.as_str()))
        .collect();
    assert_eq!(
        links,
        [
            (1, "four", "#x"),
            (7, "a", "b.md#c"),
            (7, "p", "q.png"),
            (13, "d", "e")
        ]
    );
}
