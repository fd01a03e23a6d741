//! Owns the job: how a body becomes a [`Job`], how a body is written, and how a bad body is rejected.
//!
//! Promises that no body makes it panic, that an unknown or repeated field is an error, and that every
//! rejection names the field and what was expected. Knows no models, queues or stores: [`Job::check_inputs`] is given the
//! shape of the model that the inputs must fit.

mod fields;
mod limits;
mod named;
mod parse;
pub mod write;

pub use fields::{InputField, JobField};
pub use limits::{
    EXPECTED_JOB_ID, MAX_CALLBACK_URL_BYTES, MAX_INPUTS, MAX_JOB_ID, MAX_KEY_BYTES,
    MAX_TTL_SECONDS, callback_url_problem, is_job_id, key_problem, too_large,
};
pub use write::JobWriter;

use crate::{
    failure::Rejection,
    model::{InputKind, ModelInfo, PairRule},
    order::AsOf,
};
use std::{borrow::Cow, ops::Range};

/// The id that a body gives, whatever else is in it, in one pass that keeps nothing else: for bodies that are too large to be parsed.
pub fn find_id(body: &[u8]) -> Option<Cow<'_, str>> {
    parse::find_own_id(body)
}

/// Version of the contract: of jobs, results and readers' keys.
pub const SCHEMA_VERSION: u32 = 1;

/// What one bad input does to its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It rejects the job.
    #[default]
    Fail,
    /// Its result carries an error, and the others are scored.
    Skip,
}

impl OnError {
    /// Its name in a job.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }

    /// The value of this name.
    pub fn find(text: &str) -> Option<Self> {
        [Self::Fail, Self::Skip]
            .into_iter()
            .find(|known| known.as_str() == text)
    }
}

/// A ranking to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rank<'a> {
    /// The ranking's key.
    pub key: Cow<'a, str>,
    /// How many of the best inputs it holds; all where absent.
    pub top: Option<usize>,
}

/// What is wrong with one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// The field within the input, such as `text`; empty where it is the input itself.
    pub field: String,
    /// What was expected.
    pub message: String,
}

/// What an input holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Content<'a> {
    /// One text, or two for models that take a pair.
    Text {
        /// The text, as the job has it.
        text: Cow<'a, str>,
        /// The second text.
        pair: Option<Cow<'a, str>>,
    },
    /// A range of [`Job::features`]; NaN where one is missing.
    Features(Range<usize>),
    /// Features by their names, each as often as it was written; NaN where one is `null`. [`Job::check_inputs`] puts them in order.
    Named(Vec<(Cow<'a, str>, f32)>),
    /// Nothing: what readers find under the input's key is to go.
    Removal,
    /// Only under [`OnError::Skip`].
    Bad(InputError),
}

/// One input of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Input<'a> {
    /// Echoed in the result, and the name of the named entry; at most [`MAX_KEY_BYTES`].
    pub key: Option<Cow<'a, str>>,
    /// What is scored.
    pub content: Content<'a>,
}

impl Input<'_> {
    fn into_owned(self) -> Input<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Input {
            key: self.key.map(owned),
            content: match self.content {
                Content::Text { text, pair } => Content::Text {
                    text: owned(text),
                    pair: pair.map(owned),
                },
                Content::Features(range) => Content::Features(range),
                Content::Named(features) => {
                    let each = features.into_iter();
                    Content::Named(each.map(|(name, x)| (owned(name), x)).collect())
                }
                Content::Removal => Content::Removal,
                Content::Bad(bad) => Content::Bad(bad),
            },
        }
    }
}

/// A job, borrowing from the body where the body's JSON needed no unescaping.
#[derive(Debug, Clone, PartialEq)]
pub struct Job<'a> {
    /// The idempotency key, see [`is_job_id`].
    pub job_id: Cow<'a, str>,
    /// `name` or `name@version`.
    pub model: Cow<'a, str>,
    /// The job's own namespace; see [`Job::namespace`] for the one that holds.
    pub namespace: Option<Cow<'a, str>>,
    /// 1 to [`MAX_INPUTS`] inputs, in the job's order.
    pub inputs: Vec<Input<'a>>,
    /// The features of all inputs, one after the other.
    pub features: Vec<f32>,
    /// Whether a named entry is kept for every input that has a key.
    pub named: bool,
    /// The ranking to keep.
    pub rank: Option<Rank<'a>>,
    /// How long the entries live, in seconds: 1 to [`MAX_TTL_SECONDS`].
    pub ttl_seconds: Option<u64>,
    /// What one bad input does to the job.
    pub on_error: OnError,
    /// Whether results carry every label's probability.
    pub detail: bool,
    /// How new the job's word on its keys is; by its acceptance where it says nothing.
    pub as_of: Option<AsOf<'a>>,
    /// Where its end is posted to, see [`callback_url_problem`].
    pub callback_url: Option<Cow<'a, str>>,
}

/// A body that is no job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rejection}")]
pub struct Unparsable {
    /// The job's id, where it could still be found.
    pub job_id: Option<String>,
    /// What is wrong with it.
    pub rejection: Rejection,
}

impl<'a> Job<'a> {
    /// Reads a body. `message_id` is the message's property: it names the job where the body doesn't, and
    /// must agree with the body where both do.
    pub fn parse(body: &'a [u8], message_id: Option<&str>) -> Result<Self, Unparsable> {
        parse::job(body, message_id)
    }

    /// The same for a body that may leave its name to whoever takes it: `id` names the job where nothing else does.
    pub fn parse_or_name(
        body: &'a [u8],
        message_id: Option<&str>,
        id: &str,
    ) -> Result<Self, Unparsable> {
        parse::job_or_named(body, message_id, Some(id))
    }

