//! Embeddings of texts, whichever form they are asked for in.

use super::{
    super::{
        SharedState,
        auth::Scorer,
        extract::JobBody,
        problem::Problem,
        score::{self, Scored},
    },
    Chosen, Wanted, job_of, renamed, results, texts,
    vectors::{Shape, Vector},
};
use axum::{http::HeaderMap, response::Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a request says.
pub(super) struct Asked<'a> {
    pub(super) model: Option<Cow<'a, str>>,
    /// A text, or a list of them.
    pub(super) texts: &'a RawValue,
    pub(super) shape: Shape,
}

/// A form of requests and answers.
pub(super) struct Form {
    /// What requests call their texts.
    pub(super) field: &'static str,
    pub(super) read: fn(&[u8]) -> Result<Asked<'_>, Problem>,
    /// The answer with a vector for each text.
    pub(super) shown: fn(&Scored, Vec<Vector>) -> Result<Vec<u8>, Problem>,
}

/// A result of the job.
#[derive(Debug, Deserialize)]
struct Embedded {
    embedding: Box<RawValue>,
}

/// Answers a request for embeddings.
pub(super) async fn answer(
    shared: &SharedState,
    scorer: Scorer,
    chosen: Chosen,
    headers: HeaderMap,
    body: JobBody,
    Form { field, read, shown }: Form,
) -> Result<Response, Problem> {
    let state = shared.state()?;
    let (registry, max_bytes) = (state.engine.registry().clone(), shared.max_body_bytes);
    let form = move |body: &[u8]| {
        let asked = read(body)?;
        let name = chosen.model.as_deref().or(asked.model.as_deref());
        let model = Wanted::Embedding.model(&registry, name)?;
        let shape = asked.shape.check(model.info.output_width)?;
        let (texts, is_single) = texts(asked.texts, field)?;
        let job = job_of(&texts, field, &model, &chosen, max_bytes)?;
        Ok((job.into(), (shape, is_single)))
    };
    let rename = move |problem, known: Option<&(Shape, bool)>| {
        renamed(
            problem,
            field,
            known.is_some_and(|(_, is_single)| *is_single),
        )
    };
    let written = move |scored: &Scored, (shape, _): (Shape, bool)| {
        let results = results::<Embedded>(&scored.done.results)?.into_iter();
        let vectors = results.map(|result| shape.of(result.embedding));
        shown(scored, vectors.collect::<Result<_, Problem>>()?)
    };
    score::answer(state, scorer.0, headers, body, form, rename, written).await
}
