//! Owns what a reader finds now. Pure: takes the bytes and the time.

use crate::{clock::rfc3339, store::ServedPast};
use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A score that differs by a ten-thousandth is the same, as in the table.
const SAME_SCORE: f64 = 1e-4;

/// What a reader finds.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundShown {
    /// `entry`, `ranking`, `absent`, `unreadable` (no JSON of Kiln's), or `unknown` (Redis doesn't answer).
    pub state: &'static str,
    /// As readers find it.
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    pub model: Option<String>,
    pub version: Option<String>,
    /// The job that said so first: later ones that said the same leave no row, unless the entry itself names its job.
    pub job_id: Option<String>,
    pub scored_at: Option<String>,
    pub age_seconds: Option<f64>,
    /// When it expires, in milliseconds from now, its grace time included.
    pub ttl_ms: Option<u64>,
    /// What of that is grace time; as much as the TTL where it is served in its grace time already.
    pub grace_ms: Option<u64>,
    pub expires_at: Option<String>,
    /// Whether it is what the history says last.
    pub is_in_history: bool,
}

impl FoundShown {
    fn state(state: &'static str) -> Self {
        Self {
            state,
            value: None,
            model: None,
            version: None,
            job_id: None,
            scored_at: None,
            age_seconds: None,
            ttl_ms: None,
            grace_ms: None,
            expires_at: None,
            is_in_history: false,
        }
    }

    pub(super) fn unknown() -> Self {
        Self::state("unknown")
    }

    pub(super) fn absent() -> Self {
        Self::state("absent")
    }

    /// Whether there is nothing, or nothing is known.
    pub fn is_absent(&self) -> bool {
        matches!(self.state, "absent" | "unknown")
    }

