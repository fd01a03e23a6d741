//! Reads Rust sources as far as the rules need: code without comments and strings, imports, functions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The files of one crate.
pub struct Tree {
    pub files: Vec<File>,
    folder: String,
    /// What other crates call it.
    name: String,
}

/// One file.
pub struct File {
    /// From the repository's root.
    pub path: String,
    pub text: String,
    /// The text with comments and the contents of strings blanked out, line by line.
    pub code: String,
    /// Every imported path, as segments that begin with `crate`, `super`, `self` or a crate's name.
    paths: Vec<Vec<String>>,
}

/// A function of a file.
pub struct Function {
    pub name: String,
    /// The line it begins on.
    pub at: usize,
    /// Its lines that aren't empty or a comment.
    pub lines: usize,
}

impl Tree {
    /// Reads every source file below `folder`, of the crate `name`.
    pub fn read(folder: &str, name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        let mut open = vec![root.join(folder)];
        while let Some(at) = open.pop() {
            for entry in fs::read_dir(&at).expect("a folder of sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    let text = fs::read_to_string(&path).expect("a source file");
                    let path = path.strip_prefix(root).expect("below the root");
                    files.push(File::of(path.to_str().expect("a plain path"), &text));
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self {
            files,
            folder: folder.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Which files each file imports something from, tests apart.
    pub fn imports(&self) -> BTreeMap<String, BTreeSet<String>> {
        let by_module: BTreeMap<Vec<String>, &str> = self
            .files
            .iter()
            .map(|file| (self.module(&file.path), file.path.as_str()))
            .collect();
        let sources = self.files.iter().filter(|file| !file.is_test());
        sources
            .map(|file| {
                let own = self.module(&file.path);
                let targets = paths(&file.without_tests()).into_iter().filter_map(|path| {
                    let mut path = self.absolute(&own, &path)?;
                    loop {
                        // The root holds nothing but the map of the modules.
                        if path.is_empty() {
                            return None;
                        }
                        if let Some(target) = by_module.get(&path) {
                            return (*target != file.path).then(|| (*target).to_owned());
                        }
                        path.pop()?;
                    }
                });
                (file.path.clone(), targets.collect())
            })
            .collect()
    }

    /// The module that a file is: `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`.
    fn module(&self, path: &str) -> Vec<String> {
        let inner = path.strip_prefix(&self.folder).unwrap_or(path);
        let inner = inner.trim_start_matches('/').trim_end_matches(".rs");
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if module
            .last()
            .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
        {
            module.pop();
        }
        module
    }

    fn absolute(&self, own: &[String], path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = own.to_vec();
        let mut rest = rest;
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop()?;
                while let Some((next, after)) = rest.split_first()
                    && next == "super"
                {
                    base.pop()?;
                    rest = after;
                }
            }
            name if name == self.name => base.clear(),
            _ => return None,
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }
}

impl File {
    /// A file by its path from the root and its text.
    pub fn of(path: &str, text: &str) -> Self {
        let code = blanked(text);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            paths: paths(&code),
            code,
        }
    }

    /// Whether it holds tests, or what only tests use.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        [
            "tests.rs",
            "fixtures.rs",
            "fuzz.rs",
            "hammer.rs",
            "simulated.rs",
            "simulation.rs",
        ]
        .contains(&name)
            || ["/tests/", "/simulated/", "/simulation/"]
                .iter()
                .any(|folder| self.path.contains(folder))
    }

    /// The first folder or file below `src`.
    pub fn room(&self) -> &str {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        inner
            .split('/')
            .next()
            .unwrap_or_default()
            .trim_end_matches(".rs")
    }

    /// Rooms that it names.
    pub fn rooms_used(&self) -> BTreeSet<String> {
        let here = self.path.matches('/').count();
        let own = self.room().to_owned();
        let used = self
            .paths
            .iter()
            .filter_map(|path| match path.first()?.as_str() {
                "crate" => path.get(1).cloned(),
                "super" => {
                    let up = path.iter().take_while(|part| *part == "super").count();
                    let last = usize::from(self.path.ends_with("/mod.rs"));
                    (up + last < here).then(|| own.clone())
                }
                _ => None,
            });
        used.collect()
    }

    /// Kiln's crates that it names, without the prefix.
    pub fn crates_used(&self) -> BTreeSet<String> {
        let names = self.paths.iter().filter_map(|path| path.first());
        names
            .filter_map(|name| name.strip_prefix("kiln_").map(str::to_owned))
            .collect()
    }

    /// The text before its test module.
    pub fn without_tests(&self) -> String {
        let cut = self.text.find("\n#[cfg(test)]\nmod tests {");
        let text = self
            .text
            .get(..cut.unwrap_or(self.text.len()))
            .unwrap_or_default();
        without_comments(text)
    }

