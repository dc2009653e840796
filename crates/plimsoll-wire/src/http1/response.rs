//! Whether a destination's answer is one, and how its head leaves for the client.

use crate::orca;

use super::HeaderEdits;
use super::HeaderSlots;
use super::body::Framing;
use super::fields::{
    ConnectionOptions, Field, LineCopier, classify_field, content_length, write_decimal, write_field,
};
use super::target::Method;

/// An answer's head that was read and found unambiguous. Borrows the buffer it came in.
#[derive(Debug)]
pub struct ResponseHead<'b> {
    pub status: u16,
    reason: &'b str,
    pub framing: Framing,
    /// The destination will take another request on this connection.
    pub keep_alive: bool,
    /// The protocol it switches to; only in a 101.
    pub upgrade: Option<&'b [u8]>,
    /// It tells of a body, and none follows: HEAD, 204, 304.
    pub body_omitted: bool,
    /// Its `Content-Length`, also where no body follows (HEAD, 304).
    length: Option<u64>,
    options: ConnectionOptions<'b>,
    /// Bytes of the head.
    pub len: usize,
}

/// The answer is none: malformed, or framed ambiguously.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedResponse;

/// Reads an answer's head from the front of `buffer`. `Ok(None)`: more bytes are needed.
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
    let (Some(status @ 100..=599), Some(version)) = (response.code, response.version) else {
        return Err(MalformedResponse);
    };
    let mut head = ResponseHead {
        status,
        reason: response.reason.unwrap_or(""),
        framing: Framing::Empty,
        keep_alive: false,
        upgrade: None,
        body_omitted: false,
        length: None,
        options: ConnectionOptions::default(),
        len,
    };
    let mut chunked = None;
    for header in headers {
        match classify_field(header.name) {
            Field::Connection if !head.options.read(header.value) => return Err(MalformedResponse),
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

impl ResponseHead<'_> {
    /// Does this line of the head go on to the client?
    fn passes(&self, name: &str, edits: &HeaderEdits) -> bool {
        let keep = match classify_field(name) {
            Field::Connection | Field::ContentLength | Field::TransferEncoding | Field::HopByHop => false,
            Field::Upgrade => self.status == 426,
            _ => true,
        };
        keep && !self.options.nominates(name) && !edits.drops(name)
    }

    /// The body is going to have another length than the destination told.
    pub fn clear_length(&mut self) {
        if let Framing::Length(1..) = self.framing {
            (self.framing, self.length) = (Framing::Chunked, None);
        }
    }

    /// The length the client is told, where the body has the one that the head told us.
    pub fn content_length(&self) -> Option<u64> {
        self.length.filter(|_| self.status >= 200 && self.status != 204)
    }
}

/// How the body goes to the client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// There is none, or it has the length the head tells.
    Plain,
    /// In chunks of our own.
    Chunked,
    /// Up to the end of the connection: for clients of HTTP/1.0.
    UntilClose,
}

/// The way a body framed so reaches a client of that version.
pub fn delivery(framing: Framing, is_http10: bool) -> Delivery {
    match framing {
        Framing::Empty | Framing::Length(_) => Delivery::Plain,
        Framing::Chunked | Framing::UntilClose if is_http10 => Delivery::UntilClose,
        Framing::Chunked | Framing::UntilClose => Delivery::Chunked,
    }
}

/// What the client is told about the connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing: it goes on, as HTTP/1.1 does.
    Implicit,
    /// `keep-alive`, for an HTTP/1.0 client that asked.
    KeepAlive,
    /// `close`.
    Close,
    /// `upgrade`, with what follows.
    Upgrade,
}

/// What this hop does to an answer.
#[derive(Copy, Clone, Debug)]
pub struct ResponseRewrite<'e> {
    pub delivery: Delivery,
    pub persistence: Persistence,
    pub edits: &'e HeaderEdits,
    pub via: bool,
    /// The body is of this type for the client, whatever the destination calls it.
    pub content_type: Option<&'e [u8]>,
    /// What it says of its destination's load was for us.
    pub hides_load: bool,
}

impl ResponseRewrite<'_> {
    /// Does this line of the head go on to the client?
    pub fn passes(&self, head: &ResponseHead<'_>, name: &str) -> bool {
        head.passes(name, self.edits)
            && !(self.content_type.is_some() && name.eq_ignore_ascii_case("content-type"))
            && !(self.hides_load && orca::is_load_report(name))
    }

    /// The type to tell instead of the destination's.
    pub fn replaced_content_type(&self) -> Option<&[u8]> {
        self.content_type.filter(|_| !self.edits.drops("content-type"))
    }
}

/// Writes the head as it goes to the client.
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
