//! Finds a list in a JSON document, and the fields of an input in each of its elements.
//!
//! Promises that a document takes little more memory than its text, and that an error names a position and a field, and never a value. Pure.

use super::super::{BadSource, MAX_ROW_BYTES, Row, RowContent};
use kiln_contract::job;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::collections::BTreeMap;

/// Where a value stands in an element: a member's name, or a JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
struct Field(String);

impl Field {
    fn in_element<'v>(&self, element: &'v Value) -> Option<&'v Value> {
        let found = if self.0.is_empty() || self.0.starts_with('/') {
            element.pointer(&self.0)
        } else {
            element.get(&self.0)
        };
        found.filter(|value| !value.is_null())
    }
}

/// Where a model's features stand: one list of numbers, or a field for each number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a name or pointer, or a list of them")]
enum Features {
    List(Field),
    Each(Vec<Field>),
}

/// Which fields of an element make an input; by default those that have an input's own names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fields {
    key: Field,
    group: Field,
    text: Field,
    text_pair: Field,
    features: Features,
    rate: Field,
}

impl Default for Fields {
    fn default() -> Self {
        let field = |name: &str| Field(name.to_owned());
        Self {
            key: field("key"),
            group: field("group"),
            text: field("text"),
            text_pair: field("text_pair"),
            features: Features::List(field("features")),
            rate: field("rate"),
        }
    }
}

impl Fields {
    pub(super) fn check(&self) -> Result<(), BadSource> {
        let each: Vec<&Field> = match &self.features {
            Features::List(one) => vec![one],
            Features::Each(all) => all.iter().collect(),
        };
        let given = [
            &self.key,
            &self.group,
            &self.text,
            &self.text_pair,
            &self.rate,
        ];
        let all = given.into_iter().chain(each);
        let is_wrong = |field: &Field| pointer_problem(&field.0).is_some();
        match all.into_iter().any(is_wrong) {
            true => Err(BadSource::new(
                "fields",
                "expected names, or JSON pointers such as /title",
            )),
            false => Ok(()),
        }
    }

    /// The input that an element is. `prefix` stands before its key.
    pub(super) fn row(
        &self,
        element: &RawValue,
        prefix: &str,
        per_seconds: f64,
    ) -> Result<Row, String> {
        let text = element.get();
        if text.len() > MAX_ROW_BYTES {
            return Err(format!("longer than {MAX_ROW_BYTES} bytes"));
        }
        let element: Value =
            serde_json::from_str(text).map_err(|_| "expected a JSON object".to_owned())?;
        if !element.is_object() {
            return Err("expected a JSON object".to_owned());
        }
        let key = name("key", self.key.in_element(&element), prefix)?;
        let group = name("group", self.group.in_element(&element), "")?;
        let text = words("text", self.text.in_element(&element))?;
        let pair = words("text_pair", self.text_pair.in_element(&element))?;
        let absent = "expected `text` or `features`";
        let content = RowContent::new(text, pair, self.features(&element)?, absent)?;
        let rate = self.rate.in_element(&element).and_then(Value::as_f64);
        let rate = rate.filter(|rate| rate.is_finite() && *rate >= 0.0);
        Ok(Row {
            key,
            group,
            content,
            rate: rate.map(|rate| rate / per_seconds),
        })
    }

    fn features(&self, element: &Value) -> Result<Option<Vec<f32>>, String> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let found: Option<Option<Vec<f32>>> = match &self.features {
            Features::List(field) => field.in_element(element).map(|value| {
                value
                    .as_array()
                    .and_then(|all| all.iter().map(number).collect())
            }),
            Features::Each(fields) => Some(
                fields
                    .iter()
                    .map(|field| field.in_element(element).and_then(number))
                    .collect(),
            ),
        };
        match found {
            Some(None) => Err("`features`: expected numbers".to_owned()),
            Some(found) => Ok(found),
            None => Ok(None),
        }
    }
}

/// A key or a group: a text, or a whole number.
fn name(field: &str, value: Option<&Value>, prefix: &str) -> Result<Option<String>, String> {
    let text = match value {
        None => return Ok(None),
        Some(Value::String(text)) => format!("{prefix}{text}"),
        Some(Value::Number(number)) if !number.is_f64() => format!("{prefix}{number}"),
        Some(_) => return Err(format!("`{field}`: expected a text or a whole number")),
    };
    match job::key_problem(&text) {
        Some(problem) => Err(format!("`{field}` {problem}")),
        None => Ok(Some(text)),
    }
}

