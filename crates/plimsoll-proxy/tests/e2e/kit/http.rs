//! A strict HTTP/1.1 parser, far stricter than the RFC: accepts only messages with exactly one reading.
//!
//! It shares no code with the proxy's parser on purpose: every recipient reads what it accepts in the same way.

use std::fmt;

/// Header fields in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// Returns all values of `name`, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// Returns the only value of `name`; fails the test if there are two.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} twice: {all:?}");
        all.first().copied()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

/// Delimitation of a body.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(usize),
    Chunked,
    ToEnd,
}

/// A request as a destination received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

/// A response as a client received it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// Statuses of the informational responses before it.
    pub(crate) informational: Vec<u16>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn closes(&self) -> bool {
        self.fields.all("connection").iter().any(|v| v.eq_ignore_ascii_case("close"))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let clipped: String = text.chars().take(200).collect();
        write!(f, "{} {:?} {:?} {clipped:?}", self.status, self.fields.0, self.framing)
    }
}

/// `Ok(None)`: incomplete. `Err`: the reason why the bytes are not a strict message.
pub(crate) type Strict<T> = Result<Option<(T, usize)>, String>;

/// Parses a start line and fields, including the empty line.
fn head(bytes: &[u8]) -> Strict<(String, Fields)> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let seen = &bytes[..end.map_or(bytes.len(), |end| end + 2)];
    // Every byte is a character (ISO 8859-1): values may contain bytes beyond ASCII.
    let text: String = seen.iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.split("\r\n").peekable();
    let start = lines.next().unwrap_or_default().to_owned();
    let mut fields = Fields::default();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            break;
        }
        fields.0.push(line_of(line)?);
    }
    let Some(end) = end else { return Ok(None) };
    if start.is_empty() || start.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(format!("start line: {start:?}"));
    }
    Ok(Some(((start, fields), end + 4)))
}

fn is_token(text: &str) -> bool {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(ok)
}

fn line_of(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon: {line:?}"))?;
    if !is_token(name) {
        return Err(format!("field name: {name:?}"));
    }
    if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(format!("field value: {value:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

fn framing(fields: &Fields, otherwise: Framing) -> Result<Framing, String> {
    match (fields.all("content-length").as_slice(), fields.all("transfer-encoding").as_slice()) {
        ([], []) => Ok(otherwise),
        ([], ["chunked"]) => Ok(Framing::Chunked),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|e| format!("length {length:?}: {e}"))
        }
        (lengths, codings) => Err(format!("framing by {lengths:?} and {codings:?}")),
    }
}

/// Parses a request head at the start of `bytes`.
pub(crate) fn request_head(bytes: &[u8]) -> Strict<Request> {
    let Some(((start, fields), len)) = head(bytes)? else { return Ok(None) };
    let words: Vec<&str> = start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return Err(format!("request line: {start:?}")) };
    let plain = target.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#');
    if !is_token(method) || !plain || !(target.starts_with('/') || target == "*") {
        return Err(format!("request line: {start:?}"));
    }
    if fields.all("host").len() != 1 {
        return Err(format!("hosts: {:?}", fields.all("host")));
    }
    let framing = framing(&fields, Framing::None)?;
    let (method, target) = (method.to_owned(), target.to_owned());
    let (body, trailers) = (Vec::new(), Fields::default());
    Ok(Some((Request { method, target, fields, framing, body, trailers }, len)))
}

/// Parses a complete request at the start of `bytes`.
pub(crate) fn request(bytes: &[u8]) -> Strict<Request> {
    let Some((mut request, len)) = request_head(bytes)? else { return Ok(None) };
    let mut body = Body::new(request.framing);
    let used = body.read(&bytes[len..])?;
    if !body.done {
        return Ok(None);
    }
    (request.body, request.trailers) = (body.data, body.trailers);
    Ok(Some((request, len + used)))
}

