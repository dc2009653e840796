//! Local replies: responses that the proxy sends itself, with the reason for metrics and logs.

use std::task::{Context, Waker};

use plimsoll_core::Failure;
use plimsoll_wire::grpc;
use plimsoll_wire::http1::RequestError;

use crate::base::reason::Reason;
use crate::net::stream::Stream;
use plimsoll_wire::http1::fields::{write_decimal, write_field};

/// A local reply: its status, the reason for logs and metrics, and a sentence for the body.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    pub(crate) detail: &'static str,
}

/// Methods in the `Allow` field of a 405 reply.
pub(crate) const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS";

const fn reply(status: u16, reason: Reason, detail: &'static str) -> LocalReply {
    LocalReply { status, reason, detail }
}

impl LocalReply {
    pub(crate) const BAD_REQUEST_LINE: Self = reply(400, Reason::BadRequest, "the request line is malformed");
    pub(crate) const BAD_TARGET: Self = reply(400, Reason::BadRequest, "the request target is malformed");
    pub(crate) const WRONG_SCHEME: Self =
        reply(400, Reason::BadRequest, "the scheme of the request target does not match the listener");
    pub(crate) const NOT_EXPRESSIBLE_IN_HTTP2: Self = reply(
        400,
        Reason::BadRequest,
        "the request cannot be expressed in HTTP/2, which the destination requires",
    );
    pub(crate) const BAD_HEADER: Self = reply(400, Reason::BadRequest, "a header line is malformed");
    pub(crate) const BAD_HOST: Self =
        reply(400, Reason::BadRequest, "exactly one valid Host header is required");
    pub(crate) const BAD_LENGTH: Self =
        reply(400, Reason::BadRequest, "Content-Length is malformed or has different values");
    pub(crate) const BAD_TRANSFER_ENCODING: Self =
        reply(400, Reason::BadRequest, "Transfer-Encoding is ambiguous: only a single `chunked` is accepted");
    /// Such a request may be an attempt at request smuggling (RFC 9112 section 6.1).
    pub(crate) const LENGTH_AND_TRANSFER_ENCODING: Self =
        reply(400, Reason::BadRequest, "Content-Length and Transfer-Encoding must not be sent together");
    pub(crate) const BAD_BODY: Self = reply(400, Reason::BadRequest, "the chunked body is malformed");
    pub(crate) const BAD_BASE64: Self = reply(400, Reason::BadRequest, "the body is not valid Base64");
    pub(crate) const UNKNOWN_CODING: Self =
        reply(501, Reason::UnknownCoding, "this transfer coding is not supported");
    pub(crate) const UNKNOWN_PROTOCOL: Self =
        reply(501, Reason::ProtocolNotSupported, "extended CONNECT supports only `websocket`");
    pub(crate) const NO_WEBSOCKET: Self =
        reply(502, Reason::ProtocolNotSupported, "the destination does not support WebSocket over HTTP/2");
    pub(crate) const URI_TOO_LONG: Self = reply(414, Reason::UriTooLong, "the request target is too long");
    pub(crate) const HEAD_TOO_LARGE: Self =
        reply(431, Reason::HeadersTooLarge, "the request has too many or too long header fields");
    pub(crate) const VERSION_NOT_SUPPORTED: Self =
        reply(505, Reason::VersionNotSupported, "this HTTP version is not supported");
    pub(crate) const METHOD_NOT_ALLOWED: Self =
        reply(405, Reason::MethodNotAllowed, "CONNECT and TRACE are not allowed");
    pub(crate) const EXPECTATION_FAILED: Self =
        reply(417, Reason::ExpectationFailed, "only `Expect: 100-continue` is supported");
    pub(crate) const BODY_TOO_LARGE: Self =
        reply(413, Reason::BodyTooLarge, "the request body exceeds the limit");
    pub(crate) const HEADER_TIMEOUT: Self =
        reply(408, Reason::HeaderTimeout, "the request head did not arrive in time");
    pub(crate) const BODY_TIMEOUT: Self =
        reply(408, Reason::BodyTimeout, "the request body did not arrive in time");
    pub(crate) const MISDIRECTED: Self =
        reply(421, Reason::Misdirected, "this connection is not authoritative for the host: open a new one");
    pub(crate) const NO_ROUTE: Self = reply(404, Reason::NoRoute, "no route matches this request");
    pub(crate) const NO_DESTINATION: Self =
        reply(503, Reason::NoHealthyDestination, "no healthy destination is available");
    pub(crate) const CONNECT_FAILED: Self =
        reply(503, Reason::ConnectFailed, "no destination accepted a connection");
    pub(crate) const NO_RESOURCES: Self = reply(
        503,
        Reason::NoResources,
        "the balancer has no file descriptor, port, memory or connection left",
    );
    pub(crate) const OVERFLOW: Self =
        reply(503, Reason::Overflow, "all destinations are at their limits and the queue is full");
    pub(crate) const MEMORY_LIMIT: Self =
        reply(503, Reason::MemoryLimit, "the balancer buffers too many bytes for peers that do not read");
    pub(crate) const QUEUE_TIMEOUT: Self =
        reply(503, Reason::QueueTimeout, "all destinations stayed at their limits until the queue timeout");
    pub(crate) const RESET: Self =
        reply(502, Reason::Reset, "the destination reset the connection before it responded");
    pub(crate) const EMPTY_RESPONSE: Self =
        reply(502, Reason::EmptyResponse, "the destination closed the connection without a response");
    pub(crate) const BAD_RESPONSE: Self =
        reply(502, Reason::BadResponse, "the response of the destination is malformed");
    pub(crate) const RESPONSE_TIMEOUT: Self =
        reply(504, Reason::ResponseTimeout, "the destination did not respond in time");
    pub(crate) const TOTAL_TIMEOUT: Self =
        reply(504, Reason::TotalTimeout, "the request was not served within its total timeout");
    pub(crate) const CONNECTION_LIMIT: Self =
        reply(503, Reason::ConnectionLimit, "the listener has reached its connection limit");

