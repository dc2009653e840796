//! Error responses of the API: problem documents (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

/// An error response.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// Problems of a configuration, in the format of `plimsoll check -o json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<Value>,
}

impl Problem {
    /// Creates a problem without a type of its own (RFC 9457 section 4.2.1).
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Self { kind: "about:blank", title, status: status.as_u16(), detail: detail.into(), problems: None }
    }

    /// Adds the problems of a configuration.
    pub(crate) fn with_problems(self, problems: &impl Serialize) -> Self {
        Self { problems: serde_json::to_value(problems).ok(), ..self }
    }
}

/// Returns the problem of an invalid request.
pub(crate) fn bad_request(error: &impl ToString) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error.to_string())
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}
