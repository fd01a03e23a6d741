//! Owns which version an input of a schedule goes to, and where its entry is: its job decides the same once more.
//!
//! Promises that an input is taken for known only where the version that it goes to has scored it.

use crate::{
    cache::Space,
    store::{PostgresStore, StoreError},
    warm::source::{Row, RowContent},
};
use chrono::{DateTime, Utc};
use kiln_contract::{
    key::{self, InputHash},
    split::Point,
};
use kiln_model::{Model, Serving};
use std::sync::Arc;

/// An input, as the version sees it that it goes to.
#[derive(Debug, Clone, Copy)]
pub(in crate::warm) struct Seen {
    pub hash: InputHash,
    /// Whether that is the version that a share of the inputs goes to.
    is_split: bool,
}

/// What a schedule's inputs are scored by.
pub(in crate::warm) struct Versions {
    serving: Serving,
    /// Where entries of the active version are, and of the one that a share of the inputs goes to.
    space: Space,
    split: Option<Space>,
}

impl Versions {
    pub fn new(serving: Serving) -> Self {
        let split = serving.split.as_ref();
        Self {
            space: Space::new(serving.model.info()),
            split: split.map(|split| Space::new(split.model.info())),
            serving,
        }
    }

    /// The version that its reference names, or else the active one.
    pub fn active(&self) -> &Arc<Model> {
        &self.serving.model
    }

    /// Whether a share of the inputs goes to another version than the active one.
    pub fn are_two(&self) -> bool {
        self.split.is_some()
    }

    /// A row as it is scored by a job, which makes a ranking under `rank` if that is given.
    pub fn seen(&self, rank: Option<&str>, row: &Row) -> Seen {
        self.content(rank, row.key.as_deref(), &row.content)
    }

    /// The same of what an input holds, and its key.
    pub fn content(&self, rank: Option<&str>, key: Option<&str>, content: &RowContent) -> Seen {
        let model = self.goes_to(rank, key, content);
        Seen {
            hash: hash(model, content),
            is_split: !Arc::ptr_eq(model, self.active()),
        }
    }

    fn goes_to(&self, rank: Option<&str>, key: Option<&str>, content: &RowContent) -> &Arc<Model> {
        let active = self.active();
        let by_itself = || hash(active, content);
        self.serving
            .version_at(|| Point::of(&active.info().name, rank, key, by_itself))
    }

    /// The same of an input of which only a hash is known.
    pub fn known(&self, key: Option<&str>, hash: InputHash) -> Seen {
        let active = self.active();
        let point = || Point::of(&active.info().name, None, key, || hash);
        let model = self.serving.version_at(point);
        Seen {
            hash,
            is_split: !Arc::ptr_eq(model, active),
        }
    }

    fn of(&self, is_split: bool) -> (&Model, &Space) {
        match self.serving.split.as_ref().zip(self.split.as_ref()) {
            Some((split, space)) if is_split => (&split.model, space),
            _ => (&self.serving.model, &self.space),
        }
    }

    /// The key of an input's entry.
    pub fn entry(&self, input: &Seen) -> Vec<u8> {
        self.of(input.is_split).1.prefix.key(&input.hash)
    }

    /// Bytes of an entry's key and value, about.
    pub fn entry_bytes(&self) -> (usize, usize) {
        let key = self.space.prefix.as_bytes().len() + size_of::<InputHash>();
        (key, self.space.entry_bytes())
    }

    /// Seconds that an input is expected to take, once that is known.
    pub fn expected(&self, input: &Seen, content: &RowContent) -> Option<f64> {
        self.of(input.is_split).0.expected_seconds(content.text())
    }

    /// The same of what an input holds, and its key.
    pub fn expected_of(&self, key: Option<&str>, content: &RowContent) -> Option<f64> {
        let model = self.goes_to(None, key, content);
        model.expected_seconds(content.text())
    }

    /// Whether calls have measured what inputs cost the version that this one goes to.
    pub fn has_measured(&self, input: &Seen) -> bool {
        self.of(input.is_split).0.has_measured()
    }

    /// The same of every version that inputs go to.
    pub fn have_measured(&self) -> bool {
        self.serving.versions().all(|model| model.has_measured())
    }

    /// When the table of scores says that each of these was scored, by the version that it goes to.
    pub async fn scored_at(
        &self,
        store: &PostgresStore,
        inputs: &[Seen],
    ) -> Result<Vec<Option<DateTime<Utc>>>, StoreError> {
        let mut all = vec![None; inputs.len()];
        for is_split in [false, true] {
            let its = all.iter_mut().zip(inputs);
            let its = its.filter(|(_, input)| input.is_split == is_split);
            let (found, hashes): (Vec<_>, Vec<InputHash>) =
                its.map(|(found, input)| (found, input.hash)).unzip();
            if hashes.is_empty() {
                continue;
            }
            let info = self.of(is_split).0.info();
            let version = (info.name.as_str(), info.version.as_str());
            let rows = store.scored_at(version, &hashes).await?;
            for (found, row) in found.into_iter().zip(rows) {
                *found = row;
            }
        }
        Ok(all)
    }
}

/// A row's hash, as a version sees it.
fn hash(model: &Model, content: &RowContent) -> InputHash {
    match content {
        RowContent::Features(features) => key::hash_features(features),
        RowContent::Text { text, pair } => {
            let pair = pair.as_deref().map(|pair| model.normalise(pair));
            key::hash_text(&model.normalise(text), pair.as_deref())
        }
    }
}
