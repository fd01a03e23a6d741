//! Owns the JSON that readers find in Redis: named entries, rankings, and what a removed one leaves behind.
//!
//! Promises the contract's field names, and that the order of a word is its last field, in as many bytes whatever it is. What the
//! entries of one job have in common is written once.

use crate::{
    json::{push, push_numbers},
    model::ModelInfo,
    order::{AsOf, Order},
    result::Reading,
    time,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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
    /// Writes the fields and the end of the object behind others.
    fn finish(&self, out: &mut Vec<u8>) {
        if let Some(job_id) = self.job_id {
            out.extend_from_slice(b",\"job_id\":");
            push(out, job_id);
        }
        if let Some(as_of) = self.as_of {
            out.extend_from_slice(b",\"as_of\":");
            push(out, as_of);
        }
        out.extend_from_slice(b",\"order\":");
        push(out, &self.order);
        out.push(b'}');
    }
}

/// Writes what readers find of one job.
#[derive(Debug)]
pub struct EntryWriter<'a> {
    info: &'a ModelInfo,
    /// What every entry ends with.
    tail: Vec<u8>,
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
        word.finish(&mut tail);
        Self { info, tail }
    }

    /// The JSON of a named entry.
    pub fn named(&self, row: &[f32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.tail.len());
        match Reading::of(self.info, row) {
            Reading::Label { label, score, .. } => {
                out.extend_from_slice(b"{\"score\":");
                push(&mut out, &score);
                out.extend_from_slice(b",\"label\":");
                push(&mut out, label);
            }
            Reading::Score(score) => {
                out.extend_from_slice(b"{\"score\":");
                push(&mut out, &score);
            }
            Reading::Embedding(values) => {
                out.extend_from_slice(b"{\"embedding\":");
                push_numbers(&mut out, values, self.info.precision);
            }
        }
        out.extend_from_slice(&self.tail);
        out
    }

    /// The JSON of a ranking.
    pub fn ranking(&self, items: &[RankedItem<'_>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(items.len() * 48 + self.tail.len());
        out.extend_from_slice(b"{\"items\":");
        push(&mut out, items);
        out.extend_from_slice(&self.tail);
        out
    }
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
    word.finish(&mut out);
    out
}

/// Whose word stands under a key, or removed it; nobody's where a command did.
pub fn job_of(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Word {
        job_id: Option<String>,
    }
    serde_json::from_slice::<Word>(json).ok()?.job_id
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
        model::{InputKind, Precision, Task, WeightPrecision},
        order::{Kind, Moment},
    };

    fn info(task: Task) -> ModelInfo {
        ModelInfo {
            name: "m".into(),
            version: "1".into(),
            architecture: "mlp".into(),
            task,
            input: InputKind::Features { count: 1 },
            feature_names: Vec::new(),
            takes_missing: false,
            output_width: 2,
            precision: Precision::Single,
            max_text_bytes: 100,
            ttl_seconds: None,
            parameters: 1,
            weights: WeightPrecision::Single,
            golden: 0,
            training: None,
        }
    }

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_123).expect("an instant")
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn a_ranking_has_the_best_items_each_key_once() {
        let item = |key: &'static str, score| RankedItem { key, score };
        let all = vec![
            item("a", 0.1),
            item("b", 0.9),
            item("c", 0.5),
            item("a", 0.7),
            item("d", 0.5),
        ];
        let best = rank(all.clone(), 3);
        assert_eq!(best, [item("b", 0.9), item("a", 0.7), item("c", 0.5)]);
        assert_eq!(rank(all, 5).last(), Some(&item("d", 0.5)));
        let json = items(&best[..2]);
        assert_eq!(json, r#"[{"key":"b","score":0.9},{"key":"a","score":0.7}]"#);
    }

    #[test]
    fn what_readers_find_has_the_contracts_bytes_and_its_order_at_the_end() {
        let accepted = Moment::of(at());
        let plain = Provenance {
            job_id: Some("j \"1\""),
            as_of: None,
            order: Order::new(None, accepted),
        };
        let tail = concat!(
            r#","model":"m","version":"1","scored_at":"2023-11-14T22:13:20.123Z","job_id":"j \"1\"","#,
            r#""order":"t0001700000000123000-1700000000123000"}"#
        );
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        for (task, head) in [
            (
                Task::Classification { labels },
                r#"{"score":0.9,"label":"yes""#,
            ),
            (Task::Scalar, r#"{"score":0.1"#),
            (Task::Embedding, r#"{"embedding":[0.1,0.9]"#),
        ] {
            let info = info(task);
            let entry = EntryWriter::new(&info, at(), &plain).named(&[0.1, 0.9]);
            assert_eq!(Order::of_entry(&entry), Some(plain.order));
            assert_eq!(job_of(&entry).as_deref(), plain.job_id);
            assert_eq!(text(entry), format!("{head}{tail}"));
        }
        let scalar = info(Task::Scalar);
        let items = [RankedItem {
            key: "a",
            score: 0.5,
        }];
        let ranking = EntryWriter::new(&scalar, at(), &plain).ranking(&items);
        assert_eq!(
            text(ranking),
            format!(r#"{{"items":[{{"key":"a","score":0.5}}]{tail}"#)
        );
        let as_of = AsOf::Sequence(7);
        let said = Provenance {
            job_id: None,
            as_of: Some(&as_of),
            order: Order::new(Some(&as_of), accepted),
        };
        let gone = removal(&said);
        assert_eq!(job_of(&gone), None, "a command said it");
        let order = Order::of_entry(&gone).expect("an order");
        assert_eq!((order.kind(), order.value()), (Kind::Sequence, 7));
        assert_eq!(
            text(gone),
            r#"{"removed":true,"as_of":7,"order":"s0000000000000000007-1700000000123000"}"#
        );
    }
}
