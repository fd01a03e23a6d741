//! What `kiln models activate --share` decides: whether a version may have a share of its model's inputs, and what is said of it.
//!
//! Pure.

use anyhow::{anyhow, bail};
use kiln_contract::split::{EXPECTED_SHARE, Share};
use kiln_model::{Choices, Registry, unfit_for_split};

/// Reads a share.
pub(super) fn parse(text: &str) -> Result<Share, String> {
    Share::parse(text).ok_or_else(|| EXPECTED_SHARE.to_owned())
}

/// Refuses a share that workers couldn't give, or, without a registry, one that isn't this version's to take back. The registry serves what was
/// chosen.
pub(super) fn check(
    registry: Option<&Registry>,
    choices: &Choices,
    (name, version): (&str, &str),
) -> anyhow::Result<()> {
    let Some(registry) = registry else {
        return match choices.splits.get(name) {
            Some(split) if split.version != version => bail!(
                "{name}@{version} has no share of the inputs: {name}@{} has {}",
                split.version,
                split.share
            ),
            _ => Ok(()),
        };
    };
    let found = |reference: &str| {
        registry
            .resolve(reference)
            .map_err(|unknown| anyhow!(unknown))
    };
    let (active, model) = (found(name)?, found(&format!("{name}@{version}"))?);
    match unfit_for_split(active.info(), model.info()) {
        Some(why) => bail!("{name}@{version} can't have a share of the inputs: {why}"),
        None => Ok(()),
    }
}

/// What a change of a share comes to, where that version is active.
pub(super) fn said(
    choices: &Choices,
    active: Option<&str>,
    (name, version): (&str, &str),
    share: Share,
) -> String {
    let was = before(choices, name).unwrap_or_else(|| "before all went to one version".to_owned());
    let active = active.map_or_else(
        || "the active version".to_owned(),
        |active| format!("{name}@{active}"),
    );
    if share == Share::NONE {
        return format!("all inputs of {name} go to {active}; {was}");
    }
    format!(
        "{share} of the inputs of {name} go to {name}@{version}, the others to {active}, which stays active; {was}"
    )
}

/// Which version had a share, if one had.
pub(super) fn before(choices: &Choices, name: &str) -> Option<String> {
    let split = choices.splits.get(name)?;
    let (version, share) = (&split.version, split.share);
    Some(format!("before {name}@{version} had {share}"))
}
