//! Owns which namespaces metrics may name: producers make names up, and a label's values are to be few.

use kiln_model::Registry;
use std::collections::BTreeSet;

/// Stands for every namespace that nobody has named in the settings.
pub(in crate::worker::tasks) const OTHERS: &str = "other";

/// The namespaces that metrics may name: those of the settings, and the models' names.
pub(in crate::worker::tasks) struct Known<'a> {
    named: &'a BTreeSet<String>,
    models: BTreeSet<String>,
}

impl<'a> Known<'a> {
    /// Those that the settings name, and the models that are loaded now.
    pub(in crate::worker::tasks) fn new(named: &'a BTreeSet<String>, registry: &Registry) -> Self {
        let models = registry.list().into_iter().map(|model| model.info.name);
        Self {
            named,
            models: models.collect(),
        }
    }

    /// Everything that a metric may call a namespace.
    pub(in crate::worker::tasks) fn labels(&self) -> impl Iterator<Item = &str> {
        let named = self.named.iter().chain(&self.models);
        named.map(String::as_str).chain([OTHERS])
    }

    /// What a metric calls a namespace.
    pub(in crate::worker::tasks) fn label<'n>(&self, namespace: &'n str) -> &'n str {
        let is_known = self.named.contains(namespace) || self.models.contains(namespace);
        if is_known { namespace } else { OTHERS }
    }
}
