//! Translation of request and response heads between HTTP/2 and HTTP/1.
//!
//! A request head from HTTP/2 is written as HTTP/1 text and then parsed by the HTTP/1 parser. One parser
//! decides which requests are unambiguous, for both protocols.

use std::mem::MaybeUninit;

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderName, HeaderValue, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, request};
use plimsoll_wire::grpc;
use plimsoll_wire::websocket::{ACCEPT, KEY, WEBSOCKET, accept_value};

use crate::http::local_reply::LocalReply;
use plimsoll_wire::http1::fields::{
    Field, classify_field, is_allowed_in_trailers, list_members, write_field,
};
use plimsoll_wire::http1::response::{ResponseHead, ResponseRewrite};
use plimsoll_wire::http1::{HeaderEdits, MAX_HEADERS};

/// Reports whether a request opens a WebSocket tunnel by extended CONNECT (RFC 8441).
///
/// # Errors
/// The local reply to any other CONNECT request.
pub(crate) fn requests_websocket(head: &request::Parts) -> Result<bool, LocalReply> {
    match (head.method == Method::CONNECT, head.extensions.get::<Protocol>()) {
        (false, _) => Ok(false),
        (true, None) => Err(LocalReply::METHOD_NOT_ALLOWED),
        (true, Some(protocol)) if !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) => {
            Err(LocalReply::UNKNOWN_PROTOCOL)
        }
        // A tunnel has no content length.
        (true, Some(_)) if head.headers.contains_key(CONTENT_LENGTH) => Err(LocalReply::BAD_LENGTH),
        (true, Some(_)) => Ok(true),
    }
}

