//! Request heads: strict parsing, and serialization for a destination.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::body::Framing;
use super::fields::{
    ConnectionOptions, Field, LineCopier, authenticates_connection, classify_field, content_length,
    list_members, write_decimal, write_field,
};
use super::target::{Method, Target, is_valid_host};
use super::{HeaderEdits, HeaderSlots, MAX_HEADERS};
use crate::grpc;
use crate::grpc_web::ContentType;

/// Limits of a request head.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Longest request target in bytes.
    pub target_bytes: usize,
    /// Longest head in bytes.
    pub head_bytes: usize,
    /// Most header lines; at most [`MAX_HEADERS`].
    pub headers: usize,
}

/// Reason why a request head is rejected.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The request line is malformed.
    RequestLine,
    /// The request target is malformed.
    Target,
    /// A header line is malformed.
    Header,
    /// The host is missing, malformed or ambiguous.
    Host,
    /// `Content-Length` is malformed or ambiguous.
    ContentLength,
    /// `Transfer-Encoding` is ambiguous.
    TransferEncoding,
    /// `Content-Length` and `Transfer-Encoding` come together (RFC 9112 section 6.1).
    LengthAndTransferEncoding,
    /// The transfer coding is unknown.
    UnsupportedCoding,
    /// The request target is longer than the limit.
    TargetTooLong,
    /// The head has more bytes or lines than the limits.
    HeadTooLarge,
    /// The HTTP version is neither 1.0 nor 1.1.
    UnsupportedVersion,
    /// The method is CONNECT or TRACE.
    Method,
    /// `Expect` is not `100-continue`.
    Expectation,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestLine => "expected a method, a target and a version, found a malformed request line",
            Self::Target => "expected a target in origin-form or absolute-form, found another one",
            Self::Header => "expected a header line, found a malformed one",
            Self::Host => "expected exactly one valid Host, found none, several or an invalid one",
            Self::ContentLength => "expected one decimal Content-Length, found an invalid or a second one",
            Self::TransferEncoding => "expected `Transfer-Encoding: chunked`, found an ambiguous framing",
            Self::LengthAndTransferEncoding => {
                "expected Content-Length or Transfer-Encoding, found both in one request"
            }
            Self::UnsupportedCoding => "expected `Transfer-Encoding: chunked`, found another transfer coding",
            Self::TargetTooLong => "expected a request target within the limit, found a longer one",
            Self::HeadTooLarge => "expected a request head within the limits, found a larger one",
            Self::UnsupportedVersion => "expected HTTP/1.0 or HTTP/1.1, found another version",
            Self::Method => "expected a method other than CONNECT and TRACE",
            Self::Expectation => "expected `Expect: 100-continue`, found another expectation",
        })
    }
}

impl std::error::Error for RequestError {}

/// An unambiguous request head. It borrows the buffer it was parsed from.
#[derive(Debug)]
pub struct RequestHead<'b> {
    /// Method of the request.
    pub method: Method,
    /// Method name as it was received.
    pub method_name: &'b str,
    /// Target of the request.
    pub target: Target<'b>,
    /// Authority of the request; empty for an HTTP/1.0 request without one.
    pub host: &'b [u8],
    /// True for HTTP/1.0, false for HTTP/1.1.
    pub is_http10: bool,
    /// Framing of the body.
    pub framing: Framing,
    /// True if the client wants to keep the connection after this request.
    pub keep_alive: bool,
    /// True if the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// True if `Upgrade` has protocols that may be forwarded.
    pub upgrade: bool,
    /// True if `Authorization` authenticates the connection, as NTLM and Negotiate do.
    pub authenticates_connection: bool,
    /// True if `Accept` allows JSON, for problem details in local replies.
    pub accepts_json: bool,
    /// True if the request is a gRPC call.
    pub is_grpc: bool,
    /// Content type of a gRPC-Web call.
    pub grpc_web: Option<ContentType<'b>>,
    /// Timeout of a gRPC call (`grpc-timeout`).
    pub grpc_timeout: Option<Duration>,
    options: ConnectionOptions<'b>,
    /// Length of the head in bytes.
    pub len: usize,
}

