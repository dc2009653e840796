//! Whether a request head is unambiguous, and how it leaves for a destination.

use std::io::Write as _;
use std::time::Duration;

use plimsoll_wire::grpc;
use plimsoll_wire::grpc_web::ContentType;

use crate::http::body::Framing;
use crate::http::fields::{
    ConnectionOptions, Field, LineCopier, content_length, field, members, write_line, write_number,
};
use crate::http::local_reply::Refusal;
use crate::http::target::{Method, Target, valid_host};
use crate::http1::{HeaderSlots, MAX_HEADERS};
use crate::net::stream::Peer;
use plimsoll_config::model::Limits;
use plimsoll_wire::http1::HeaderEdits;

/// A request head that was read and found unambiguous. Borrows the buffer it came in.
#[derive(Debug)]
pub(crate) struct RequestHead<'b> {
    pub(crate) method: Method,
    pub(crate) method_word: &'b str,
    pub(crate) target: Target<'b>,
    /// The authority it is for; empty for an HTTP/1.0 request without one.
    pub(crate) host: &'b [u8],
    pub(crate) http10: bool,
    pub(crate) framing: Framing,
    /// The client wants to go on after this request.
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The protocol of an `Upgrade` this proxy will tunnel.
    pub(crate) upgrade: Option<&'b [u8]>,
    /// Problems are answered in JSON if the client takes it.
    pub(crate) accepts_json: bool,
    /// It is a call of gRPC.
    pub(crate) is_call: bool,
    /// It is a call of gRPC-Web, of this type.
    pub(crate) web: Option<ContentType<'b>>,
    /// How long the caller will wait for all of it.
    pub(crate) call_timeout: Option<Duration>,
    options: ConnectionOptions<'b>,
    /// Bytes of the head.
    pub(crate) len: usize,
}

/// Reads a request head from the front of `buffer`. `Ok(None)`: more bytes are needed.
pub(crate) fn parse<'b, 'h>(
    buffer: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    limits: &Limits,
) -> Result<Option<(RequestHead<'b>, &'h [httparse::Header<'b>])>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(buffer, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return too_long(buffer, limits).map_or(Ok(None), Err),
        Err(error) => return Err(too_long(buffer, limits).unwrap_or_else(|| refusal_for(error))),
    };
    let headers: &'h [httparse::Header<'b>] = request.headers;
    let (Some(word), Some(raw_target), Some(version)) = (request.method, request.path, request.version)
    else {
        return Err(Refusal::BAD_REQUEST_LINE);
    };
    if raw_target.len() > limits.uri_bytes {
        return Err(Refusal::URI_TOO_LONG);
    }
    if len > limits.header_bytes || headers.len() > limits.headers {
        return Err(Refusal::HEAD_TOO_LARGE);
    }
    let method = Method::parse(word);
    if matches!(method, Method::Connect | Method::Trace) {
        return Err(Refusal::METHOD_NOT_ALLOWED);
    }
    let target = Target::parse(raw_target, method == Method::Options).ok_or(Refusal::BAD_TARGET)?;
    let head = RequestHead {
        method,
        method_word: word,
        target,
        host: b"",
        http10: version == 0,
        framing: Framing::Empty,
        keep_alive: version == 1,
        expects_continue: false,
        upgrade: None,
        accepts_json: false,
        is_call: false,
        web: None,
        call_timeout: None,
        options: ConnectionOptions::default(),
        len,
    };
    read_fields(head, headers).map(|head| Some((head, headers)))
}

impl RequestHead<'_> {
    /// A call of gRPC-Web that leaves as one of gRPC.
    fn is_translated(&self) -> bool {
        self.is_call && self.web.is_some()
    }

    /// Is this the line that tells its type, which is another one there?
    fn retypes(&self, name: &str) -> bool {
        self.is_translated() && name.eq_ignore_ascii_case("content-type")
    }
}

/// An incomplete head that is already over a limit.
fn too_long(buffer: &[u8], limits: &Limits) -> Option<Refusal> {
    let first_line = buffer.iter().position(|&b| b == b'\n').unwrap_or(buffer.len());
    // The longest method and version around a target of the longest kind.
    if first_line > limits.uri_bytes + 64 {
        return Some(Refusal::URI_TOO_LONG);
    }
    (buffer.len() > limits.header_bytes).then_some(Refusal::HEAD_TOO_LARGE)
}

