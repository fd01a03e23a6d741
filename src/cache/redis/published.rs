//! Owns what the script that writes readers' words answers.

use redis::Value;

/// By how much the number of a word is higher under whose key something else stands than before.
const CHANGED: i64 = 10_000;

/// What became of words that Redis was to take.
#[derive(Debug, Default)]
pub struct Published {
    /// Words that were left out for newer ones.
    pub older: u64,
    /// Keys of words that their server of a cluster hasn't taken.
    pub unwritten: Vec<String>,
    /// Keys under which something else stands than before, as far as is known.
    pub changed: Vec<String>,
}

impl Published {
    /// Takes what one call of the script answered, whose words have these keys.
    pub(super) fn note<'k>(&mut self, key: impl Fn(usize) -> Option<&'k str>, answer: &Value) {
        for number in numbers(answer) {
            let changed = usize::try_from(number - CHANGED - 1).ok();
            match changed.and_then(&key) {
                Some(key) => self.changed.push(key.to_owned()),
                None => self.older += u64::from(number > 0),
            }
        }
    }
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
