//! Finds all that a schedule file's reader can't take, not only the first: each mistake is noted, mended in the tree that was read,
//! and the tree is read again.

use super::BadSchedule;
use crate::redact::Position;
use kiln_contract::redact::{HIDDEN, is_name, serde};
use serde::Deserialize;
use serde_path_to_error::{Path, Segment};
use std::{borrow::Cow, collections::BTreeSet};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Mistakes of one file that are noted; more say no more.
const MAX_MISTAKES: usize = 32;
/// What a spanned value adds to its path.
const SPAN: &str = "$__serde_spanned_private_value";
/// What stands for a required field that is missing or wrong, so that the others can be read.
const SUBSTITUTES: &str = "name = \"substitute\"\ncron = \"0 0 1 1 *\"\nmodel = \"substitute\"\n\
                           source = { static = { inputs = [{ key = \"k\", text = \"t\" }] } }\n\
                           input = { key = \"k\", text = \"t\" }\n";
/// The one that stands for an input of a list.
const INPUT: &str = "input";

/// A file's text, and what was found wrong with it.
pub(super) struct Mistakes<'a> {
    pub(super) file: &'a std::path::Path,
    pub(super) text: &'a str,
    pub(super) found: Vec<BadSchedule>,
    /// Top-level fields with a mistake: what else would be said of them follows from it.
    blamed: BTreeSet<String>,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(file: &'a std::path::Path, text: &'a str) -> Self {
        Self {
            file,
            text,
            found: Vec::new(),
            blamed: BTreeSet::new(),
        }
    }

    /// Notes a mistake at a byte of the text.
    pub(super) fn note(&mut self, at: Option<usize>, field: &str, message: &str) {
        let top = field.split(['.', '[']).next().unwrap_or_default();
        self.blamed.insert(top.to_owned());
        self.found.push(BadSchedule {
            file: self.file.to_owned(),
            at: at.map(|at| Position::of(self.text, at)),
            field: field.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Notes a mistake at a position, or else at a byte of the text.
    pub(super) fn note_at(&mut self, at: Option<Position>, or: usize, field: &str, message: &str) {
        self.note(Some(or), field, message);
        if let (Some(last), Some(_)) = (self.found.last_mut(), at) {
            last.at = at;
        }
    }

    /// Whether nothing was found wrong with a top-level field.
    pub(super) fn is_sound(&self, field: &str) -> bool {
        !self.blamed.contains(field)
    }

    /// Reads the text; nothing where it isn't TOML. What is returned has substitutes where something was found.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        for error in errors.iter().take(MAX_MISTAKES) {
            let at = error.span().map(|span| span.start);
            self.note(at, "", &serde(error.message()));
        }
        if !errors.is_empty() {
            return None;
        }
        let mut tree = tree;
        self.name_kind(tree.get_mut());
        let mut mended = BTreeSet::new();
        for _ in 0..MAX_MISTAKES {
            let reader = toml::Deserializer::from(tree.clone());
            let error = match serde_path_to_error::deserialize(reader) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let steps = steps(error.path());
            let inner = error.into_inner();
            self.mistake(&mut tree, steps, &inner, &mut mended);
        }
        None
    }

    /// The kind of the source, which says what else belongs there, becomes the name of what is read.
    fn name_kind(&mut self, tree: &mut DeTable<'_>) {
        let Some(source) = tree.get_mut("source") else {
            return;
        };
        let span = source.span();
        let DeValue::Table(table) = source.get_mut() else {
            return;
        };
        let kind = table.remove("kind");
        let named = match kind.as_ref().map(|kind| (kind.span(), kind.get_ref())) {
            Some((span, DeValue::String(kind))) => Ok(Spanned::new(span, kind.clone())),
            Some((span, _)) => Err((span, "expected a string")),
            None => Err((span, "missing: expected `kind`")),
        };
        match named {
            Ok(kind) => {
                let rest = std::mem::take(table);
                let rest = Spanned::new(source.span(), DeValue::Table(rest));
                let mut wrapped = DeTable::new();
                wrapped.insert(kind, rest);
                *source.get_mut() = DeValue::Table(wrapped);
            }
            Err((at, message)) => {
                self.note(Some(at.start), "source.kind", message);
                substitute(tree, "source");
            }
        }
    }

    /// Notes what the reader couldn't take, and mends it.
    fn mistake(
        &mut self,
        tree: &mut Spanned<DeTable<'_>>,
        mut steps: Vec<Step>,
        error: &toml::de::Error,
        mended: &mut BTreeSet<String>,
    ) {
        let message = serde(error.message());
        let missing = message.strip_prefix("missing field `");
        let missing = missing.and_then(|rest| rest.split('`').next());
        if let Some(name) = missing {
            steps.push(Step::Key(name.to_owned()));
        }
        let path = shown(&steps);
        // Of what was taken out here, only its absence is told by the reader.
        let is_known = missing.is_some() && mended.contains(&path);
        let mut at = error.span().map(|span| span.start);
        let mut field = path.clone();
        if message.starts_with("unknown variant") && path == "source" {
            "source.kind".clone_into(&mut field);
            at = kind_at(tree.get_ref()).or(at);
        }
        if !is_known {
            let message = match missing {
                Some(_) => "missing",
                None => message.as_str(),
            };
            self.note(at, &field, message);
        }
        let is_new = mended.insert(path);
        let is_mended = is_new && missing.is_none() && mend(tree.get_mut(), &steps);
        if !is_mended && let Some(Step::Key(top)) = steps.first() {
            substitute(tree.get_mut(), top);
        }
    }
}