fn words(field: &str, value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{field}`: expected a text")),
    }
}

/// What is wrong with a JSON pointer (RFC 6901); one without a slash is a member's name.
pub(super) fn pointer_problem(pointer: &str) -> Option<&'static str> {
    let mut escapes = pointer
        .match_indices('~')
        .map(|(at, _)| pointer.get(at + 1..at + 2));
    let is_escaped = escapes.all(|next| matches!(next, Some("0" | "1")));
    (pointer.starts_with('/') && !is_escaped).then_some("expected ~0 or ~1 after the pointer's ~")
}

/// The elements of the list at a pointer.
pub(super) fn elements<'b>(body: &'b [u8], pointer: &str) -> Result<Vec<&'b RawValue>, String> {
    let broken = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        format!("the answer is no JSON: line {line}, column {column}")
    };
    let mut at: &RawValue = serde_json::from_slice(body).map_err(broken)?;
    let mut tokens = pointer.split('/');
    // What stands before the first slash is empty.
    tokens.next();
    let absent = || format!("the answer has nothing at `{pointer}`");
    for token in tokens {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = if at.get().starts_with('{') {
            let members: BTreeMap<String, &RawValue> =
                serde_json::from_str(at.get()).map_err(broken)?;
            members.get(&token).copied().ok_or_else(absent)?
        } else if at.get().starts_with('[') {
            let index: usize = token.parse().map_err(|_| absent())?;
            list(at)?.get(index).copied().ok_or_else(absent)?
        } else {
            return Err(absent());
        };
    }
    if !at.get().starts_with('[') {
        return Err(format!("expected a list at `{pointer}` of the answer"));
    }
    list(at)
}

fn list(value: &RawValue) -> Result<Vec<&RawValue>, String> {
    serde_json::from_str(value.get()).map_err(|_| "the answer is no JSON".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(text: &str) -> Fields {
        toml::from_str(text).expect("fields")
    }

    fn row(fields: &Fields, element: &Value) -> Result<Row, String> {
        let raw = serde_json::value::to_raw_value(element).expect("JSON");
        fields.row(&raw, "p:", 60.0)
    }

    #[test]
    fn a_list_is_found_by_its_pointer() {
        let body = br#"{"data": {"a/b~": [[], [1, {"x": 2}]]}}"#;
        let found = elements(body, "/data/a~1b~0/1").expect("a list");
        let texts: Vec<&str> = found.iter().map(|one| one.get()).collect();
        assert_eq!(texts, ["1", r#"{"x": 2}"#]);
        assert_eq!(elements(b" [3] ", "").expect("all of it").len(), 1);
        for (body, pointer, said) in [
            (&b"{}"[..], "/data", "nothing at `/data`"),
            (b"[1]", "/1", "nothing at `/1`"),
            (b"[1]", "/0/a", "nothing at"),
            (b"{\"a\": 3}", "/a", "expected a list at `/a`"),
            (b"{}", "", "expected a list"),
            (b"{\"anna\": ", "", "line 1, column 9"),
            (b"", "", "no JSON"),
        ] {
            let problem = elements(body, pointer).expect_err(said);
            assert!(
                problem.contains(said) && !problem.contains("anna"),
                "{problem}"
            );
        }
    }

    #[test]
    fn fields_are_picked_by_name_or_pointer_and_a_wrong_one_is_named_without_its_value() {
        let given = fields("key = \"/id\"\ntext = \"/names/0\"\nrate = \"views\"");
        given.check().expect("fields");
        let one = row(
            &given,
            &json!({"id": 7, "names": ["shoes"], "views": 120, "more": {}}),
        )
        .expect("a row");
        assert_eq!((one.key.as_deref(), one.rate), (Some("p:7"), Some(2.0)));
        let each = fields("features = [\"price\", \"/stock/now\"]");
        let one = row(&each, &json!({"price": 1.5, "stock": {"now": 2}})).expect("a row");
        assert_eq!(one.content, RowContent::Features(vec![1.5, 2.0]));
        for (fields, element, said) in [
            (
                &given,
                json!({"id": "anna", "names": ["anna"], "text": 3}),
                "",
            ),
            (&given, json!({"id": 1.5, "names": ["anna"]}), "`key`"),
            (&given, json!({"id": ["anna"]}), "`key`"),
            (
                &given,
                json!({"id": "a".repeat(300), "names": ["anna"]}),
                "`key`",
            ),
            (&given, json!({"names": [{"anna": 1}]}), "`text`"),
            (&given, json!({}), "`text` or `features`"),
            (&given, json!(["anna"]), "object"),
            (
                &each,
                json!({"price": "anna", "stock": {"now": 2}}),
                "`features`",
            ),
            (&each, json!({"price": 1}), "`features`"),
        ] {
            match row(fields, &element) {
                Ok(_) => assert_eq!(said, "", "{element}"),
                Err(problem) => assert!(
                    !said.is_empty() && problem.contains(said) && !problem.contains("anna"),
                    "{problem}"
                ),
            }
        }
        assert_eq!(
            fields("key = \"/a~b\"")
                .check()
                .expect_err("a pointer")
                .field,
            "fields"
        );
    }
}
