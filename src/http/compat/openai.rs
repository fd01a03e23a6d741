//! `/v1/embeddings`: embeddings in OpenAI's form.

use super::{
    super::{
        Shared,
        auth::Scorer,
        extract::{JobBody, Params},
        problem::Problem,
        responses::{BadJob, Guarded, Unavailable},
        score::{self, Scored},
    },
    Chosen, Texts, Wanted, job_of, parse, renamed, results, texts,
    vectors::{Shape, Vector},
};
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use utoipa::ToSchema;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingsRequest<'a> {
    /// A text, or a list of texts; lists of tokens are refused.
    #[serde(borrow)]
    #[schema(value_type = Texts)]
    input: &'a RawValue,
    /// A model's name, or `name@version`.
    #[serde(borrow)]
    model: Cow<'a, str>,
    /// `float`, or `base64` for the bytes of 32-bit floats, little-endian.
    #[serde(default)]
    encoding_format: Encoding,
    /// The first so many numbers of each embedding, scaled to length one.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    #[default]
    Float,
    Base64,
}

/// Embeddings, in the order of the texts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EmbeddingsResponse {
    /// `list`.
    object: &'static str,
    data: Vec<Embedding>,
    /// `name@version`.
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Embedding {
    /// `embedding`.
    object: &'static str,
    index: usize,
    #[schema(value_type = EmbeddingShown)]
    embedding: Vector,
}

#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what is written")]
#[serde(untagged)]
pub(super) enum EmbeddingShown {
    Floats(Vec<f32>),
    Base64(String),
}

/// Always zeros: what is found isn't cut into tokens.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Usage {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// A result of the job.
#[derive(Debug, Deserialize)]
struct Embedded {
    embedding: Box<RawValue>,
}

/// Embeds texts, asked for and answered as OpenAI's API does.
#[utoipa::path(post, path = "/v1/embeddings", tag = "other servers' forms", request_body = EmbeddingsRequest, security(("key" = [])), params(Chosen),
    responses((status = 200, body = EmbeddingsResponse), Guarded, BadJob, Unavailable))]
pub(in super::super) async fn embeddings(
    scorer: Scorer,
    State(shared): State<Shared>,
    Params(chosen): Params<Chosen>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let (registry, max_bytes) = (state.engine.registry().clone(), shared.max_body_bytes);
    let form = move |body: &[u8]| {
        let request: EmbeddingsRequest<'_> = parse(body)?;
        let asked = chosen.model.as_deref().unwrap_or(&request.model);
        let info = Wanted::Embedding.model(&registry, Some(asked))?;
        let shape = Shape {
            dimensions: request.dimensions,
            normalize: false,
            base64: request.encoding_format == Encoding::Base64,
        };
        let shape = shape.check(info.output_width)?;
        let (texts, is_single) = texts(request.input, "input")?;
        let job = job_of(&texts, "input", &info, &chosen, max_bytes)?;
        Ok((job, (shape, is_single)))
    };
    let rename = |problem, known: Option<&(Shape, bool)>| {
        renamed(
            problem,
            "input",
            known.is_some_and(|(_, is_single)| *is_single),
        )
    };
    score::answer(state, scorer.0, headers, body, form, rename, shown).await
}

fn shown(scored: &Scored, (shape, _): (Shape, bool)) -> Result<Vec<u8>, Problem> {
    let done = &scored.done;
    let vectors = results::<Embedded>(&done.results)?.into_iter().enumerate();
    let data = vectors.map(|(index, result)| {
        Ok(Embedding {
            object: "embedding",
            index,
            embedding: shape.of(result.embedding)?,
        })
    });
    score::written(&EmbeddingsResponse {
        object: "list",
        data: data.collect::<Result<_, Problem>>()?,
        model: format!("{}@{}", done.model, done.version),
        usage: Usage::default(),
    })
}
