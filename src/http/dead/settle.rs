//! `/v1/dead/replay` and `/v1/dead/purge`: dead letters posted again, or deleted.
//!
//! Promises that a letter leaves its queue only once the broker has its job again, or where somebody asked for its deletion; and that who did it is noted.

use super::look::{Look, Meant, read, shorten, turn};
use crate::{
    amqp::{
        dead_letters::{DeadLetterError, HeldDelivery},
        letter::Letter,
        message,
    },
    http::{
        Shared, SharedState, actions,
        api_state::ApiState,
        auth::Admin,
        extract::{self, Payload},
        problem::Problem,
        responses::{BadRequest, Guarded, TooLarge, Unavailable},
    },
    redact::Redact,
    store::ActionKind,
};
use axum::{Json, body::Bytes, extract::State};
use lapin::message::Delivery;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Ids of a request, and of its answer.
const MAX_IDS: usize = 1_000;
/// Longest wait for the broker to take a job again.
const POSTING: Duration = Duration::from_secs(2);

/// Which letters are to be posted again or deleted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LettersRequest {
    /// Letters of these jobs.
    #[schema(max_items = 1000)]
    ids: Option<Vec<String>>,
    /// Letters with this code.
    code: Option<String>,
    /// Letters that name this model.
    model: Option<String>,
    /// `true`: all letters, where nothing else is said.
    all: Option<bool>,
}

/// What became of the letters.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct LettersDone {
    /// Letters that were posted again, or deleted.
    done: u64,
    /// Letters that were meant and stay, and why, the first 1,000.
    left: Vec<LeftShown>,
    /// The jobs of those that were done, the first 1,000: `GET /v1/jobs/{id}` says what became of them.
    job_ids: Vec<String>,
    /// Letters that were in the queue, and how many of them were looked at: ask again where that is fewer.
    waiting: u32,
    looked_at: u32,
}

/// A letter that stays.
#[derive(Debug, Serialize, ToSchema)]
pub struct LeftShown {
    job_id: Option<String>,
    why: String,
}

/// Posts letters' jobs to the queues that they came from, and removes the letters once the broker has the jobs.
#[utoipa::path(post, path = "/v1/dead/replay", tag = "dead letters", security(("key" = [])), request_body = LettersRequest,
    responses((status = 200, body = LettersDone), Guarded, BadRequest, TooLarge, Unavailable))]
pub(in crate::http) async fn replay(
    admin: Admin,
    State(shared): State<Shared>,
    Payload(body): Payload,
) -> Result<Json<LettersDone>, Problem> {
    let (meant, said) = wanted(body).await?;
    Ok(Json(
        settle(&shared, admin, (meant, said), ActionKind::Replay).await?,
    ))
}

/// Deletes letters for good.
#[utoipa::path(post, path = "/v1/dead/purge", tag = "dead letters", security(("key" = [])), request_body = LettersRequest,
    responses((status = 200, body = LettersDone), Guarded, BadRequest, TooLarge, Unavailable))]
pub(in crate::http) async fn purge(
    admin: Admin,
    State(shared): State<Shared>,
    Payload(body): Payload,
) -> Result<Json<LettersDone>, Problem> {
    let (meant, said) = wanted(body).await?;
    Ok(Json(
        settle(&shared, admin, (meant, said), ActionKind::Purge).await?,
    ))
}

