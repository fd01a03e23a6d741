//! What is hot: the most requested inputs, looked up in the table of scores.

use super::{BadSource, Item, Row, RowContent, RowSource, SourceError};
use crate::{
    heat::{Hot, MAX_REPORTED, NamedRate},
    store::{PostgresStore, StoreError},
};
use futures_util::{StreamExt, stream, stream::BoxStream};
use kiln_contract::key::InputHash;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Inputs looked up in one round trip.
const CHUNK: usize = 500;

/// `kind = "heat"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeatSpec {
    /// How many of the hottest inputs of the schedule's namespace to consider.
    #[serde(default = "all_held")]
    pub top: usize,
    /// Whether what probably is asked for next is had ready at once.
    #[serde(default)]
    pub follow: bool,
}

fn all_held() -> usize {
    MAX_REPORTED
}

impl HeatSpec {
    pub(super) fn check(&self) -> Result<(), BadSource> {
        if (1..=100_000).contains(&self.top) {
            Ok(())
        } else {
            Err(BadSource::new("top", "expected 1 to 100000"))
        }
    }
}

/// An input that jobs ask for.
#[derive(Debug, Clone, PartialEq)]
struct AskedInput {
    hash: InputHash,
    /// Requests per second.
    rate: f64,
    /// When it was asked for last, in milliseconds since 1970.
    at_ms: i64,
    /// The key under which it was scored first.
    key: Option<String>,
}

/// What readers were last served under a name.
#[derive(Debug, Clone, PartialEq)]
struct LastServed {
    at_ms: i64,
    /// Nothing for a ranking, or where the name was removed.
    input: Option<InputHash>,
    /// When somebody said so who is no warming run: a run only remembers.
    said_ms: Option<i64>,
}

/// One hot input.
#[derive(Debug, Clone, PartialEq)]
struct HotInput {
    hash: InputHash,
    /// The name under which readers find it, if it is the latest of that name.
    name: Option<String>,
    /// Requests per second.
    rate: f64,
    /// When somebody who knows has said last that the name is this input's, in milliseconds since 1970.
    said_ms: Option<i64>,
}

/// What workers report of a namespace.
#[derive(Debug, Default)]
pub struct Reported {
    pub hot: Hot,
    /// What readers read; nothing where names aren't warmed.
    pub read: Option<Vec<NamedRate>>,
    /// Where somebody asks for the names by themselves, what was wrong with others: then one of which nobody knows what it is made of is bad, too.
    pub bad: Option<Vec<String>>,
}

/// Some of what is hot, or what is wrong with the rest.
enum Chunk {
    Hot(Vec<HotInput>),
    Bad(Vec<String>),
}

/// The hottest inputs of a namespace, hottest first.
pub struct HotInputs {
    store: PostgresStore,
    reported: Reported,
    top: usize,
}

impl HotInputs {
    /// The `top` hottest of what jobs ask for and readers read. Inputs whose text or features the table of scores doesn't hold for
    /// this model are left out. A name is given only to the input that was asked for last under it, by all that is known.
    pub fn new(store: PostgresStore, reported: Reported, top: usize) -> Self {
        Self {
            store,
            reported,
            top,
        }
    }

    async fn hot(&self) -> Result<(Vec<HotInput>, Vec<String>), SourceError> {
        let Reported { hot, read, bad } = &self.reported;
        let named = read.is_some();
        let mut asked = Vec::with_capacity(hot.inputs.len());
        for chunk in hot.inputs.chunks(CHUNK) {
            let mut keys = if named {
                self.keys(chunk).await?
            } else {
                HashMap::new()
            };
            asked.extend(chunk.iter().map(|(hash, rate)| AskedInput {
                hash: *hash,
                rate: *rate,
                at_ms: hot.asked_ms.get(hash).copied().unwrap_or_default(),
                key: keys.remove(hash),
            }));
        }
        let read = read.as_deref().unwrap_or_default();
        let names = read.iter().map(|one| one.name.as_str());
        let names: BTreeSet<&str> = names
            .chain(asked.iter().filter_map(|one| one.key.as_deref()))
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut served = HashMap::new();
        for chunk in names.chunks(CHUNK) {
            served.extend(self.served(chunk).await?);
        }
        let hot = together(&asked, read, &served, self.top);
        let mut bad = bad.clone();
        if let Some(bad) = &mut bad {
            bad.extend(unknown(read, &hot));
        }
        Ok((hot, bad.unwrap_or_default()))
    }

