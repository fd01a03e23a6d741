//! One field's text, of a body or an input that may be no such thing.
//!
//! Promises to keep nothing else: what such a body holds as a tree of values takes some fifty times its bytes.

use super::values::Text;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// The text that a JSON object has under that name, the last one where there are several; nothing where it has none, or is no JSON.
pub(super) fn text_of(json: &[u8], name: &str) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let found = Field(name).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found
}

struct Field<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(key) = map.next_key_seed(Text)? {
            if key == self.0 {
                let value: &RawValue = map.next_value()?;
                found = serde_json::from_str(value.get()).ok();
            } else {
                map.next_value::<de::IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_text_is_found_whatever_is_beside_it() {
        let id = |json: &str| text_of(json.as_bytes(), "id");
        assert_eq!(
            id(r#"{"a":[{"id":"x"}],"id":"\u0041"}"#).as_deref(),
            Some("A")
        );
        assert_eq!(id(r#"{"id":"a","\u0069d":"b"}"#).as_deref(), Some("b"));
        for none in [
            r#"{"id":"a","id":7}"#,
            r#"{"id":"a"}x"#,
            r#"{"id":"a""#,
            r#"["id","a"]"#,
            r#"{"id":"\ud800"}"#,
            "",
        ] {
            assert_eq!(id(none), None, "{none}");
        }
    }

    #[test]
    fn what_it_is_beside_takes_no_memory() {
        let body = format!("{{\"a\":[{}0],\"id\":\"x\"}}", "0,".repeat(100_000));
        kiln_fuzz::Target::new("text_of")
            .runs(1)
            .memory(4 << 10, 0)
            .run(|case| {
                let found = case.bounded(body.len(), || text_of(body.as_bytes(), "id"));
                assert_eq!(found.as_deref(), Some("x"));
            });
    }
}
