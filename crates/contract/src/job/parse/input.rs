//! One input of a job, by itself: as the contract has it, or marked where it breaks the contract.

use super::{
    blame::{blame, reason},
    text_of::text_of,
    values::{Feature, Key, Seen, Text},
};
use crate::{
    job::{
        Content, Input, InputError,
        fields::{Field, InputField},
        key_problem,
    },
    redact,
};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// An input that may break the contract, but not JSON.
pub(super) struct AnyInput<'f> {
    pub(super) features: &'f mut Vec<f32>,
}

impl<'de> DeserializeSeed<'de> for AnyInput<'_> {
    type Value = Input<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input<'de>, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        Ok(any_input(text, self.features))
    }
}

/// The input of a JSON text, marked where it breaks the contract.
fn any_input<'a>(text: &'a str, features: &mut Vec<f32>) -> Input<'a> {
    let before = features.len();
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let seed = InputSeed {
        features: &mut *features,
    };
    match seed.deserialize(tracked) {
        Ok(input) => input,
        // It is JSON by its form: what the reader refuses besides, half of a character or a number beyond any float, is this input's alone.
        Err(error) => {
            features.truncate(before);
            let key = text_of(text.as_bytes(), InputField::Key.as_str());
            let key = key.filter(|key| key_problem(key).is_none());
            let content = Content::Bad(InputError {
                field: blame(redact::path(&track.path()), &error),
                message: reason(&error),
            });
            Input {
                key: key.map(Cow::Owned),
                content,
            }
        }
    }
}

/// One input; its numbers go behind those of the inputs before it.
pub(super) struct InputSeed<'f> {
    pub(super) features: &'f mut Vec<f32>,
}

impl<'de> DeserializeSeed<'de> for InputSeed<'_> {
    type Value = Input<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for InputSeed<'_> {
    type Value = Input<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input: an object with `text`, `features` or `remove`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Input<'de>, M::Error> {
        let (mut key, mut text, mut pair, mut range) = (None, None, None, None);
        let mut remove = false;
        let mut seen = Seen::default();
        while let Some(field) = seen.next(&mut map)? {
            match field {
                InputField::Key => key = Some(map.next_value_seed(Key)?),
                InputField::Text => text = Some(map.next_value_seed(Text)?),
                InputField::TextPair => pair = Some(map.next_value_seed(Text)?),
                InputField::Features => {
                    range = Some(map.next_value_seed(FeaturesSeed(&mut *self.features))?);
                }
                InputField::Remove => remove = map.next_value()?,
            }
        }
        if remove {
            let is_bare = text.is_none() && pair.is_none() && range.is_none();
            if !is_bare {
                return Err(de::Error::custom(
                    "expected nothing but `key` beside `remove`",
                ));
            }
            if key.is_none() {
                return Err(de::Error::custom("expected `key` beside `remove`"));
            }
            let content = Content::Removal;
            return Ok(Input { key, content });
        }
        let content = match (text, pair, range) {
            (Some(text), pair, None) => Content::Text { text, pair },
            (None, None, Some(features)) => features,
            (Some(_), _, Some(_)) => {
                return Err(de::Error::custom(
                    "expected `text` or `features`, found both",
                ));
            }
            (None, Some(_), _) => {
                return Err(de::Error::custom("expected `text` beside `text_pair`"));
            }
            (None, None, None) => {
                return Err(de::Error::custom(
                    "expected `text` or `features`, found neither",
                ));
            }
        };
        Ok(Input { key, content })
    }
}

/// Features by name that one input may have.
const MAX_NAMED: usize = 65_536;
/// What is missing, as it is hashed.
pub(super) const MISSING: f32 = f32::NAN;

struct FeaturesSeed<'f>(&'f mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for FeaturesSeed<'_> {
    type Value = Content<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FeaturesSeed<'_> {
    type Value = Content<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, or an object of numbers by feature")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Content<'de>, S::Error> {
        let from = self.0.len();
        while let Some(value) = seq.next_element_seed(Feature)? {
            self.0.push(value.unwrap_or(MISSING));
        }
        Ok(Content::Features(from..self.0.len()))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Content<'de>, M::Error> {
        let mut named = Vec::new();
        while let Some(name) = map.next_key_seed(Text)? {
            if named.len() == MAX_NAMED {
                let message = format!("expected at most {MAX_NAMED} features, found more");
                return Err(de::Error::custom(message));
            }
            let value = map.next_value_seed(Feature)?;
            named.push((name, value.unwrap_or(MISSING)));
        }
        Ok(Content::Named(named))
    }
}
