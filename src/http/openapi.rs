//! `/openapi.json`: the API as programs read it.

use super::{
    actions, cache,
    compat::{inference, openai},
    dead, find, fleet, job, jobs, keys, lanes, live, logs, models, plan, problem, requests, score,
    show, steer, timings, versions,
};
use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        OpenApi as Document,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Kiln", description = "Cached scores of machine-learning models, kept warm. If the settings name API keys, every request needs one: `Authorization: Bearer KEY`."),
    paths(
        score::score, score::batch, openai::embeddings, inference::embed, inference::predict, inference::rerank, jobs::enqueue, jobs::warm, find::jobs, job::job, job::wait, show::health, show::version, fleet::fleet, timings::timings, lanes::lanes, models::models, versions::shift, versions::warm, versions::activate, show::schedules, show::runs, plan::plan,
        cache::health, cache::info, cache::stats, cache::endpoints, cache::patterns, cache::top, cache::low, cache::reset, keys::explain,
        steer::pause_intake, steer::resume_intake, steer::pause_schedule, steer::resume_schedule, steer::warm, steer::hits, steer::invalidate,
        dead::list, dead::one, dead::settle::replay, dead::settle::purge, actions::list, actions::key, logs::levels, logs::set_levels, logs::recent, show::rejections, live::live
    ),
    components(schemas(problem::ErrorBody, requests::InputRequest, requests::RankRequest, requests::AsOfRequest, requests::FeaturesRequest)),
    modifiers(&KeyScheme)
)]
struct Api;

/// Names the way in which a key is given.
struct KeyScheme;

impl Modify for KeyScheme {
    fn modify(&self, document: &mut Document) {
        if let Some(components) = document.components.as_mut() {
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
            components.add_security_scheme("key", SecurityScheme::Http(bearer));
        }
    }
}

pub(super) async fn document() -> Json<Document> {
    Json(Api::openapi())
}
