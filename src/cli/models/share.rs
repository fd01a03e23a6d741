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
    let was = match choices.splits.get(name) {
        None => "before all went to one version".to_owned(),
        Some(split) if split.version == version => {
            format!("before {name}@{version} had {}", split.share)
        }
        Some(split) => format!(
            "{name}@{}, which had {}, has none any more",
            split.version, split.share
        ),
    };
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

/// The share that ends with an activation, if there is one.
pub(super) fn ended(choices: &Choices, name: &str) -> Option<String> {
    let split = choices.splits.get(name)?;
    let (version, share) = (&split.version, split.share);
    Some(format!(
        "this ends the share of {name}@{version}, {share} of the inputs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_model::SplitChoice;

    fn choices(version: &str, share: &str) -> Choices {
        let share = Share::parse(share).expect("a share");
        let version = version.to_owned();
        Choices {
            splits: [("m".to_owned(), SplitChoice { version, share })].into(),
            ..Choices::default()
        }
    }

    #[test]
    fn what_a_change_ends_is_said() {
        let share = Share::parse("25%").expect("a share");
        let says = |choices: &Choices| said(choices, Some("1"), ("m", "2"), share);
        let begins = "25 % of the inputs of m go to m@2, the others to m@1, which stays active; ";
        for (before, end) in [
            (Choices::default(), "before all went to one version"),
            (choices("2", "10%"), "before m@2 had 10 %"),
            (
                choices("3", "10%"),
                "m@3, which had 10 %, has none any more",
            ),
        ] {
            assert_eq!(says(&before), format!("{begins}{end}"));
        }
        assert_eq!(
            ended(&choices("3", "10%"), "m").as_deref(),
            Some("this ends the share of m@3, 10 % of the inputs")
        );
        assert_eq!(ended(&Choices::default(), "m"), None);
    }
}
