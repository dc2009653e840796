//! The life of one client connection: rest, a burst of requests, rest again.
//!
//! A resting connection is a socket, an alarm and a small task. What a request needs is boxed when bytes
//! arrive and given back as soon as none are left.

use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use plimsoll_config::model::{ClientTimeouts, DestinationTimeouts};
use plimsoll_core::Tick;
use plimsoll_core::route::host_name;

use super::answer::{self, Reason, Refusal};
use super::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use super::request::{self, Forwarding, RequestHead};
use super::target::{Method, RequestFacts};
use crate::access_log::LogDraft;
use crate::forward::{self, Verdict};
use crate::listener::Guest;
use crate::stream::{Peer, Stream};
use crate::tables::Edits;
use crate::timer::Alarm;
use crate::tls::enter::Introduction;
use crate::worker::{DoorView, SCRATCH, Worker};

/// Bytes read at once while a head is awaited: a pipeline is taken in pieces.
const READ_HEAD: usize = 64 * 1024;
/// After a last answer the rest of what the client sends is read and thrown away for so long …
const LINGER: Duration = Duration::from_secs(2);
/// … and up to so many bytes, so that a reset does not destroy the answer on its way.
const LINGER_BYTES: usize = 1024 * 1024;

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) guest: Guest,
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// What its handshake of TLS told, if there was one.
    introduction: Option<Box<Introduction>>,
    pub(crate) alarm: Rc<Alarm>,
    /// Bytes that arrived and belong to what comes next.
    pub(crate) inbox: Vec<u8>,
    /// It has sent a whole request before.
    greeted: bool,
}

impl Client {
    /// It has said more than was asked of it.
    pub(crate) fn has_more(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        !self.inbox.is_empty() || self.stream.poll_read_ready(&mut nobody).is_ready()
    }
}

/// One request on its way, with everything a second try needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) view: Rc<DoorView>,
    /// Index into the view's rules.
    pub(crate) rule: usize,
    pub(crate) method: Method,
    pub(crate) http10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The client offered to switch protocols; the destination did.
    pub(crate) upgrade: bool,
    pub(crate) upgraded: bool,
    pub(crate) accepts_json: bool,
    /// Head and first body bytes as every try sends them.
    pub(crate) wire: Vec<u8>,
    /// The rest of the body, still with the client.
    pub(crate) body: BodyReader,
    /// The body goes out in chunks.
    pub(crate) chunked: bool,
    /// Body bytes beyond `wire` were read: they cannot be sent again.
    pub(crate) streamed: bool,
    /// Tries so far, this one included.
    pub(crate) tries: u8,
    /// A destination that may serve has not been tried yet.
    pub(crate) others_left: bool,
    body_bytes: u64,
    pub(crate) client_timeouts: ClientTimeouts,
    pub(crate) pool_timeouts: DestinationTimeouts,
    pub(crate) total_deadline: Tick,
    pub(crate) started: Tick,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// What the client was answered; 0 = nothing yet.
    pub(crate) status: u16,
    pub(crate) log: Option<Box<LogDraft>>,
}

impl Job {
    /// Takes what belongs to the body from `bytes` and leaves the rest in the client's inbox.
    pub(crate) fn take_body(
        &mut self,
        client: &mut Client,
        bytes: &mut [u8],
    ) -> Result<Range<usize>, Refusal> {
        let decoded = self.body.decode(bytes).map_err(|_| Refusal::BAD_BODY)?;
        client.inbox.extend_from_slice(&bytes[decoded.consumed..]);
        self.request_bytes += decoded.consumed as u64;
        self.body_bytes += decoded.data.len() as u64;
        let limit = self.view.table.config.limits.body_bytes;
        if limit > 0 && self.body_bytes > limit {
            return Err(Refusal::BODY_TOO_LARGE);
        }
        Ok(decoded.data)
    }

