//! Owns writing a job's JSON: the one place where a job's body is made.
//!
//! Promises that what is written reads as the same job, and that the same calls give the same bytes: a worker tells a repeated
//! job from a conflict by its body's hash, and some ids follow from it. Fields therefore stand in the order of the calls, which
//! a caller never changes. Refuses to check: that is [`Job::parse`](super::Job::parse)'s to do, for whoever posts the job too.

use super::{
    OnError,
    fields::{Field, InputField, JobField, RankField},
};
use crate::{json, order::AsOf};
use serde::Serialize;

/// An object under construction.
#[derive(Debug)]
struct Fields {
    /// Bits of the fields that were written.
    written: u32,
}

impl Fields {
    fn open(buffer: &mut Vec<u8>) -> Self {
        buffer.push(b'{');
        Self { written: 0 }
    }

    /// Writes a field's name; its value comes next.
    fn name(&mut self, buffer: &mut Vec<u8>, field: impl Field) {
        debug_assert!(
            self.written & field.bit() == 0,
            "`{}` is written twice",
            field.as_str()
        );
        if self.written != 0 {
            buffer.push(b',');
        }
        self.written |= field.bit();
        buffer.push(b'"');
        buffer.extend_from_slice(field.as_str().as_bytes());
        buffer.extend_from_slice(b"\":");
    }
}

/// Writes a job's body field by field, in the order of the calls.
///
/// ```
/// use kiln_contract::job::{Job, JobWriter, OnError};
///
/// let mut job = JobWriter::new();
/// job.model("sentiment").on_error(OnError::Skip);
/// job.inputs(["I love this!", "Terrible."], |input, text| {
///     input.text(text);
/// });
/// let body = job.finish();
/// assert_eq!(
///     body,
///     br#"{"model":"sentiment","on_error":"skip","inputs":[{"text":"I love this!"},{"text":"Terrible."}]}"#
/// );
/// assert_eq!(Job::parse(&body, Some("job-1"))?.inputs.len(), 2);
/// # Ok::<(), kiln_contract::job::Unparsable>(())
/// ```
#[derive(Debug)]
pub struct JobWriter {
    buffer: Vec<u8>,
    fields: Fields,
}

impl Default for JobWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl JobWriter {
    /// A job without any field.
    pub fn new() -> Self {
        let mut buffer = Vec::with_capacity(256);
        let fields = Fields::open(&mut buffer);
        Self { buffer, fields }
    }

    fn put(&mut self, field: JobField, value: &(impl Serialize + ?Sized)) -> &mut Self {
        self.fields.name(&mut self.buffer, field);
        json::push(&mut self.buffer, value);
        self
    }

    /// The job's id, where it isn't the message's.
    pub fn job_id(&mut self, id: &str) -> &mut Self {
        self.put(JobField::JobId, id)
    }

    /// `name` or `name@version`.
    pub fn model(&mut self, model: &str) -> &mut Self {
        self.put(JobField::Model, model)
    }

    /// The namespace; without one, the model's name is it.
    pub fn namespace(&mut self, namespace: &str) -> &mut Self {
        self.put(JobField::Namespace, namespace)
    }

    /// Whether named entries are kept for inputs with keys.
    pub fn named(&mut self, named: bool) -> &mut Self {
        self.put(JobField::Named, &named)
    }

    /// A ranking under `key` with the best `top` inputs, or all of them.
    pub fn rank(&mut self, key: &str, top: Option<usize>) -> &mut Self {
        self.fields.name(&mut self.buffer, JobField::Rank);
        let mut fields = Fields::open(&mut self.buffer);
        fields.name(&mut self.buffer, RankField::Key);
        json::push(&mut self.buffer, key);
        if let Some(top) = top {
            fields.name(&mut self.buffer, RankField::Top);
            json::push(&mut self.buffer, &top);
        }
        self.buffer.push(b'}');
        self
    }

    /// How long the entries live, in seconds.
    pub fn ttl_seconds(&mut self, seconds: u64) -> &mut Self {
        self.put(JobField::TtlSeconds, &seconds)
    }

    /// What one bad input does to the job.
    pub fn on_error(&mut self, on_error: OnError) -> &mut Self {
        self.put(JobField::OnError, on_error.as_str())
    }

    /// Whether results carry every label's probability.
    pub fn detail(&mut self, detail: bool) -> &mut Self {
        self.put(JobField::Detail, &detail)
    }

    /// How new the job's word on its keys is.
    pub fn as_of(&mut self, as_of: &AsOf<'_>) -> &mut Self {
        self.put(JobField::AsOf, as_of)
    }

