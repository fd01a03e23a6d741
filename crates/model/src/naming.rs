//! What things in the models folder are called: models, versions, the manifest.

use std::cmp::Ordering;

/// The manifest's file name in a version's folder.
pub(crate) const MANIFEST_FILE: &str = "manifest.toml";

/// Whether this can be a model's name: the rule for namespaces.
pub(crate) fn is_model_name(name: &str) -> bool {
    kiln_contract::name::is_name(name)
}

/// Whether this can be a version: `[A-Za-z0-9._-]{1,32}`.
pub(crate) fn is_version(version: &str) -> bool {
    kiln_contract::name::is_version(version)
}

/// Orders versions as people do: part by part between the dots, numbers by their value, a number above a part
/// that is none (so that `1.0.0` stands above `1.0.0-rc1`), and what is left by its text.
pub(crate) fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(x), Some(y)) => match (x.parse::<u128>(), y.parse::<u128>()) {
                (Ok(x), Ok(y)) => x.cmp(&y),
                (Ok(_), Err(_)) => Ordering::Greater,
                (Err(_), Ok(_)) => Ordering::Less,
                (Err(_), Err(_)) => x.cmp(y),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_peoples_order() {
        let ascending = [
            "alpha",
            "beta",
            "1",
            "1.0.0-rc1",
            "1.0.0",
            "1.2.0",
            "1.9",
            "1.10.0",
            "2",
            "2.0",
            "10.0",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
        assert_ne!(compare_versions("1.0", "1.00"), Ordering::Equal);
    }

    #[test]
    fn names_and_versions() {
        assert!(is_model_name("feed-ranker_2"));
        for bad in ["", "Upper", "a b", "é", "a.b", &"x".repeat(65)] {
            assert!(!is_model_name(bad), "{bad:?}");
        }
        assert!(is_version("1.0.0-RC_1"));
        for bad in ["", "1@2", "1/2", &"1".repeat(33)] {
            assert!(!is_version(bad), "{bad:?}");
        }
    }
}
