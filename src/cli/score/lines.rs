//! Owns what the lines of a block are: inputs, whole jobs, or bad; and which of their fields make the input.
//!
//! Promises that a line which can't be used costs only itself. Pure.

use super::item::{BadRow, ByName, Input, Item, Json, Keep, Pick};
use kiln_contract::redact;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use std::{collections::HashSet, fmt, ops::Range};

/// What a block's lines are, in order. Empty ones are nothing.
pub(super) fn items(bytes: &[u8], first: u64, pick: Option<&Pick>) -> Vec<Item> {
    let mut items = Vec::with_capacity(bytes.len() / 64);
    let (mut at, mut line) = (0, first);
    for one in bytes.split_inclusive(|byte| *byte == b'\n') {
        let start = at + one.len() - one.trim_ascii_start().len();
        let trimmed = one.trim_ascii();
        if !trimmed.is_empty() {
            items.push(item(trimmed, line, start..start + trimmed.len(), pick));
        }
        at += one.len();
        line += 1;
    }
    items
}

fn item(bytes: &[u8], line: u64, range: Range<usize>, pick: Option<&Pick>) -> Item {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Item::Bad(BadRow {
            line,
            column: None,
            problem: "not UTF-8".to_owned(),
            row: None,
        });
    };
    let kind = match text.starts_with('{') {
        true => serde_json::from_str::<Kind>(text).ok(),
        false => None,
    };
    match (kind, pick) {
        (Some(Kind::Job), _) => Item::Job {
            line,
            body: Json::In(range),
        },
        (Some(Kind::Input), Some(pick)) => match picked(text, pick) {
            Ok((json, kept)) => Item::Input(Input {
                line,
                json: Json::Own(json),
                kept,
                row: Some(Json::In(range)),
            }),
            Err(problem) => Item::Bad(BadRow {
                line,
                row: Some(text.to_owned()),
                ..problem
            }),
        },
        (Some(Kind::Input), None) => Item::Input(Input {
            line,
            json: Json::In(range),
            kept: Vec::new(),
            row: None,
        }),
        (None, _) => Item::Bad(unread(line, text).unwrap_or_else(|| BadRow {
            line,
            column: None,
            problem: "expected a JSON object: an input, or a job".to_owned(),
            row: Some(text.to_owned()),
        })),
    }
}

/// Why a line is no JSON, or no object; nothing where it is one.
pub(super) fn unread(line: u64, text: &str) -> Option<BadRow> {
    let (column, problem) = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(_)) => return None,
        Ok(_) => (
            None,
            "expected a JSON object: an input, or a job".to_owned(),
        ),
        Err(error) => (
            Some(error.column().to_string()),
            format!("not JSON: {}", redact::json_line(&error)),
        ),
    };
    Some(BadRow {
        line,
        column,
        problem,
        row: Some(text.to_owned()),
    })
}