    /// Its functions; the layout is rustfmt's.
    pub fn functions(&self) -> Vec<Function> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut functions = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let mut words = line
                .split_whitespace()
                .take_while(|word| !word.contains('('));
            let head = line.trim_start();
            let named = head.split('(').next().unwrap_or_default();
            if !words.any(|word| word == "fn")
                && !head.starts_with("fn ")
                && !named.contains(" fn ")
            {
                continue;
            }
            let Some(name) = named.split("fn ").nth(1) else {
                continue;
            };
            let closing = format!("{}}}", " ".repeat(indent));
            let Some(length) = lines[at..].iter().position(|line| *line == closing) else {
                continue;
            };
            let body = &lines[at..=at + length];
            functions.push(Function {
                name: name.split('<').next().unwrap_or_default().to_owned(),
                at: at + 1,
                lines: body.iter().filter(|line| !line.trim().is_empty()).count(),
            });
        }
        functions
    }
}

/// Every path in some code that begins with `crate`, `super`, `self` or one of Kiln's crates; `use` trees are unfolded.
fn paths(code: &str) -> Vec<Vec<String>> {
    let code = blanked(code);
    let mut found = Vec::new();
    let mut rest = code.as_str();
    while let Some(at) = next_root(rest) {
        let tail = rest.get(at..).unwrap_or_default();
        let used = unfold(tail, &[], &mut found);
        rest = tail.get(used.max(1)..).unwrap_or_default();
    }
    found
}

/// Where the next path begins.
fn next_root(code: &str) -> Option<usize> {
    let roots = [
        "crate::",
        "super::",
        "self::",
        "kiln_contract::",
        "kiln_kernels::",
        "kiln_model::",
        "kiln::",
    ];
    let starts = roots.iter().filter_map(|root| {
        let mut from = 0;
        while let Some(at) = code.get(from..)?.find(root) {
            let at = from + at;
            let before = code.get(..at).and_then(|before| before.chars().last());
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':' && c != '$') {
                return Some(at);
            }
            from = at + 1;
        }
        None
    });
    starts.min()
}

/// Reads one path or `use` tree at the beginning of `code`; returns how much of it was read.
fn unfold(code: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        let rest = code.get(at..).unwrap_or_default();
        let space = rest.len() - rest.trim_start().len();
        let word: String = rest
            .trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        at += space + word.len();
        if !word.is_empty() {
            path.push(word);
        }
        let rest = code.get(at..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix("::") {
            at += 2;
            if after.starts_with('{') {
                at += 1;
                loop {
                    at += unfold(code.get(at..).unwrap_or_default(), &path, found);
                    let rest = code.get(at..).unwrap_or_default();
                    let skipped = rest.find([',', '}']).unwrap_or(rest.len());
                    at += skipped + 1;
                    if rest
                        .get(skipped..)
                        .is_none_or(|rest| !rest.starts_with(','))
                    {
                        return at;
                    }
                    let rest = code.get(at..).unwrap_or_default();
                    if rest.trim_start().starts_with('}') {
                        return at + rest.find('}').unwrap_or(0) + 1;
                    }
                }
            }
            continue;
        }
        if path.last().is_some_and(|last| last == "self") && !prefix.is_empty() {
            path.pop();
        }
        if path.len() > 1 {
            found.push(path);
        }
        return at;
    }
}

/// The code without line comments.
fn without_comments(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The code with comments, and what stands in quotes, blanked out. Line numbers stay.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => quoted(rest, 1, "\"", true),
            'r' if raw_hashes(rest).is_some()
                && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') =>
            {
                let hashes = raw_hashes(rest).unwrap_or_default();
                quoted(
                    rest,
                    hashes + 2,
                    &format!("\"{}", "#".repeat(hashes)),
                    false,
                )
            }
            '\'' => character(rest),
            _ => 0,
        };
        if skipped > 0 {
            let gone = rest.get(..skipped).unwrap_or(rest);
            out.extend(gone.chars().filter(|c| *c == '\n'));
            rest = rest.get(skipped..).unwrap_or_default();
        } else {
            out.push(c);
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
    }
    out
}

fn raw_hashes(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after.get(hashes..)?.starts_with('"').then_some(hashes)
}

/// Length of a string literal whose opening takes `open` bytes.
fn quoted(rest: &str, open: usize, close: &str, escapes: bool) -> usize {
    let mut at = open;
    while let Some(tail) = rest.get(at..) {
        if tail.is_empty() {
            break;
        }
        if escapes && tail.starts_with('\\') {
            at += 1 + tail.chars().nth(1).map_or(1, char::len_utf8);
        } else if tail.starts_with(close) {
            return at + close.len();
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut inner = rest.chars().skip(1);
    match (inner.next(), inner.next()) {
        (Some('\\'), _) => {
            2 + rest
                .get(2..)
                .and_then(|tail| tail.get(1..)?.find('\''))
                .map_or(0, |at| at + 2)
        }
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}
