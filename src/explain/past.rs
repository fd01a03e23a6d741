//! Owns how a name's history is shown: each row until the next.

use crate::{
    clock::rfc3339,
    store::{ServedPast, WordOrder},
};
use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

/// What readers were served from one moment to another.
#[derive(Debug, Serialize, ToSchema)]
pub struct PastShown {
    pub from: String,
    /// Until when, unless it expired or was invalidated before; null for the latest.
    pub until: Option<String>,
    /// Whether it is what readers find now.
    pub is_now: bool,
    /// Null where it was removed by hand.
    pub job_id: Option<String>,
    pub model: String,
    pub version: String,
    /// SHA-256 of the normalised input; null for a ranking.
    pub input_sha256: Option<String>,
    pub label: Option<String>,
    pub score: Option<f32>,
    /// The keys and scores of a ranking.
    #[schema(value_type = Option<Vec<Object>>)]
    pub items: Option<Box<RawValue>>,
    /// Whether the name was removed then.
    pub removed: bool,
    pub order: OrderShown,
}

/// How new it was: what readers find is replaced only by what is newer.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrderShown {
    /// `sequence` (the job's own number), or `time`.
    pub by: &'static str,
    /// The number, or the moment.
    #[schema(value_type = String)]
    pub value: Value,
    /// When a worker first accepted the job.
    pub accepted_at: Option<String>,
}

fn moment(us: i64) -> Option<String> {
    DateTime::from_timestamp_micros(us).map(rfc3339)
}

impl From<WordOrder> for OrderShown {
    fn from(order: WordOrder) -> Self {
        let is_sequence = order.kind == 's';
        Self {
            by: if is_sequence { "sequence" } else { "time" },
            value: if is_sequence {
                order.value.into()
            } else {
                moment(order.value).into()
            },
            accepted_at: moment(order.accepted_us),
        }
    }
}

/// The rows, the latest first; `is_now` says whether that one is what readers find.
pub(super) fn shown(rows: Vec<ServedPast>, is_now: bool) -> Vec<PastShown> {
    let mut until = None;
    let mut is_now = is_now;
    let shown = rows.into_iter().map(|row| {
        let from = rfc3339(row.from);
        let is_ranking = row.items.is_some();
        PastShown {
            until: until.replace(from.clone()),
            from,
            is_now: std::mem::take(&mut is_now),
            job_id: Some(row.job_id).filter(|id| !id.is_empty()),
            model: row.model,
            version: row.version,
            input_sha256: row.input.filter(|_| !is_ranking).map(hex::encode),
            label: row.label,
            score: row.score,
            items: row
                .items
                .and_then(|items| RawValue::from_string(items).ok()),
            removed: row.is_removed,
            order: row.order.into(),
        }
    });
    shown.collect()
}
