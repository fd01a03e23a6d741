//! What a reader's service reports of its reads: `{"namespace": "feed", "keys": ["page:1", "page:1", "page:2"]}`, perhaps with the `session` that
//! they are of. Pure.

use crate::redact::Redact;
use kiln_contract::job;
use kiln_contract::name;
use serde::Deserialize;

/// Keys of one hint.
pub const MAX_KEYS: usize = 4_096;
/// Bytes of a session's name.
pub const MAX_SESSION_BYTES: usize = 256;

/// Reads of one namespace's names; a name that was read twice is there twice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    pub namespace: String,
    pub keys: Vec<String>,
    /// Whose reads these are, if they are of one: any text that is the same for all reads of one session.
    #[serde(default)]
    pub session: Option<String>,
}

impl Hint {
    /// Reads a hint. An error names the field and what was expected.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let hint: Self = serde_json::from_slice(body).map_err(|e| e.redacted())?;
        if !name::is_name(&hint.namespace) {
            return Err(format!("`namespace`: {}", name::EXPECTED_NAME));
        }
        if hint.keys.is_empty() || hint.keys.len() > MAX_KEYS {
            return Err(format!(
                "`keys`: expected 1 to {MAX_KEYS}, found {}",
                hint.keys.len()
            ));
        }
        let is_long = |session: &String| session.len() > MAX_SESSION_BYTES;
        if hint.session.as_ref().is_some_and(is_long) {
            return Err(format!(
                "`session`: expected at most {MAX_SESSION_BYTES} bytes"
            ));
        }
        let problems = hint.keys.iter().map(|key| job::key_problem(key)).zip(0..);
        let mut bad = problems.filter_map(|(problem, at)| Some((problem?, at)));
        match bad.next() {
            Some((problem, at)) => Err(format!("`keys[{at}]`: {problem}")),
            None => Ok(hint),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_hint_is_told_by_its_field() {
        let parse = |text: &str| Hint::parse(text.as_bytes());
        let good = parse(r#"{"namespace": "feed", "keys": ["a", "a"]}"#).expect("a hint");
        assert_eq!(good.keys, ["a", "a"]);
        let long = format!(
            r#"{{"namespace": "feed", "keys": ["{}"]}}"#,
            "x".repeat(257)
        );
        let session = parse(r#"{"namespace": "feed", "keys": ["a"], "session": "s1"}"#);
        assert_eq!(session.map(|hint| hint.session), Ok(Some("s1".to_owned())));
        let endless = format!(
            r#"{{"namespace": "feed", "keys": ["a"], "session": "{}"}}"#,
            "x".repeat(257)
        );
        for (text, field) in [
            (endless.as_str(), "`session`"),
            (
                r#"{"namespace": "feed", "keys": ["a"], "session": 7}"#,
                "string",
            ),
            (r#"{"namespace": "Feed", "keys": ["a"]}"#, "`namespace`"),
            (r#"{"namespace": "feed", "keys": []}"#, "`keys`"),
            (r#"{"namespace": "feed", "keys": ["a", ""]}"#, "`keys[1]`"),
            (long.as_str(), "`keys[0]`"),
            (
                r#"{"namespace": "feed", "keys": ["a\u0000"]}"#,
                "`keys[0]`: must not contain U+0000",
            ),
            (r#"{"namespace": "feed"}"#, "`keys`"),
            (
                r#"{"namespace": "feed", "key": "a", "keys": ["a"]}"#,
                "`key`",
            ),
            ("[]", "invalid"),
        ] {
            let said = parse(text).expect_err("a bad hint");
            assert!(said.contains(field), "{text}: {said}");
        }
    }
}
