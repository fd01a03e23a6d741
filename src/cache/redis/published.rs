//! Owns what became of the words that Redis was to take, as the script that writes them says.

use redis::Value;

/// What is added to the number of a word that may be old and stands.
pub(super) const STANDS: i64 = 1_000;

/// What became of words that Redis was to take.
#[derive(Debug, Default)]
pub struct Published {
    /// Words that were left out for newer ones.
    pub older: u64,
    /// Keys of words that their server of a cluster hasn't taken.
    pub unwritten: Vec<String>,
    /// Keys of words that may be old and stand: over nothing, over what doesn't say how old it is, or since before.
    pub standing: Vec<String>,
}

/// What became of a key that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgotten {
    /// Something stood there.
    Removed,
    /// Nothing did, and nothing older will.
    Absent,
    /// Something newer stands there, or was removed since.
    Newer,
}

/// The numbers that one call answered with.
pub(super) fn numbers(answer: &Value) -> impl Iterator<Item = i64> {
    let answers = match answer {
        Value::Array(answers) => answers.as_slice(),
        _ => &[],
    };
    answers.iter().filter_map(|answer| match answer {
        Value::Int(number) => Some(*number),
        _ => None,
    })
}

impl Published {
    /// Notes what one call answered; `key` says which key a word has, by its number in the call.
    pub(super) fn add<'a>(&mut self, answer: &Value, key: impl Fn(usize) -> Option<&'a str>) {
        for number in numbers(answer).filter(|number| *number > 0) {
            match usize::try_from(number - STANDS - 1) {
                Err(_) => self.older += 1,
                Ok(index) => self.standing.extend(key(index).map(str::to_owned)),
            }
        }
    }
}