/// Parses the request head at the front of `buffer`. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// [`RequestError`]: where the next request begins is unknown, so the connection must be closed.
pub fn parse<'b, 'h>(
    buffer: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    limits: &RequestLimits,
) -> Result<Option<(RequestHead<'b>, &'h [httparse::Header<'b>])>, RequestError> {
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(buffer, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return too_long(buffer, limits).map_or(Ok(None), Err),
        Err(error) => return Err(too_long(buffer, limits).unwrap_or_else(|| error_of(error))),
    };
    let headers: &'h [httparse::Header<'b>] = request.headers;
    let (Some(word), Some(raw_target), Some(version)) = (request.method, request.path, request.version)
    else {
        return Err(RequestError::RequestLine);
    };
    if raw_target.len() > limits.target_bytes {
        return Err(RequestError::TargetTooLong);
    }
    if len > limits.head_bytes || headers.len() > limits.headers {
        return Err(RequestError::HeadTooLarge);
    }
    let method = Method::parse(word);
    if matches!(method, Method::Connect | Method::Trace) {
        return Err(RequestError::Method);
    }
    let target = Target::parse(raw_target, method == Method::Options).ok_or(RequestError::Target)?;
    let head = RequestHead {
        method,
        method_name: word,
        target,
        host: b"",
        is_http10: version == 0,
        framing: Framing::Empty,
        keep_alive: version == 1,
        expects_continue: false,
        upgrade: false,
        authenticates_connection: false,
        accepts_json: false,
        is_grpc: false,
        grpc_web: None,
        grpc_timeout: None,
        options: ConnectionOptions::default(),
        len,
    };
    read_fields(head, headers).map(|head| Some((head, headers)))
}

impl RequestHead<'_> {
    /// Reports whether received lines of the field `name` are forwarded as they are, as far as the client decides
    /// that: header edits and the fields of this hop are not considered.
    pub fn forwards(&self, name: &str, forwarding: &Forwarding<'_>) -> bool {
        let kept = match classify_field(name) {
            Field::Alias => false,
            Field::ForwardedFor | Field::ForwardedProto | Field::ForwardedHost | Field::ForwardedOther => {
                forwarding.trusted
            }
            Field::ClientCert => forwarding.trusted && forwarding.certificate.is_none(),
            _ => true,
        };
        kept && !(self.options.any_nominated() && self.options.nominates_removable(name))
    }

    /// Returns the value that the proxy itself gives the field `name` where no received line is forwarded.
    pub fn own_value<'a>(&'a self, name: &str, forwarding: &Forwarding<'a>) -> Option<Cow<'a, [u8]>> {
        match classify_field(name) {
            Field::ForwardedFor => {
                let client = forwarding.client.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
                Some(client.into_bytes().into())
            }
            Field::ForwardedProto => Some(forwarding.scheme.as_bytes().into()),
            Field::ForwardedHost => Some(self.host.into()),
            Field::ClientCert if name.len() == "client-cert".len() => {
                forwarding.certificate.map(|certificate| certificate.as_bytes().into())
            }
            _ => None,
        }
    }

    /// Reports whether a gRPC-Web call is forwarded as gRPC.
    fn is_translated(&self) -> bool {
        self.is_grpc && self.grpc_web.is_some()
    }

    /// Reports whether the field `name` is the content type, which translation replaces.
    fn replaces(&self, name: &str) -> bool {
        self.is_translated() && name.eq_ignore_ascii_case("content-type")
    }
}

/// Checks the limits of an incomplete head.
fn too_long(buffer: &[u8], limits: &RequestLimits) -> Option<RequestError> {
    let first_line = buffer.iter().position(|&b| b == b'\n').unwrap_or(buffer.len());
    // 64 bytes leave space for the method and the version.
    if first_line > limits.target_bytes + 64 {
        return Some(RequestError::TargetTooLong);
    }
    (buffer.len() > limits.head_bytes).then_some(RequestError::HeadTooLarge)
}

fn error_of(error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::Version => RequestError::UnsupportedVersion,
        httparse::Error::TooManyHeaders => RequestError::HeadTooLarge,
        httparse::Error::Token => RequestError::RequestLine,
        _ => RequestError::Header,
    }
}

