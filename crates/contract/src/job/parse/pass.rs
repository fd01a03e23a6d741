//! The pass over a body: a job, its ranking and its inputs, object by object.
//!
//! Promises one allocation for the features of all inputs, and that texts are borrowed. With `skip_bad` an input that breaks
//! the contract becomes [`Content::Bad`](crate::job::Content::Bad) instead of an error.

use super::{
    Inputs, RawJob,
    input::{AnyInput, InputSeed},
    values::{AsOfSeed, CallbackUrl, Key, ModelName, Namespace, OnErrorSeed, Seen, Text, Whole},
};
use crate::job::{
    MAX_INPUTS, MAX_TTL_SECONDS, Rank,
    fields::{JobField, RankField},
};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
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
                JobField::AsOf => job.as_of = Some(map.next_value_seed(AsOfSeed)?),
                JobField::CallbackUrl => {
                    job.callback_url = Some(map.next_value_seed(CallbackUrl)?);
                }
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