/// Reads which letters are meant, and says it in a few words.
async fn wanted(body: Bytes) -> Result<(Meant, String), Problem> {
    let read = extract::read(body, |body| {
        serde_json::from_slice::<LettersRequest>(body)
            .map_err(|e| Problem::invalid("", e.redacted()))
    });
    let request = read.await?;
    let ids = request.ids.unwrap_or_default();
    if ids.len() > MAX_IDS {
        return Err(Problem::invalid("ids", "expected at most 1,000"));
    }
    let is_all = request.all == Some(true);
    let is_some = !ids.is_empty() || request.code.is_some() || request.model.is_some();
    if is_all == is_some {
        let message = "expected ids, a code or a model, or else `\"all\": true`";
        return Err(Problem::invalid("", message));
    }
    let mut said = Vec::new();
    match ids.as_slice() {
        [] => {}
        [id] => said.push(shorten(id)),
        many => said.push(format!("{} ids", many.len())),
    }
    said.extend(
        request
            .code
            .iter()
            .map(|code| format!("code {}", shorten(code))),
    );
    said.extend(
        request
            .model
            .iter()
            .map(|model| format!("model {}", shorten(model))),
    );
    if is_all {
        said.push("all".to_owned());
    }
    let meant = Meant {
        ids: (!ids.is_empty()).then(|| ids.into_iter().collect()),
        id_prefix: None,
        code: request.code,
        model: request.model,
    };
    Ok((meant, said.join(", ")))
}

impl LettersDone {
    fn words(&self, meant: &str) -> String {
        format!("{meant}: {} letters", self.done)
    }

    fn leave(&mut self, letter: Letter, why: &str) {
        if self.left.len() < MAX_IDS {
            self.left.push(LeftShown {
                job_id: letter.job_id.map(|id| shorten(&id)),
                why: why.to_owned(),
            });
        }
    }

    fn count(&mut self, letter: Letter) {
        self.done += 1;
        if self.job_ids.len() < MAX_IDS {
            self.job_ids.extend(letter.job_id);
        }
    }
}

/// Posts the letters that are meant again, or only removes them, and notes how many. Once begun it goes on without its caller: what is done is noted,
/// also where that is only a part.
async fn settle(
    shared: &Shared,
    admin: Admin,
    (meant, said): (Meant, String),
    kind: ActionKind,
) -> Result<LettersDone, Problem> {
    let (state, shared) = (shared.state()?.clone(), shared.clone());
    let turn = turn(&shared).await?;
    let worker = state.clone();
    let work = async move {
        let _turn = turn;
        let mut done = LettersDone::default();
        let ended = settle_all(&shared, &state, &meant, kind, &mut done).await;
        if ended.is_ok() || done.done > 0 {
            actions::note(&state, &admin.0, kind, &done.words(&said)).await;
        }
        ended.map(|()| done)
    };
    worker.run_to_its_end(work).await?.map_err(Problem::from)
}

async fn settle_all(
    shared: &SharedState,
    state: &ApiState,
    meant: &Meant,
    kind: ActionKind,
    done: &mut LettersDone,
) -> Result<(), DeadLetterError> {
    let mut look = Look::open(state).await?;
    let ended = settle_each(shared, state, &mut look, meant, kind, done).await;
    (done.waiting, done.looked_at) = look.close().await?;
    ended
}

async fn settle_each(
    shared: &SharedState,
    state: &ApiState,
    look: &mut Look,
    meant: &Meant,
    kind: ActionKind,
    done: &mut LettersDone,
) -> Result<(), DeadLetterError> {
    while let Some(mut delivery) = look.next().await? {
        let (letter, model) = read(&delivery);
        if !meant.means(&letter, model.as_deref()) {
            look.scan.hold(delivery);
            continue;
        }
        if kind == ActionKind::Replay {
            let body = std::mem::take(&mut delivery.data);
            if let Err(why) = post(state, &delivery, body).await {
                look.scan.hold(delivery);
                done.leave(letter, why);
                continue;
            }
            letter
                .job_id
                .iter()
                .for_each(|id| shared.posted.note(id, None));
        }
        look.scan.remove(&HeldDelivery::from(delivery)).await?;
        done.count(letter);
    }
    Ok(())
}

async fn post(state: &ApiState, delivery: &Delivery, body: Vec<u8>) -> Result<(), &'static str> {
    let job = message::replay(&delivery.properties, body)?;
    match tokio::time::timeout(POSTING, state.publisher.send(job)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("it is larger than the broker takes"),
        Err(_) => Err(
            "the broker didn't confirm its job in time, and may have it all the same: its queue is full or gone",
        ),
    }
}
