//! Requests in the forms of other servers: what these have in common.
//!
//! Owns how such a request's texts become a job, and which model it means. Answers by the same engine and cache as every other request.
//! Fields that aren't known are ignored, as those servers do; what is known and can't be done is refused.

mod embed;
pub(super) mod inference;
pub(super) mod openai;
mod vectors;

use super::problem::Problem;
use kiln_contract::{
    failure::{Code, Rejection},
    job::{InputField, JobField, JobWriter, MAX_INPUTS},
    model::{InputKind, ModelInfo, PairRule, Task},
};
use kiln_model::Registry;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::redact::Redact;

/// Names of models that an error lists.
const MAX_NAMES: usize = 10;

/// Which model and namespace, in the query: most of these forms have no place for them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Chosen {
    /// A model's name, or `name@version`; without one, the only model here that fits.
    model: Option<String>,
    /// Groups entries for TTLs and statistics; default: the model's name.
    namespace: Option<String>,
}

/// The model that a request means.
#[derive(Debug)]
struct Model {
    info: ModelInfo,
    /// As the job names it: with a version only where the request does, so that a repeated request makes the same job whichever is active by then.
    named: String,
}

/// What a model is asked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Embedding,
    Prediction,
    Ranking,
}

impl Wanted {
    fn fits(self, info: &ModelInfo) -> bool {
        let InputKind::Text { pair } = info.input else {
            return false;
        };
        match self {
            Self::Embedding => info.task == Task::Embedding && pair != PairRule::Required,
            Self::Prediction => info.task != Task::Embedding,
            Self::Ranking => info.task == Task::Scalar && pair != PairRule::None,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Embedding => "a model that turns a text into an embedding",
            Self::Prediction => "a model that gives a text labels or a score",
            Self::Ranking => "a model that gives two texts a score",
        }
    }

    /// What `asked` means, or else the only model here that fits.
    fn model(self, registry: &Registry, asked: Option<&str>) -> Result<Model, Problem> {
        if let Some(asked) = asked {
            let model = registry.resolve(asked).map_err(|unknown| {
                let message = unknown.to_string();
                Problem::from(Rejection::new(Code::UnknownModel, "model", message))
            })?;
            if self.fits(model.info()) {
                let (info, named) = (model.info().clone(), asked.to_owned());
                return Ok(Model { info, named });
            }
            let expected = format!("expected {}, which `{asked}` isn't", self.expected());
            return Err(Problem::invalid("model", expected));
        }
        let listed = registry.list().into_iter();
        let mut fitting: Vec<_> = listed
            .filter(|listed| listed.active && self.fits(&listed.info))
            .map(|listed| listed.info)
            .collect();
        match (fitting.pop(), fitting.is_empty()) {
            (Some(info), true) => {
                let named = info.name.clone();
                Ok(Model { info, named })
            }
            (None, _) => {
                let message = format!("no model here is {}", self.expected());
                Err(Problem::not_found("model", message))
            }
            (Some(last), false) => {
                let names = fitting.iter().map(|info| info.name.as_str());
                let names: Vec<_> = names.take(MAX_NAMES).chain([last.name.as_str()]).collect();
                let expected = format!(
                    "expected `?model=` with one of several models here: {}",
                    names.join(", ")
                );
                Err(Problem::invalid("model", expected))
            }
        }
    }
}

/// One text, or two that belong together, as their JSON was sent: the job's own parser checks it.
#[derive(Debug, Clone, Copy)]
struct Text<'a> {
    text: &'a RawValue,
    pair: Option<&'a RawValue>,
}

impl<'a> Text<'a> {
    fn single(text: &'a RawValue) -> Self {
        Self { text, pair: None }
    }

    fn bytes(&self) -> usize {
        self.text.get().len() + self.pair.map_or(0, |pair| pair.get().len())
    }
}

/// The job of these texts. `field` is what the request calls them.
fn job_of(
    texts: &[Text<'_>],
    field: &str,
    Model { info, named }: &Model,
    chosen: &Chosen,
    max_bytes: usize,
) -> Result<Vec<u8>, Problem> {
    if texts.len() > MAX_INPUTS {
        let expected = format!("expected at most {MAX_INPUTS}, found {}", texts.len());
        return Err(Problem::invalid(field, expected));
    }
    // A query stands beside each of its texts.
    if texts.iter().map(Text::bytes).sum::<usize>() > max_bytes {
        let expected = format!(
            "expected at most {max_bytes} bytes (`intake.max_body_bytes`), with what stands beside each text counted as often"
        );
        return Err(Problem::too_large(expected));
    }
    let mut job = JobWriter::new();
    job.model(named);
    // Without a version the model's name groups its entries, and so it does here.
    job.namespace(chosen.namespace.as_deref().unwrap_or(&info.name));
    if matches!(info.task, Task::Classification { .. }) {
        job.json(JobField::Detail, "true");
    }
    job.inputs(texts, |input, text| {
        input.json(InputField::Text, text.text.get());
        if let Some(pair) = text.pair {
            input.json(InputField::TextPair, pair.get());
        }
    });
    Ok(job.finish())
}

/// A problem with a job's inputs, told of the field that the request has them in.
fn renamed(problem: Problem, field: &str, is_single: bool) -> Problem {
    problem.with_field(|at| {
        let Some(rest) = at.strip_prefix("inputs") else {
            return at.to_owned();
        };
        let index = rest.split_once(']').map_or(rest, |(index, _)| index);
        match index.strip_prefix('[') {
            Some(index) if !is_single => format!("{field}[{index}]"),
            _ => field.to_owned(),
        }
    })
}

/// One text, or several.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what is read from its JSON")]
#[schema(title = "Texts")]
pub(super) enum Texts {
    One(String),
    Several(Vec<String>),
}

/// The texts of a field, and whether there is one outside a list.
fn texts<'a>(value: &'a RawValue, field: &str) -> Result<(Vec<Text<'a>>, bool), Problem> {
    if value.get().starts_with('[') {
        let list: Vec<&RawValue> = parse(value.get().as_bytes())?;
        if list.iter().any(|text| !text.get().starts_with('"')) {
            let expected = "expected a text or a list of texts; tokens can't be taken";
            return Err(Problem::invalid(field, expected));
        }
        return Ok((list.into_iter().map(Text::single).collect(), false));
    }
    Ok((vec![Text::single(value)], true))
}

/// Reads a body.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut reader);
    let read = read.map_err(|error| {
        let field = kiln_contract::redact::path(error.path());
        let inner = error.into_inner();
        let is_data = inner.is_data();
        let message = inner.redacted();
        match is_data {
            true => Problem::invalid(&field, message),
            false => Rejection::new(Code::Malformed, "", message).into(),
        }
    })?;
    reader
        .end()
        .map_err(|error| Problem::from(Rejection::new(Code::Malformed, "", error.redacted())))?;
    Ok(read)
}

/// The results of a job, as the engine wrote them.
fn results<T: DeserializeOwned>(json: &str) -> Result<Vec<T>, Problem> {
    if json.is_empty() {
        let message = "this request was answered before, and its results weren't kept";
        return Err(Rejection::new(Code::Conflict, "idempotency-key", message).into());
    }
    serde_json::from_str(json).map_err(|error| {
        tracing::error!(error = error.redacted(), "results can't be read");
        Problem::unavailable("the results can't be read")
    })
}

#[cfg(test)]
mod tests;
