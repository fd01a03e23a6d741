//! What is hot: the most requested inputs, looked up in the table of scores.

use super::{BadSource, Item, Row, RowContent, RowSource, SourceError};
use crate::{heat::NamedRate, store::PostgresStore};
use futures_util::{StreamExt, stream, stream::BoxStream};
use kiln_contract::key::InputHash;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// Inputs looked up in one round trip.
const CHUNK: usize = 500;

/// `kind = "heat"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeatSpec {
    /// How many of the hottest inputs of the schedule's namespace to consider.
    #[serde(default = "some_thousand")]
    pub top: usize,
}

fn some_thousand() -> usize {
    4_000
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

/// One hot input.
#[derive(Debug, Clone, PartialEq)]
struct HotInput {
    hash: InputHash,
    /// The name under which readers find it, if known.
    name: Option<String>,
    /// Requests per second.
    rate: f64,
}

/// The hottest inputs of a namespace, hottest first.
pub struct HotInputs {
    store: PostgresStore,
    model: String,
    hot: Vec<HotInput>,
}

impl HotInputs {
    /// The `top` hottest of what jobs ask for and readers read. Inputs whose text or features the table of scores doesn't hold for
    /// this model are left out.
    pub fn new(
        store: PostgresStore,
        model: String,
        asked: Vec<(InputHash, f64)>,
        read: Vec<NamedRate>,
        top: usize,
    ) -> Self {
        let hot = together(asked, read, top);
        Self { store, model, hot }
    }

    async fn look_up(
        &self,
        hot: &[HotInput],
    ) -> Result<Vec<Result<Item, SourceError>>, SourceError> {
        let hashes: Vec<&[u8]> = hot.iter().map(|one| one.hash.as_slice()).collect();
        let found = self
            .store
            .inputs(&self.model, &hashes)
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
                Some(Ok(Item::Row(Row {
                    key: one.name.clone().or(known.key),
                    group: None,
                    content,
                    rate: Some(one.rate),
                })))
            })
            .collect())
    }
}

/// Merges both rates. A named input counts under each of its names; the rate of jobs is added to the most read one.
fn together(asked: Vec<(InputHash, f64)>, read: Vec<NamedRate>, top: usize) -> Vec<HotInput> {
    let mut asked: HashMap<InputHash, f64> = asked.into_iter().collect();
    let mut hot: Vec<HotInput> = Vec::with_capacity(read.len() + asked.len());
    let mut named = HashSet::new();
    for one in read {
        let Some(hash) = one.input else { continue };
        if named.insert(one.name.clone()) {
            let rate = one.rate + asked.remove(&hash).unwrap_or(0.0);
            hot.push(HotInput {
                hash,
                name: Some(one.name),
                rate,
            });
        }
    }
    hot.extend(asked.into_iter().map(|(hash, rate)| HotInput {
        hash,
        name: None,
        rate,
    }));
    hot.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.hash.cmp(&b.hash)));
    hot.truncate(top);
    hot
}

impl RowSource for HotInputs {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        stream::iter(self.hot.chunks(CHUNK))
            .then(move |chunk| async move {
                match self.look_up(chunk).await {
                    Ok(items) => items,
                    Err(error) => vec![Err(error)],
                }
            })
            .flat_map(stream::iter)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jobs_ask_and_what_readers_read_come_together() {
        let named = |name: &str, input: u8, rate: f64| NamedRate {
            name: name.to_owned(),
            input: (input > 0).then_some([input; 32]),
            rate,
            counted: true,
        };
        let asked = vec![([1; 32], 1.0), ([2; 32], 5.0)];
        let read = vec![
            named("a", 1, 3.0),
            named("a again", 1, 2.0),
            named("a ranking", 0, 9.0),
        ];
        let hot = together(asked, read, 3);
        let found: Vec<(Option<&str>, f64)> = hot
            .iter()
            .map(|one| (one.name.as_deref(), one.rate))
            .collect();
        assert_eq!(
            found,
            [(None, 5.0), (Some("a"), 4.0), (Some("a again"), 2.0)]
        );
    }
}
