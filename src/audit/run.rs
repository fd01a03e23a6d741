//! Owns one audit: what is looked at, in pieces; and what is found of each key.
//!
//! Promises to change nothing, and that what looks wrong is called so only if it is the same, beside the same row, when it is looked at
//! again: a row is written a moment before what readers find, and a score entry a moment before its row.

use super::{
    finding::{Finding, Kind, Verdict},
    judge,
    pace::Pace,
    recompute::{self, Again},
    verdicts::{Scored, entry_verdict, hashes, name_verdict},
};
use crate::{
    cache::{Sample, Samples},
    config::{Settings, StoredScores},
    store::{PostgresStore, ServedPast},
};
use chrono::{DateTime, Utc};
use kiln_contract::key::{self, InputHash};
use kiln_model::Registry;
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// Keys that are checked together.
const PIECE: usize = 16;
/// Score entries that are looked at for one of the namespace that is asked for.
const OTHERS: usize = 8;
/// How long it is waited before what looks wrong is looked at again, and how often that is done.
const AGAIN: Duration = Duration::from_secs(1);
const LOOKS: usize = 2;

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Keys of each kind: names, and score entries.
    pub sample: usize,
    /// Steps of the walk through Redis for each.
    pub max_steps: usize,
}

/// What audits with.
pub struct Auditor {
    pub samples: Samples,
    pub store: PostgresStore,
    pub registry: Arc<Registry>,
    pub settings: Arc<Settings>,
    pub pace: Pace,
}

/// Names, and score entries, with all that is known of them.
struct Piece {
    names: Vec<(Sample, Option<ServedPast>)>,
    entries: Vec<Sample>,
    /// When they were read.
    at: DateTime<Utc>,
}

/// What was judged: a value, and of a name its latest row.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    value: Vec<u8>,
    latest: Option<ServedPast>,
}

/// What looked bad, by its key.
type Suspects = HashMap<Vec<u8>, Seen>;

/// Whether a finding can be recorded: it isn't bad, or it is of what was bad before.
fn is_sure(finding: &Finding, key: &[u8], seen: &Seen, before: &Suspects) -> bool {
    !matches!(finding.verdict, Verdict::Wrong(_) | Verdict::WithoutRow(_))
        || before.get(key) == Some(seen)
}

impl Auditor {
    /// Looks at some names and score entries; `found` hears of each. An error says which server failed.
    pub async fn run(
        &mut self,
        wanted: &Wanted,
        mut found: impl FnMut(Finding) + Send,
    ) -> Result<(), String> {
        self.pace.begin();
        let names = match &wanted.namespace {
            Some(namespace) => key::all_named(namespace),
            None => key::all_names(),
        };
        for pattern in [names, key::all_entries()] {
            self.walk(&pattern, wanted, &mut found).await?;
        }
        Ok(())
    }

    async fn walk(
        &mut self,
        pattern: &str,
        wanted: &Wanted,
        found: &mut (impl FnMut(Finding) + Send),
    ) -> Result<(), String> {
        let redis = |reason| format!("redis: {reason}");
        let (mut seen, mut ends, mut looked_at) = (HashSet::new(), 0, 0);
        // Those of other namespaces are known only by their rows: so many are looked at for one that counts.
        let mut room = wanted.sample.saturating_mul(OTHERS);
        let mut waiting: Vec<Vec<u8>> = Vec::new();
        for _step in 0..wanted.max_steps {
            let (keys, is_end) = self
                .pace
                .step(self.samples.step(pattern))
                .await
                .map_err(redis)?;
            waiting.extend(keys.into_iter().filter(|key| seen.insert(key.clone())));
            while waiting.len() >= PIECE && looked_at < wanted.sample && room > 0 {
                let mut piece: Vec<Vec<u8>> = waiting.split_off(waiting.len() - PIECE);
                piece.truncate(wanted.sample - looked_at);
                room = room.saturating_sub(piece.len());
                looked_at += self.piece(piece, wanted, found).await?;
            }
            ends += u32::from(is_end);
            // The walk began anywhere: at its second end it has seen everything.
            if looked_at >= wanted.sample || room == 0 || ends >= 2 {
                break;
            }
        }
        while let Some(first) = waiting.pop()
            && looked_at < wanted.sample
            && room > 0
        {
            let mut piece = waiting.split_off(waiting.len().saturating_sub(PIECE - 1));
            piece.push(first);
            piece.truncate(wanted.sample - looked_at);
            room = room.saturating_sub(piece.len());
            looked_at += self.piece(piece, wanted, found).await?;
        }
        Ok(())
    }

