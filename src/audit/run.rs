//! Owns one audit: what is looked at, in pieces; and what is found of each key.
//!
//! Promises to change nothing, and that what looks wrong is looked at again before it is called so: a row is written a moment before
//! what readers find, and a score entry a moment before its row.

use super::{
    finding::{Finding, Kind, Verdict},
    judge,
    pace::Pace,
    recompute::{self, Again},
    verdicts::{Scored, entry_verdict, hashes, name_verdict},
};
use crate::{
    cache::{Sample, Samples},
    config::Settings,
    store::{PostgresStore, ServedPast},
};
use chrono::{DateTime, Utc};
use kiln_contract::key::{self, InputHash};
use kiln_model::Registry;
use serde_json::{Map, Value};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Keys that are checked together.
const PIECE: usize = 16;
/// Score entries that are looked at for one of the namespace that is asked for.
const OTHERS: usize = 8;
/// How long it is waited before what looks wrong is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

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

/// A name, or a score entry, with all that is known of it.
struct Piece {
    names: Vec<(Sample, Option<ServedPast>)>,
    entries: Vec<Sample>,
}

impl Auditor {
    /// Looks at some names and score entries; `found` hears of each. An error says which server failed.
    pub async fn run(
        &mut self,
        wanted: &Wanted,
        mut found: impl FnMut(Finding) + Send,
    ) -> Result<(), String> {
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

    /// Looks at some keys, and again at those of them that look wrong; says how many were there.
    async fn piece(
        &mut self,
        keys: Vec<Vec<u8>>,
        wanted: &Wanted,
        found: &mut (impl FnMut(Finding) + Send),
    ) -> Result<usize, String> {
        let mut again = Vec::new();
        let mut count = 0;
        let mut record = |finding: Finding| {
            let namespace = wanted.namespace.as_deref();
            if namespace.is_none_or(|one| one == finding.namespace) {
                count += 1;
                found(finding);
            }
        };
        for (key, finding) in self.check(&keys).await? {
            match finding.verdict {
                Verdict::Wrong(_) | Verdict::WithoutRow(_) => again.push(key),
                _ => record(finding),
            }
        }
        if !again.is_empty() {
            tokio::time::sleep(AGAIN).await;
            for (_, finding) in self.check(&again).await? {
                record(finding);
            }
        }
        Ok(count)
    }

    /// What is found of these keys, as far as they are there.
    async fn check(&mut self, keys: &[Vec<u8>]) -> Result<Vec<(Vec<u8>, Finding)>, String> {
        let samples = self.pace.step(self.samples.read(keys)).await;
        let samples = samples.map_err(|reason| format!("redis: {reason}"))?;
        let (names, entries): (Vec<Sample>, Vec<Sample>) = samples
            .into_iter()
            .partition(|sample| key::read_named(&sample.key).is_some());
        let store = self.store.clone();
        let postgres = |e| format!("postgres: {e}");
        let read: Vec<(&str, &str)> = names
            .iter()
            .filter_map(|sample| key::read_named(&sample.key))
            .collect();
        let latest = if read.is_empty() {
            Vec::new()
        } else {
            let latest = self.pace.step(store.last_served(&read)).await;
            latest.map_err(postgres)?
        };
        let piece = Piece {
            names: names.into_iter().zip(latest).collect(),
            entries,
        };
        let mut found = self.names(&piece).await?;
        found.extend(self.entries(&piece).await?);
        Ok(found)
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
            let scored = scored.get(part.clone()).unwrap_or_default();
            let verdict = match (at_sight, value) {
                (Err(verdict), _) => verdict,
                (Ok(_), Some(value)) => name_verdict(value, scored, stores.scores),
                (Ok(_), None) => Verdict::Wrong("it isn't what Kiln writes"),
            };
            let Some((namespace, name)) = key::read_named(&sample.key) else {
                continue;
            };
            let finding = self.of_name(namespace, name, value.as_ref(), verdict);
            found.push((sample.key.clone(), finding));
        }
        Ok(found)
    }

    fn of_name(
        &self,
        namespace: &str,
        name: &str,
        value: Option<&Map<String, Value>>,
        verdict: Verdict,
    ) -> Finding {
        let text = |field: &str| value?.get(field)?.as_str();
        let active = text("model").and_then(|model| self.registry.resolve(model).ok());
        let is_other = active.zip(text("version"));
        let is_other = is_other.map(|(active, version)| active.info().version != version);
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
                let age = (crate::clock::now() - at).as_seconds_f64();
                age > max as f64
            }),
        }
    }

    async fn entries(&mut self, piece: &Piece) -> Result<Vec<(Vec<u8>, Finding)>, String> {
        let stores_scores = self.settings.store.scores;
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
