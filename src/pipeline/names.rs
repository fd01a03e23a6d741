//! Owns what a job's named entries and ranking say, on its way to the database's history of names.
//!
//! Promises nothing at all for a job that names nothing, and one row a name for those that are stored together: the newest.

use super::render::InputRow;
use crate::store::{ServedRow, WordOrder};
use kiln_contract::job::Job;
use kiln_contract::key::{self, InputHash};
use kiln_contract::result::{self, Finished, RankedItem, Reading};
use kiln_model::ModelInfo;
use std::collections::{BTreeMap, HashMap};

/// About what a row takes beside its texts, in bytes.
const ROW_BYTES: usize = 160;

/// What one name says.
#[derive(Debug)]
pub(super) struct NameWord {
    key: String,
    /// The input's hash; of a ranking, that of its items.
    input: InputHash,
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

/// What a job's names say; nothing where it names nothing.
pub(super) fn words<'r>(
    job: &Job<'_>,
    info: &ModelInfo,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
) -> Vec<NameWord> {
    if !job.named && job.rank.is_none() {
        return Vec::new();
    }
    let mut words = Vec::new();
    let mut ranked = Vec::new();
    let mut inputs: HashMap<&str, (f32, &InputHash)> = HashMap::new();
    for (number, input) in job.inputs.iter().enumerate() {
        let (Some(key), Some(InputRow { input, row, .. })) = (input.key.as_deref(), rows(number))
        else {
            continue;
        };
        let reading = Reading::of(info, row);
        if job.named {
            words.push(NameWord {
                key: key.to_owned(),
                input: *input,
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
        let best = result::rank(ranked, top);
        let hashes = best.iter().filter_map(|item| inputs.get(item.key));
        let hashes: Vec<u8> = hashes.flat_map(|(_, hash)| hash.iter().copied()).collect();
        let items = result::items(&best);
        words.push(NameWord {
            key: rank.key.to_string(),
            input: key::hash_body(items.as_bytes()),
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

/// A finished job's id, its result and what its names say.
pub(super) type Naming<'a> = (&'a str, &'a Finished, &'a [NameWord]);

/// The rows of these jobs' names: of a name that several of them have, the newest word, since nobody is served the others.
pub(super) fn rows<'a>(jobs: impl Iterator<Item = Naming<'a>>) -> Vec<ServedRow<'a>> {
    let mut newest: BTreeMap<(&str, &str), ServedRow<'a>> = BTreeMap::new();
    for (job_id, result, words) in jobs {
        let order = order_of(result);
        for word in words {
            let row = ServedRow {
                namespace: &result.namespace,
                key: &word.key,
                job_id,
                model: &result.model,
                version: &result.version,
                input: Some(&word.input),
                label: word.label.as_deref(),
                score: word.score,
                items: word.ranking.as_ref().map(|r| r.items.as_str()),
                inputs: word.ranking.as_ref().map(|r| r.inputs.as_slice()),
                is_removed: false,
                order,
            };
            // Of equals the last one: it is written last.
            newest.insert((row.namespace, row.key), row);
        }
    }
    newest.into_values().collect()
}

/// How new a job's word is: what was finished later is newer.
fn order_of(result: &Finished) -> WordOrder {
    let at = result.finished_at.timestamp_micros();
    WordOrder {
        kind: 't',
        value: at,
        accepted_us: at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            input: [input; 32],
            label: None,
            score: Some(0.5),
            ranking: None,
        }
    }

    #[test]
    fn of_a_name_that_several_jobs_have_only_the_last_word_is_a_row() {
        let (here, there) = (done("n"), done("o"));
        let (first, second) = ([word("b", 1), word("a", 2)], [word("b", 3)]);
        let jobs: [Naming<'_>; 4] = [
            ("1", &here, &first),
            ("2", &here, &second),
            ("3", &there, &second),
            ("4", &there, &[]),
        ];
        let rows = rows(jobs.into_iter());
        let rows: Vec<_> = rows
            .iter()
            .map(|row| (row.namespace, row.key, row.job_id))
            .collect();
        assert_eq!(rows, [("n", "a", "1"), ("n", "b", "2"), ("o", "b", "3")]);
    }
}