fn refusal_for(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::Version => Refusal::VERSION_NOT_SUPPORTED,
        httparse::Error::TooManyHeaders => Refusal::HEAD_TOO_LARGE,
        httparse::Error::Token => Refusal::BAD_REQUEST_LINE,
        _ => Refusal::BAD_HEADER,
    }
}

fn read_fields<'b>(
    mut head: RequestHead<'b>,
    headers: &[httparse::Header<'b>],
) -> Result<RequestHead<'b>, Refusal> {
    let mut host = None;
    let mut length = None;
    let mut coding: Option<&[u8]> = None;
    let mut upgrade = None;
    for header in headers {
        match field(header.name) {
            Field::Host if host.replace(header.value).is_some() || !valid_host(header.value) => {
                return Err(Refusal::BAD_HOST);
            }
            Field::Connection if !head.options.read(header.value) => return Err(Refusal::BAD_HEADER),
            Field::ContentLength => {
                let this = content_length(header.value).ok_or(Refusal::BAD_LENGTH)?;
                if length.replace(this).is_some_and(|other| other != this) {
                    return Err(Refusal::BAD_LENGTH);
                }
            }
            Field::TransferEncoding if coding.replace(header.value).is_some() => {
                return Err(Refusal::BAD_TRANSFER_ENCODING);
            }
            Field::Expect => {
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::EXPECTATION_FAILED);
                }
                head.expects_continue = !head.http10;
            }
            Field::Upgrade => upgrade = Some(header.value),
            Field::Other if header.name.eq_ignore_ascii_case("accept") => {
                head.accepts_json = header.value.windows(4).any(|w| w == b"json");
            }
            Field::Other if header.name.len() == "grpc-timeout".len() => {
                if header.name.eq_ignore_ascii_case("content-type") {
                    head.is_call = grpc::is_grpc_content_type(header.value);
                    head.web = ContentType::parse(header.value);
                } else if header.name.eq_ignore_ascii_case("grpc-timeout") {
                    head.call_timeout = grpc::parse_timeout(header.value);
                }
            }
            _ => {}
        }
    }
    head.framing = framing(length, coding, head.http10)?;
    head.host = match (host, head.target.authority) {
        (None, _) if !head.http10 => return Err(Refusal::BAD_HOST),
        (_, Some(authority)) => authority.as_bytes(),
        (host, None) => host.unwrap_or_default(),
    };
    head.keep_alive = !head.options.close && (!head.http10 || head.options.keep_alive);
    head.upgrade = upgrade.filter(|protocols| {
        head.options.upgrade && !head.http10 && head.framing == Framing::Empty && tunnelled(protocols)
    });
    Ok(head)
}

/// `h2c` is not forwarded: it would change the protocol behind the back of everything that looks at it.
fn tunnelled(protocols: &[u8]) -> bool {
    members(protocols).next().is_some()
        && members(protocols).all(|p| !p.eq_ignore_ascii_case(b"h2c") && !p.eq_ignore_ascii_case(b"h2"))
}

fn framing(length: Option<u64>, coding: Option<&[u8]>, http10: bool) -> Result<Framing, Refusal> {
    match (coding, length) {
        (None, None) => Ok(Framing::Empty),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), Some(_)) => Err(Refusal::LENGTH_AND_TRANSFER_ENCODING),
        (Some(_), None) if http10 => Err(Refusal::BAD_TRANSFER_ENCODING),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(coding), None) => match members(coding).last() {
            Some(last) if last.eq_ignore_ascii_case(b"chunked") && members(coding).count() > 1 => {
                Err(Refusal::UNKNOWN_CODING)
            }
            _ => Err(Refusal::BAD_TRANSFER_ENCODING),
        },
    }
}

/// What the proxy adds about the client.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Forwarding<'a> {
    pub(crate) peer: Peer,
    /// `http`, or `https` where TLS ends here.
    pub(crate) scheme: &'static str,
    /// The certificate it proved to have, as RFC 9440 writes it.
    pub(crate) certificate: Option<&'a str>,
    /// Incoming `X-Forwarded-*` are believed and continued.
    pub(crate) trusted: bool,
    pub(crate) via: bool,
}

