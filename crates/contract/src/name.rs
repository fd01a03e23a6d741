//! Owns the rule of names: what may name a namespace, a model, a schedule or an API key, and what may be a version.
//!
//! Promises one rule and one wording for all of them. A name that passes is safe in a Redis key, in a queue's name, as a
//! metric's label and as a folder's name: it holds no separator, no wildcard and no dot.

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Longest version, in bytes.
pub const MAX_VERSION_BYTES: usize = 32;
/// What a name is made of, for messages that begin in their own way.
pub const NAME_RULE: &str = "1 to 64 of a-z, 0-9, _ and -";
/// The message for what is no name.
pub const EXPECTED_NAME: &str = "expected 1 to 64 of a-z, 0-9, _ and -";

/// Whether a text may be a name: `[a-z0-9_-]{1,64}`.
#[inline]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// Whether a text may be a model's version: `[A-Za-z0-9._-]{1,32}`.
#[inline]
pub fn is_version(text: &str) -> bool {
    (1..=MAX_VERSION_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_what_the_rule_says() {
        for good in ["a", "feed-ranker_2", &"n".repeat(MAX_NAME_BYTES)] {
            assert!(is_name(good), "{good:?}");
        }
        let long = "n".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", "A", "a b", "a.b", "a:b", "a*", "é", "a\n", &long] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(is_version("1.0.0-RC_1"));
        for bad in ["", "1:0", "1/0", &"1".repeat(MAX_VERSION_BYTES + 1)] {
            assert!(!is_version(bad), "{bad:?}");
        }
    }

    #[test]
    fn the_messages_say_the_rule() {
        assert_eq!(EXPECTED_NAME, format!("expected {NAME_RULE}"));
        assert!(NAME_RULE.starts_with(&format!("1 to {MAX_NAME_BYTES} of")));
    }
}