/// A step of a path from the root of the tree.
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } if key == SPAN => None,
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Unknown => None,
    });
    steps.collect()
}

/// A path as messages have it: the source's kind, which the file has in a field of its own, is no step.
fn shown(steps: &[Step]) -> String {
    let is_of_source = matches!(steps.first(), Some(Step::Key(key)) if key == "source");
    let mut shown = String::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Key(_) if number == 1 && is_of_source => {}
            Step::Key(key) => {
                if !shown.is_empty() {
                    shown.push('.');
                }
                shown.push_str(if is_name(key) { key } else { HIDDEN });
            }
            Step::Index(index) => shown.push_str(&format!("[{index}]")),
        }
    }
    shown
}

/// Takes out what the path leads to; an element of a list is replaced, so that the others keep their numbers.
fn mend(tree: &mut DeTable<'_>, steps: &[Step]) -> bool {
    let Some((Step::Key(key), rest)) = steps.split_first() else {
        return false;
    };
    match (
        rest.first(),
        tree.get_mut(key.as_str()).map(Spanned::get_mut),
    ) {
        (None, Some(_)) => tree.remove(key.as_str()).is_some(),
        (Some(Step::Key(_)), Some(DeValue::Table(inner))) => mend(inner, rest),
        (Some(Step::Index(index)), Some(DeValue::Array(list))) => {
            let element = list.get_mut(*index);
            let input = substitutes().remove(INPUT);
            match (element, input) {
                (Some(element), Some(input)) => {
                    *element.get_mut() = input.into_inner();
                    true
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// Replaces a top-level field by one that can be read; one that isn't required is left out.
fn substitute(tree: &mut DeTable<'_>, field: &str) {
    tree.remove(field);
    let name = Spanned::new(0..0, Cow::Owned(field.to_owned()));
    if let Some(value) = substitutes().remove(field) {
        tree.insert(name, value);
    }
}

fn substitutes() -> DeTable<'static> {
    DeTable::parse(SUBSTITUTES).map_or_else(|_| DeTable::new(), Spanned::into_inner)
}

/// Where the kind of the source stands.
fn kind_at(tree: &DeTable<'_>) -> Option<usize> {
    let source = tree.get("source")?.get_ref().as_table()?;
    source.keys().next().map(|kind| kind.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_substitutes_can_be_read() {
        let all = substitutes();
        for field in ["name", "cron", "model", "source", INPUT] {
            assert!(all.contains_key(field), "{field}");
        }
    }
}