    /// Looks at some keys, and again at those of them that look wrong; says how many were there. What is another at each look is left out.
    async fn piece(
        &mut self,
        keys: Vec<Vec<u8>>,
        wanted: &Wanted,
        found: &mut (impl FnMut(Finding) + Send),
    ) -> Result<usize, String> {
        let mut count = 0;
        let mut record = |finding: Finding| {
            let namespace = wanted.namespace.as_deref();
            if namespace.is_none_or(|one| one == finding.namespace) {
                count += 1;
                found(finding);
            }
        };
        let (mut keys, mut before) = (keys, Suspects::new());
        for look in 0..=LOOKS {
            if look > 0 {
                tokio::time::sleep(AGAIN).await;
            }
            let mut suspects = Suspects::new();
            for (key, seen, finding) in self.check(&keys).await? {
                if is_sure(&finding, &key, &seen, &before) {
                    record(finding);
                } else {
                    suspects.insert(key, seen);
                }
            }
            if suspects.is_empty() {
                break;
            }
            keys = suspects.keys().cloned().collect();
            before = suspects;
        }
        Ok(count)
    }

    /// What is found of these keys, as far as they are there.
    async fn check(&mut self, keys: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Seen, Finding)>, String> {
        let piece = self.read(keys).await?;
        let mut found = self.names(&piece).await?;
        found.extend(self.entries(&piece).await?);
        let names = piece.names.into_iter();
        let entries = piece.entries.into_iter().map(|sample| (sample, None));
        let seen = names.chain(entries);
        let seen = seen.map(|(Sample { key, value }, latest)| (key, Seen { value, latest }));
        let mut seen: Suspects = seen.collect();
        let found = found.into_iter().filter_map(|(key, finding)| {
            let seen = seen.remove(&key)?;
            Some((key, seen, finding))
        });
        Ok(found.collect())
    }

    /// Reads values, and the names' rows right after: a rest between the two would be time for a name to change.
    async fn read(&mut self, keys: &[Vec<u8>]) -> Result<Piece, String> {
        let Self {
            samples,
            store,
            pace,
            ..
        } = self;
        let both = async {
            let samples = samples.read(keys).await;
            let samples = samples.map_err(|reason| format!("redis: {reason}"))?;
            let at = crate::clock::now();
            let (names, entries): (Vec<Sample>, Vec<Sample>) = samples
                .into_iter()
                .partition(|sample| key::read_named(&sample.key).is_some());
            let read: Vec<(&str, &str)> = names
                .iter()
                .filter_map(|sample| key::read_named(&sample.key))
                .collect();
            let latest = if read.is_empty() {
                Vec::new()
            } else {
                let latest = store.last_served(&read).await;
                latest.map_err(|e| format!("postgres: {e}"))?
            };
            Ok(Piece {
                names: names.into_iter().zip(latest).collect(),
                entries,
                at,
            })
        };
        pace.step(both).await
    }

    /// The rows of some inputs, and what their models say of them now.
    async fn recomputed(
        &mut self,
        inputs: &[(InputHash, &str, &str)],
    ) -> Result<Vec<Scored>, String> {
        let store = self.store.clone();
        let rows = self.pace.step(store.scored(inputs)).await;
        let rows = rows.map_err(|e| format!("postgres: {e}"))?;
        let again: Vec<Again<'_>> = inputs
            .iter()
            .zip(&rows)
            .map(|((input, model, version), row)| Again {
                input,
                model,
                version,
                row: row.as_ref(),
            })
            .collect();
        let done = recompute::all(&self.registry, &mut self.pace, &again).await;
        let scored = rows.into_iter().zip(done);
        let scored = scored.map(|(row, (outputs, model))| Scored {
            row,
            outputs,
            model,
        });
        Ok(scored.collect())
    }

