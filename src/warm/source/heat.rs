//! What is hot: the inputs that jobs ask for most, looked up in the table of scores.

use super::{Content, Item, Row, Source, SourceError};
use crate::{key::InputHash, store::PostgresStore};
use futures_util::{StreamExt, stream, stream::BoxStream};
use serde::Deserialize;

/// Inputs looked up in one round trip.
const CHUNK: usize = 500;

/// `kind = "heat"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeatSpec {
    /// How many of the hottest inputs of the schedule's namespace are looked at.
    #[serde(default = "some_thousand")]
    pub top: usize,
}

fn some_thousand() -> usize {
    4_000
}

impl HeatSpec {
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if (1..=100_000).contains(&self.top) {
            Ok(())
        } else {
            Err(("top".into(), "expected 1 to 100000".into()))
        }
    }
}

/// The hottest inputs of a namespace, hottest first.
pub struct HotInputs {
    store: PostgresStore,
    model: String,
    /// Inputs with their requests a second.
    hot: Vec<(InputHash, f64)>,
}

impl HotInputs {
    /// Of these inputs those whose text or features the table of scores holds for this model.
    pub fn new(store: PostgresStore, model: String, hot: Vec<(InputHash, f64)>) -> Self {
        Self { store, model, hot }
    }

    async fn look_up(
        &self,
        hot: &[(InputHash, f64)],
    ) -> Result<Vec<Result<Item, SourceError>>, SourceError> {
        let hashes: Vec<&[u8]> = hot.iter().map(|(hash, _)| hash.as_slice()).collect();
        let mut found = self
            .store
            .inputs(&self.model, &hashes)
            .await
            .map_err(|e| SourceError(e.to_string()))?;
        Ok(hot
            .iter()
            .filter_map(|(hash, rate)| {
                let known = found.remove(hash.as_slice())?;
                let content = match (known.text, known.features) {
                    (Some(text), _) => Content::Text {
                        text,
                        pair: known.text_pair,
                    },
                    (None, Some(features)) => Content::Features(features),
                    // Scored while inputs weren't stored.
                    (None, None) => return None,
                };
                Some(Ok(Item::Row(Row {
                    key: known.key,
                    group: None,
                    content,
                    rate: Some(*rate),
                })))
            })
            .collect())
    }
}

impl Source for HotInputs {
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
