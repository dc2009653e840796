//! HTTP checks: the status of a response, and the start of its body.

use std::sync::Arc;

use plimsoll_core::health::{CheckFailure, CheckFailureKind};
use plimsoll_wire::http1::body::{BodyReader, Framing};

use crate::health::probe::http2::{final_response, no_response, with_connection};
use crate::health::probe::{
    AGENT, MAX_HEAD, MAX_INFORMATIONAL, MAX_RECEIVED, bad_response, closed, contains, too_many_informational,
};
use crate::net::stream::Stream;

/// Maximum number of body bytes that are searched for the expected content.
const MAX_BODY: usize = 64 * 1024;

/// Request of a check.
pub(super) struct CheckRequest<'q> {
    pub(super) method: &'q str,
    pub(super) path: &'q str,
    pub(super) host: &'q str,
    pub(super) headers: &'q [(Arc<str>, Arc<str>)],
    /// Content that the response body must contain.
    pub(super) body: Option<&'q [u8]>,
}

impl CheckRequest<'_> {
    /// Returns the header fields after `Host`: the defaults that are not overridden, then the configured ones.
    fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let defaults = [("user-agent", AGENT), ("accept", "*/*")];
        let set = |name: &str| self.headers.iter().any(|(set, _)| **set == *name);
        let defaults = defaults.into_iter().filter(move |(name, _)| !set(name));
        defaults.chain(self.headers.iter().map(|(name, value)| (&**name, &**value)))
    }
}

fn check_status(status: u16, expect: &[(u16, u16)]) -> Result<(), CheckFailure> {
    match expect.iter().any(|&(from, to)| (from..=to).contains(&status)) {
        true => Ok(()),
        false => Err(CheckFailure::http_status(status)),
    }
}

fn body_mismatch() -> CheckFailure {
    CheckFailure::protocol(CheckFailureKind::BodyMismatch, "the response body lacks the expected content")
}

/// Checks a destination with a request over HTTP/1.1.
pub(super) async fn check_http1(
    mut stream: Stream,
    request: &CheckRequest<'_>,
    expect: &[(u16, u16)],
) -> Result<(), CheckFailure> {
    let CheckRequest { method, path, host, .. } = request;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in request.fields() {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.map_err(|error| closed("cannot send", &error))?;
    let mut response = Response::default();
    let (status, framing, body_at) = response.read_head(&mut stream).await?;
    check_status(status, expect)?;
    match request.body {
        None => Ok(()),
        Some(expected) => response.find_in_body(&mut stream, framing, body_at, expected).await,
    }
}

/// Received bytes of a response.
#[derive(Default)]
struct Response {
    bytes: Vec<u8>,
}

impl Response {
    /// Reads more bytes, and returns how many.
    async fn receive(&mut self, stream: &mut Stream) -> Result<usize, CheckFailure> {
        let mut piece = [0; 4096];
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut piece)).await;
        let n = read.map_err(|error| closed("cannot receive", &error))?;
        self.bytes.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Reads the final status, the framing of the body, and the position of the body.
    async fn read_head(&mut self, stream: &mut Stream) -> Result<(u16, Framing, usize), CheckFailure> {
        let (mut from, mut informational) = (0, 0);
        loop {
            let mut slots = [httparse::EMPTY_HEADER; 128];
            let mut response = httparse::Response::new(&mut slots);
            match response.parse(&self.bytes[from..]) {
                // Several may be in one segment. A protocol switch (101) was not requested.
                Ok(httparse::Status::Complete(len)) if matches!(response.code, Some(100 | 102..=199)) => {
                    from += len;
                    informational += 1;
                    if informational > MAX_INFORMATIONAL {
                        return Err(too_many_informational());
                    }
                }
                Ok(httparse::Status::Complete(len)) => {
                    let status = response.code.ok_or_else(|| bad_response("the response has no status"))?;
                    return Ok((status, framing(response.headers), from + len));
                }
                Ok(httparse::Status::Partial) if self.bytes.len() >= MAX_HEAD => {
                    return Err(bad_response(format!("the response head is larger than {MAX_HEAD} bytes")));
                }
                Ok(httparse::Status::Partial) => {
                    if self.receive(stream).await? == 0 {
                        let detail = "connection closed before the response";
                        return Err(CheckFailure::protocol(CheckFailureKind::Closed, detail));
                    }
                }
                Err(_) => return Err(bad_response("the response is not HTTP/1")),
            }
        }
    }

    async fn find_in_body(
        &mut self,
        stream: &mut Stream,
        framing: Framing,
        body_at: usize,
        expected: &[u8],
    ) -> Result<(), CheckFailure> {
        let mut reader = BodyReader::new(framing);
        let mut raw = self.bytes.split_off(body_at);
        let (mut body, mut received) = (Vec::new(), raw.len());
        loop {
            while !raw.is_empty() && !reader.is_done() {
                let decoded = reader
                    .decode(&mut raw)
                    .map_err(|error| bad_response(format!("the response body is malformed: {error}")))?;
                body.extend_from_slice(&raw[decoded.data]);
                raw.drain(..decoded.consumed);
                if decoded.consumed == 0 {
                    break;
                }
            }
            body.truncate(MAX_BODY);
            if contains(&body, expected) {
                return Ok(());
            }
            self.bytes.clear();
            // Framing can be many times larger than the content.
            if body.len() == MAX_BODY || received >= MAX_RECEIVED || reader.is_done() {
                return Err(body_mismatch());
            }
            match self.receive(stream).await? {
                0 => return Err(body_mismatch()),
                n => received += n,
            }
            raw.append(&mut self.bytes);
        }
    }
}

/// Returns the framing of a body, as far as a check that reads its start needs it: ambiguous framing is read as
/// chunked, and then fails as malformed.
fn framing(headers: &[httparse::Header<'_>]) -> Framing {
    let named = |name| headers.iter().rfind(move |header| header.name.eq_ignore_ascii_case(name));
    if named("transfer-encoding").is_some() {
        return Framing::Chunked;
    }
    let length = named("content-length").and_then(|line| std::str::from_utf8(line.value).ok()?.parse().ok());
    length.map_or(Framing::UntilClose, Framing::Length)
}

/// Checks a destination with a request over HTTP/2, for destinations that support nothing else.
pub(super) async fn check_http2(
    stream: Stream,
    request: &CheckRequest<'_>,
    expect: &[(u16, u16)],
    secure: bool,
) -> Result<(), CheckFailure> {
    let scheme = if secure { "https" } else { "http" };
    // `h2` accepts no asterisk as a path; the root is closest.
    let path = if request.path == "*" { "/" } else { request.path };
    let uri = format!("{scheme}://{}{path}", request.host);
    let mut head = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in request.fields() {
        head = head.header(name, value);
    }
    let head = head.body(()).map_err(|error| format!("cannot express the request in HTTP/2: {error}"))?;
    with_connection(stream, async |mut requests| {
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(no_response)?;
        let (response, _no_body) = requests.send_request(head, true).map_err(no_response)?;
        let response = final_response(response).await?;
        check_status(response.status().as_u16(), expect)?;
        let Some(expected) = request.body else { return Ok(()) };
        let (mut stream, mut body) = (response.into_body(), Vec::new());
        while let Some(piece) = stream.data().await {
            let piece = piece.map_err(no_response)?;
            body.extend_from_slice(&piece);
            body.truncate(MAX_BODY);
            if contains(&body, expected) {
                return Ok(());
            }
            if body.len() == MAX_BODY {
                break;
            }
            let _stream_has_ended = stream.flow_control().release_capacity(piece.len());
        }
        Err(body_mismatch())
    })
    .await
}