    /// What these bytes are; `latest` is the last that was served according to the database.
    pub(super) fn of(
        bytes: &[u8],
        left_ms: Option<u64>,
        grace_ms: u64,
        latest: Option<&ServedPast>,
        now: DateTime<Utc>,
    ) -> Self {
        let timed = |state| Self {
            ttl_ms: left_ms,
            grace_ms: left_ms.map(|left| left.min(grace_ms)),
            expires_at: left_ms
                .and_then(|ms| i64::try_from(ms).ok())
                .map(|ms| rfc3339(now + Duration::milliseconds(ms))),
            ..Self::state(state)
        };
        let Ok(Value::Object(value)) = serde_json::from_slice(bytes) else {
            return timed("unreadable");
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let scored_at = text("scored_at");
        let at: Option<DateTime<Utc>> = scored_at.as_deref().and_then(|at| at.parse().ok());
        let is_ranking = value.contains_key("items");
        let latest = latest.filter(|latest| says(latest, &value));
        Self {
            model: text("model"),
            version: text("version"),
            job_id: text("job_id").or_else(|| Some(latest?.job_id.clone())),
            age_seconds: at.map(|at| (now - at).as_seconds_f64().max(0.0)),
            scored_at,
            is_in_history: latest.is_some(),
            value: Some(Value::Object(value)),
            ..timed(if is_ranking { "ranking" } else { "entry" })
        }
    }
}

/// Whether a row says what readers find.
pub fn says(row: &ServedPast, value: &serde_json::Map<String, Value>) -> bool {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let same_items = match (&row.items, value.get("items")) {
        (Some(items), Some(found)) => {
            serde_json::from_str::<Value>(items).is_ok_and(|items| are_same_items(&items, found))
        }
        (None, None) => true,
        _ => false,
    };
    let same_score = match (row.score, value.get("score").and_then(Value::as_f64)) {
        (Some(row), Some(found)) => is_same_score(f64::from(row), found),
        (None, None) => true,
        _ => false,
    };
    !row.is_removed
        && text("model") == Some(&row.model)
        && text("version") == Some(&row.version)
        && text("label") == row.label.as_deref()
        && same_score
        && same_items
}

/// Whether two rankings have the same keys and scores. The database writes a large or whole score as an integer.
fn are_same_items(row: &Value, found: &Value) -> bool {
    let (Some(row), Some(found)) = (row.as_array(), found.as_array()) else {
        return false;
    };
    let is_same = |(row, found): (&Value, &Value)| {
        let score = |item: &Value| item.get("score").and_then(Value::as_f64);
        let scores = score(row).zip(score(found));
        row.get("key") == found.get("key")
            && scores.is_some_and(|(row, found)| is_same_score(row, found))
    };
    row.len() == found.len() && row.iter().zip(found).all(is_same)
}

/// Whether two scores are the same but for the order in which a device sums.
fn is_same_score(one: f64, other: f64) -> bool {
    (one - other).abs() <= SAME_SCORE * one.abs().max(other.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::WordOrder;

    fn at(time: &str) -> DateTime<Utc> {
        format!("2026-11-21T{time}Z").parse().expect("an instant")
    }

    fn row() -> ServedPast {
        ServedPast {
            from: at("08:00:00"),
            job_id: "j".into(),
            model: "m".into(),
            version: "1".into(),
            input: Some(vec![1; 32]),
            label: Some("good".into()),
            score: Some(0.9812),
            items: None,
            inputs: None,
            is_removed: false,
            order: WordOrder {
                kind: 't',
                value: 1,
                accepted_us: 1,
            },
        }
    }

    const ENTRY: &[u8] = br#"{"score":0.9812,"label":"good","model":"m","version":"1","scored_at":"2026-11-21T08:10:00.000Z"}"#;

    #[test]
    fn an_entry_has_its_age_its_end_and_its_job() {
        let now = at("08:11:30");
        let found = FoundShown::of(ENTRY, Some(90_000), 60_000, Some(&row()), now);
        assert_eq!((found.state, found.age_seconds), ("entry", Some(90.0)));
        assert_eq!((found.ttl_ms, found.grace_ms), (Some(90_000), Some(60_000)));
        assert_eq!(
            found.expires_at.as_deref(),
            Some("2026-11-21T08:13:00.000Z")
        );
        assert_eq!(
            (found.job_id.as_deref(), found.is_in_history),
            (Some("j"), true)
        );
        let late = FoundShown::of(ENTRY, Some(5_000), 60_000, None, now);
        assert_eq!((late.grace_ms, late.job_id), (Some(5_000), None));
        assert!(!late.is_in_history);
    }

    #[test]
    fn what_differs_from_the_row_is_not_said_to_be_its() {
        let now = at("08:11:30");
        for other in [
            ServedPast {
                score: Some(0.9),
                ..row()
            },
            ServedPast {
                label: None,
                ..row()
            },
            ServedPast {
                version: "2".into(),
                ..row()
            },
            ServedPast {
                is_removed: true,
                ..row()
            },
            ServedPast {
                items: Some("[]".into()),
                ..row()
            },
        ] {
            let found = FoundShown::of(ENTRY, None, 0, Some(&other), now);
            assert_eq!(
                (found.is_in_history, found.job_id),
                (false, None),
                "{other:?}"
            );
        }
        let garbage = FoundShown::of(b"\xff", Some(1), 0, Some(&row()), now);
        assert_eq!(garbage.state, "unreadable");
    }

    #[test]
    fn a_ranking_is_its_rows_however_the_database_writes_its_numbers() {
        let row = |items: &str| ServedPast {
            label: None,
            score: None,
            items: Some(items.into()),
            ..row()
        };
        let found = br#"{"items":[{"key":"a","score":1e16},{"key":"b","score":2.0}],"model":"m","version":"1","scored_at":"2026-11-21T08:10:00.000Z"}"#;
        let is_same = |items: &str| {
            FoundShown::of(found, None, 0, Some(&row(items)), at("08:11:30")).is_in_history
        };
        assert!(is_same(
            r#"[{"key": "a", "score": 10000000000000000}, {"key": "b", "score": 2}]"#
        ));
        assert!(!is_same(r#"[{"key": "a", "score": 10000000000000000}]"#));
        assert!(!is_same(
            r#"[{"key": "a", "score": 10000000000000000}, {"key": "c", "score": 2}]"#
        ));
        assert!(!is_same(
            r#"[{"key": "a", "score": 10000000000000000}, {"key": "b", "score": 2.1}]"#
        ));
    }
}
