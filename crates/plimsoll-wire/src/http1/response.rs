//! Response heads: strict parsing, and serialization for the client.

use std::fmt;

use super::body::Framing;
use super::fields::{
    ConnectionOptions, Field, LineCopier, authenticates_connection, classify_field, content_length,
    write_decimal, write_field,
};
use super::target::Method;
use super::{HeaderEdits, HeaderSlots};
use crate::orca;

/// An unambiguous response head. It borrows the buffer it was parsed from.
#[derive(Debug)]
pub struct ResponseHead<'b> {
    /// Status code, 100 to 999.
    pub status: u16,
    reason: &'b str,
    /// Framing of the body.
    pub framing: Framing,
    /// True if the destination accepts another request on this connection.
    pub keep_alive: bool,
    /// True if the response asks for authentication of the connection, as NTLM and Negotiate do.
    pub authenticates_connection: bool,
    /// Protocols of `Upgrade` in a 101 response.
    pub upgrade: Option<&'b [u8]>,
    /// True if the head describes a body that is not sent (HEAD, 204, 304).
    pub body_omitted: bool,
    /// `Content-Length`, also where no body follows (HEAD, 304).
    length: Option<u64>,
    options: ConnectionOptions<'b>,
    /// Length of the head in bytes.
    pub len: usize,
}

/// The response head is malformed, or its framing is ambiguous.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedResponse;

impl fmt::Display for MalformedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected an HTTP/1 response head, found a malformed or ambiguous one")
    }
}

impl std::error::Error for MalformedResponse {}

/// Parses the response head at the front of `buffer`, in response to a request with this method. `Ok(None)`: more
/// bytes are needed.
///
/// # Errors
/// [`MalformedResponse`]: the connection cannot be used any more.
pub fn parse<'b, 'h>(
    buffer: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    method: Method,
) -> Result<Option<(ResponseHead<'b>, &'h [httparse::Header<'b>])>, MalformedResponse> {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut response, buffer, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(MalformedResponse),
    };
    let headers: &'h [httparse::Header<'b>] = response.headers;
    let (Some(status @ 100..=999), Some(version)) = (response.code, response.version) else {
        return Err(MalformedResponse);
    };
    let mut head = ResponseHead {
        status,
        reason: response.reason.unwrap_or(""),
        framing: Framing::Empty,
        keep_alive: false,
        authenticates_connection: matches!(status, 401 | 407) && challenges_connection(headers),
        upgrade: None,
        body_omitted: false,
        length: None,
        options: ConnectionOptions::default(),
        len,
    };
    let mut chunked = None;
    for header in headers {
        match classify_field(header.name) {
            Field::Connection => head.options.add_any(header.value),
            Field::ContentLength => {
                let this = content_length(header.value).ok_or(MalformedResponse)?;
                if head.length.replace(this).is_some_and(|other| other != this) {
                    return Err(MalformedResponse);
                }
            }
            Field::TransferEncoding => {
                if chunked.is_some() || version == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(MalformedResponse);
                }
                chunked = Some(());
            }
            Field::Upgrade if status == 101 => head.upgrade = Some(header.value),
            _ => {}
        }
    }
    let ambiguous = chunked.is_some() && head.length.is_some();
    head.framing = match (status, method, chunked, head.length) {
        (100..=199 | 204 | 304, ..) | (_, Method::Head, ..) => Framing::Empty,
        (_, _, Some(()), _) => Framing::Chunked,
        (_, _, None, Some(length)) => Framing::Length(length),
        (_, _, None, None) => Framing::UntilClose,
    };
    head.body_omitted =
        head.framing == Framing::Empty && (chunked.is_some() || head.length.is_some_and(|length| length > 0));
    if ambiguous {
        head.length = None;
    }
    head.keep_alive = !ambiguous
        && head.framing != Framing::UntilClose
        && !head.options.close
        && (version == 1 || head.options.keep_alive);
    Ok(Some((head, headers)))
}