/// Parses the head of a response to `method` at the start of `bytes`.
pub(crate) fn response_head(bytes: &[u8], method: &str) -> Strict<Response> {
    let Some(((start, fields), len)) = head(bytes)? else { return Ok(None) };
    let status = start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split_once(' '));
    let Some((digits, reason)) = status else { return Err(format!("status line: {start:?}")) };
    let status = match (digits.len(), digits.parse()) {
        (3, Ok(status @ 100..=999)) => status,
        _ => return Err(format!("status: {start:?}")),
    };
    // Checked even where there is no body: two readings of a length are never right.
    let declared = framing(&fields, Framing::ToEnd)?;
    let bodiless = status < 200 || status == 204;
    if bodiless && declared != Framing::ToEnd {
        return Err(format!("{status} with {declared:?}"));
    }
    let framing = if bodiless || status == 304 || method == "HEAD" { Framing::None } else { declared };
    let (reason, body, trailers) = (reason.to_owned(), Vec::new(), Fields::default());
    Ok(Some((Response { status, reason, fields, framing, body, trailers, informational: Vec::new() }, len)))
}

/// A body parsed piece by piece.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Fields,
    pub(crate) done: bool,
    in_trailers: bool,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        let done = matches!(framing, Framing::None | Framing::Length(0));
        Self { framing, data: Vec::new(), trailers: Fields::default(), done, in_trailers: false }
    }

    /// Handles the end of the connection; reports whether the body is complete.
    pub(crate) fn end_of_data(&mut self) -> bool {
        self.done |= self.framing == Framing::ToEnd;
        self.done
    }

    /// Consumes bytes of the body from the start of `bytes`; returns their number.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<usize, String> {
        if self.done {
            return Ok(0);
        }
        match self.framing {
            Framing::None => Ok(0),
            Framing::ToEnd => {
                self.data.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Framing::Length(length) => {
                let taken = bytes.len().min(length - self.data.len());
                self.data.extend_from_slice(&bytes[..taken]);
                self.done = self.data.len() == length;
                Ok(taken)
            }
            Framing::Chunked => {
                let mut used = 0;
                while !self.done {
                    match self.read_chunk(&bytes[used..])? {
                        0 => break,
                        some => used += some,
                    }
                }
                Ok(used)
            }
        }
    }

    /// Consumes one complete chunk, or one complete line of trailers. Returns 0 if it is incomplete.
    fn read_chunk(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let Some(line_end) = bytes.iter().position(|&b| b == b'\n') else {
            return if bytes.len() > 8192 { Err("endless line".into()) } else { Ok(0) };
        };
        let line = bytes[..line_end].strip_suffix(b"\r").ok_or("a bare LF in chunk framing")?;
        let text = std::str::from_utf8(line).map_err(|_| "chunk line is not text")?;
        if self.in_trailers {
            self.done = text.is_empty();
            if !self.done {
                self.trailers.0.push(line_of(text)?);
            }
            return Ok(line_end + 1);
        }
        if text.is_empty() || text.len() > 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("chunk size {text:?}"));
        }
        let size = usize::from_str_radix(text, 16).map_err(|e| e.to_string())?;
        if size == 0 {
            self.in_trailers = true;
            return Ok(line_end + 1);
        }
        let data = &bytes[line_end + 1..];
        if data.len() < size + 2 {
            return Ok(0);
        }
        if &data[size..size + 2] != b"\r\n" {
            return Err(format!("chunk of {size} bytes ends in {:?}", clip(&data[size..size + 2])));
        }
        self.data.extend_from_slice(&data[..size]);
        Ok(line_end + 1 + size + 2)
    }
}

/// Renders bytes for a failure message.
pub(crate) fn clip(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]);
    if bytes.len() > 600 { format!("{text}… ({} bytes)", bytes.len()) } else { text.into_owned() }
}

#[test]
fn strict_parser_accepts_one_form_only() {
    let good =
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n";
    let (request, used) = request(good.as_bytes()).expect("strict").expect("whole");
    assert_eq!((request.body.as_slice(), used), (&b"abc"[..], good.len()));
    for bad in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    ] {
        assert!(super::http::request(bad.as_bytes()).is_err(), "{bad:?}");
    }
    for bad in
        ["HTTP/1.1 099 x\r\n\r\n", "HTTP/1.1 204 x\r\nContent-Length: 1\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n"]
    {
        assert!(response_head(bad.as_bytes(), "GET").is_err(), "{bad:?}");
    }
}