    /// Reports whether the connection stays open after this reply, provided that the request was read to its
    /// end. It does not if it is in doubt where the next request begins.
    pub(crate) const fn allows_keep_alive(self) -> bool {
        matches!(self.reason, Reason::NoRoute)
            || (self.status >= 502 && self.status <= 504 && !matches!(self.reason, Reason::ConnectionLimit))
    }
}

impl From<RequestError> for LocalReply {
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

/// Returns the reason phrase of a status.
const fn reason_phrase(status: u16) -> &'static str {
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

/// Format of a local reply, as the client expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplyFormat {
    /// One line of plain text.
    Text,
    /// A JSON object with problem details (RFC 9457).
    Json,
    /// A gRPC status in a gRPC-Web response of this content type.
    GrpcWeb(Vec<u8>),
}

/// Writes the reply as a complete HTTP/1 response.
pub(crate) fn write(
    out: &mut Vec<u8>,
    reply: LocalReply,
    format: &ReplyFormat,
    head_only: bool,
    keep_alive: bool,
) {
    let json = match format {
        ReplyFormat::GrpcWeb(content_type) => return write_grpc_web(out, reply, content_type, keep_alive),
        format => *format == ReplyFormat::Json,
    };
    let status = reply.status;
    let (content_type, body) = body(reply, json);
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: ");
    out.extend_from_slice(content_type.as_bytes());
    out.extend_from_slice(b"\r\nContent-Length: ");
    write_decimal(out, body.len() as u64);
    out.extend_from_slice(b"\r\n");
    if status == 503 {
        out.extend_from_slice(b"Retry-After: 1\r\n");
    }
    if status == 405 {
        write_field(out, b"Allow", ALLOWED_METHODS.as_bytes());
    }
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Writes the reply to a gRPC-Web call: its clients read the gRPC status from the head.
fn write_grpc_web(out: &mut Vec<u8>, reply: LocalReply, content_type: &[u8], keep_alive: bool) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    write_field(out, b"Content-Type", content_type);
    write_field(out, b"grpc-status", grpc::from_http_status(reply.status).as_bytes());
    write_field(out, b"grpc-message", reply.detail.as_bytes());
    out.extend_from_slice(b"Content-Length: 0\r\n");
    if !keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Returns the content type and the body of a reply, as plain text or as problem details (RFC 9457).
pub(crate) fn body(reply: LocalReply, json: bool) -> (&'static str, String) {
    let LocalReply { status, reason, detail } = reply;
    let (name, title) = (reason.as_str(), reason_phrase(status));
    if json {
        let body = format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"reason\":\"{name}\",\"detail\":\"{detail}\"}}\n"
        );
        return ("application/problem+json", body);
    }
    ("text/plain; charset=utf-8", format!("{status} {title}: {name}: {detail}\n"))
}

/// Sends a reply on a connection that will not be served, as far as one write allows.
pub(crate) fn try_write(stream: &mut Stream, reply: LocalReply) {
    let mut out = Vec::with_capacity(256);
    write(&mut out, reply, &ReplyFormat::Text, false, false);
    let _best_effort = stream.poll_write(&mut Context::from_waker(Waker::noop()), &out);
    stream.shutdown_write();
}

impl From<Failure> for LocalReply {
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
            assert_eq!(LocalReply::from(failure).reason, Reason::from(failure), "{failure:?}");
        }
    }

    #[test]
    fn a_reply_names_its_reason_in_every_format() {
        let mut text = Vec::new();
        write(&mut text, LocalReply::NO_DESTINATION, &ReplyFormat::Text, false, true);
        let text = String::from_utf8(text).expect("ascii");
        assert!(
            text.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && text.contains("Retry-After: 1\r\n")
        );
        assert!(text.ends_with("no_healthy_destination: no healthy destination is available\n"), "{text}");
        let mut json = Vec::new();
        write(&mut json, LocalReply::NO_ROUTE, &ReplyFormat::Json, false, true);
        let json = String::from_utf8(json).expect("ascii");
        let body = json.split("\r\n\r\n").nth(1).expect("body");
        let body: serde_json::Value = serde_json::from_str(body).expect("valid JSON");
        assert_eq!(body["reason"], "no_route");
    }
}
