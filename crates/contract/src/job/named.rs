//! Owns features by name: which feature of a model each name is.
//!
//! Promises that what is named ends as the same numbers in the same order as if it had come by place, so that it is the same input.

use super::{Content, Input, InputError};
use crate::{
    model::{InputKind, ModelInfo},
    redact,
};
use std::collections::HashMap;

/// Features of all inputs of a job, where some are named: 16 MiB. Those that a job leaves out take no room in its body.
const MAX_NUMBERS: usize = 1 << 22;
/// Names that are looked at for those that are close to an unknown one.
const NAMES_COMPARED: usize = 2_000;
/// Longer names aren't compared.
const BYTES_COMPARED: usize = 64;
/// Edits that make one name of another one that is close.
const MAX_EDITS: usize = 2;
/// Names that a message lists.
const NAMES_SHOWN: usize = 5;

/// The names of a model's features.
pub(super) struct Names<'m> {
    info: &'m ModelInfo,
    /// Their places, once an input has names.
    places: Option<HashMap<&'m str, usize>>,
}

impl<'m> Names<'m> {
    pub fn of(info: &'m ModelInfo) -> Self {
        Self { info, places: None }
    }

    /// Puts the named features of an input in the model's order, behind all others. What has none, or is for another kind of model, stays
    /// as it is.
    pub fn put_in_order(
        &mut self,
        input: &mut Input<'_>,
        features: &mut Vec<f32>,
    ) -> Result<(), InputError> {
        let (Content::Named(named), InputKind::Features { count }) =
            (&input.content, self.info.input)
        else {
            return Ok(());
        };
        let info = self.info;
        if info.feature_names.is_empty() {
            let message = format!(
                "model `{}` has no names for its features: expected an array of {count} numbers",
                info.name
            );
            return Err(wrong("", message));
        }
        let places = self.places.get_or_insert_with(|| {
            let names = info.feature_names.iter().map(String::as_str);
            names.zip(0..).collect()
        });
        let from = features.len();
        if from + count > MAX_NUMBERS {
            let message = format!("expected at most {MAX_NUMBERS} features in a job, found more");
            return Err(wrong("", message));
        }
        features.resize(from + count, f32::NAN);
        let row = features.get_mut(from..).unwrap_or_default();
        let mut seen = vec![false; count];
        let placed = named.iter().try_for_each(|(name, value)| {
            let index = places.get(name.as_ref()).copied();
            let slots = index.and_then(|at| Some((row.get_mut(at)?, seen.get_mut(at)?)));
            let Some((slot, seen)) = slots else {
                return Err(wrong(name, unknown(name, &info.feature_names)));
            };
            if std::mem::replace(seen, true) {
                return Err(wrong(name, "is there twice".to_owned()));
            }
            *slot = *value;
            Ok(())
        });
        let lacking = row.iter().position(|x| x.is_nan());
        let complete = placed.and_then(|()| match lacking {
            Some(at) if !info.takes_missing => {
                let name = info.feature_names.get(at).map_or("", String::as_str);
                let message = format!(
                    "expected a finite 32-bit float: no feature of model `{}` may be missing",
                    info.name
                );
                Err(wrong(name, message))
            }
            _ => Ok(()),
        });
        match complete {
            Ok(()) => input.content = Content::Features(from..features.len()),
            Err(_) => features.truncate(from),
        }
        complete
    }
}

/// What is wrong with a feature, or with all of them.
fn wrong(name: &str, message: String) -> InputError {
    let field = match redact::is_name(name) {
        true => format!("features.{name}"),
        false => "features".to_owned(),
    };
    InputError { field, message }
}

fn unknown(name: &str, names: &[String]) -> String {
    let compared = names.iter().take(NAMES_COMPARED).map(String::as_str);
    let close: Vec<&str> = compared
        .filter(|known| are_close(name, known))
        .take(NAMES_SHOWN)
        .collect();
    if close.is_empty() {
        let first: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
        let more = if names.len() > NAMES_SHOWN {
            " and others"
        } else {
            ""
        };
        return format!(
            "is no feature of this model, which has {}{more}",
            first.join(", ")
        );
    }
    format!("is no feature of this model: is it {}?", close.join(", "))
}

/// Whether few edits make one name of the other, or only the case is another one.
fn are_close(a: &str, b: &str) -> bool {
    if a.eq_ignore_ascii_case(b) {
        return true;
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().max(b.len()) > BYTES_COMPARED || a.len().abs_diff(b.len()) > MAX_EDITS {
        return false;
    }
    // Short names are close to any others.
    edits(a, b) <= MAX_EDITS.min(a.len().max(b.len()) / 3)
}

/// How many bytes have to be inserted, removed or replaced (Levenshtein).
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut last = i + 1;
        let mut row = vec![last];
        let beside = before.iter().zip(before.iter().skip(1));
        for (y, (diagonal, above)) in b.iter().zip(beside) {
            last = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(last + 1);
            row.push(last);
        }
        before = row;
    }
    before.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
