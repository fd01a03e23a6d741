//! Owns reading a job's JSON: one borrowing pass for good bodies, a slower one that explains bad ones.

use super::{
    Content, Input, InputError, Job, MAX_INPUTS, MAX_TTL_SECONDS, OnError, Rank, Unparsable,
};
use crate::{
    failure::{Code, Rejection},
    name,
};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use std::{borrow::Cow, fmt, marker::PhantomData};

const JOB_FIELDS: &[&str] = &[
    "job_id",
    "model",
    "namespace",
    "inputs",
    "named",
    "rank",
    "ttl_seconds",
    "on_error",
    "detail",
];
const INPUT_FIELDS: &[&str] = &["key", "text", "text_pair", "features"];
const RANK_FIELDS: &[&str] = &["key", "top"];

/// See [`Job::parse`].
pub(super) fn job<'a>(body: &'a [u8], message_id: Option<&str>) -> Result<Job<'a>, Unparsable> {
    let parsed = match serde_json::from_slice::<RawJob<'a>>(body) {
        Ok(job) => job,
        Err(_) => explain(body).map_err(|rejection| Unparsable {
            job_id: find_id(body, message_id),
            rejection,
        })?,
    };
    finish(parsed, message_id).map_err(|(rejection, id)| {
        let id = id
            .or_else(|| message_id.map(str::to_owned))
            .filter(|id| super::is_job_id(id));
        Unparsable {
            job_id: id,
            rejection,
        }
    })
}

/// A job before the checks that need more than one field.
#[derive(Default)]
struct RawJob<'a> {
    job_id: Option<Cow<'a, str>>,
    model: Option<Cow<'a, str>>,
    namespace: Option<Cow<'a, str>>,
    inputs: Option<Inputs<'a>>,
    named: bool,
    rank: Option<Rank<'a>>,
    ttl_seconds: Option<u64>,
    on_error: OnError,
    detail: bool,
}

#[derive(Default)]
struct Inputs<'a> {
    list: Vec<Input<'a>>,
    features: Vec<f32>,
}

fn finish<'a>(
    raw: RawJob<'a>,
    message_id: Option<&str>,
) -> Result<Job<'a>, (Rejection, Option<String>)> {
    let own_id = raw.job_id.as_deref().map(str::to_owned);
    let reject =
        |field: &str, message: String| (Rejection::invalid(field, message), own_id.clone());
    let job_id = match (raw.job_id, message_id) {
        (Some(id), Some(message_id)) if id != message_id => {
            return Err(reject(
                "job_id",
                "differs from the message's message_id; give one, or the same in both".into(),
            ));
        }
        (Some(id), _) => id,
        (None, Some(message_id)) => Cow::Owned(message_id.to_owned()),
        (None, None) => {
            return Err(reject(
                "job_id",
                "missing: expected in the body or as the message's message_id".into(),
            ));
        }
    };
    if !super::is_job_id(&job_id) {
        return Err(reject(
            "job_id",
            format!(
                "expected 1 to {} printable ASCII characters",
                super::MAX_JOB_ID
            ),
        ));
    }
    let Some(model) = raw.model else {
        return Err(reject(
            "model",
            "missing: expected a model's name, or name@version".into(),
        ));
    };
    let Some(inputs) = raw.inputs else {
        return Err(reject(
            "inputs",
            format!("missing: expected 1 to {MAX_INPUTS} inputs"),
        ));
    };
    Ok(Job {
        job_id,
        model,
        namespace: raw.namespace,
        inputs: inputs.list,
        features: inputs.features,
        named: raw.named,
        rank: raw.rank,
        ttl_seconds: raw.ttl_seconds,
        on_error: raw.on_error,
        detail: raw.detail,
    })
}

/// Reads a body that the fast pass refused: either to a rejection that names the field or, where only single
/// inputs are bad and the job says `skip`, to a job that carries their errors.
fn explain(body: &[u8]) -> Result<RawJob<'_>, Rejection> {
    if let Err(error) = std::str::from_utf8(body) {
        let message = format!("the body is not UTF-8 at byte {}", error.valid_up_to());
        return Err(Rejection::new(Code::Malformed, "", message));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let error = match serde_path_to_error::deserialize::<_, RawJob>(&mut reader) {
        Err(error) => error,
        Ok(_) => {
            let message = match reader.end() {
                Err(error) => format!("expected one JSON object and nothing after it: {error}"),
                Ok(()) => "the body could not be read".to_owned(),
            };
            return Err(Rejection::new(Code::Malformed, "", message));
        }
    };
    let path = error.path().to_string();
    let field = if path == "." { String::new() } else { path };
    let inner = error.into_inner();
    if inner.classify() != serde_json::error::Category::Data {
        // A number beyond any float is well-formed JSON that no field can hold.
        let out_of_range = inner.to_string().starts_with("number out of range");
        let code = if out_of_range {
            Code::Invalid
        } else {
            Code::Malformed
        };
        let message = if out_of_range {
            "expected a finite 32-bit float".to_owned()
        } else {
            format!("the body is not JSON: {inner}")
        };
        return Err(Rejection::new(code, field, message));
    }
    if field.starts_with("inputs[")
        && let Some(job) = skip_bad_inputs(body)
    {
        return Ok(job);
    }
    Err(Rejection::invalid(
        blame(field, &inner),
        without_position(&inner),
    ))
}