fn read_fields<'b>(
    mut head: RequestHead<'b>,
    headers: &[httparse::Header<'b>],
) -> Result<RequestHead<'b>, RequestError> {
    let mut host = None;
    let mut length = None;
    let mut coding: Option<&[u8]> = None;
    let mut upgrade = false;
    for header in headers {
        match classify_field(header.name) {
            Field::Host if host.replace(header.value).is_some() || !is_valid_host(header.value) => {
                return Err(RequestError::Host);
            }
            Field::Connection if !head.options.add(header.value) => return Err(RequestError::Header),
            Field::ContentLength => {
                let this = content_length(header.value).ok_or(RequestError::ContentLength)?;
                if length.replace(this).is_some_and(|other| other != this) {
                    return Err(RequestError::ContentLength);
                }
            }
            Field::TransferEncoding if coding.replace(header.value).is_some() => {
                return Err(RequestError::TransferEncoding);
            }
            Field::Expect => {
                if !header.value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::Expectation);
                }
                head.expects_continue = !head.is_http10;
            }
            Field::Upgrade => upgrade |= offers_upgrade(header.value),
            Field::Authorization => head.authenticates_connection |= authenticates_connection(header.value),
            Field::Other if header.name.eq_ignore_ascii_case("accept") => {
                head.accepts_json = header.value.windows(4).any(|w| w.eq_ignore_ascii_case(b"json"));
            }
            Field::Read if header.name.eq_ignore_ascii_case("content-type") => {
                head.is_grpc = grpc::is_grpc_content_type(header.value);
                head.grpc_web = ContentType::parse(header.value);
            }
            Field::Read if header.name.eq_ignore_ascii_case("grpc-timeout") => {
                head.grpc_timeout = grpc::parse_timeout(header.value);
            }
            _ => {}
        }
    }
    head.framing = framing(length, coding, head.is_http10)?;
    head.host = match (host, head.target.authority) {
        (None, _) if !head.is_http10 => return Err(RequestError::Host),
        (_, Some(authority)) => authority.as_bytes(),
        (host, None) => host.unwrap_or_default(),
    };
    head.keep_alive = !head.options.close && (!head.is_http10 || head.options.keep_alive);
    head.upgrade = upgrade
        && head.options.upgrade
        && !head.is_http10
        && matches!(head.framing, Framing::Empty | Framing::Length(0));
    Ok(head)
}

/// Reports whether an `Upgrade` has protocols that are forwarded.
pub fn offers_upgrade(protocols: &[u8]) -> bool {
    forwarded_protocols(protocols).next().is_some()
}

/// Returns the protocols of an `Upgrade` that are forwarded. HTTP/2 is not: the proxy could not inspect what follows.
fn forwarded_protocols(protocols: &[u8]) -> impl Iterator<Item = &[u8]> {
    list_members(protocols).filter(|protocol| {
        let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
        !["h2c", "h2", "http"].iter().any(|http| name.eq_ignore_ascii_case(http.as_bytes()))
    })
}

fn framing(length: Option<u64>, coding: Option<&[u8]>, is_http10: bool) -> Result<Framing, RequestError> {
    match (coding, length) {
        (None, None) => Ok(Framing::Empty),
        (None, Some(length)) => Ok(Framing::Length(length)),
        (Some(_), Some(_)) => Err(RequestError::LengthAndTransferEncoding),
        (Some(_), None) if is_http10 => Err(RequestError::TransferEncoding),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (Some(coding), None) => match list_members(coding).last() {
            Some(last) if last.eq_ignore_ascii_case(b"chunked") && list_members(coding).count() > 1 => {
                Err(RequestError::UnsupportedCoding)
            }
            _ => Err(RequestError::TransferEncoding),
        },
    }
}

/// Facts about the client that the proxy forwards.
#[derive(Copy, Clone, Debug)]
pub struct Forwarding<'a> {
    /// Address of the client; `None` on a Unix socket.
    pub client: Option<IpAddr>,
    /// Scheme of the request: `https` where the proxy terminates TLS, else `http`.
    pub scheme: &'static str,
    /// Verified certificate of the client, encoded for `Client-Cert` (RFC 9440).
    pub certificate: Option<&'a str>,
    /// True if received `X-Forwarded-*` fields are kept and continued.
    pub trusted: bool,
    /// True to append a `Via` field.
    pub via: bool,
}

