//! Whether a destination's answer is one, and how its head leaves for the client.

use plimsoll_wire::orca;

use crate::http::body::Framing;
use crate::http::fields::{
    ConnectionOptions, Field, LineCopier, content_length, field, write_line, write_number,
};
use crate::http::target::Method;
use crate::http1::HeaderSlots;
use plimsoll_wire::http1::HeaderEdits;

/// An answer's head that was read and found unambiguous. Borrows the buffer it came in.
#[derive(Debug)]
pub(crate) struct ResponseHead<'b> {
    pub(crate) status: u16,
    reason: &'b str,
    pub(crate) framing: Framing,
    /// The destination will take another request on this connection.
    pub(crate) keep_alive: bool,
    /// The protocol it switches to; only in a 101.
    pub(crate) upgrade: Option<&'b [u8]>,
    /// It tells of a body, and none follows: HEAD, 204, 304.
    pub(crate) body_withheld: bool,
    /// Its `Content-Length`, also where no body follows (HEAD, 304).
    length: Option<u64>,
    options: ConnectionOptions<'b>,
    /// Bytes of the head.
    pub(crate) len: usize,
}

/// The answer is none: malformed, or framed ambiguously.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadResponse;

/// Reads an answer's head from the front of `buffer`. `Ok(None)`: more bytes are needed.
pub(crate) fn parse<'b, 'h>(
    buffer: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
    method: Method,
) -> Result<Option<(ResponseHead<'b>, &'h [httparse::Header<'b>])>, BadResponse> {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut response, buffer, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadResponse),
    };
    let headers: &'h [httparse::Header<'b>] = response.headers;
    let (Some(status @ 100..=599), Some(version)) = (response.code, response.version) else {
        return Err(BadResponse);
    };
    let mut head = ResponseHead {
        status,
        reason: response.reason.unwrap_or(""),
        framing: Framing::Empty,
        keep_alive: false,
        upgrade: None,
        body_withheld: false,
        length: None,
        options: ConnectionOptions::default(),
        len,
    };
    let mut chunked = None;
    for header in headers {
        match field(header.name) {
            Field::Connection if !head.options.read(header.value) => return Err(BadResponse),
            Field::ContentLength => {
                let this = content_length(header.value).ok_or(BadResponse)?;
                if head.length.replace(this).is_some_and(|other| other != this) {
                    return Err(BadResponse);
                }
            }
            Field::TransferEncoding => {
                if chunked.is_some() || version == 0 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse);
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
    head.body_withheld =
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
        let keep = match field(name) {
            Field::Connection | Field::ContentLength | Field::TransferEncoding | Field::HopByHop => false,
            Field::Upgrade => self.status == 426,
            _ => true,
        };
        keep && !self.options.nominates(name) && !edits.drops(name)
    }

    /// The body is going to have another length than the destination told.
    pub(crate) fn forget_length(&mut self) {
        if let Framing::Length(1..) = self.framing {
            (self.framing, self.length) = (Framing::Chunked, None);
        }
    }

    /// The length the client is told, where the body has the one that the head told us.
    pub(crate) fn told_length(&self) -> Option<u64> {
        self.length.filter(|_| self.status >= 200 && self.status != 204)
    }
}

/// How the body goes to the client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// There is none, or it has the length the head tells.
    Plain,
    /// In chunks of our own.
    Chunked,
    /// Up to the end of the connection: for clients of HTTP/1.0.
    UntilClose,
}

/// The way a body framed so reaches a client of that version.
pub(crate) fn delivery(framing: Framing, http10: bool) -> Delivery {
    match framing {
        Framing::Empty | Framing::Length(_) => Delivery::Plain,
        Framing::Chunked | Framing::UntilClose if http10 => Delivery::UntilClose,
        Framing::Chunked | Framing::UntilClose => Delivery::Chunked,
    }
}

/// What the client is told about the connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Nothing: it goes on, as HTTP/1.1 does.
    Silent,
    /// `keep-alive`, for an HTTP/1.0 client that asked.
    KeepAlive,
    /// `close`.
    Close,
    /// `upgrade`, with what follows.
    Upgrade,
}

/// What this hop does to an answer.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Hop<'e> {
    pub(crate) delivery: Delivery,
    pub(crate) persistence: Persistence,
    pub(crate) edits: &'e HeaderEdits,
    pub(crate) via: bool,
    /// The body is of this type for the client, whatever the destination calls it.
    pub(crate) content_type: Option<&'e [u8]>,
    /// What it says of its destination's load was for us.
    pub(crate) hides_load: bool,
}

impl Hop<'_> {
    /// Does this line of the head go on to the client?
    pub(crate) fn passes(&self, head: &ResponseHead<'_>, name: &str) -> bool {
        head.passes(name, self.edits)
            && !(self.content_type.is_some() && name.eq_ignore_ascii_case("content-type"))
            && !(self.hides_load && orca::is_load_report(name))
    }

    /// The type to tell instead of the destination's.
    pub(crate) fn told_type(&self) -> Option<&[u8]> {
        self.content_type.filter(|_| !self.edits.drops("content-type"))
    }
}

/// Writes the head as it goes to the client.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    buffer: &[u8],
    head: &ResponseHead<'_>,
    headers: &[httparse::Header<'_>],
    hop: Hop<'_>,
) {
    let Hop { delivery, persistence, edits, via, .. } = hop;
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, u64::from(head.status));
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
    if let Some(content_type) = hop.told_type() {
        write_line(out, b"Content-Type", content_type);
    }
    match (delivery, head.told_length()) {
        (Delivery::Plain, Some(length)) => {
            out.extend_from_slice(b"Content-Length: ");
            write_number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        (Delivery::Chunked, _) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    match persistence {
        Persistence::Silent => {}
        Persistence::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Persistence::Close => out.extend_from_slice(b"Connection: close\r\n"),
        Persistence::Upgrade => {
            out.extend_from_slice(b"Connection: Upgrade\r\n");
            write_line(out, b"Upgrade", head.upgrade.unwrap_or_default());
        }
    }
    if via {
        out.extend_from_slice(b"Via: 1.1 plimsoll\r\n");
    }
    out.extend_from_slice(&edits.appended);
    out.extend_from_slice(b"\r\n");
}
