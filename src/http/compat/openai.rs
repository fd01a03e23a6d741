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
    Chosen, Texts,
    embed::{self, Asked, Form},
    parse,
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
    let form = Form {
        field: "input",
        read,
        shown,
    };
    embed::answer(&shared, scorer, chosen, headers, body, form).await
}

fn read(body: &[u8]) -> Result<Asked<'_>, Problem> {
    let request: EmbeddingsRequest<'_> = parse(body)?;
    let shape = Shape {
        dimensions: request.dimensions,
        normalize: false,
        base64: request.encoding_format == Encoding::Base64,
    };
    Ok(Asked {
        model: Some(request.model),
        texts: request.input,
        shape,
    })
}

fn shown(scored: &Scored, vectors: Vec<Vector>) -> Result<Vec<u8>, Problem> {
    let done = &scored.done;
    let data = vectors.into_iter().enumerate();
    let data = data.map(|(index, embedding)| Embedding {
        object: "embedding",
        index,
        embedding,
    });
    score::written(&EmbeddingsResponse {
        object: "list",
        data: data.collect(),
        model: format!("{}@{}", done.model, done.version),
        usage: Usage::default(),
    })
}
