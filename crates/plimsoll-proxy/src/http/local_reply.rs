//! What the proxy answers itself, and how it says why.

use std::task::{Context, Waker};

use plimsoll_core::Failure;
use plimsoll_wire::grpc;
use plimsoll_wire::http1::RequestError;

use crate::base::reason::Reason;
use crate::net::stream::Stream;
use plimsoll_wire::http1::fields::{write_decimal, write_field};

/// An answer of our own: its status, the word for logs and metrics, and a sentence for people.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    pub(crate) detail: &'static str,
}

const fn refusal(status: u16, reason: Reason, detail: &'static str) -> Refusal {
    Refusal { status, reason, detail }
}

impl Refusal {
    pub(crate) const BAD_REQUEST_LINE: Self =
        refusal(400, Reason::BadRequest, "the request line is malformed");
    pub(crate) const BAD_TARGET: Self = refusal(400, Reason::BadRequest, "the request target is malformed");
    pub(crate) const WRONG_SCHEME: Self =
        refusal(400, Reason::BadRequest, "the scheme of the request target is not what is spoken here");
    pub(crate) const NO_HTTP2_FORM: Self =
        refusal(400, Reason::BadRequest, "the request has no form in HTTP/2, which its destination speaks");
    pub(crate) const BAD_HEADER: Self = refusal(400, Reason::BadRequest, "a header line is malformed");
    pub(crate) const BAD_HOST: Self =
        refusal(400, Reason::BadRequest, "exactly one valid Host header is needed");
    pub(crate) const BAD_LENGTH: Self =
        refusal(400, Reason::BadRequest, "Content-Length is malformed or differs");
    pub(crate) const BAD_TRANSFER_ENCODING: Self = refusal(
        400,
        Reason::BadRequest,
        "Transfer-Encoding is ambiguous: only a single `chunked` is accepted",
    );
    /// RFC 9112, section 6.1: such a request may be smuggled.
    pub(crate) const LENGTH_AND_TRANSFER_ENCODING: Self =
        refusal(400, Reason::BadRequest, "Content-Length and Transfer-Encoding must not be sent together");
    pub(crate) const BAD_BODY: Self = refusal(400, Reason::BadRequest, "the chunked body is malformed");
    pub(crate) const BAD_BASE64: Self = refusal(400, Reason::BadRequest, "the body is not base64");
    pub(crate) const UNKNOWN_CODING: Self =
        refusal(501, Reason::UnknownCoding, "this transfer coding is not supported");
    pub(crate) const UNKNOWN_PROTOCOL: Self =
        refusal(501, Reason::ProtocolNotSupported, "of extended CONNECT only `websocket` is supported");
    pub(crate) const NO_WEBSOCKET: Self =
        refusal(502, Reason::ProtocolNotSupported, "the destination takes no WebSocket over HTTP/2");
    pub(crate) const URI_TOO_LONG: Self = refusal(414, Reason::UriTooLong, "the request target is too long");
    pub(crate) const HEAD_TOO_LARGE: Self =
        refusal(431, Reason::HeadersTooLarge, "the request has too many or too long headers");
    pub(crate) const VERSION_NOT_SUPPORTED: Self =
        refusal(505, Reason::VersionNotSupported, "this HTTP version is not supported here");
    pub(crate) const METHOD_NOT_ALLOWED: Self =
        refusal(405, Reason::MethodNotAllowed, "CONNECT and TRACE are not allowed here");
    pub(crate) const EXPECTATION_FAILED: Self =
        refusal(417, Reason::ExpectationFailed, "only Expect: 100-continue is understood");
    pub(crate) const BODY_TOO_LARGE: Self =
        refusal(413, Reason::BodyTooLarge, "the request body is too large");
    pub(crate) const HEADER_TIMEOUT: Self =
        refusal(408, Reason::HeaderTimeout, "the request head did not arrive in time");
    pub(crate) const BODY_TIMEOUT: Self =
        refusal(408, Reason::BodyTimeout, "the request body stopped arriving");
    pub(crate) const MISDIRECTED: Self =
        refusal(421, Reason::Misdirected, "this connection is not for that host: open another one");
    pub(crate) const NO_ROUTE: Self = refusal(404, Reason::NoRoute, "no route matches this request");
    pub(crate) const NO_DESTINATION: Self =
        refusal(503, Reason::NoHealthyDestination, "no destination may serve now");
    pub(crate) const CONNECT_FAILED: Self =
        refusal(503, Reason::ConnectFailed, "no connection to a destination could be made");
    pub(crate) const NO_RESOURCES: Self = refusal(
        503,
        Reason::NoResources,
        "the balancer has no descriptor, port, memory or room for a connection",
    );
    pub(crate) const OVERFLOW: Self =
        refusal(503, Reason::Overflow, "the destinations have all they may have, and too many wait already");
    pub(crate) const QUEUE_TIMEOUT: Self =
        refusal(503, Reason::QueueTimeout, "the destinations had all they may have for too long");
    pub(crate) const RESET: Self =
        refusal(502, Reason::Reset, "the destination broke the connection before answering");
    pub(crate) const EMPTY_RESPONSE: Self =
        refusal(502, Reason::EmptyResponse, "the destination closed without answering");
    pub(crate) const BAD_RESPONSE: Self =
        refusal(502, Reason::BadResponse, "the destination's answer was malformed");
    pub(crate) const RESPONSE_TIMEOUT: Self =
        refusal(504, Reason::ResponseTimeout, "the destination did not answer in time");
    pub(crate) const TOTAL_TIMEOUT: Self =
        refusal(504, Reason::TotalTimeout, "the message was not served within its total time");
    pub(crate) const CONNECTION_LIMIT: Self =
        refusal(503, Reason::ConnectionLimit, "the listener has too many connections");