/// An unknown, missing or repeated field is reported at the object that holds it: say which field it is.
fn blame(path: String, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let named = ["unknown field `", "duplicate field `", "missing field `"]
        .iter()
        .find_map(|start| {
            message
                .strip_prefix(start)?
                .split('`')
                .next()
                .map(str::to_owned)
        });
    match named {
        Some(name) if path == name || path.ends_with(&format!(".{name}")) || path.is_empty() => {
            if path.is_empty() {
                name
            } else {
                path
            }
        }
        Some(name) => format!("{path}.{name}"),
        None => path,
    }
}

fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(at) => message.get(..at).unwrap_or(&message).to_owned(),
        None => message,
    }
}

/// The job with its bad inputs marked, if it asks for that and is good otherwise.
fn skip_bad_inputs<'a>(body: &[u8]) -> Option<RawJob<'a>> {
    let mut tree: serde_json::Value = serde_json::from_slice(body).ok()?;
    let object = tree.as_object_mut()?;
    if object.get("on_error")?.as_str()? != "skip" {
        return None;
    }
    let serde_json::Value::Array(list) = object.remove("inputs")? else {
        return None;
    };
    if list.is_empty() || list.len() > MAX_INPUTS {
        return None;
    }
    let mut inputs = Inputs::default();
    for item in list {
        let key = item
            .get("key")
            .and_then(|k| k.as_str())
            .filter(|k| super::key_problem(k).is_none());
        let key = key.map(|k| Cow::Owned(k.to_owned()));
        let text = serde_json::to_string(&item).ok()?;
        let before = inputs.features.len();
        let mut reader = serde_json::Deserializer::from_str(&text);
        let mut track = serde_path_to_error::Track::new();
        let seed = InputSeed {
            features: &mut inputs.features,
        };
        let result = seed.deserialize(serde_path_to_error::Deserializer::new(
            &mut reader,
            &mut track,
        ));
        let input = match result {
            Ok(input) => owned(input),
            Err(error) => {
                inputs.features.truncate(before);
                let path = track.path().to_string();
                let field = blame(if path == "." { String::new() } else { path }, &error);
                Input {
                    key,
                    content: Content::Bad(InputError {
                        field,
                        message: without_position(&error),
                    }),
                }
            }
        };
        inputs.list.push(input);
    }
    object.insert("inputs".into(), serde_json::json!([{"text": "-"}]));
    let text = serde_json::to_string(&tree).ok()?;
    let rest: RawJob<'_> = serde_json::from_str(&text).ok()?;
    Some(RawJob {
        job_id: rest.job_id.map(own),
        model: rest.model.map(own),
        namespace: rest.namespace.map(own),
        inputs: Some(inputs),
        named: rest.named,
        rank: rest.rank.map(|r| Rank {
            key: own(r.key),
            top: r.top,
        }),
        ttl_seconds: rest.ttl_seconds,
        on_error: rest.on_error,
        detail: rest.detail,
    })
}

fn own<'b>(text: Cow<'_, str>) -> Cow<'b, str> {
    Cow::Owned(text.into_owned())
}

fn owned<'b>(input: Input<'_>) -> Input<'b> {
    let content = match input.content {
        Content::Text { text, pair } => Content::Text {
            text: own(text),
            pair: pair.map(own),
        },
        Content::Features(range) => Content::Features(range),
        Content::Bad(error) => Content::Bad(error),
    };
    Input {
        key: input.key.map(own),
        content,
    }
}

/// The id of a body that is no job, for its rejection's row.
fn find_id(body: &[u8], message_id: Option<&str>) -> Option<String> {
    let tree: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let own = tree
        .as_ref()
        .and_then(|t| t.get("job_id"))
        .and_then(|id| id.as_str());
    own.or(message_id)
        .filter(|id| super::is_job_id(id))
        .map(str::to_owned)
}

impl<'de: 'a, 'a> Deserialize<'de> for RawJob<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(JobVisitor(PhantomData))
    }
}

struct JobVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for JobVisitor<'a> {
    type Value = RawJob<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job: a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawJob<'a>, M::Error> {
        let mut job = RawJob::default();
        let mut seen = 0u32;
        while let Some(field) = map.next_key_seed(Field(JOB_FIELDS))? {
            once(&mut seen, field, JOB_FIELDS)?;
            match field {
                0 => job.job_id = Some(map.next_value_seed(Text)?),
                1 => job.model = Some(map.next_value_seed(ModelName)?),
                2 => job.namespace = Some(map.next_value_seed(Namespace)?),
                3 => job.inputs = Some(map.next_value_seed(InputsSeed)?),
                4 => job.named = map.next_value()?,
                5 => job.rank = Some(map.next_value_seed(RankSeed)?),
                6 => {
                    job.ttl_seconds = Some(map.next_value_seed(Whole {
                        least: 1,
                        most: MAX_TTL_SECONDS,
                    })?)
                }
                7 => job.on_error = map.next_value_seed(OnErrorSeed)?,
                8 => job.detail = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(job)
    }
}

