//! The pass over a body: a job, its ranking and its inputs, object by object.
//!
//! Promises one allocation for the features of all inputs, and that texts are borrowed. With `skip_bad` an input that breaks
//! the contract becomes [`Content::Bad`] instead of an error.

use super::{
    Inputs, RawJob, explain,
    values::{Key, ModelName, Namespace, Number, OnErrorSeed, Seen, Text, Whole},
};
use crate::job::{
    Content, Input, MAX_INPUTS, MAX_TTL_SECONDS, Rank,
    fields::{InputField, JobField, RankField},
};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Inputs for which there is room before the body says how many there are.
const ROOM_INPUTS: usize = 8;
/// Numbers for which there is room before the body says how many there are.
const ROOM_FEATURES: usize = 256;

impl<'de: 'a, 'a> Deserialize<'de> for RawJob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JobSeed { skip_bad: false }.deserialize(deserializer)
    }
}

/// A whole job.
pub(super) struct JobSeed {
    /// Whether an input that breaks the contract is marked instead of ending the pass.
    pub(super) skip_bad: bool,
}

impl<'de> DeserializeSeed<'de> for JobSeed {
    type Value = RawJob<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawJob<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for JobSeed {
    type Value = RawJob<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job: a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawJob<'de>, M::Error> {
        let mut job = RawJob::default();
        let mut seen = Seen::default();
        while let Some(field) = seen.next(&mut map)? {
            match field {
                JobField::JobId => job.job_id = Some(map.next_value_seed(Text)?),
                JobField::Model => job.model = Some(map.next_value_seed(ModelName)?),
                JobField::Namespace => job.namespace = Some(map.next_value_seed(Namespace)?),
                JobField::Inputs => {
                    let skip_bad = self.skip_bad;
                    job.inputs = Some(map.next_value_seed(InputsSeed { skip_bad })?);
                }
                JobField::Named => job.named = map.next_value()?,
                JobField::Rank => job.rank = Some(map.next_value_seed(RankSeed)?),
                JobField::TtlSeconds => {
                    job.ttl_seconds = Some(map.next_value_seed(Whole {
                        min: 1,
                        max: MAX_TTL_SECONDS,
                    })?);
                }
                JobField::OnError => job.on_error = map.next_value_seed(OnErrorSeed)?,
                JobField::Detail => job.detail = map.next_value()?,
            }
        }
        Ok(job)
    }
}

struct RankSeed;

impl<'de> DeserializeSeed<'de> for RankSeed {
    type Value = Rank<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Rank<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RankSeed {
    type Value = Rank<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `key` and `top`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Rank<'de>, M::Error> {
        let (mut key, mut top) = (None, None);
        let mut seen = Seen::default();
        while let Some(field) = seen.next(&mut map)? {
            match field {
                RankField::Key => key = Some(map.next_value_seed(Key)?),
                RankField::Top => {
                    top = Some(map.next_value_seed(Whole {
                        min: 1,
                        max: MAX_INPUTS as u64,
                    })? as usize);
                }
            }
        }
        Ok(Rank {
            key: key.ok_or_else(|| de::Error::missing_field("key"))?,
            top,
        })
    }
}

struct InputsSeed {
    skip_bad: bool,
}

impl<'de> DeserializeSeed<'de> for InputsSeed {
    type Value = Inputs<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Inputs<'de>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for InputsSeed {
    type Value = Inputs<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of 1 to {MAX_INPUTS} inputs")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Inputs<'de>, S::Error> {
        let mut inputs = Inputs {
            list: Vec::with_capacity(ROOM_INPUTS),
            features: Vec::with_capacity(ROOM_FEATURES),
        };
        loop {
            let features = &mut inputs.features;
            let input = if self.skip_bad {
                seq.next_element_seed(AnyInput { features })?
            } else {
                seq.next_element_seed(InputSeed { features })?
            };
            let Some(input) = input else { break };
            inputs.list.push(input);
            if inputs.list.len() > MAX_INPUTS {
                return Err(de::Error::custom(format!(
                    "expected 1 to {MAX_INPUTS} inputs, found more"
                )));
            }
        }
        if inputs.list.is_empty() {
            return Err(de::Error::custom(format!(
                "expected 1 to {MAX_INPUTS} inputs, found none"
            )));
        }
        Ok(inputs)
    }
}

/// An input that may break the contract, but not JSON.
struct AnyInput<'f> {
    features: &'f mut Vec<f32>,
}

impl<'de> DeserializeSeed<'de> for AnyInput<'_> {
    type Value = Input<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input<'de>, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        explain::any_input(text, self.features).map_err(de::Error::custom)
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
        f.write_str("an input: an object with `text` or `features`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Input<'de>, M::Error> {
        let (mut key, mut text, mut pair, mut range) = (None, None, None, None);
        let mut seen = Seen::default();
        while let Some(field) = seen.next(&mut map)? {
            match field {
                InputField::Key => key = Some(map.next_value_seed(Key)?),
                InputField::Text => text = Some(map.next_value_seed(Text)?),
                InputField::TextPair => pair = Some(map.next_value_seed(Text)?),
                InputField::Features => {
                    let from = self.features.len();
                    map.next_value_seed(FeaturesSeed(&mut *self.features))?;
                    range = Some(from..self.features.len());
                }
            }
        }
        let content = match (text, pair, range) {
            (Some(text), pair, None) => Content::Text { text, pair },
            (None, None, Some(range)) => Content::Features(range),
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

struct FeaturesSeed<'f>(&'f mut Vec<f32>);

impl<'de> DeserializeSeed<'de> for FeaturesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FeaturesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while let Some(value) = seq.next_element_seed(Number)? {
            self.0.push(value);
        }
        Ok(())
    }
}
