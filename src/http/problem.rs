//! Error responses: a code, the field at fault, and what was expected.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kiln_contract::failure::{Code, Rejection};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// The code of a body that is packed in an unknown way.
const BAD_ENCODING: &str = "bad_encoding";

/// The body of every error response.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For programs, such as `invalid` or `unavailable`.
    pub code: String,
    /// The field, header or parameter at fault; empty if there is none.
    pub field: String,
    /// For people: what was expected, or what doesn't work.
    pub message: String,
}

/// A request that can't be served.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: ErrorDetail,
    retry_after: Option<Duration>,
}

impl Problem {
    fn new(status: StatusCode, code: &str, field: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            detail: ErrorDetail {
                code: code.to_owned(),
                field: field.to_owned(),
                message: message.into(),
            },
            retry_after: None,
        }
    }

    /// The request itself is wrong.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", field, message)
    }

    /// The body is larger than this worker accepts.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "", message)
    }

    /// The body is said to be something else than JSON.
    pub fn not_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "content-type",
            "expected application/json (with curl: --json in place of -d)",
        )
    }

    /// The body is packed in a way that isn't known here.
    pub fn bad_encoding() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            BAD_ENCODING,
            "content-encoding",
            "expected gzip or zstd, once, or none",
        )
    }

    /// The id is used, by a job with another body.
    pub fn conflict(id: &str) -> Self {
        let message = format!("a job `{id}` has ended, and had another body");
        Self::new(StatusCode::CONFLICT, "conflict", "job_id", message)
    }

    /// No key, or an unknown one.
    pub fn unauthorized(message: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "authorization",
            message,
        )
    }

    /// The key lacks the scope.
    pub fn forbidden(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", field, message)
    }

    /// There is no such resource.
    pub fn not_found(field: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", field, message)
    }

    /// The key is over its rate limit.
    pub fn rate_limited(wait: Duration) -> Self {
        let mut problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "",
            "this key is over its rate limit",
        );
        problem.retry_after = Some(wait);
        problem
    }

    /// The path has no such method.
    pub fn bad_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "bad_method",
            "",
            "method not allowed; /openapi.json lists the methods of each path",
        )
    }

    /// Something that the request needs doesn't work at the moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "", message);
        problem.retry_after = Some(Duration::from_secs(1));
        problem
    }

    /// The same, told of another field.
    pub(super) fn with_field(mut self, name: impl FnOnce(&str) -> String) -> Self {
        self.detail.field = name(&self.detail.field);
        self
    }

    #[cfg(test)]
    pub(super) fn field(&self) -> &str {
        &self.detail.field
    }

    #[cfg(test)]
    pub(super) fn status_code(&self) -> u16 {
        self.status.as_u16()
    }

    /// The request took too long, and what it asked for goes on.
    pub fn goes_on(limit: Duration) -> Self {
        Self::unavailable(format!(
            "not done within {} ms; it goes on, and /v1/log/actions says what was done",
            limit.as_millis()
        ))
    }

    /// The request took too long.
    pub fn timeout(limit: Duration) -> Self {
        Self::unavailable(format!(
            "not done within {} ms; the request may be retried",
            limit.as_millis()
        ))
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let status = match rejection.code {
            Code::Malformed | Code::Invalid => StatusCode::BAD_REQUEST,
            Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Code::UnknownModel => StatusCode::NOT_FOUND,
            Code::Conflict => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Expired | Code::Exhausted | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(
            status,
            rejection.code.as_str(),
            &rejection.field,
            rejection.message,
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after = self
            .retry_after
            .and_then(|wait| HeaderValue::from_str(&wait.as_secs().max(1).to_string()).ok());
        let is_of_encoding = self.detail.code == BAD_ENCODING;
        let body = ErrorBody { error: self.detail };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if is_of_encoding {
            let taken = HeaderValue::from_static("gzip, zstd");
            response
                .headers_mut()
                .insert(header::ACCEPT_ENCODING, taken);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