    /// May the connection go on after this answer, if its request was wholly read? Not after anything
    /// that leaves doubt about where the next request begins.
    pub(crate) const fn keeps_connection(self) -> bool {
        matches!(self.reason, Reason::NoRoute)
            || (self.status >= 502 && self.status <= 504 && !matches!(self.reason, Reason::ConnectionLimit))
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::RequestLine => Self::BAD_REQUEST_LINE,
            RequestError::Target => Self::BAD_TARGET,
            RequestError::Header => Self::BAD_HEADER,
            RequestError::Host => Self::BAD_HOST,
            RequestError::ContentLength => Self::BAD_LENGTH,
            RequestError::TransferEncoding => Self::BAD_TRANSFER_ENCODING,
            RequestError::LengthAndTransferEncoding => Self::LENGTH_AND_TRANSFER_ENCODING,
            RequestError::UnsupportedCoding => Self::UNKNOWN_CODING,
            RequestError::TargetTooLong => Self::URI_TOO_LONG,
            RequestError::HeadTooLarge => Self::HEAD_TOO_LARGE,
            RequestError::UnsupportedVersion => Self::VERSION_NOT_SUPPORTED,
            RequestError::Method => Self::METHOD_NOT_ALLOWED,
            RequestError::Expectation => Self::EXPECTATION_FAILED,
        }
    }
}

/// The phrase of each status we answer with.
const fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// How a refusal is put, as its client will understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A line of text.
    Text,
    /// Problem details (RFC 9457).
    Json,
    /// A status of gRPC, in an answer of this type.
    Web(Vec<u8>),
}

/// Writes the whole answer.
pub(crate) fn write(out: &mut Vec<u8>, refusal: Refusal, form: &Form, head_only: bool, keep_alive: bool) {
    let json = match form {
        Form::Web(content_type) => return write_web(out, refusal, content_type, keep_alive),
        form => *form == Form::Json,
    };
    let status = refusal.status;
    let (content_type, body) = body(refusal, json);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    write_decimal(out, body.len() as u64);
    out.extend_from_slice(b"\r\n");
    if status == 503 {
        out.extend_from_slice(b"Retry-After: 1\r\n");
    }
    if status == 405 {
        out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n");
    }
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// The answer to a call of gRPC-Web: its clients look for a status of gRPC in the head.
fn write_web(out: &mut Vec<u8>, refusal: Refusal, content_type: &[u8], keep_alive: bool) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    write_field(out, b"Content-Type", content_type);
    write_field(out, b"grpc-status", grpc::from_http_status(refusal.status).as_bytes());
    write_field(out, b"grpc-message", refusal.detail.as_bytes());
    out.extend_from_slice(b"Content-Length: 0\r\n");
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// What a refusal says, and in which form: for people, or for programs (RFC 9457).
pub(crate) fn body(refusal: Refusal, json: bool) -> (&'static str, String) {
    let Refusal { status, reason, detail } = refusal;
    let (word, title) = (reason.as_str(), phrase(status));
    if json {
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"reason\":\"{word}\",\"detail\":\"{detail}\"}}\n"
        );
        return ("application/problem+json", body);
    }
    ("text/plain; charset=utf-8", format!("{status} {title}: {word}: {detail}\n"))
}

/// Answers a connection that will not be served, as far as one write goes.
pub(crate) fn write_at_once(stream: &mut Stream, refusal: Refusal) {
    let mut out = Vec::with_capacity(256);
    write(&mut out, refusal, &Form::Text, false, false);
    let _as_far_as_it_goes = stream.poll_write(&mut Context::from_waker(Waker::noop()), &out);
    stream.shutdown_write();
}

impl From<Failure> for Refusal {
    /// Returns the reply that reports the failure of the last attempt.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect => Self::CONNECT_FAILED,
            Failure::NoResources => Self::NO_RESOURCES,
            Failure::Reset => Self::RESET,
            Failure::EmptyResponse => Self::EMPTY_RESPONSE,
            Failure::Timeout => Self::RESPONSE_TIMEOUT,
            Failure::Garbage => Self::BAD_RESPONSE,
            Failure::Truncated => Self { reason: failure.into(), ..Self::BAD_RESPONSE },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_to_a_failure_has_the_reason_of_the_failure() {
        for failure in Failure::ALL {
            assert_eq!(Refusal::from(failure).reason, Reason::from(failure), "{failure:?}");
        }
    }

    #[test]
    fn an_answer_tells_its_reason_in_both_forms() {
        let mut text = Vec::new();
        write(&mut text, Refusal::NO_DESTINATION, &Form::Text, false, true);
        let text = String::from_utf8(text).expect("ascii");
        assert!(
            text.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && text.contains("Retry-After: 1\r\n")
        );
        assert!(text.ends_with("no_healthy_destination: no destination may serve now\n"), "{text}");
        let mut json = Vec::new();
        write(&mut json, Refusal::NO_ROUTE, &Form::Json, false, true);
        let json = String::from_utf8(json).expect("ascii");
        let body = json.split("\r\n\r\n").nth(1).expect("body");
        let body: serde_json::Value = serde_json::from_str(body).expect("valid JSON");
        assert_eq!(body["reason"], "no_route");
    }
}