    /// The namespace: the job's own, or its model's name.
    #[inline]
    pub fn namespace(&self) -> &str {
        self.namespace
            .as_deref()
            .unwrap_or_else(|| self.model_name())
    }

    /// The same job with nothing borrowed from its body.
    pub fn into_owned(self) -> Job<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Job {
            job_id: owned(self.job_id),
            model: owned(self.model),
            namespace: self.namespace.map(owned),
            inputs: self.inputs.into_iter().map(Input::into_owned).collect(),
            features: self.features,
            named: self.named,
            rank: self.rank.map(|rank| Rank {
                key: owned(rank.key),
                top: rank.top,
            }),
            ttl_seconds: self.ttl_seconds,
            on_error: self.on_error,
            detail: self.detail,
            as_of: self.as_of.map(AsOf::into_owned),
            callback_url: self.callback_url.map(owned),
        }
    }

    /// The model's name without the version.
    #[inline]
    pub fn model_name(&self) -> &str {
        self.model.split('@').next().unwrap_or_default()
    }

    /// Whether it changes what readers find: it keeps named entries or a ranking, or removes some.
    pub fn is_for_readers(&self) -> bool {
        let removes = |input: &Input<'_>| input.content == Content::Removal;
        self.named || self.rank.is_some() || self.inputs.iter().any(removes)
    }

    /// The features of a [`Content::Features`].
    #[inline]
    pub fn features_of(&self, range: &Range<usize>) -> &[f32] {
        self.features.get(range.clone()).unwrap_or_default()
    }

    /// Checks every input against what the model takes, and puts features that came by name in the model's order: from then on they are
    /// the same input as those that came by place. A bad input rejects the job or, under [`OnError::Skip`], becomes [`Content::Bad`].
    pub fn check_inputs(&mut self, info: &ModelInfo) -> Result<(), Rejection> {
        let mut names = named::Names::of(info);
        for (index, input) in self.inputs.iter_mut().enumerate() {
            let ordered = names.put_in_order(input, &mut self.features).err();
            let wrong = ordered.or_else(|| {
                check_input(input, info, self.rank.is_some())
                    .or_else(|| check_missing(input, &self.features, info))
            });
            let Some(error) = wrong else {
                continue;
            };
            match self.on_error {
                OnError::Fail => {
                    return Err(Rejection::invalid(
                        input_path(index, &error.field),
                        error.message,
                    ));
                }
                OnError::Skip => input.content = Content::Bad(error),
            }
        }
        Ok(())
    }
}

/// The path of a field of an input, as rejections name it.
pub fn input_path(index: usize, field: &str) -> String {
    if field.is_empty() {
        format!("inputs[{index}]")
    } else {
        format!("inputs[{index}].{field}")
    }
}

fn check_input(input: &Input<'_>, info: &ModelInfo, ranked: bool) -> Option<InputError> {
    let wrong = |field: &str, message: String| {
        Some(InputError {
            field: field.into(),
            message,
        })
    };
    let takes = |what: &str| format!("model `{}` takes {what}", info.name);
    if ranked && input.key.is_none() {
        return wrong("key", "expected on every input of a job with `rank`".into());
    }
    match (&input.content, &info.input) {
        (Content::Bad(_) | Content::Removal, _) => None,
        (Content::Features(range), InputKind::Features { count }) if range.len() == *count => None,
        (Content::Features(range), InputKind::Features { count }) => wrong(
            "features",
            format!("expected {count} numbers, found {}", range.len()),
        ),
        // They were put in order before.
        (Content::Named(_), InputKind::Features { .. }) => None,
        (Content::Features(_) | Content::Named(_), InputKind::Text { .. }) => {
            wrong("features", takes("`text`, not `features`"))
        }
        (Content::Text { .. }, InputKind::Features { count }) => wrong(
            "text",
            takes(&format!("`features` ({count} numbers), not `text`")),
        ),
        (Content::Text { text, pair }, InputKind::Text { pair: takes_pair }) => {
            if !takes_pair.admits(pair.is_some()) {
                let wanted = match takes_pair {
                    PairRule::Required => "`text` and `text_pair`",
                    PairRule::None | PairRule::Optional => "one `text` and no `text_pair`",
                };
                return wrong("text_pair", takes(wanted));
            }
            for (field, text) in [("text", Some(text)), ("text_pair", pair.as_ref())] {
                let Some(text) = text else { continue };
                if field == "text" && text.trim().is_empty() {
                    return wrong(field, "expected some text, found none".into());
                }
                if text.contains('\0') {
                    return wrong(field, "must not contain U+0000".into());
                }
                if text.len() > info.max_text_bytes {
                    let (max, found) = (info.max_text_bytes, text.len());
                    return wrong(
                        field,
                        format!("expected at most {max} bytes for this model, found {found}"),
                    );
                }
            }
            None
        }
    }
}

/// Whether an input of a model that takes no missing features has one.
fn check_missing(input: &Input<'_>, features: &[f32], info: &ModelInfo) -> Option<InputError> {
    let Content::Features(range) = &input.content else {
        return None;
    };
    if info.takes_missing {
        return None;
    }
    let row = features.get(range.clone()).unwrap_or_default();
    let at = row.iter().position(|x| x.is_nan())?;
    Some(InputError {
        field: format!("features[{at}]"),
        message: "invalid type: null, expected a finite 32-bit float".into(),
    })
}

#[cfg(test)]
mod tests;
