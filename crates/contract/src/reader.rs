//! Owns the JSON that readers find in Redis: named entries, rankings, and what a removed one leaves behind.
//!
//! Promises the contract's field names, and that the order of a word is its last field, in as many bytes whatever it is. What the
//! entries of one job have in common is written once.

use crate::{
    json::push,
    key::InputHash,
    model::ModelInfo,
    order::{AsOf, Order},
    result::Reading,
    time,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Whose word something is, and how new it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Provenance<'a> {
    /// The job; none where a command said it.
    pub job_id: Option<&'a str>,
    /// As the producer gave it.
    pub as_of: Option<&'a AsOf<'a>>,
    /// How new it is.
    pub order: Order,
}

impl Provenance<'_> {
    /// Writes its first fields behind others.
    fn say(&self, out: &mut Vec<u8>) {
        if let Some(job_id) = self.job_id {
            out.extend_from_slice(b",\"job_id\":");
            push(out, job_id);
        }
        if let Some(as_of) = self.as_of {
            out.extend_from_slice(b",\"as_of\":");
            push(out, as_of);
        }
    }

    /// Writes its last field and the end of the object.
    fn finish(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"order\":");
        push(out, &self.order);
        out.push(b'}');
    }
}

/// Writes what readers find of one job.
#[derive(Debug)]
pub struct EntryWriter<'a> {
    info: &'a ModelInfo,
    /// What every entry goes on with.
    tail: Vec<u8>,
    /// What every entry ends with.
    order: Vec<u8>,
}

impl<'a> EntryWriter<'a> {
    /// A writer for entries of a model version that are the word of one job.
    pub fn new(info: &'a ModelInfo, scored_at: DateTime<Utc>, word: &Provenance<'_>) -> Self {
        let mut tail = Vec::with_capacity(256);
        tail.extend_from_slice(b",\"model\":");
        push(&mut tail, &info.name);
        tail.extend_from_slice(b",\"version\":");
        push(&mut tail, &info.version);
        tail.extend_from_slice(b",\"scored_at\":");
        push(&mut tail, &time::rfc3339(scored_at));
        word.say(&mut tail);
        let mut order = Vec::with_capacity(64);
        word.finish(&mut order);
        Self { info, tail, order }
    }

    /// The JSON of a named entry, given the input's hash and its output row.
    pub fn named(&self, input: &InputHash, row: &[f32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + self.tail.len() + self.order.len());
        let reading = Reading::of(self.info, row);
        match &reading {
            Reading::Label { label, score, .. } => {
                out.extend_from_slice(b"{\"score\":");
                push(&mut out, score);
                out.extend_from_slice(b",\"label\":");
                push(&mut out, label);
            }
            Reading::Score(score) => {
                out.extend_from_slice(b"{\"score\":");
                push(&mut out, score);
            }
            Reading::Embedding(values) => {
                out.extend_from_slice(b"{\"embedding\":");
                push(&mut out, values);
            }
        }
        out.extend_from_slice(&self.tail);
        out.extend_from_slice(b",\"content\":\"");
        out.extend_from_slice(&content(self.info, input, &reading));
        out.push(b'"');
        out.extend_from_slice(&self.order);
        out
    }

