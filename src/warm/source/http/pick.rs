//! Finds a list in a JSON document, and the fields of an input in each of its elements.
//!
//! Promises that a document takes little more memory than its text, and that an error names a position and a field, and never a value. Pure.

use super::super::{BadSource, MAX_ROW_BYTES, Row, RowContent};
use kiln_contract::job;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, fmt, ops::Range};

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

/// Where the elements of the list at a pointer stand in the body; no more than one beyond `max`, which tells that there are more.
pub(super) fn elements(
    body: &[u8],
    pointer: &str,
    max: usize,
) -> Result<Vec<Range<usize>>, String> {
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
        let found = if at.get().starts_with('{') {
            within(at, Member(&token))?
        } else if at.get().starts_with('[') {
            within(at, Element(token.parse().map_err(|_| absent())?))?
        } else {
            None
        };
        at = found.ok_or_else(absent)?;
    }
    if !at.get().starts_with('[') {
        return Err(format!("expected a list at `{pointer}` of the answer"));
    }
    // What is found lies within the body.
    let start = body.as_ptr() as usize;
    within(at, Ranges { start, max })
}

/// Reads a value in one pass, of which no more is kept than is looked for.
fn within<'b, V: Visitor<'b>>(value: &'b RawValue, visitor: V) -> Result<V::Value, String> {
    let mut reader = serde_json::Deserializer::from_str(value.get());
    let read = reader.deserialize_any(visitor);
    read.map_err(|_| "the answer is no JSON".to_owned())
}

/// An object's member of that name; the last one, where there are several.
struct Member<'n>(&'n str);

impl<'b> Visitor<'b> for Member<'_> {
    type Value = Option<&'b RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'b>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A list's element of that number.
struct Element(usize);

impl<'b> Visitor<'b> for Element {
    type Value = Option<&'b RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'b>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        for _ in 0..self.0 {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = list.next_element()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Where a list's elements stand after `start`, as far as one beyond `max`.
struct Ranges {
    start: usize,
    max: usize,
}

impl<'b> Visitor<'b> for Ranges {
    type Value = Vec<Range<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<S: SeqAccess<'b>>(self, mut list: S) -> Result<Self::Value, S::Error> {
        let mut found = Vec::new();
        while found.len() <= self.max
            && let Some(element) = list.next_element::<&RawValue>()?
        {
            let text = element.get();
            let from = (text.as_ptr() as usize).saturating_sub(self.start);
            found.push(from..from + text.len());
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
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
        let found = elements(body, "/data/a~1b~0/1", 9).expect("a list");
        let texts: Vec<&[u8]> = found.into_iter().map(|one| &body[one]).collect();
        assert_eq!(texts, [&b"1"[..], br#"{"x": 2}"#]);
        let only = elements(b" [3] ", "", 9).expect("a list");
        assert_eq!((only.len(), only.first()), (1, Some(&(2..3))));
        let many = format!("[{}0]", "0,".repeat(1_000_000));
        let found = elements(many.as_bytes(), "", 100).expect("a list");
        assert_eq!(
            (found.len(), found[100].clone()),
            (101, 201..202),
            "and no more"
        );
        assert!(elements(many.replace("0]", "").as_bytes(), "", 100).is_err());
        let twice = elements(br#"{"a": 1, "a": [2]}"#, "/a", 9);
        assert_eq!(twice.map(|found| found.len()), Ok(1), "the last one");
        for (body, pointer, said) in [
            (&b"{}"[..], "/data", "nothing at `/data`"),
            (b"[1]", "/1", "nothing at `/1`"),
            (b"[1]", "/0/a", "nothing at"),
            (b"{\"a\": 3}", "/a", "expected a list at `/a`"),
            (b"{}", "", "expected a list"),
            (b"{\"anna\": ", "", "line 1, column 9"),
            (b"", "", "no JSON"),
        ] {
            let problem = elements(body, pointer, 9).expect_err(said);
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