    /// The keys under which inputs were scored.
    async fn keys(
        &self,
        inputs: &[(InputHash, f64)],
    ) -> Result<HashMap<InputHash, String>, SourceError> {
        let hashes: Vec<&[u8]> = inputs.iter().map(|(hash, _)| hash.as_slice()).collect();
        let found = self.store.inputs(&self.reported.hot.scope.model, &hashes);
        let found = found.await.map_err(|e| SourceError(e.to_string()))?;
        let keys = found.into_iter().filter_map(|(hash, known)| {
            let hash = InputHash::try_from(hash).ok()?;
            Some((hash, known.key?))
        });
        Ok(keys.collect())
    }

    async fn served(&self, names: &[&str]) -> Result<HashMap<String, LastServed>, SourceError> {
        let namespace = self.reported.hot.scope.namespace.as_str();
        let asked: Vec<(&str, &str)> = names.iter().map(|name| (namespace, *name)).collect();
        let failed = |e: StoreError| SourceError(e.to_string());
        let found = self.store.last_served(&asked).await.map_err(failed)?;
        let said = self.store.last_said(&asked).await.map_err(failed)?;
        let found = found.into_iter().zip(said);
        let last = names.iter().zip(found).filter_map(|(name, (past, said))| {
            let past = past?;
            let said = said.filter(|said| Some(&said.input) == past.input.as_ref());
            let input = past
                .input
                .filter(|_| past.items.is_none() && !past.is_removed);
            let last = LastServed {
                said_ms: said.map(|said| said.at.timestamp_millis()),
                at_ms: past.from.timestamp_millis(),
                input: input.and_then(|hash| InputHash::try_from(hash).ok()),
            };
            Some(((*name).to_owned(), last))
        });
        Ok(last.collect())
    }

    async fn look_up(
        &self,
        hot: &[HotInput],
    ) -> Result<Vec<Result<Item, SourceError>>, SourceError> {
        let hashes: Vec<&[u8]> = hot.iter().map(|one| one.hash.as_slice()).collect();
        let found = self
            .store
            .inputs(&self.reported.hot.scope.model, &hashes)
            .await
            .map_err(|e| SourceError(e.to_string()))?;
        Ok(hot
            .iter()
            .filter_map(|one| {
                let known = found.get(one.hash.as_slice())?.clone();
                let content = match (known.text, known.features) {
                    (Some(text), _) => RowContent::Text {
                        text,
                        pair: known.text_pair,
                    },
                    (None, Some(features)) => RowContent::Features(features),
                    // Scored while inputs weren't stored.
                    (None, None) => return None,
                };
                // Where no names are warmed, a key is only for people.
                let key = known.key.filter(|_| self.reported.read.is_none());
                let row = Row {
                    key: one.name.clone().or(key),
                    group: None,
                    content,
                    rate: Some(one.rate),
                };
                // What has no name is looked for by what it is, which doesn't change.
                Some(Ok(match one.name {
                    Some(_) => Item::Remembered(row, one.said_ms),
                    None => Item::Row(row),
                }))
            })
            .collect())
    }
}

/// The input that each name was asked with last: what jobs asked for, what was written, and what the database says that readers are served.
fn latest<'a>(
    asked: &'a [AskedInput],
    read: &'a [NamedRate],
    served: &'a HashMap<String, LastServed>,
) -> HashMap<&'a str, (i64, Option<InputHash>)> {
    let asked = asked
        .iter()
        .filter_map(|one| Some((one.key.as_deref()?, one.at_ms, Some(one.hash))));
    let read = read
        .iter()
        .filter_map(|one| Some((one.name.as_str(), one.written_ms, Some(one.input?))));
    let served = served
        .iter()
        .map(|(name, last)| (name.as_str(), last.at_ms, last.input));
    let mut latest: HashMap<&str, (i64, Option<InputHash>)> = HashMap::new();
    for (name, at, input) in asked.chain(read).chain(served) {
        let known = latest.entry(name).or_insert((at, input));
        if at >= known.0 {
            *known = (at, input);
        }
    }
    latest
}