/// Writes a request head as HTTP/1 text. `end_stream` means that no body follows; a `key` makes it a WebSocket
/// upgrade. `expected_scheme` is that of the connection; `None` accepts any.
///
/// # Errors
/// The local reply to a request that cannot be expressed in HTTP/1.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    head: &request::Parts,
    end_stream: bool,
    key: Option<&str>,
    expected_scheme: Option<&str>,
) -> Result<(), LocalReply> {
    let is_wrong =
        |scheme: &str| expected_scheme.is_some_and(|expected| !scheme.eq_ignore_ascii_case(expected));
    if head.uri.scheme_str().is_some_and(is_wrong) {
        return Err(LocalReply::WRONG_SCHEME);
    }
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    if target.is_empty() {
        return Err(LocalReply::BAD_TARGET);
    }
    out.extend_from_slice(key.map_or(head.method.as_str(), |_| "GET").as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (head.uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) | (None, None, _) => return Err(LocalReply::BAD_HOST),
        (Some(authority), None, None) => authority.as_str().as_bytes(),
        (None, Some(host), None) => host.as_bytes(),
        (Some(authority), Some(host), None) => {
            // With two names, two recipients could see two hosts (RFC 9113 section 8.3.1).
            if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) {
                return Err(LocalReply::BAD_HOST);
            }
            host.as_bytes()
        }
    };
    write_field(out, b"Host", host);
    for (name, value) in &head.headers {
        // HTTP/2 has no WebSocket key; one that the client sent is dropped (RFC 8441 section 5).
        if name != HOST && name != COOKIE && !(key.is_some() && name == KEY) {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    write_cookies(out, &head.headers);
    if let Some(key) = key {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        write_field(out, b"Upgrade", WEBSOCKET.as_bytes());
        write_field(out, b"Sec-WebSocket-Key", key.as_bytes());
    } else if !head.headers.contains_key(CONTENT_LENGTH) {
        // A method that gives a body a meaning has a content length also without one (RFC 9110 section 8.6).
        let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        match end_stream {
            false => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            true if expects_body => out.extend_from_slice(b"Content-Length: 0\r\n"),
            true => {}
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Joins the `Cookie` fields: HTTP/2 may split them, HTTP/1 requires one line (RFC 9113 section 8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter().peekable();
    if crumbs.peek().is_none() {
        return;
    }
    out.extend_from_slice(b"Cookie: ");
    while let Some(crumb) = crumbs.next() {
        out.extend_from_slice(crumb.as_bytes());
        if crumbs.peek().is_some() {
            out.extend_from_slice(b"; ");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Parses the HTTP/1 text of a request for a destination that uses HTTP/2. A WebSocket upgrade becomes an
/// extended CONNECT, returned with the `Sec-WebSocket-Accept` value that its key requires. Returns `None` if
/// a field cannot be expressed in HTTP/2.
pub(crate) fn read_request(text: &[u8], secure: bool) -> Option<(Request<()>, Option<String>)> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    parsed.parse_with_uninit_headers(text, &mut slots).ok().filter(httparse::Status::is_complete)?;
    let (method, target) = (parsed.method?, parsed.path?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.path_and_query = Some(target.parse().ok()?);
    let is_websocket = |h: &&httparse::Header<'_>| {
        classify_field(h.name) == Field::Upgrade
            && list_members(h.value).any(|protocol| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
    };
    let upgrades = method == "GET" && parsed.headers.iter().any(|header| is_websocket(&header));
    let key = parsed.headers.iter().find(|header| upgrades && header.name.eq_ignore_ascii_case(KEY));
    let accept = key.map(|key| accept_value(key.value));
    let map = request.headers_mut();
    for header in parsed.headers.iter() {
        match classify_field(header.name) {
            Field::Host => uri.authority = Some(Authority::try_from(header.value).ok()?),
            Field::Connection | Field::TransferEncoding | Field::HopByHop | Field::Upgrade => {}
            _ if accept.is_some() && header.name.eq_ignore_ascii_case(KEY) => {}
            _ => append(map, header.name.as_bytes(), header.value)?,
        }
    }
    // `TE` is hop-by-hop, so the client's was dropped. gRPC servers require it.
    if map.get(CONTENT_TYPE).is_some_and(|value| grpc::is_grpc_content_type(value.as_bytes())) {
        map.insert(TE, HeaderValue::from_static("trailers"));
    }
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    if accept.is_some() {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
    }
    Some((request, accept))
}

/// Writes the response that opens a WebSocket tunnel as HTTP/1 text, with status 101.
pub(crate) fn write_upgrade_response(head: &Response<()>, accept: &str) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n");
    write_field(&mut out, b"Upgrade", WEBSOCKET.as_bytes());
    for (name, value) in head.headers() {
        if name != CONTENT_LENGTH && name != ACCEPT {
            write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    write_field(&mut out, b"Sec-WebSocket-Accept", accept.as_bytes());
    out.extend_from_slice(b"\r\n");
    out.into()
}

/// Writes a response head as HTTP/1 text for the HTTP/1 parser. `end_stream` means that no body follows. The
/// content length in a response to HEAD is kept.
pub(crate) fn write_response(head: &Response<()>, end_stream: bool, to_head_request: bool) -> Bytes {
    let mut out = Vec::with_capacity(512);
    let status = head.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in head.headers() {
        write_field(&mut out, name.as_str().as_bytes(), value.as_bytes());
    }
    let has_body = !status.is_informational() && !matches!(status.as_u16(), 204 | 304) && !to_head_request;
    if has_body && !head.headers().contains_key(CONTENT_LENGTH) {
        let framing: &[u8] =
            if end_stream { b"Content-Length: 0\r\n" } else { b"Transfer-Encoding: chunked\r\n" };
        out.extend_from_slice(framing);
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

/// Translates a response that switches to WebSocket into the HTTP/2 response to an extended CONNECT. Returns
/// `None` if it switches to another protocol, or its `Sec-WebSocket-Accept` is wrong.
pub(crate) fn websocket_response(
    head: &ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    rewrite: ResponseRewrite<'_>,
    accept: &str,
) -> Option<Response<()>> {
    let accepts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(ACCEPT));
    let is_valid = accepts.map(|header| header.value).eq([accept.as_bytes()]);
    let to_websocket = head.upgrade.is_some_and(|to| to.eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
    let mut response = response(head, headers, rewrite, false).filter(|_| is_valid && to_websocket)?;
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(ACCEPT);
    Some(response)
}

/// Translates a response head to HTTP/2: drops hop-by-hop fields and applies the header edits. Returns `None`
/// if a field cannot be expressed in HTTP/2.
pub(crate) fn response(
    head: &ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    rewrite: ResponseRewrite<'_>,
    end_stream: bool,
) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    let map = response.headers_mut();
    for header in headers {
        if rewrite.passes(head, header.name) && classify_field(header.name) != Field::Upgrade {
            append(map, header.name.as_bytes(), header.value)?;
        }
    }
    if let Some(content_type) = rewrite.replaced_content_type() {
        append(map, b"content-type", content_type)?;
    }
    // END_STREAM is equivalent to a content length of 0.
    if let Some(length) = head.content_length().filter(|&length| length > 0 || !end_stream) {
        map.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if rewrite.via {
        append(map, b"via", b"1.1 plimsoll")?;
    }
    for (name, value) in field_lines(&rewrite.edits.appended) {
        append(map, name, value)?;
    }
    Some(response)
}

fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> Option<()> {
    let name = HeaderName::from_bytes(name).ok()?;
    map.append(name, HeaderValue::from_bytes(value.trim_ascii()).ok()?);
    Some(())
}

/// Splits field lines into names and values.
fn field_lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// Parses trailer lines into a map, without those that `edits` drop. Fields that HTTP/2 cannot express are dropped.
pub(crate) fn trailers(text: &[u8], edits: &HeaderEdits) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in edits.keep_trailers(text).flat_map(field_lines) {
        let _dropped = append(&mut map, name, value);
    }
    map
}

/// Writes trailers as lines, without the fields that are not allowed there (RFC 9110 section 6.5.1).
pub(crate) fn trailer_lines(map: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in map {
        if is_allowed_in_trailers(name.as_str()) {
            write_field(&mut text, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: http::request::Builder, end_stream: bool) -> Result<String, LocalReply> {
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let mut out = Vec::new();
        write_request(&mut out, &head, end_stream, None, Some("http"))
            .map(|()| String::from_utf8(out).expect("text"))
    }

    fn get() -> http::request::Builder {
        http::Request::get("http://a.test/x?y=1")
    }

    #[test]
    fn a_request_head_is_written_as_http_1() {
        let request = get().header("accept", "*/*").header("cookie", "a=1").header("cookie", "b=2");
        let text = "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\naccept: */*\r\nCookie: a=1; b=2\r\n\r\n";
        assert_eq!(written(request, true), Ok(text.to_owned()));
        assert!(written(get(), false).expect("fine").contains("\r\nTransfer-Encoding: chunked\r\n"));
        let written_head = written(get().header("content-length", "5"), false).expect("fine");
        assert!(
            written_head.contains("content-length: 5\r\n") && !written_head.contains("chunked"),
            "{written_head}"
        );
    }

    #[test]
    fn differing_or_missing_hosts_are_rejected() {
        assert!(written(get().header("host", "A.TEST"), true).is_ok(), "host names are case-insensitive");
        assert_eq!(written(get().header("host", "b.test"), true), Err(LocalReply::BAD_HOST));
        let twice = get().header("host", "a.test").header("host", "a.test");
        assert_eq!(written(twice, true), Err(LocalReply::BAD_HOST));
        assert_eq!(written(http::Request::get("/x"), true), Err(LocalReply::BAD_HOST));
    }

    #[test]
    fn trailers_are_translated_without_forbidden_fields() {
        let edits = HeaderEdits { dropped: vec!["x-gone".into()], ..HeaderEdits::default() };
        let map = trailers(b"grpc-status: 0\r\nX-Sum: a: b\r\nX_Gone: 1\r\n", &edits);
        assert_eq!(map["grpc-status"], "0");
        assert_eq!(trailer_lines(&map), b"grpc-status: 0\r\nx-sum: a: b\r\n");
        let forbidden = b"host: evil\r\ncontent-length: 1\r\ncookie: a\r\nx_forwarded_for: b\r\n";
        assert_eq!(trailer_lines(&trailers(forbidden, &edits)), b"");
    }
}