/// Writes the head as it goes to the destination: request line in origin-form, kept lines as they came,
/// framing and forwarding lines our own.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    buffer: &[u8],
    head: &RequestHead<'_>,
    headers: &[httparse::Header<'_>],
    forwarding: Forwarding<'_>,
    edits: &HeaderEdits,
    fallback_host: &str,
) {
    out.extend_from_slice(head.method_word.as_bytes());
    out.push(b' ');
    if head.target.path_and_query.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(head.target.path_and_query.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = if head.host.is_empty() { fallback_host.as_bytes() } else { head.host };
    if !edits.drops("host") {
        write_line(out, b"Host", host);
    }
    let mut forwarded_for: Option<&[u8]> = None;
    let mut seen = Seen::default();
    let mut copier = LineCopier::new(&buffer[..head.len]);
    for header in headers {
        let keep = match field(header.name) {
            Field::Other => true,
            Field::Via => !head.options.nominates("via"),
            Field::Expect => head.expects_continue,
            Field::ForwardedOther => forwarding.trusted,
            // What we know ourselves is never told beside what somebody else says.
            Field::ClientCert => forwarding.trusted && forwarding.certificate.is_none(),
            Field::ForwardedFor => {
                if forwarding.trusted
                    && !edits.drops("x-forwarded-for")
                    && let Some(earlier) = forwarded_for.replace(header.value)
                {
                    write_line(out, header.name.as_bytes(), earlier);
                }
                false
            }
            Field::ForwardedProto => forwarding.trusted && !std::mem::replace(&mut seen.proto, true),
            Field::ForwardedHost => forwarding.trusted && !std::mem::replace(&mut seen.host, true),
            _ => false,
        };
        let keep = keep
            && !(head.options.any_nominated() && head.options.nominates_foreign(header.name))
            && !edits.drops(header.name);
        if keep && !head.retypes(header.name) {
            copier.keep(header, out);
        }
    }
    copier.flush(out);
    if let (Some(web), true) = (&head.web, head.is_translated() && !edits.drops("content-type")) {
        write_line(out, b"Content-Type", &web.to_grpc());
    }
    write_framing(out, head);
    write_forwarding(out, host, forwarding, forwarded_for, seen, edits);
    out.extend_from_slice(&edits.appended);
    out.extend_from_slice(b"\r\n");
}

#[derive(Copy, Clone, Debug, Default)]
struct Seen {
    proto: bool,
    host: bool,
}

fn write_framing(out: &mut Vec<u8>, head: &RequestHead<'_>) {
    match head.framing {
        // Decoded it has another length, which is not known yet.
        Framing::Length(_) if head.is_translated() && head.web.is_some_and(|web| web.text) => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
    if let Some(protocol) = head.upgrade {
        out.extend_from_slice(b"Connection: Upgrade\r\n");
        write_line(out, b"Upgrade", protocol);
    }
}

fn write_forwarding(
    out: &mut Vec<u8>,
    host: &[u8],
    forwarding: Forwarding<'_>,
    forwarded_for: Option<&[u8]>,
    seen: Seen,
    edits: &HeaderEdits,
) {
    if !edits.drops("x-forwarded-for") {
        out.extend_from_slice(b"X-Forwarded-For: ");
        if let Some(hops) = forwarded_for {
            out.extend_from_slice(hops);
            out.extend_from_slice(b", ");
        }
        match forwarding.peer.ip() {
            Some(std::net::IpAddr::V4(ip)) => write_ipv4(out, ip),
            Some(ip) => write!(out, "{ip}").unwrap_or(()),
            None => out.extend_from_slice(b"unix:"),
        }
        out.extend_from_slice(b"\r\n");
    }
    if !seen.proto && !edits.drops("x-forwarded-proto") {
        write_line(out, b"X-Forwarded-Proto", forwarding.scheme.as_bytes());
    }
    if !seen.host && !edits.drops("x-forwarded-host") {
        write_line(out, b"X-Forwarded-Host", host);
    }
    if let (Some(certificate), false) = (forwarding.certificate, edits.drops("client-cert")) {
        write_line(out, b"Client-Cert", certificate.as_bytes());
    }
    if forwarding.via {
        out.extend_from_slice(b"Via: 1.1 plimsoll\r\n");
    }
}

fn write_ipv4(out: &mut Vec<u8>, ip: std::net::Ipv4Addr) {
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        write_number(out, u64::from(octet));
    }
}

const _: () = assert!(MAX_HEADERS >= 100, "the default of limits.headers must fit");