    /// Writes body bytes in a chunk of our own, and the end of the body if this is it.
    pub(crate) fn write_chunk(&self, out: &mut Vec<u8>, data: &[u8]) {
        if !data.is_empty() {
            write_chunk_head(out, data.len());
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        if self.body.is_done() {
            write_last_chunk(out, self.body.trailers(), &self.view.rules[self.rule].table.request_edits);
        }
    }

    /// What is done to the lines of its answer.
    pub(crate) fn response_edits(&self) -> &Edits {
        &self.view.rules[self.rule].table.response_edits
    }
}

/// Why the wait for a request ended without one.
#[derive(Debug)]
enum NoRequest {
    /// Silence: rest again.
    Silent,
    /// The client closed, or its connection may end.
    Closed,
    /// A request that is none, or came too late.
    Refused(Refusal, bool),
}

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve(guest: Guest, stream: Stream, peer: Peer, introduction: Option<Box<Introduction>>) {
    let worker = guest.worker.clone();
    let timeouts = guest.door.view().table.config.timeouts;
    let alarm = worker.timers.alarm(worker.now() + timeouts.header);
    let mut client = Client { guest, stream, peer, introduction, alarm, inbox: Vec::new(), greeted: false };
    while rest(&mut client, &worker).await && busy(&mut client).await {
        if !client.greeted {
            // A wake-up without a byte prolongs nothing.
            continue;
        }
        let idle = client.guest.door.view().table.config.timeouts.idle;
        worker.timers.set(&client.alarm, worker.timers.about_now() + idle);
    }
}

/// A burst in a box of its own, so that a resting connection does not carry its size.
fn busy(client: &mut Client) -> Pin<Box<impl Future<Output = bool>>> {
    Box::pin(burst(client))
}

/// Waits for a byte with nothing but the socket; `false` when the connection is to end.
async fn rest(client: &mut Client, worker: &Worker) -> bool {
    if !client.inbox.is_empty() {
        return true;
    }
    client.inbox = Vec::new();
    client.alarm.set_resting(true);
    let readable = std::future::poll_fn(|cx| {
        if client.stream.poll_read_ready(cx).is_ready() {
            return Poll::Ready(true);
        }
        client.alarm.poll(cx).map(|()| false)
    })
    .await;
    client.alarm.set_resting(false);
    if !readable && !client.greeted && !worker.draining.get() {
        client.guest.door.view().table.shared.tallies.of(worker.number).refuse(Reason::HeaderTimeout);
    }
    readable
}

/// Serves requests until the connection falls silent (`true`) or ends (`false`).
async fn burst(client: &mut Client) -> bool {
    let worker = client.guest.worker.clone();
    loop {
        let mut job = match next_request(client, &worker).await {
            Ok(job) => job,
            Err(NoRequest::Silent) => return true,
            Err(NoRequest::Closed) => return false,
            Err(NoRequest::Refused(refusal, json)) => {
                refuse_unread(client, &worker, refusal, json).await;
                return false;
            }
        };
        match forward::forward(client, &mut job).await {
            Verdict::KeepAlive => {}
            Verdict::Close => return false,
            Verdict::Linger => {
                linger(client, &worker).await;
                return false;
            }
        }
        worker.spare_buffer(std::mem::take(&mut job.wire));
    }
}

/// Reads up to the end of a request head and makes a job of it.
async fn next_request(client: &mut Client, worker: &Rc<Worker>) -> Result<Box<Job>, NoRequest> {
    let view = client.guest.door.view();
    let mut fresh = !client.inbox.is_empty();
    let mut begun = false;
    // A head that comes in drops is looked at when a line has ended, or when it has doubled.
    let mut look_at = 0;
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            let have = client.inbox.len();
            let mut end = have;
            if !std::mem::take(&mut fresh) {
                let room = have..(have + READ_HEAD).min(SCRATCH);
                match client.stream.poll_read(cx, &mut scratch[room]) {
                    Poll::Ready(Ok(n @ 1..)) => end += n,
                    Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Closed)),
                    Poll::Pending if !begun => return Poll::Ready(Err(NoRequest::Silent)),
                    Poll::Pending if client.alarm.poll(cx).is_ready() => {
                        return Poll::Ready(Err(NoRequest::Refused(Refusal::HEADER_TIMEOUT, false)));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            if end < look_at && !scratch[have..end].contains(&b'\n') {
                client.inbox.extend_from_slice(&scratch[have..end]);
                continue;
            }
            look_at = end * 2;
            scratch[..have].copy_from_slice(&client.inbox);
            match prepare(client, worker, &view, &mut scratch[..end]) {
                Ok(Some(job)) => {
                    client.greeted = true;
                    return Poll::Ready(Ok(job));
                }
                Ok(None) => {
                    client.inbox.extend_from_slice(&scratch[have..end]);
                    // The first head's time began with the connection.
                    if !std::mem::replace(&mut begun, true) && client.greeted {
                        worker.timers.set(&client.alarm, worker.now() + view.table.config.timeouts.header);
                    }
                }
                Err((refusal, json)) => {
                    client.inbox.clear();
                    return Poll::Ready(Err(NoRequest::Refused(refusal, json)));
                }
            }
        }
    })
    .await
}