/// Appends the head for the destination to `out`: the request line in origin-form, forwarded lines unchanged, and
/// framing and forwarding fields of the proxy. `buffer` is the one that `head` and `headers` were parsed from.
pub fn write_head(
    out: &mut Vec<u8>,
    buffer: &[u8],
    head: &RequestHead<'_>,
    headers: &[httparse::Header<'_>],
    forwarding: Forwarding<'_>,
    edits: &HeaderEdits,
    fallback_host: &str,
) {
    out.extend_from_slice(head.method_name.as_bytes());
    out.push(b' ');
    if head.target.path_and_query.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(head.target.path_and_query.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = if head.host.is_empty() { fallback_host.as_bytes() } else { head.host };
    if !edits.drops("host") {
        write_field(out, b"Host", host);
    }
    let mut forwarded_for: Option<&[u8]> = None;
    let mut seen = Seen::default();
    let mut copier = LineCopier::new(&buffer[..head.len]);
    for header in headers {
        let keep = match classify_field(header.name) {
            Field::Other | Field::Read | Field::Authorization => true,
            Field::Via => !head.options.nominates("via"),
            Field::Expect => head.expects_continue,
            Field::ForwardedOther => forwarding.trusted,
            // A verified certificate replaces one that a trusted peer claims.
            Field::ClientCert => forwarding.trusted && forwarding.certificate.is_none(),
            Field::ForwardedFor => {
                if forwarding.trusted
                    && !edits.drops("x-forwarded-for")
                    && let Some(earlier) = forwarded_for.replace(header.value)
                {
                    write_field(out, header.name.as_bytes(), earlier);
                }
                false
            }
            Field::ForwardedProto => forwarding.trusted && !std::mem::replace(&mut seen.proto, true),
            Field::ForwardedHost => forwarding.trusted && !std::mem::replace(&mut seen.host, true),
            _ => false,
        };
        let keep = keep
            && !(head.options.any_nominated() && head.options.nominates_removable(header.name))
            && !edits.drops(header.name);
        if keep && !head.replaces(header.name) {
            copier.keep(header, out);
        }
    }
    copier.flush(out);
    if let (Some(web), true) = (&head.grpc_web, head.is_translated() && !edits.drops("content-type")) {
        write_field(out, b"Content-Type", &web.to_grpc());
    }
    write_framing(out, head, headers);
    write_forwarding(out, host, forwarding, forwarded_for, seen, edits);
    out.extend_from_slice(&edits.appended);
    out.extend_from_slice(b"\r\n");
}

#[derive(Copy, Clone, Debug, Default)]
struct Seen {
    proto: bool,
    host: bool,
}

fn write_framing(out: &mut Vec<u8>, head: &RequestHead<'_>, headers: &[httparse::Header<'_>]) {
    match head.framing {
        // The decoded body has another length, which is not known yet.
        Framing::Length(_) if head.is_translated() && head.grpc_web.is_some_and(|web| web.text) => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Framing::Empty | Framing::UntilClose => {}
    }
    if head.upgrade {
        write_upgrade(out, headers);
    }
}

#[cold]
fn write_upgrade(out: &mut Vec<u8>, headers: &[httparse::Header<'_>]) {
    let lines = headers.iter().filter(|header| classify_field(header.name) == Field::Upgrade);
    let protocols: Vec<&[u8]> = lines.flat_map(|line| forwarded_protocols(line.value)).collect();
    out.extend_from_slice(b"Connection: Upgrade\r\n");
    write_field(out, b"Upgrade", &protocols.join(&b", "[..]));
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
        match forwarding.client {
            Some(IpAddr::V4(ip)) => write_ipv4(out, ip),
            Some(ip) => write!(out, "{ip}").unwrap_or(()),
            None => out.extend_from_slice(b"unix:"),
        }
        out.extend_from_slice(b"\r\n");
    }
    if !seen.proto && !edits.drops("x-forwarded-proto") {
        write_field(out, b"X-Forwarded-Proto", forwarding.scheme.as_bytes());
    }
    if !seen.host && !edits.drops("x-forwarded-host") {
        write_field(out, b"X-Forwarded-Host", host);
    }
    if let (Some(certificate), false) = (forwarding.certificate, edits.drops("client-cert")) {
        write_field(out, b"Client-Cert", certificate.as_bytes());
    }
    if forwarding.via {
        out.extend_from_slice(b"Via: 1.1 plimsoll\r\n");
    }
}

fn write_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            out.push(b'.');
        }
        write_decimal(out, u64::from(octet));
    }
}

const _: () = assert!(MAX_HEADERS >= 100, "the default of limits.headers must fit");
