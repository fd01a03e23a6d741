//! What all workers are to serve under bare names: a version each, and another one for a share of the inputs.
//!
//! Promises that a share goes only to a version that takes whatever the active one takes, and gives what stands beside its outputs. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_contract::model::{InputKind, ModelInfo, PairRule, Task};
use kiln_contract::split::{Point, Share};

use crate::model::Model;

/// What was chosen for all workers, by model name; stronger than the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// The version that the bare name means.
    pub active: BTreeMap<String, String>,
    /// The version that a share of the inputs goes to instead.
    pub splits: BTreeMap<String, SplitChoice>,
}

impl Choices {
    /// Every version that was chosen, as `(name, version)`, each once.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        let active = self
            .active
            .iter()
            .map(|(name, version)| (&**name, &**version));
        let splits = self.splits.iter().filter(|(name, split)| {
            let active = self.active.get(*name);
            active != Some(&split.version)
        });
        active.chain(splits.map(|(name, split)| (&**name, &*split.version)))
    }

    /// Whether a version was chosen.
    pub(crate) fn names(&self, name: &str, version: &str) -> bool {
        self.versions().any(|one| one == (name, version))
    }
}

impl From<BTreeMap<String, String>> for Choices {
    fn from(active: BTreeMap<String, String>) -> Self {
        Self {
            active,
            splits: BTreeMap::new(),
        }
    }
}

/// A version that is to have a share of its model's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitChoice {
    /// The version.
    pub version: String,
    /// Its share of the inputs of jobs that name no version.
    pub share: Share,
}

/// A version that has a share of its model's inputs.
#[derive(Debug, Clone)]
pub struct Split {
    /// The version.
    pub model: Arc<Model>,
    /// Its share.
    pub share: Share,
}

/// What a reference means.
#[derive(Debug, Clone)]
pub struct Serving {
    /// The version that is named, or else the active one.
    pub model: Arc<Model>,
    /// Of a bare name: the version that a share of the inputs goes to instead, if there is one.
    pub split: Option<Split>,
}

impl Serving {
    /// The version that an input goes to which stands at this point.
    pub fn version_at(&self, point: impl FnOnce() -> Point) -> &Arc<Model> {
        match &self.split {
            Some(split) if split.share.takes(point()) => &split.model,
            _ => &self.model,
        }
    }

    /// Its versions, the active one first.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<Model>> {
        std::iter::once(&self.model).chain(self.split.iter().map(|split| &split.model))
    }
}

/// Why a version can't have a share of the inputs of another one, the active version of its model; nothing where it can.
pub fn unfit_for_split(active: &ModelInfo, other: &ModelInfo) -> Option<&'static str> {
    if active.version == other.version {
        return Some("it is the active version");
    }
    let is_alike = match (&active.task, &other.task) {
        (Task::Embedding, _) | (_, Task::Embedding) => {
            return Some("embeddings of two versions can't be compared with each other");
        }
        (Task::Scalar, Task::Scalar) => true,
        (Task::Classification { labels: ours }, Task::Classification { labels: theirs }) => {
            let set = |labels: &[String]| labels.iter().cloned().collect::<BTreeSet<_>>();
            set(ours) == set(theirs)
        }
        _ => false,
    };
    if !is_alike || active.output_width != other.output_width {
        return Some("it gives other outputs than the active version");
    }
    let (ours, theirs) = (&active.feature_names, &other.feature_names);
    let is_named_alike = ours == theirs || ours.is_empty() || theirs.is_empty();
    let takes_all = match (active.input, other.input) {
        (InputKind::Text { pair }, InputKind::Text { pair: theirs }) => {
            (pair == theirs || theirs == PairRule::Optional)
                && other.max_text_bytes >= active.max_text_bytes
        }
        (one, two) => {
            one == two && is_named_alike && (other.takes_missing || !active.takes_missing)
        }
    };
    (!takes_all).then_some("it doesn't take all that the active version takes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::model::{Precision, WeightPrecision};

    fn info(version: &str, task: Task, input: InputKind) -> ModelInfo {
        ModelInfo {
            name: "m".to_owned(),
            version: version.to_owned(),
            architecture: "mlp".to_owned(),
            task,
            input,
            feature_names: Vec::new(),
            takes_missing: false,
            output_width: 1,
            precision: Precision::Single,
            max_text_bytes: 100,
            ttl_seconds: None,
            parameters: 1,
            weights: WeightPrecision::Single,
            training: None,
            golden: 1,
        }
    }

    #[test]
    fn a_share_goes_to_a_version_that_takes_and_gives_the_same() {
        let features = InputKind::Features { count: 2 };
        let active = info("1", Task::Scalar, features);
        let says = |change: &dyn Fn(&mut ModelInfo)| {
            let mut other = info("2", Task::Scalar, features);
            change(&mut other);
            unfit_for_split(&active, &other)
        };
        let (inputs, outputs) = (
            Some("it doesn't take all that the active version takes"),
            Some("it gives other outputs than the active version"),
        );
        assert_eq!(says(&|_| {}), None);
        assert_eq!(says(&|other| other.takes_missing = true), None);
        assert_eq!(
            says(&|other| other.feature_names = vec!["a".into(), "b".into()]),
            None
        );
        assert_eq!(
            says(&|other| other.input = InputKind::Features { count: 3 }),
            inputs
        );
        assert_eq!(says(&|other| other.output_width = 2), outputs);
        let labels = |labels: &[&str]| Task::Classification {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        assert_eq!(says(&|other| other.task = labels(&["a"])), outputs);
        let same = Some("it is the active version");
        assert_eq!(says(&|other| other.version = "1".into()), same);
        let embeds = says(&|other| other.task = Task::Embedding);
        assert!(embeds.is_some_and(|why| why.contains("embeddings")));

        let text = |pair| InputKind::Text { pair };
        let one = info("1", labels(&["a", "b"]), text(PairRule::None));
        let mut two = info("2", labels(&["b", "a"]), text(PairRule::Optional));
        assert_eq!(unfit_for_split(&one, &two), None, "by their names");
        assert_eq!(unfit_for_split(&two, &one), inputs, "no pairs");
        two.max_text_bytes = 99;
        assert_eq!(unfit_for_split(&one, &two), inputs, "shorter texts");
        two.task = labels(&["a", "c"]);
        assert_eq!(unfit_for_split(&one, &two), outputs);
    }
}
