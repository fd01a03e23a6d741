//! `/embed`, `/predict` and `/rerank`: the forms of text-embeddings-inference.

use super::{
    super::{
        Shared,
        auth::Scorer,
        extract::{JobBody, Params},
        problem::Problem,
        responses::{BadJob, Guarded, Unavailable},
        score::{self, Made, Scored},
    },
    Chosen, Text, Texts, Wanted,
    embed::{self, Asked, Form},
    job_of, parse, renamed, results,
    vectors::Shape,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use kiln_contract::split::Point;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbedRequest<'a> {
    /// A text, or a list of texts.
    #[serde(borrow)]
    #[schema(value_type = Texts)]
    inputs: &'a RawValue,
    /// Whether embeddings are scaled to length one; default: they are. `false` is for models that don't do so themselves.
    normalize: Option<bool>,
    /// The first so many numbers of each embedding, scaled to length one.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
}

/// Embeds texts, asked for and answered as text-embeddings-inference does.
#[utoipa::path(post, path = "/embed", tag = "other servers' forms", request_body = EmbedRequest, security(("key" = [])), params(Chosen),
    responses((status = 200, description = "an embedding for each text", body = Vec<Vec<f32>>), Guarded, BadJob, Unavailable))]
pub(in super::super) async fn embed(
    scorer: Scorer,
    State(shared): State<Shared>,
    Params(chosen): Params<Chosen>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let form = Form {
        field: "inputs",
        read: read_embed,
        shown: |_, vectors| score::written(&vectors),
    };
    embed::answer(&shared, scorer, chosen, headers, body, form).await
}

fn read_embed(body: &[u8]) -> Result<Asked<'_>, Problem> {
    let request: EmbedRequest<'_> = parse(body)?;
    let shape = Shape {
        dimensions: request.dimensions,
        normalize: request.normalize.unwrap_or(true),
        base64: false,
    };
    Ok(Asked {
        model: None,
        texts: request.inputs,
        shape,
    })
}

/// Texts, or pairs of texts, to classify.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PredictRequest<'a> {
    /// A text; a list of two, which are a pair; or a list of lists of one or two texts.
    #[serde(borrow)]
    #[schema(value_type = PredictTexts)]
    inputs: &'a RawValue,
    /// Only `false`: what a model's outputs are is said by its manifest.
    #[serde(default)]
    raw_scores: bool,
}

#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what is read from its JSON")]
#[serde(untagged)]
pub(super) enum PredictTexts {
    One(String),
    Pair(Vec<String>),
    Several(Vec<Vec<String>>),
}

/// A label and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Prediction {
    score: f32,
    label: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Predictions {
    /// Of the one text, the best first.
    One(Vec<Prediction>),
    /// Of each text.
    Several(Vec<Vec<Prediction>>),
}

/// A result of a classifier or a scalar model.
#[derive(Debug, Deserialize)]
struct Predicted {
    score: f32,
    scores: Option<BTreeMap<String, f32>>,
}

/// Classifies texts, asked for and answered as text-embeddings-inference does. A model that gives one number has the label `LABEL_0`.
#[utoipa::path(post, path = "/predict", tag = "other servers' forms", request_body = PredictRequest, security(("key" = [])), params(Chosen),
    responses((status = 200, body = Predictions), Guarded, BadJob, Unavailable))]
pub(in super::super) async fn predict(
    scorer: Scorer,
    State(shared): State<Shared>,
    Params(chosen): Params<Chosen>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let (registry, max_bytes) = (state.engine.registry().clone(), shared.max_body_bytes);
    let form = move |body: &[u8]| {
        let request: PredictRequest<'_> = parse(body)?;
        refuse_raw(request.raw_scores)?;
        let model = Wanted::Prediction.model(&registry, chosen.model.as_deref())?;
        let (texts, is_single) = pairs(request.inputs)?;
        let job = job_of(&texts, "inputs", &model, &chosen, max_bytes)?;
        Ok((job.into(), is_single))
    };
    let rename = |problem, is_single: Option<&bool>| {
        renamed(problem, "inputs", is_single.copied().unwrap_or_default())
    };
    score::answer(state, scorer.0, headers, body, form, rename, predicted).await
}

const EXPECTED_TEXTS: &str =
    "expected a text, a list of two texts, or a list of lists of one or two texts";

/// A text, or two that are a pair.
fn one<'a>(list: &[&'a RawValue]) -> Result<(&'a RawValue, Option<&'a RawValue>), Problem> {
    match *list {
        [text] => Ok((text, None)),
        [text, pair] => Ok((text, Some(pair))),
        _ => Err(Problem::invalid("inputs", EXPECTED_TEXTS)),
    }
}

