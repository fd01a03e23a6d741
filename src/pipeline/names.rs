//! Owns what a job's named entries and ranking say, on its way to the database's history of names.
//!
//! Promises nothing at all for a job that names nothing, and one row a name for those that are stored together: the newest.

use super::render::InputRow;
use crate::store::ServedRow;
use kiln_contract::job::{Content, Job};
use kiln_contract::key::{self, InputHash};
use kiln_contract::order::Order;
use kiln_contract::reader::{self, RankedItem};
use kiln_contract::result::{Finished, Reading};
use kiln_model::ModelInfo;
use std::collections::{BTreeMap, HashMap};

/// About what a row takes beside its texts, in bytes.
const ROW_BYTES: usize = 160;

/// What one name says.
#[derive(Debug)]
pub(super) struct NameWord {
    key: String,
    /// The version that said it, where that isn't its job's.
    version: Option<String>,
    /// The input's hash; of a ranking, that of its items; none where the name was removed.
    input: Option<InputHash>,
    label: Option<String>,
    score: Option<f32>,
    ranking: Option<RankingWord>,
}

/// The items of a ranking as JSON, and the hashes of their inputs.
#[derive(Debug)]
struct RankingWord {
    items: String,
    inputs: Vec<u8>,
}

impl NameWord {
    fn bytes(&self) -> usize {
        let ranking = self.ranking.as_ref();
        let ranking = ranking.map_or(0, |r| r.items.len() + r.inputs.len());
        ROW_BYTES + self.key.len() + ranking
    }
}

/// What a job's names say, `own` being its version; nothing where it names nothing.
pub(super) fn words<'r>(
    job: &Job<'_>,
    own: &ModelInfo,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
) -> Vec<NameWord> {
    if !job.is_for_readers() {
        return Vec::new();
    }
    let mut words = Vec::new();
    let mut ranked = Vec::new();
    let mut inputs: HashMap<&str, (f32, &InputHash)> = HashMap::new();
    for (number, input) in job.inputs.iter().enumerate() {
        if let (Some(key), Content::Removal) = (&input.key, &input.content) {
            words.push(NameWord {
                key: key.to_string(),
                version: None,
                input: None,
                label: None,
                score: None,
                ranking: None,
            });
            continue;
        }
        let (Some(key), Some(found)) = (input.key.as_deref(), rows(number)) else {
            continue;
        };
        let InputRow { input, row, .. } = found;
        let info = found.model.info();
        let reading = Reading::of(info, row);
        if job.named {
            words.push(NameWord {
                key: key.to_owned(),
                version: (info.version != own.version).then(|| info.version.clone()),
                input: Some(*input),
                label: reading.label().map(str::to_owned),
                score: reading.score(),
                ranking: None,
            });
        }
        if let Some(score) = reading.score().filter(|_| job.rank.is_some()) {
            ranked.push(RankedItem { key, score });
            // Of a repeated key the best one counts, the first of equals.
            let best = inputs.entry(key).or_insert((score, input));
            if score.total_cmp(&best.0).is_gt() {
                *best = (score, input);
            }
        }
    }
    if let Some(rank) = &job.rank {
        let top = rank.top.unwrap_or(ranked.len());
        let best = reader::rank(ranked, top);
        let hashes = best.iter().filter_map(|item| inputs.get(item.key));
        let hashes: Vec<u8> = hashes.flat_map(|(_, hash)| hash.iter().copied()).collect();
        let items = reader::items(&best);
        words.push(NameWord {
            key: rank.key.to_string(),
            version: None,
            input: Some(key::hash_body(items.as_bytes())),
            label: None,
            score: None,
            ranking: Some(RankingWord {
                items,
                inputs: hashes,
            }),
        });
    }
    words
}

/// Bytes that a job's names add to a statement, about.
pub(super) fn bytes(words: &[NameWord]) -> usize {
    words.iter().map(NameWord::bytes).sum()
}

/// A finished job's id, its result, how new it is and what its names say.
pub(super) type Naming<'a> = (&'a str, &'a Finished, Order, &'a [NameWord]);

/// The rows of these jobs' names: of a name that several of them have, the newest word, since nobody is served the others.
pub(super) fn rows<'a>(jobs: impl Iterator<Item = Naming<'a>>) -> Vec<ServedRow<'a>> {
    let mut newest: BTreeMap<(&str, &str), (Order, ServedRow<'a>)> = BTreeMap::new();
    for (job_id, result, order, words) in jobs {
        for word in words {
            let row = ServedRow {
                namespace: &result.namespace,
                key: &word.key,
                job_id,
                model: &result.model,
                version: word.version.as_deref().unwrap_or(&result.version),
                input: word.input.as_ref().map(|input| input.as_slice()),
                label: word.label.as_deref(),
                score: word.score,
                items: word.ranking.as_ref().map(|r| r.items.as_str()),
                inputs: word.ranking.as_ref().map(|r| r.inputs.as_slice()),
                is_removed: word.input.is_none(),
                order: order.into(),
            };
            let name = (row.namespace, row.key);
            let known = newest.get(&name);
            // Of equals the last one: it is the same job's.
            if known.is_none_or(|(known, _)| !known.is_newer_than(&order)) {
                newest.insert(name, (order, row));
            }
        }
    }
    newest.into_values().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::order::Moment;

    fn done(namespace: &str) -> Finished {
        Finished {
            model: "m".to_owned(),
            version: "1".to_owned(),
            namespace: namespace.to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: crate::clock::now(),
        }
    }

    fn word(key: &str, input: u8) -> NameWord {
        NameWord {
            key: key.to_owned(),
            version: None,
            input: Some([input; 32]),
            label: None,
            score: Some(0.5),
            ranking: None,
        }
    }

    #[test]
    fn of_a_name_that_several_jobs_have_only_the_last_word_is_a_row() {
        let (here, there) = (done("n"), done("o"));
        let (first, second) = ([word("b", 1), word("a", 2)], [word("b", 3)]);
        let order = |micros| Order::new(None, Moment::from_micros(micros));
        let older = [word("b", 4)];
        let jobs: [Naming<'_>; 5] = [
            ("1", &here, order(1), &first),
            ("2", &here, order(3), &second),
            ("3", &there, order(3), &second),
            ("4", &there, order(4), &[]),
            ("5", &here, order(2), &older),
        ];
        let rows = rows(jobs.into_iter());
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.namespace, row.key, row.job_id))
            .collect();
        assert_eq!(rows, [("n", "a", "1"), ("n", "b", "2"), ("o", "b", "3")]);
    }
}