    async fn names(&mut self, piece: &Piece) -> Result<Vec<(Vec<u8>, Finding)>, String> {
        let stores = self.settings.store.clone();
        let read: Vec<Option<Map<String, Value>>> = piece
            .names
            .iter()
            .map(|(sample, _)| judge::read(&sample.value))
            .collect();
        let at_sight: Vec<Result<&ServedPast, Verdict>> = read
            .iter()
            .zip(&piece.names)
            .map(|(value, (_, latest))| judge::name(value.as_ref(), latest.as_ref(), stores.served))
            .collect();
        let mut inputs: Vec<(InputHash, &str, &str)> = Vec::new();
        let mut parts = Vec::with_capacity(read.len());
        for latest in at_sight.iter() {
            let before = inputs.len();
            if let Ok(latest) = latest {
                let hashes = hashes(latest);
                let of = |hash| (hash, latest.model.as_str(), latest.version.as_str());
                inputs.extend(hashes.into_iter().map(of));
            }
            parts.push(before..inputs.len());
        }
        let scored = self.recomputed(&inputs).await?;
        let mut found = Vec::with_capacity(read.len());
        for ((value, at_sight), (part, (sample, _))) in read
            .iter()
            .zip(at_sight)
            .zip(parts.iter().zip(&piece.names))
        {
            let Some((namespace, name)) = key::read_named(&sample.key) else {
                continue;
            };
            let scored = scored.get(part.clone()).unwrap_or_default();
            let verdict = match (at_sight, value) {
                (Err(verdict), _) => verdict,
                (Ok(latest), Some(value)) => {
                    let stores = self.settings.stores_scores(Some(namespace), &latest.model);
                    name_verdict(value, scored, stores)
                }
                (Ok(_), None) => Verdict::Wrong("it isn't what Kiln writes"),
            };
            let finding = self.of_name((namespace, name), value.as_ref(), verdict, piece.at);
            found.push((sample.key.clone(), finding));
        }
        Ok(found)
    }

    fn of_name(
        &self,
        (namespace, name): (&str, &str),
        value: Option<&Map<String, Value>>,
        verdict: Verdict,
        read_at: DateTime<Utc>,
    ) -> Finding {
        let text = |field: &str| value?.get(field)?.as_str();
        let serving = text("model").and_then(|model| self.registry.serving(model).ok());
        let is_other = serving.zip(text("version")).map(|(serving, version)| {
            let mut serving = serving.versions();
            serving.all(|one| one.info().version != version)
        });
        let own = self.settings.namespaces.get(namespace);
        let max_age = own.and_then(|own| own.max_age_seconds);
        let scored_at: Option<DateTime<Utc>> = text("scored_at").and_then(|at| at.parse().ok());
        let is_ranking = value.is_some_and(|value| value.contains_key("items"));
        Finding {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kind: if is_ranking {
                Kind::Ranking
            } else {
                Kind::Named
            },
            verdict,
            is_other_version: is_other,
            is_too_old: max_age.zip(scored_at).map(|(max, at)| {
                let age = (read_at - at).as_seconds_f64();
                age > max as f64
            }),
        }
    }

    async fn entries(&mut self, piece: &Piece) -> Result<Vec<(Vec<u8>, Finding)>, String> {
        // What is kept in the cache has its row, unless only expensive scores have one.
        let stores_scores = self.settings.store.scores == StoredScores::All;
        let read: Vec<(&Sample, (&str, &str, InputHash))> = piece
            .entries
            .iter()
            .filter_map(|sample| Some((sample, key::read_entry(&sample.key)?)))
            .collect();
        let inputs: Vec<(InputHash, &str, &str)> = read
            .iter()
            .map(|(_, (model, version, input))| (*input, *model, *version))
            .collect();
        let scored = self.recomputed(&inputs).await?;
        let found = read.into_iter().zip(scored);
        let found = found.map(|((sample, (model, version, input)), scored)| {
            let verdict = entry_verdict(sample, &input, &scored, stores_scores);
            let namespace = scored.row.map(|row| row.namespace);
            let hash = hex::encode(input.get(..8).unwrap_or_default());
            let finding = Finding {
                namespace: namespace.unwrap_or_else(|| model.to_owned()),
                name: format!("{model}@{version} {hash}"),
                kind: Kind::Score,
                verdict,
                is_other_version: None,
                is_too_old: None,
            };
            (sample.key.clone(), finding)
        });
        Ok(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_between_two_looks_is_not_called_wrong() {
        let finding = |verdict| Finding {
            namespace: "n".into(),
            name: "k".into(),
            kind: Kind::Named,
            verdict,
            is_other_version: None,
            is_too_old: None,
        };
        let seen = |value: &[u8]| Seen {
            value: value.to_vec(),
            latest: None,
        };
        let before = Suspects::from([(b"k".to_vec(), seen(b"one"))]);
        let wrong = finding(Verdict::Wrong("it differs"));
        assert!(!is_sure(&wrong, b"k", &seen(b"one"), &Suspects::new()));
        assert!(!is_sure(&wrong, b"k", &seen(b"two"), &before));
        assert!(is_sure(&wrong, b"k", &seen(b"one"), &before));
        let right = finding(Verdict::Right);
        assert!(is_sure(&right, b"k", &seen(b"two"), &before));
    }
}