/// The texts and pairs of `inputs`, and whether it is one outside a list of them.
fn pairs(inputs: &RawValue) -> Result<(Vec<Text<'_>>, bool), Problem> {
    if !inputs.get().starts_with('[') {
        return Ok((vec![Text::single(inputs)], true));
    }
    let list: Vec<&RawValue> = parse(inputs.get().as_bytes())?;
    if !list.iter().any(|item| item.get().starts_with('[')) {
        let (text, pair) = one(&list)?;
        return Ok((vec![Text { text, pair }], true));
    }
    let texts = list.into_iter().map(|item| {
        if !item.get().starts_with('[') {
            return Err(Problem::invalid("inputs", EXPECTED_TEXTS));
        }
        let (text, pair) = one(&parse::<Vec<&RawValue>>(item.get().as_bytes())?)?;
        Ok(Text { text, pair })
    });
    Ok((texts.collect::<Result<_, Problem>>()?, false))
}

fn refuse_raw(raw_scores: bool) -> Result<(), Problem> {
    match raw_scores {
        true => Err(Problem::invalid(
            "raw_scores",
            "expected false: what a model's outputs are is said by its manifest, `output.activation`",
        )),
        false => Ok(()),
    }
}

fn predicted(scored: &Scored, is_single: bool) -> Result<Vec<u8>, Problem> {
    let results = results::<Predicted>(&scored.done.results)?.into_iter();
    let mut all = results.map(|result| {
        let scores = result
            .scores
            .unwrap_or_else(|| [("LABEL_0".to_owned(), result.score)].into());
        let labels = scores.into_iter();
        let mut labels: Vec<_> = labels
            .map(|(label, score)| Prediction { score, label })
            .collect();
        labels.sort_by(|a, b| b.score.total_cmp(&a.score));
        labels
    });
    score::written(&match is_single {
        true => Predictions::One(all.next().unwrap_or_default()),
        false => Predictions::Several(all.collect()),
    })
}

/// Texts to rank by how well they fit a query.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct RerankRequest<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    query: &'a RawValue,
    #[serde(borrow)]
    #[schema(value_type = Vec<String>)]
    texts: Vec<&'a RawValue>,
    /// Only `false`: what a model's outputs are is said by its manifest.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the answer has the texts as well.
    #[serde(default)]
    return_text: bool,
}

/// A text's place.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ranked {
    /// Which of the texts, from 0.
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    text: Option<Box<RawValue>>,
    score: f32,
}

/// Ranks texts, the best first, asked for and answered as text-embeddings-inference does.
#[utoipa::path(post, path = "/rerank", tag = "other servers' forms", request_body = RerankRequest, security(("key" = [])), params(Chosen),
    responses((status = 200, body = Vec<Ranked>), Guarded, BadJob, Unavailable))]
pub(in super::super) async fn rerank(
    scorer: Scorer,
    State(shared): State<Shared>,
    Params(chosen): Params<Chosen>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let (registry, max_bytes) = (state.engine.registry().clone(), shared.max_body_bytes);
    let form = move |body: &[u8]| {
        let request: RerankRequest<'_> = parse(body)?;
        refuse_raw(request.raw_scores)?;
        if !request.query.get().starts_with('"') {
            return Err(Problem::invalid("query", "expected a text"));
        }
        let model = Wanted::Ranking.model(&registry, chosen.model.as_deref())?;
        let texts = request.texts.iter().map(|text| Text {
            text: request.query,
            pair: Some(text),
        });
        let texts: Vec<_> = texts.collect();
        let job = Made {
            body: job_of(&texts, "texts", &model, &chosen, max_bytes)?,
            stands_at: Some(point(&model.info.name, request.query)),
        };
        let kept = request.return_text.then(|| {
            request
                .texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect()
        });
        Ok((job, kept))
    };
    let rename = |problem, _: Option<&Option<Vec<Box<RawValue>>>>| renamed(problem, "texts", false);
    score::answer(state, scorer.0, headers, body, form, rename, ranked).await
}

/// Where all texts of a query stand, where two versions share the model's inputs: scores of one version alone are in one order.
fn point(model: &str, query: &RawValue) -> Point {
    // What can't be read is refused as the job that it stands in.
    let query: String = serde_json::from_str(query.get()).unwrap_or_default();
    Point::of_key(model, &query)
}

fn ranked(scored: &Scored, texts: Option<Vec<Box<RawValue>>>) -> Result<Vec<u8>, Problem> {
    let mut texts = texts.map(Vec::into_iter);
    let results = results::<Predicted>(&scored.done.results)?
        .into_iter()
        .enumerate();
    let mut ranked: Vec<_> = results
        .map(|(index, result)| Ranked {
            index,
            text: texts.as_mut().and_then(Iterator::next),
            score: result.score,
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    score::written(&ranked)
}