/// Fails on a field that was there before.
fn once<E: de::Error>(
    seen: &mut u32,
    field: usize,
    names: &'static [&'static str],
) -> Result<(), E> {
    let bit = 1u32 << field;
    if *seen & bit != 0 {
        return Err(E::duplicate_field(
            names.get(field).copied().unwrap_or_default(),
        ));
    }
    *seen |= bit;
    Ok(())
}

/// A field's name, as its place in a list of known ones.
struct Field(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Field {
    type Value = usize;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Field {
    type Value = usize;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        self.0
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| E::unknown_field(name, self.0))
    }
}

macro_rules! text_seed {
    ($name:ident, $expected:literal, $check:expr) => {
        struct $name;
        impl<'de> DeserializeSeed<'de> for $name {
            type Value = Cow<'de, str>;
            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Cow<'de, str>, D::Error> {
                deserializer.deserialize_str(self)
            }
        }
        impl<'de> Visitor<'de> for $name {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expected)
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
                let check: fn(&str) -> Option<String> = $check;
                check(text).map_or(Ok(Cow::Borrowed(text)), |problem| Err(E::custom(problem)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
                let check: fn(&str) -> Option<String> = $check;
                check(text).map_or(Ok(Cow::Owned(text.to_owned())), |problem| {
                    Err(E::custom(problem))
                })
            }
        }
    };
}

text_seed!(Text, "a string", |_| None);
text_seed!(Key, "a string", super::key_problem);
text_seed!(ModelName, "a model's name, or name@version", |name| {
    (name.is_empty() || name.len() > 128 || name.contains(char::is_control))
        .then(|| "expected a model's name, or name@version".to_owned())
});
text_seed!(Namespace, "a namespace", |text| {
    (!name::is_name(text)).then(|| name::EXPECTED_NAME.to_owned())
});

struct OnErrorSeed;

impl<'de> DeserializeSeed<'de> for OnErrorSeed {
    type Value = OnError;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<OnError, D::Error> {
        match Text.deserialize(deserializer)?.as_ref() {
            "fail" => Ok(OnError::Fail),
            "skip" => Ok(OnError::Skip),
            _ => Err(de::Error::custom("expected \"fail\" or \"skip\"")),
        }
    }
}

/// A whole number within bounds.
struct Whole {
    least: u64,
    most: u64,
}

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = u64;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_u64(self)
    }
}

impl Visitor<'_> for Whole {
    type Value = u64;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.least, self.most)
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        if (self.least..=self.most).contains(&value) {
            Ok(value)
        } else {
            Err(E::invalid_value(de::Unexpected::Unsigned(value), &self))
        }
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
        let (mut key, mut top, mut seen) = (None, None, 0u32);
        while let Some(field) = map.next_key_seed(Field(RANK_FIELDS))? {
            once(&mut seen, field, RANK_FIELDS)?;
            match field {
                0 => key = Some(map.next_value_seed(Key)?),
                _ => {
                    top = Some(map.next_value_seed(Whole {
                        least: 1,
                        most: MAX_INPUTS as u64,
                    })? as usize)
                }
            }
        }
        Ok(Rank {
            key: key.ok_or_else(|| de::Error::missing_field("key"))?,
            top,
        })
    }
}

struct InputsSeed;

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
            list: Vec::with_capacity(8),
            features: Vec::with_capacity(256),
        };
        while let Some(input) = seq.next_element_seed(InputSeed {
            features: &mut inputs.features,
        })? {
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

struct InputSeed<'f> {
    features: &'f mut Vec<f32>,
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
        let (mut key, mut text, mut pair, mut range, mut seen) = (None, None, None, None, 0u32);
        while let Some(field) = map.next_key_seed(Field(INPUT_FIELDS))? {
            once(&mut seen, field, INPUT_FIELDS)?;
            match field {
                0 => key = Some(map.next_value_seed(Key)?),
                1 => text = Some(map.next_value_seed(Text)?),
                2 => pair = Some(map.next_value_seed(Text)?),
                _ => {
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

/// A number that a 32-bit float can hold.
struct Number;

impl<'de> DeserializeSeed<'de> for Number {
    type Value = f32;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f32, D::Error> {
        deserializer.deserialize_f64(self)
    }
}

impl Visitor<'_> for Number {
    type Value = f32;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a finite 32-bit float")
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f32, E> {
        let narrow = value as f32;
        // Adding zero makes -0 and 0 one input.
        if narrow.is_finite() {
            Ok(narrow + 0.0)
        } else {
            Err(E::custom("expected a finite 32-bit float"))
        }
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<f32, E> {
        Ok(value as f32)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f32, E> {
        Ok(value as f32)
    }
}

#[cfg(test)]
mod tests;
