//! What the manifests of a models folder say, for those who load no model.

use std::fs;
use std::path::Path;

use kiln_contract::model::InputKind;

use super::directory::survey;
use super::manifest::Manifest;
use super::naming::MANIFEST_FILE;

/// Name, version and input of each version under `dir` whose manifest can be read. That it can be loaded is for
/// [`Registry`](super::Registry) to say.
pub fn described(dir: &Path) -> Vec<(String, String, InputKind)> {
    let found = survey(dir).found.into_iter();
    let described = found.filter_map(|found| {
        let text = fs::read_to_string(found.path.join(MANIFEST_FILE)).ok()?;
        let manifest = Manifest::parse(&text).ok()?;
        Some((found.name, found.version, manifest.input_kind()))
    });
    described.collect()
}