#[cold]
fn challenges_connection(headers: &[httparse::Header<'_>]) -> bool {
    let is_challenge = |name: &str| {
        name.eq_ignore_ascii_case("www-authenticate") || name.eq_ignore_ascii_case("proxy-authenticate")
    };
    headers.iter().any(|header| is_challenge(header.name) && authenticates_connection(header.value))
}

impl ResponseHead<'_> {
    /// Reports whether the field `name` is forwarded to the client.
    fn passes(&self, name: &str, edits: &HeaderEdits) -> bool {
        let keep = match classify_field(name) {
            Field::Connection | Field::ContentLength | Field::TransferEncoding => false,
            Field::HopByHop | Field::Alias => false,
            Field::Upgrade => self.status == 426,
            _ => true,
        };
        keep && !self.options.nominates(name) && !edits.drops(name)
    }

    /// Removes the length, because the length of the body will change.
    pub fn clear_length(&mut self) {
        if let Framing::Length(1..) = self.framing {
            (self.framing, self.length) = (Framing::Chunked, None);
        }
    }

    /// Returns the `Content-Length` to send to the client.
    pub fn content_length(&self) -> Option<u64> {
        self.length.filter(|_| self.status >= 200 && self.status != 204)
    }
}

/// Framing of a body towards the client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No body, or a body with the length in the head.
    Plain,
    /// The chunked transfer coding, with chunks of the proxy.
    Chunked,
    /// The end of the connection, for HTTP/1.0 clients.
    UntilClose,
}

/// Returns how a body with this framing is sent to a client.
pub fn delivery(framing: Framing, is_http10: bool) -> Delivery {
    match framing {
        Framing::Empty | Framing::Length(_) => Delivery::Plain,
        Framing::Chunked | Framing::UntilClose if is_http10 => Delivery::UntilClose,
        Framing::Chunked | Framing::UntilClose => Delivery::Chunked,
    }
}

/// `Connection` field of a response.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// No field: connections of HTTP/1.1 persist.
    Implicit,
    /// `keep-alive`, for an HTTP/1.0 client that asked for it.
    KeepAlive,
    /// `close`: the connection ends with this response.
    Close,
    /// `upgrade`, with the protocols of the response.
    Upgrade,
}

/// Changes that the proxy makes to a response head.
#[derive(Copy, Clone, Debug)]
pub struct ResponseRewrite<'e> {
    /// Framing of the body towards the client.
    pub delivery: Delivery,
    /// `Connection` field for the client.
    pub persistence: Persistence,
    /// Configured header edits.
    pub edits: &'e HeaderEdits,
    /// True to append a `Via` field.
    pub via: bool,
    /// Content type that replaces the destination's.
    pub content_type: Option<&'e [u8]>,
    /// True to drop load reports, which are for the proxy.
    pub hides_load: bool,
}

impl ResponseRewrite<'_> {
    /// Reports whether the field `name` is forwarded to the client.
    #[inline]
    pub fn passes(&self, head: &ResponseHead<'_>, name: &str) -> bool {
        head.passes(name, self.edits)
            && !(self.content_type.is_some() && name.eq_ignore_ascii_case("content-type"))
            && !(self.hides_load && orca::is_load_report(name))
    }

    /// Returns the content type to send instead of the destination's.
    pub fn replaced_content_type(&self) -> Option<&[u8]> {
        self.content_type.filter(|_| !self.edits.drops("content-type"))
    }
}

/// Appends the head for the client to `out`; `buffer` is the one that `head` and `headers` were parsed from.
pub fn write_head(
    out: &mut Vec<u8>,
    buffer: &[u8],
    head: &ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    hop: ResponseRewrite<'_>,
) {
    let ResponseRewrite { delivery, persistence, edits, via, .. } = hop;
    out.extend_from_slice(b"HTTP/1.1 ");
    write_decimal(out, u64::from(head.status));
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut copier = LineCopier::new(&buffer[..head.len]);
    for header in headers {
        if hop.passes(head, header.name) {
            copier.keep(header, out);
        }
    }
    copier.flush(out);
    if let Some(content_type) = hop.replaced_content_type() {
        write_field(out, b"Content-Type", content_type);
    }
    match (delivery, head.content_length()) {
        (Delivery::Plain, Some(length)) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        (Delivery::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    match persistence {
        Persistence::Implicit => {}
        Persistence::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Persistence::Close => out.extend_from_slice(b"Connection: close\r\n"),
        Persistence::Upgrade => {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            write_field(out, b"Upgrade", head.upgrade.unwrap_or_default());
        }
    }
    if via {
        out.extend_from_slice(b"Via: 1.1 plimsoll\r\n");
    }
    out.extend_from_slice(&edits.appended);
    out.extend_from_slice(b"\r\n");
}