/// What an object is, by its fields' names; what they hold is skipped.
enum Kind {
    Input,
    Job,
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                let mut kind = Kind::Input;
                while let Some(IsInputs(is_inputs)) = map.next_key()? {
                    if is_inputs {
                        kind = Kind::Job;
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(kind)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

struct IsInputs(bool);

impl<'de> Deserialize<'de> for IsInputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = IsInputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<IsInputs, E> {
                Ok(IsInputs(name == "inputs"))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

/// An object's fields in order, with their JSON.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// The input that a line's fields make, and what goes to the output of it.
fn picked(text: &str, pick: &Pick) -> Result<(String, Vec<(String, String)>), BadRow> {
    let problem = |column: Option<&str>, problem: String| BadRow {
        line: 0,
        column: column.map(str::to_owned),
        problem,
        row: None,
    };
    let fields: Fields<'_> = serde_json::from_str(text)
        .map_err(|error| problem(None, format!("not JSON: {}", redact::json_line(&error))))?;
    let named = ByName::new(&fields.0);
    let find = |name: &str| named.get(0, name).copied();
    let must = |name: &str| {
        find(name).ok_or_else(|| problem(Some(name), format!("column `{name}` is missing")))
    };
    let mut parts: Vec<String> = Vec::new();
    let mut used: HashSet<&str> = HashSet::new();
    for (wanted, field) in [
        (&pick.key, "key"),
        (&pick.text, "text"),
        (&pick.text_pair, "text_pair"),
    ] {
        if field != "key" && !pick.features.is_empty() {
            continue;
        }
        let name = wanted.as_deref().unwrap_or(field);
        let raw = match wanted {
            Some(name) => Some(must(name)?),
            None => find(field),
        };
        used.insert(name);
        if let Some(raw) = raw {
            parts.push(format!("\"{field}\":{}", as_text(field, raw)));
        }
    }
    if pick.features.is_empty() {
        used.insert("features");
        parts.extend(find("features").map(|raw| format!("\"features\":{raw}")));
    } else if pick.by_name {
        let there = pick
            .features
            .iter()
            .filter_map(|name| Some((name, find(name)?)));
        let named: Vec<String> = there
            .map(|(name, raw)| format!("{}:{raw}", serde_json::Value::from(name.as_str())))
            .collect();
        used.extend(pick.features.iter().map(String::as_str));
        parts.push(format!("\"features\":{{{}}}", named.join(",")));
    } else {
        let values: Vec<&str> = pick
            .features
            .iter()
            .map(|name| must(name).map(RawValue::get))
            .collect::<Result<_, _>>()?;
        used.extend(pick.features.iter().map(String::as_str));
        parts.push(format!("\"features\":[{}]", values.join(",")));
    }
    let kept = kept(&fields.0, &pick.keep, &used);
    Ok((format!("{{{}}}", parts.join(",")), kept))
}

/// The fields that go to the output, each name once: of two fields of one name, the last counts, as for others who read JSON.
fn kept(
    fields: &[(String, &RawValue)],
    keep: &Keep,
    used: &HashSet<&str>,
) -> Vec<(String, String)> {
    let these: HashSet<&str> = match keep {
        Keep::None => return Vec::new(),
        Keep::Others => HashSet::new(),
        Keep::These(names) => names.iter().map(String::as_str).collect(),
    };
    let mut seen: HashSet<&str> = HashSet::new();
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, raw) in fields.iter().rev() {
        let is_wanted = match keep {
            Keep::These(_) => these.contains(name.as_str()),
            _ => !used.contains(name.as_str()),
        };
        if is_wanted && seen.insert(name) {
            kept.push((name.clone(), raw.get().to_owned()));
        }
    }
    kept.reverse();
    kept
}

/// A key's number is the text of it: tables have numbers for keys.
fn as_text(field: &str, raw: &RawValue) -> String {
    let json = raw.get();
    let is_number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    if field == "key" && is_number {
        format!("\"{json}\"")
    } else {
        json.to_owned()
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn input(block: &[u8], item: &Item) -> String {
        match item {
            Item::Input(input) => format!("{}:{}", input.line, input.json.text(block)),
            Item::Job { line, body } => format!("{line}:job {}", body.text(block)),
            Item::Bad(bad) => format!("{}:bad {}", bad.line, bad.problem),
        }
    }

    #[test]
    fn lines_keep_their_numbers_and_bad_ones_cost_only_themselves() {
        let block = b"{\"text\":\"a\"}\n\n  {\"text\":\"b\"} \nnope\n[1]\n{\"inputs\":[]}\n{\"text\":\xff}\n{\"text\":\"c\"}";
        let items = items(block, 7, None);
        let said: Vec<String> = items.iter().map(|item| input(block, item)).collect();
        assert_eq!(
            said,
            [
                r#"7:{"text":"a"}"#,
                r#"9:{"text":"b"}"#,
                "10:bad not JSON: expected ident at column 2",
                "11:bad expected a JSON object: an input, or a job",
                r#"12:job {"inputs":[]}"#,
                "13:bad not UTF-8",
                r#"14:{"text":"c"}"#,
            ]
        );
    }

    #[test]
    fn columns_are_picked_by_name_and_the_others_kept() {
        let block = br#"{"id": 5, "review": "fine", "stars": 4, "who": "x\"y"}
{"id": 6, "stars": 1}"#;
        let pick = Pick {
            text: Some("review".to_owned()),
            key: Some("id".to_owned()),
            keep: Keep::Others,
            ..Pick::default()
        };
        let items = items(block, 1, Some(&pick));
        let Item::Input(first) = &items[0] else {
            panic!("{items:?}");
        };
        assert_eq!(first.json.text(block), r#"{"key":"5","text":"fine"}"#);
        let kept = [
            ("stars".to_owned(), "4".to_owned()),
            ("who".to_owned(), r#""x\"y""#.to_owned()),
        ];
        assert_eq!(first.kept, kept);
        let Item::Bad(second) = &items[1] else {
            panic!("{items:?}");
        };
        assert_eq!((second.line, second.column.as_deref()), (2, Some("review")));
        assert_eq!(second.problem, "column `review` is missing");
    }

    #[test]
    fn features_are_picked_by_name_as_far_as_they_are_there() {
        let block = br#"{"b": null, "a": 4, "x": 1}"#;
        let pick = Pick {
            features: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            by_name: true,
            ..Pick::default()
        };
        let items = items(block, 1, Some(&pick));
        let Item::Input(first) = &items[0] else {
            panic!("{items:?}");
        };
        let expected = r#"{"features":{"a":4,"b":null}}"#;
        assert_eq!(first.json.text(block), expected);
    }
}
