//! Whether a destination answers a request as expected: its status, and what its body begins with.

use std::sync::Arc;

use crate::health::probe::{AGENT, MAX_HEAD, by_http2, contains, no_answer};
use crate::net::stream::Stream;
use plimsoll_wire::http1::body::{BodyReader, Framing};

/// So much of a body is looked at; what is expected stands near its beginning, or not at all.
const BODY: usize = 64 * 1024;

/// What a check asks.
pub(crate) struct Question<'q> {
    pub(crate) method: &'q str,
    pub(crate) path: &'q str,
    pub(crate) host: &'q str,
    pub(crate) headers: &'q [(Arc<str>, Arc<str>)],
    /// What the body must contain.
    pub(crate) body: Option<&'q [u8]>,
}

impl Question<'_> {
    /// The lines after `Host`, ours first where nobody set another.
    fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        let ours = [("user-agent", AGENT), ("accept", "*/*")];
        let set = |name: &str| self.headers.iter().any(|(set, _)| **set == *name);
        let ours = ours.into_iter().filter(move |(name, _)| !set(name));
        ours.chain(self.headers.iter().map(|(name, value)| (&**name, &**value)))
    }
}

fn judge(status: u16, expect: &[(u16, u16)]) -> Result<(), String> {
    match expect.iter().any(|&(from, to)| (from..=to).contains(&status)) {
        true => Ok(()),
        false => Err(format!("answered {status}")),
    }
}

pub(crate) async fn ask_by_http1(
    mut stream: Stream,
    question: &Question<'_>,
    expect: &[(u16, u16)],
) -> Result<(), String> {
    let Question { method, path, host, .. } = question;
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in question.lines() {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;
    let mut answer = Answer::default();
    let (status, framing, body_at) = answer.read_head(&mut stream).await?;
    judge(status, expect)?;
    match question.body {
        None => Ok(()),
        Some(wanted) => answer.look_for(&mut stream, framing, body_at, wanted).await,
    }
}

/// What has come of an answer.
#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    /// Takes in what comes next; how much that was.
    async fn receive(&mut self, stream: &mut Stream) -> Result<usize, String> {
        let mut piece = [0; 4096];
        let read = std::future::poll_fn(|cx| stream.poll_read(cx, &mut piece)).await;
        let n = read.map_err(|e| format!("cannot receive: {e}"))?;
        self.bytes.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// The final status, how the body is framed, and where it begins.
    async fn read_head(&mut self, stream: &mut Stream) -> Result<(u16, Framing, usize), String> {
        let mut from = 0;
        loop {
            let n = self.receive(stream).await?;
            let mut slots = [httparse::EMPTY_HEADER; 128];
            let mut response = httparse::Response::new(&mut slots);
            match response.parse(&self.bytes[from..]) {
                // What comes before the answer (100, 103) is none; a switch of protocols was not asked for.
                Ok(httparse::Status::Complete(len)) if matches!(response.code, Some(100 | 102..=199)) => {
                    from += len;
                }
                Ok(httparse::Status::Complete(len)) => {
                    let status = response.code.ok_or("answered without a status")?;
                    return Ok((status, framing(response.headers), from + len));
                }
                Ok(httparse::Status::Partial) if n > 0 && self.bytes.len() < MAX_HEAD => {}
                Ok(httparse::Status::Partial) if n == 0 => return Err("closed before answering".to_owned()),
                _ => return Err("answered with something that is not HTTP/1".to_owned()),
            }
        }
    }

    async fn look_for(
        &mut self,
        stream: &mut Stream,
        framing: Framing,
        body_at: usize,
        wanted: &[u8],
    ) -> Result<(), String> {
        let mut reader = BodyReader::new(framing);
        let mut raw = self.bytes.split_off(body_at);
        let mut body = Vec::new();
        loop {
            while !raw.is_empty() && !reader.is_done() {
                let decoded =
                    reader.decode(&mut raw).map_err(|error| format!("its body is malformed: {error}"))?;
                body.extend_from_slice(&raw[decoded.data]);
                raw.drain(..decoded.consumed);
                if decoded.consumed == 0 {
                    break;
                }
            }
            body.truncate(BODY);
            if contains(&body, wanted) {
                return Ok(());
            }
            self.bytes.clear();
            if body.len() == BODY || reader.is_done() || self.receive(stream).await? == 0 {
                return Err("answered with another body than expected".to_owned());
            }
            raw.append(&mut self.bytes);
        }
    }
}

/// How a body is framed, as far as a check that reads its beginning needs to know: what is ambiguous is read as
/// chunks, and then is none.
fn framing(headers: &[httparse::Header<'_>]) -> Framing {
    let named = |name| headers.iter().rfind(move |header| header.name.eq_ignore_ascii_case(name));
    if named("transfer-encoding").is_some() {
        return Framing::Chunked;
    }
    let length = named("content-length").and_then(|line| std::str::from_utf8(line.value).ok()?.parse().ok());
    length.map_or(Framing::UntilClose, Framing::Length)
}

/// Asks as the pool's requests do: a destination that transport HTTP/2 alone would not understand anything else.
pub(crate) async fn ask_by_http2(
    stream: Stream,
    question: &Question<'_>,
    expect: &[(u16, u16)],
    secure: bool,
) -> Result<(), String> {
    let scheme = if secure { "https" } else { "http" };
    // The client of HTTP/2 takes no asterisk for a path; the root is the next best.
    let path = if question.path == "*" { "/" } else { question.path };
    let uri = format!("{scheme}://{}{path}", question.host);
    let mut request = http::Request::builder().method(question.method).uri(uri);
    for (name, value) in question.lines() {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|e| format!("cannot ask that way: {e}"))?;
    by_http2(stream, async |mut requests| {
        std::future::poll_fn(|cx| requests.poll_ready(cx)).await.map_err(no_answer)?;
        let (answer, _no_body) = requests.send_request(request, true).map_err(no_answer)?;
        let answer = answer.await.map_err(no_answer)?;
        judge(answer.status().as_u16(), expect)?;
        let Some(wanted) = question.body else { return Ok(()) };
        let (mut from, mut body) = (answer.into_body(), Vec::new());
        while let Some(piece) = from.data().await {
            let piece = piece.map_err(no_answer)?;
            body.extend_from_slice(&piece);
            body.truncate(BODY);
            if contains(&body, wanted) {
                return Ok(());
            }
            if body.len() == BODY {
                break;
            }
            let _stream_has_ended = from.flow_control().release_capacity(piece.len());
        }
        Err("answered with another body than expected".to_owned())
    })
    .await
}