    /// The JSON of a ranking.
    pub fn ranking(&self, items: &[RankedItem<'_>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(items.len() * 48 + self.tail.len() + self.order.len());
        out.extend_from_slice(b"{\"items\":");
        push(&mut out, items);
        out.extend_from_slice(&self.tail);
        out.extend_from_slice(&self.order);
        out
    }
}

/// Which input, model and version an entry is of, and what it says of it: 16 hexadecimal digits. Of a score only what is left of it when
/// the sums of another device are as good.
fn content(info: &ModelInfo, input: &InputHash, reading: &Reading<'_>) -> [u8; 16] {
    /// Bits of a float's fraction that don't count.
    const NOISE: u32 = 13;
    let mut hasher = Sha256::new_with_prefix(input);
    for part in [info.name.as_str(), &info.version] {
        hasher.update(part);
        hasher.update([0]);
    }
    if let Reading::Label { label, .. } = reading {
        hasher.update(label);
    }
    if let Some(score) = reading.score() {
        let half = 1 << (NOISE - 1);
        hasher.update((score.to_bits().wrapping_add(half) >> NOISE).to_le_bytes());
    }
    let hash = hasher.finalize();
    let mut digits = [b'0'; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(hash) {
        for (digit, half) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = char::from_digit(u32::from(half), 16).map_or(b'0', |digit| digit as u8);
        }
    }
    digits
}

/// The JSON of a ranking's items.
pub fn items(items: &[RankedItem<'_>]) -> String {
    let mut out = Vec::with_capacity(items.len() * 48 + 2);
    push(&mut out, items);
    String::from_utf8(out).unwrap_or_else(|_| "[]".into())
}

/// The JSON that a removed entry leaves behind, not under its own key.
pub fn removal(word: &Provenance<'_>) -> Vec<u8> {
    let mut out = b"{\"removed\":true".to_vec();
    word.say(&mut out);
    word.finish(&mut out);
    out
}

/// One key of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RankedItem<'a> {
    /// The input's key.
    pub key: &'a str,
    /// Its score.
    pub score: f32,
}

/// The best `top` items by descending score. Equal scores keep the job's order, and of a repeated key only the best item
/// counts.
pub fn rank(mut items: Vec<RankedItem<'_>>, top: usize) -> Vec<RankedItem<'_>> {
    items.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut seen = std::collections::HashSet::new();
    items.retain(|item| seen.insert(item.key));
    items.truncate(top);
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{InputKind, Precision, Task},
        order::{Kind, Moment},
    };

    fn info(task: Task) -> ModelInfo {
        ModelInfo {
            name: "m".into(),
            version: "1".into(),
            architecture: "mlp".into(),
            task,
            input: InputKind::Features { count: 1 },
            output_width: 2,
            precision: Precision::Single,
            max_text_bytes: 100,
            ttl_seconds: None,
            parameters: 1,
            golden: 0,
        }
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_123).expect("an instant")
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn what_readers_find_has_the_contracts_bytes_and_its_order_at_the_end() {
        let accepted = Moment::of(at());
        let plain = Provenance {
            job_id: Some("j \"1\""),
            as_of: None,
            order: Order::new(None, accepted),
        };
        let tail = r#","model":"m","version":"1","scored_at":"2023-11-14T22:13:20.123Z","job_id":"j \"1\"""#;
        let order = r#","order":"t0001700000000123000-1700000000123000"}"#;
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        for (task, head, content) in [
            (
                Task::Classification { labels },
                r#"{"score":0.9,"label":"yes""#,
                "919450b5dd5d79fb",
            ),
            (Task::Scalar, r#"{"score":0.1"#, "9103a98783cc43c9"),
            (
                Task::Embedding,
                r#"{"embedding":[0.1,0.9]"#,
                "e8a73e875196c885",
            ),
        ] {
            let info = info(task);
            let entry = EntryWriter::new(&info, at(), &plain).named(&[7; 32], &[0.1, 0.9]);
            assert_eq!(Order::of_entry(&entry), Some(plain.order));
            assert_eq!(
                text(entry),
                format!(r#"{head}{tail},"content":"{content}"{order}"#)
            );
        }
        let scalar = info(Task::Scalar);
        let items = [RankedItem {
            key: "a",
            score: 0.5,
        }];
        let ranking = EntryWriter::new(&scalar, at(), &plain).ranking(&items);
        assert_eq!(
            text(ranking),
            format!(r#"{{"items":[{{"key":"a","score":0.5}}]{tail}{order}"#)
        );
        // What the script in Redis takes from its end.
        let entry = EntryWriter::new(&scalar, at(), &plain).named(&[7; 32], &[0.5]);
        let from = entry.len() - 77;
        assert!(entry[from..].starts_with(br#""content":""#) && entry[from + 27] == b'"');
        let as_of = AsOf::Sequence(7);
        let said = Provenance {
            job_id: None,
            as_of: Some(&as_of),
            order: Order::new(Some(&as_of), accepted),
        };
        let gone = removal(&said);
        let order = Order::of_entry(&gone).expect("an order");
        assert_eq!((order.kind(), order.value()), (Kind::Sequence, 7));
        assert_eq!(
            text(gone),
            r#"{"removed":true,"as_of":7,"order":"s0000000000000000007-1700000000123000"}"#
        );
    }

    #[test]
    fn contents_are_equal_where_a_reader_would_call_them_so() {
        let base = info(Task::Scalar);
        let of = |info: &ModelInfo, input: u8, score: f32| {
            content(info, &[input; 32], &Reading::Score(score))
        };
        let one = of(&base, 1, 0.700_01);
        assert_eq!(one, of(&base, 1, 0.700_012), "the noise of another device");
        assert_ne!(one, of(&base, 1, 0.71));
        assert_ne!(one, of(&base, 1, -0.700_01));
        assert_ne!(one, of(&base, 2, 0.700_01));
        let next = ModelInfo {
            version: "2".into(),
            ..base.clone()
        };
        assert_ne!(one, of(&next, 1, 0.700_01));
        let label = |label| Reading::Label {
            label,
            index: 0,
            score: 0.700_01,
        };
        let [yes, no] = ["yes", "no"].map(|one| content(&base, &[1; 32], &label(one)));
        assert_ne!(yes, no);
    }
}