/// When it was said last of each name what its input is, by jobs that somebody posted who knows: not by runs that only remember. Where it is said
/// again and again, only workers know of the last time: the history has a row of what has changed.
fn said<'a>(
    asked: &'a [AskedInput],
    read: &'a [NamedRate],
    served: &'a HashMap<String, LastServed>,
) -> HashMap<(&'a str, InputHash), i64> {
    let asked = asked
        .iter()
        .filter_map(|one| Some(((one.key.as_deref()?, one.hash), one.at_ms)));
    let read = read
        .iter()
        .filter_map(|one| Some(((one.name.as_str(), one.input?), one.written_ms)));
    let served = served
        .iter()
        .filter_map(|(name, last)| Some(((name.as_str(), last.input?), last.said_ms?)));
    let mut said = HashMap::new();
    for (what, at_ms) in asked.chain(read).chain(served) {
        let known = said.entry(what).or_insert(at_ms);
        *known = at_ms.max(*known);
    }
    said
}

/// Which of the names that were asked for found no input.
fn unknown(read: &[NamedRate], hot: &[HotInput]) -> Vec<String> {
    let known: HashSet<&str> = hot.iter().filter_map(|one| one.name.as_deref()).collect();
    let numbered = (1..).zip(read);
    let unknown = numbered.filter(|(_, one)| !known.contains(one.name.as_str()));
    let shown = unknown.map(|(number, _): (usize, _)| {
        format!("key {number}: nobody has asked for an input under it")
    });
    shown.collect()
}

/// Merges both rates. A named input counts under each of its names; the rate of jobs is added to the most read one. What jobs ask for under a
/// key that nobody is known to read is that key's rate, whichever text they asked for: its latest text has it.
fn together(
    asked: &[AskedInput],
    read: &[NamedRate],
    served: &HashMap<String, LastServed>,
    top: usize,
) -> Vec<HotInput> {
    let (latest, said) = (latest(asked, read, served), said(asked, read, served));
    let said_ms = |name: &str, hash| said.get(&(name, hash)).copied();
    let input_of = |name: &str| latest.get(name).and_then(|(_, input)| *input);
    let mut rates: HashMap<InputHash, f64> = asked.iter().map(|one| (one.hash, one.rate)).collect();
    let mut hot: Vec<HotInput> = Vec::with_capacity(read.len() + asked.len());
    let mut named = HashSet::new();
    for one in read {
        let Some(hash) = input_of(&one.name) else {
            continue;
        };
        if named.insert(one.name.as_str()) {
            hot.push(HotInput {
                hash,
                name: Some(one.name.clone()),
                said_ms: said_ms(&one.name, hash),
                rate: one.rate + rates.remove(&hash).unwrap_or(0.0),
            });
        }
    }
    let mut by_key: HashMap<&str, f64> = HashMap::new();
    for one in asked {
        match one.key.as_deref() {
            Some(key) => *by_key.entry(key).or_default() += one.rate,
            None => hot.extend(rates.remove(&one.hash).map(|rate| HotInput {
                hash: one.hash,
                name: None,
                rate,
                said_ms: None,
            })),
        }
    }
    for (key, rate) in by_key {
        if let Some(hash) = input_of(key)
            && named.insert(key)
        {
            hot.push(HotInput {
                hash,
                name: Some(key.to_owned()),
                rate,
                said_ms: said_ms(key, hash),
            });
        }
    }
    hot.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.hash.cmp(&b.hash)));
    hot.truncate(top);
    hot
}

impl RowSource for HotInputs {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let chunks = stream::once(self.hot()).flat_map(|hot| {
            let chunks: Vec<Result<Chunk, SourceError>> = match hot {
                Ok((hot, bad)) => {
                    let chunks = hot.chunks(CHUNK).map(|chunk| Chunk::Hot(chunk.to_vec()));
                    chunks.chain([Chunk::Bad(bad)]).map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            };
            stream::iter(chunks)
        });
        chunks
            .then(move |chunk| async move {
                let items = match chunk {
                    Ok(Chunk::Hot(chunk)) => self.look_up(&chunk).await,
                    Ok(Chunk::Bad(bad)) => {
                        Ok(bad.into_iter().map(|one| Ok(Item::Bad(one))).collect())
                    }
                    Err(error) => Err(error),
                };
                items.unwrap_or_else(|error| vec![Err(error)])
            })
            .flat_map(stream::iter)
            .boxed()
    }
}

#[cfg(test)]
mod tests;
