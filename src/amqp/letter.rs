//! Owns what a dead letter says of itself: in its headers, and as JSON. Pure.

use super::{
    delivery::text,
    message::{ERROR_CODE, ERROR_FIELD, ERROR_MESSAGE, FAILED_AT, JOB_ID, QUEUE},
};
use chrono::{DateTime, Utc};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What stands in a letter's headers. A message that Kiln didn't write has none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Letter {
    pub failed_at: Option<String>,
    pub job_id: Option<String>,
    pub code: Option<String>,
    pub field: Option<String>,
    pub message: Option<String>,
    /// The queue to which a replay posts it.
    pub queue: Option<String>,
    pub bytes: usize,
}

impl Letter {
    /// Reads the headers of a message whose body has so many bytes.
    pub fn read(properties: &BasicProperties, bytes: usize) -> Self {
        let header = |name: &str| text(properties.headers().as_ref(), name);
        let message_id = || properties.message_id().as_ref().map(ToString::to_string);
        Self {
            failed_at: header(FAILED_AT),
            job_id: header(JOB_ID).or_else(message_id),
            code: header(ERROR_CODE),
            field: header(ERROR_FIELD),
            message: header(ERROR_MESSAGE),
            queue: header(QUEUE),
            bytes,
        }
    }

    /// When it failed, where it says so.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        let at = DateTime::parse_from_rfc3339(self.failed_at.as_deref()?).ok()?;
        Some(at.to_utc())
    }
}

/// A message's properties that are set, in the order of the protocol.
pub fn properties_json(properties: &BasicProperties) -> Map<String, Value> {
    let mut set = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            set.insert(name.to_owned(), value);
        }
    };
    macro_rules! texts {
        ($($get:ident => $name:literal),*) => { $(put($name, properties.$get().as_ref().map(|v| json!(v.as_str())));)* };
    }
    texts!(content_type => "content_type", content_encoding => "content_encoding", correlation_id => "correlation_id",
        reply_to => "reply_to", message_id => "message_id", kind => "type", app_id => "app_id");
    put("priority", properties.priority().map(|v| json!(v)));
    put("timestamp", properties.timestamp().map(|v| json!(v)));
    set
}

/// The letter, its properties and headers, and its body: as JSON where it is JSON, as text where it isn't.
pub fn as_json(letter: &Letter, properties: &BasicProperties, body: &[u8]) -> Value {
    let headers = properties.headers().clone().unwrap_or_default();
    let mut shown = serde_json::to_value(letter).unwrap_or_default();
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("properties".into(), properties_json(properties).into());
        fields.insert("headers".into(), headers_json(&headers));
        match serde_json::from_slice::<Value>(body) {
            Ok(body) => fields.insert("body".into(), body),
            Err(_) => fields.insert("body_text".into(), String::from_utf8_lossy(body).into()),
        };
    }
    shown
}

/// A table of headers as JSON.
pub fn headers_json(headers: &FieldTable) -> Value {
    let fields = headers
        .inner()
        .iter()
        .map(|(name, value)| (name.to_string(), header_json(value)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn header_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => json!(v),
        AMQPValue::ShortShortInt(v) => json!(v),
        AMQPValue::ShortShortUInt(v) => json!(v),
        AMQPValue::ShortInt(v) => json!(v),
        AMQPValue::ShortUInt(v) => json!(v),
        AMQPValue::LongInt(v) => json!(v),
        AMQPValue::LongUInt(v) => json!(v),
        AMQPValue::LongLongInt(v) => json!(v),
        AMQPValue::Float(v) => json!(v),
        AMQPValue::Double(v) => json!(v),
        AMQPValue::DecimalValue(v) => {
            json!(f64::from(v.value) / 10f64.powi(i32::from(v.scale)))
        }
        AMQPValue::ShortString(v) => json!(v.as_str()),
        AMQPValue::LongString(v) => json!(String::from_utf8_lossy(v.as_bytes())),
        AMQPValue::FieldArray(v) => Value::Array(v.as_slice().iter().map(header_json).collect()),
        AMQPValue::Timestamp(v) => json!(v),
        AMQPValue::FieldTable(v) => headers_json(v),
        AMQPValue::ByteArray(v) => json!(hex::encode(v.as_slice())),
        AMQPValue::Void => Value::Null,
    }
}