/// Makes a job of the request at the front of `bytes`; `None` when its head is incomplete.
fn prepare(
    client: &mut Client,
    worker: &Rc<Worker>,
    view: &Rc<DoorView>,
    bytes: &mut [u8],
) -> Result<Option<Box<Job>>, (Refusal, bool)> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; super::MAX_HEADERS];
    let config = &view.table.config;
    let parsed = request::parse(bytes, &mut slots, &config.limits).map_err(|refusal| (refusal, false))?;
    let Some((head, headers)) = parsed else { return Ok(None) };
    let introduction = client.introduction.as_deref();
    let sni = introduction.and_then(|introduction| introduction.sni.as_deref());
    let certificate = introduction.and_then(|introduction| introduction.certificate.as_deref());
    let trusted = view.table.trusts(client.peer.ip());
    let (path, method) = (head.target.path(), head.method_word);
    let facts = RequestFacts { host: head.host, path, method, headers, sni, certificate, trusted };
    let started = worker.now();
    let json = head.accepts_json;
    if let Framing::Length(length) = head.framing
        && config.limits.body_bytes > 0
        && length > config.limits.body_bytes
    {
        return Err((Refusal::BODY_TOO_LARGE, json));
    }
    if let Some(asked) = sni
        && !is_for(view, asked, head.host)
    {
        return Err((Refusal::MISDIRECTED, json));
    }
    let rule = view.table.route(&facts).unwrap_or(usize::MAX);
    let mut out = worker.buffer();
    if let Some(rule) = view.rules.get(rule) {
        let forwarding = Forwarding {
            peer: client.peer,
            scheme: if introduction.is_some() { "https" } else { "http" },
            certificate,
            trusted,
            via: config.via,
        };
        let pool = &rule.table.pool.config.name;
        request::write_head(&mut out, bytes, &head, headers, forwarding, &rule.table.request_edits, pool);
    }
    let log = worker.log.as_ref().map(|_| Box::new(LogDraft::new(client.peer, &head, headers)));
    let mut job = new_job(view, rule, started, &head, out, log);
    let len = head.len;
    client.inbox.clear();
    let rest = &mut bytes[len..];
    let data = job.take_body(client, rest).map_err(|refusal| (refusal, json))?;
    let mut out = std::mem::take(&mut job.wire);
    match job.chunked {
        true => job.write_chunk(&mut out, &rest[data]),
        false => out.extend_from_slice(&rest[data]),
    }
    job.wire = out;
    Ok(Some(job))
}

/// May a connection that was opened for `asked` carry a request for `host`? Where the certificate that was
/// served is good for both, the client may well think so.
fn is_for(view: &DoorView, asked: &str, host: &[u8]) -> bool {
    let host = str::from_utf8(host_name(host)).unwrap_or_default();
    host.is_empty()
        || host.eq_ignore_ascii_case(asked)
        || host.parse::<IpAddr>().is_ok()
        || view.table.voucher.as_ref().is_some_and(|voucher| voucher.covers(asked, host))
}

fn new_job(
    view: &Rc<DoorView>,
    rule: usize,
    started: Tick,
    head: &RequestHead<'_>,
    wire: Vec<u8>,
    log: Option<Box<LogDraft>>,
) -> Box<Job> {
    let config = &view.table.config;
    let pool = view.rules.get(rule).map(|rule| &rule.table.pool.config);
    let pool_timeouts = pool.map_or(NO_POOL, |pool| pool.timeouts);
    Box::new(Job {
        view: view.clone(),
        rule,
        method: head.method,
        http10: head.http10,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        upgrade: head.upgrade.is_some(),
        upgraded: false,
        accepts_json: head.accepts_json,
        wire,
        body: BodyReader::new(head.framing),
        chunked: head.framing == Framing::Chunked,
        streamed: false,
        tries: 0,
        others_left: false,
        body_bytes: 0,
        client_timeouts: config.timeouts,
        pool_timeouts,
        total_deadline: pool_timeouts.total.map_or(Tick::NEVER, |total| started + total),
        started,
        request_bytes: head.len as u64,
        response_bytes: 0,
        status: 0,
        log,
    })
}

/// Stands where no pool was found; the request ends before any of it is used.
const NO_POOL: DestinationTimeouts = DestinationTimeouts {
    connect: Duration::ZERO,
    response: Duration::ZERO,
    idle: Duration::ZERO,
    total: None,
};

/// Answers something that did not become a request, and ends the connection.
async fn refuse_unread(client: &mut Client, worker: &Rc<Worker>, refusal: Refusal, json: bool) {
    client.guest.door.view().table.shared.tallies.of(worker.number).refuse(refusal.reason);
    if let Some(log) = &worker.log {
        log.send_refusal(client.peer, &client.guest.door.view().table.config.name, refusal);
    }
    let mut out = Vec::with_capacity(256);
    answer::write(&mut out, refusal, json, false, false);
    if write_all(client, worker, &out).await {
        linger(client, worker).await;
    }
}

/// Writes to the client until everything is out; `false` when it stopped taking.
pub(crate) async fn write_all(client: &mut Client, worker: &Worker, bytes: &[u8]) -> bool {
    let patience = client.guest.door.view().table.config.timeouts.idle;
    worker.timers.set(&client.alarm, worker.now() + patience);
    let mut at = 0;
    std::future::poll_fn(|cx| {
        while at < bytes.len() {
            match client.stream.poll_write(cx, &bytes[at..]) {
                Poll::Ready(Ok(n @ 1..)) => at += n,
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending => return client.alarm.poll(cx).map(|()| false),
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Says "no more from me" and reads away what is still coming, so that the last answer arrives.
async fn linger(client: &mut Client, worker: &Rc<Worker>) {
    client.stream.shut_write();
    worker.timers.set(&client.alarm, worker.now() + LINGER);
    let mut left = LINGER_BYTES;
    std::future::poll_fn(|cx| {
        loop {
            let mut scratch = worker.scratch.borrow_mut();
            match client.stream.poll_read(cx, &mut scratch[..64 * 1024]) {
                Poll::Ready(Ok(n)) if n > 0 && n < left => left -= n,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return client.alarm.poll(cx),
            }
        }
    })
    .await;
}