    /// Where its end is posted to.
    pub fn callback_url(&mut self, url: &str) -> &mut Self {
        self.put(JobField::CallbackUrl, url)
    }

    /// A field whose JSON somebody else wrote, byte for byte.
    pub fn json(&mut self, field: JobField, json: &str) -> &mut Self {
        self.fields.name(&mut self.buffer, field);
        self.buffer.extend_from_slice(json.as_bytes());
        self
    }

    /// The inputs, each written by `write`.
    pub fn inputs<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut InputWriter<'_>, T),
    ) -> &mut Self {
        self.list(items, |buffer, item| {
            InputWriter::object(buffer, |input| write(input, item));
        })
    }

    /// Inputs whose JSON somebody else wrote, byte for byte.
    pub fn json_inputs<'t>(&mut self, inputs: impl IntoIterator<Item = &'t str>) -> &mut Self {
        self.list(inputs, |buffer, input| {
            buffer.extend_from_slice(input.as_bytes());
        })
    }

    fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Vec<u8>, T),
    ) -> &mut Self {
        self.fields.name(&mut self.buffer, JobField::Inputs);
        self.buffer.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.buffer.push(b',');
            }
            write(&mut self.buffer, item);
        }
        self.buffer.push(b']');
        self
    }

    /// The body.
    pub fn finish(mut self) -> Vec<u8> {
        self.buffer.push(b'}');
        self.buffer
    }

    /// The body of a job whose other fields are those of `object`, the text of an object that has some: they follow byte for
    /// byte. Without a field of its own, the body is the object as it stands.
    pub fn finish_before(mut self, object: &str) -> Vec<u8> {
        match object.strip_prefix('{') {
            Some(rest) if self.fields.written != 0 => {
                self.buffer.push(b',');
                self.buffer.extend_from_slice(rest.as_bytes());
                self.buffer
            }
            _ => object.as_bytes().to_vec(),
        }
    }
}

/// Writes one input field by field, in the order of the calls.
#[derive(Debug)]
pub struct InputWriter<'b> {
    buffer: &'b mut Vec<u8>,
    fields: Fields,
}

impl<'b> InputWriter<'b> {
    fn object(buffer: &'b mut Vec<u8>, write: impl FnOnce(&mut Self)) {
        let fields = Fields::open(buffer);
        let mut input = Self { buffer, fields };
        write(&mut input);
        input.buffer.push(b'}');
    }

    fn put(&mut self, field: InputField, value: &(impl Serialize + ?Sized)) -> &mut Self {
        self.fields.name(self.buffer, field);
        json::push(self.buffer, value);
        self
    }

    /// The key: echoed in the result, and the name of the named entry.
    pub fn key(&mut self, key: &str) -> &mut Self {
        self.put(InputField::Key, key)
    }

    /// The text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.put(InputField::Text, text)
    }

    /// The second text of models that take two.
    pub fn text_pair(&mut self, text: &str) -> &mut Self {
        self.put(InputField::TextPair, text)
    }

    /// The numbers of models that take features: finite ones, each as the shortest decimal that reads back as the same float.
    pub fn features<N: Into<f64> + Serialize>(&mut self, values: &[N]) -> &mut Self {
        self.put(InputField::Features, values)
    }

    /// The numbers by their features' names, for models that have some; those that are left out are missing.
    pub fn named_features<'n>(
        &mut self,
        features: impl IntoIterator<Item = (&'n str, f64)>,
    ) -> &mut Self {
        self.fields.name(self.buffer, InputField::Features);
        self.buffer.push(b'{');
        for (i, (name, value)) in features.into_iter().enumerate() {
            if i > 0 {
                self.buffer.push(b',');
            }
            json::push(self.buffer, name);
            self.buffer.push(b':');
            json::push(self.buffer, &value);
        }
        self.buffer.push(b'}');
        self
    }

    /// That what readers find under the key is to go, beside the key alone.
    pub fn remove(&mut self) -> &mut Self {
        self.put(InputField::Remove, &true)
    }

    /// A field whose JSON somebody else wrote, byte for byte.
    pub fn json(&mut self, field: InputField, json: &str) -> &mut Self {
        self.fields.name(self.buffer, field);
        self.buffer.extend_from_slice(json.as_bytes());
        self
    }
}

/// The JSON of one input by itself, for [`JobWriter::json_inputs`].
pub fn input(write: impl FnOnce(&mut InputWriter<'_>)) -> String {
    let mut buffer = Vec::with_capacity(64);
    InputWriter::object(&mut buffer, write);
    // Only texts went in.
    String::from_utf8(buffer).unwrap_or_default()
}

#[cfg(test)]
mod tests;
