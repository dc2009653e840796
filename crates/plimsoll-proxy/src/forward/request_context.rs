//! One request on its way to a destination, as every try needs it.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_config::model::{ClientTimeouts, DestinationTimeouts, Pool, PoolProtocol};
use plimsoll_core::retry::FailedAttempt;
use plimsoll_core::route::host_name;
use plimsoll_core::{Failure, Tick};
use plimsoll_wire::grpc_web::Translator;

use crate::base::context::WorkerContext;
use crate::forward::attempts::Attempts;
use crate::forward::hash_key;
use crate::http::local_reply::{Form, Refusal};
use crate::http::request_facts::RequestFacts;
use crate::http::request_limits;
use crate::listener::tls_accept::ClientTlsInfo;
use crate::listener::worker_listener::ListenerRoutes;
use crate::log::access_log::LogDraft;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::Peer;
use crate::upstream::pool::ConnectionNeeds;
use plimsoll_wire::http1::HeaderEdits;
use plimsoll_wire::http1::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use plimsoll_wire::http1::request::{self, Forwarding, RequestHead};
use plimsoll_wire::http1::target::Method;

/// So much of a body is kept for another try: messages of gRPC are seldom longer, nor are forms.
const KEPT_BODY: usize = 64 * 1024;

/// One request on its way, with everything a second try needs.
#[derive(Debug)]
pub(crate) struct RequestContext {
    pub(crate) view: Rc<ListenerRoutes>,
    /// Index into the view's rules.
    pub(crate) route: usize,
    /// What its pool's algorithm hashes by, if it does.
    pub(crate) key: Option<u64>,
    pub(crate) method: Method,
    pub(crate) http10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The client offered to switch protocols; the destination did.
    pub(crate) upgrade: bool,
    pub(crate) upgraded: bool,
    pub(crate) accepts_json: bool,
    /// Head and first body bytes as every try sends them.
    pub(crate) encoded: Vec<u8>,
    /// Bytes of the head.
    pub(crate) head_len: usize,
    /// The rest of the body, still with the client.
    pub(crate) body: BodyReader,
    /// The body goes out in chunks.
    pub(crate) chunked: bool,
    /// Whether it does is not known before a destination has chosen what it speaks.
    framing_undecided: bool,
    /// What `encoded` has of the body, while that stands there in chunks that may have to go again.
    raw_body: Vec<u8>,
    /// Body bytes beyond `encoded` were read: they cannot be sent again.
    pub(crate) streamed: bool,
    /// Its body is kept for another try, while it is short.
    keeps_body: bool,
    pub(crate) attempts: Attempts,
    /// Number of hedged attempts so far.
    pub(crate) hedges: u8,
    /// A destination that may serve has not been tried yet.
    pub(crate) untried_left: bool,
    /// Somebody else was asked as well and may still answer.
    pub(crate) is_hedged: bool,
    /// It is a call of gRPC.
    pub(crate) is_grpc: bool,
    /// It is a call of gRPC-Web.
    pub(crate) web: Option<Box<Translator>>,
    /// Body bytes so far, as they are after decoding.
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
    /// Whose connection it came by, where a destination is to be told.
    pub(crate) origin: Option<Rc<Origin>>,
}

impl RequestContext {
    /// Describes an attempt that failed before anything was sent.
    pub(crate) fn unsent_attempt(&self, failure: Failure) -> FailedAttempt {
        self.attempts.unsent(failure, self.method.is_idempotent(), !self.streamed)
    }

    /// Returns what the request needs of a connection.
    pub(crate) fn connection_needs(&self) -> ConnectionNeeds<'_> {
        ConnectionNeeds { upgrade: self.upgrade, origin: self.origin.as_ref() }
    }

    /// Takes what belongs to the body from `bytes` and leaves the rest in `inbox`.
    pub(crate) fn take_body(
        &mut self,
        inbox: &mut Vec<u8>,
        bytes: &mut [u8],
    ) -> Result<Range<usize>, Refusal> {
        let decoded = self.body.decode(bytes).map_err(|_| Refusal::BAD_BODY)?;
        inbox.extend_from_slice(&bytes[decoded.consumed..]);
        self.request_bytes += decoded.consumed as u64;
        self.body_bytes += decoded.data.len() as u64;
        let limit = self.view.table.config.limits.body_bytes;
        if limit > 0 && self.body_bytes > limit {
            return Err(Refusal::BODY_TOO_LARGE);
        }
        let Some(web) = &mut self.web else { return Ok(decoded.data) };
        let Range { start, end } = decoded.data;
        let len = web.decode_request(&mut bytes[start..end]).ok_or(Refusal::BAD_BASE64)?;
        self.body_is_sound()?;
        Ok(start..start + len)
    }

    /// The body may end where it does, if it has.
    pub(crate) fn body_is_sound(&self) -> Result<(), Refusal> {
        match &self.web {
            Some(web) if self.body.is_done() && !web.is_request_complete() => Err(Refusal::BAD_BASE64),
            _ => Ok(()),
        }
    }

    /// The call of gRPC-Web whose answer is translated.
    pub(crate) fn translated(&mut self) -> Option<&mut Translator> {
        self.web.as_deref_mut().filter(|web| web.translated)
    }

    /// Keeps body bytes for another try, as far as there may be one and there is room: then they leave
    /// with the encoded image. Whoever comes by HTTP/2 sends no body along with the head.
    pub(crate) fn keep(&mut self, data: &[u8]) -> bool {
        let kept = self.encoded.len() - self.head_len;
        if self.streamed || !self.keeps_body || kept + data.len() > KEPT_BODY {
            return false;
        }
        let mut encoded = std::mem::take(&mut self.encoded);
        match self.chunked {
            true => self.write_chunk(&mut encoded, data),
            false => encoded.extend_from_slice(data),
        }
        self.encoded = encoded;
        if self.framing_undecided && self.chunked {
            self.raw_body.extend_from_slice(data);
        }
        true
    }

    /// Writes body bytes in a chunk of our own, and the end of the body if this is it.
    pub(crate) fn write_chunk(&self, out: &mut Vec<u8>, data: &[u8]) {
        if !data.is_empty() {
            write_chunk_head(out, data.len());
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        if self.body.is_done() {
            write_last_chunk(out, self.body.trailers(), &self.view.routes[self.route].table.request_edits);
        }
    }

    /// The destination of the next try has chosen what it speaks: frames the body for it.
    pub(crate) fn frame(&mut self, chunked: bool) {
        if !self.framing_undecided || self.chunked == chunked {
            return;
        }
        let mut encoded = std::mem::take(&mut self.encoded);
        self.chunked = chunked;
        if chunked {
            self.raw_body = encoded.split_off(self.head_len);
            self.write_chunk(&mut encoded, &self.raw_body);
        } else {
            encoded.truncate(self.head_len);
            encoded.append(&mut self.raw_body);
        }
        self.encoded = encoded;
    }

    /// The protocol it came by frames bodies itself: a body in chunks comes as plain bytes, up to its end.
    pub(crate) fn unchunk(&mut self) {
        if self.body.is_chunked() {
            self.body = BodyReader::new(Framing::UntilClose);
        }
    }

    /// All of it is in the encoded image, framed as any destination may have it.
    pub(crate) fn is_buffered(&self) -> bool {
        !self.streamed && !self.framing_undecided && self.body.is_done()
    }

    /// How a refusal is put.
    pub(crate) fn form(&self) -> Form {
        form(self.web.as_deref(), self.accepts_json)
    }

    /// What is done to the lines of its answer.
    pub(crate) fn response_edits(&self) -> &HeaderEdits {
        &self.view.routes[self.route].table.response_edits
    }
}

/// Who asks, as far as the request on its way must know.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ClientInfo<'c> {
    pub(crate) peer: Peer,
    pub(crate) tls_info: Option<&'c ClientTlsInfo>,
    pub(crate) origin: Option<&'c Rc<Origin>>,
}

/// Makes a request of the request head at the front of `bytes`: checked, routed and written anew. `None` when the
/// head is incomplete. The bytes behind it are the caller's.
///
/// # Errors
/// What it is refused with, and in which form.
pub(crate) fn parse_and_route(
    client: ClientInfo<'_>,
    worker: &Rc<WorkerContext>,
    view: &Rc<ListenerRoutes>,
    bytes: &[u8],
) -> Result<Option<Box<RequestContext>>, (Refusal, Form)> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; plimsoll_wire::http1::MAX_HEADERS];
    let config = &view.table.config;
    let parsed = request::parse(bytes, &mut slots, &request_limits(&config.limits))
        .map_err(|error| (error.into(), Form::Text))?;
    let Some((mut head, headers)) = parsed else { return Ok(None) };
    if head.target.secure.is_some_and(|secure| secure != client.tls_info.is_some()) {
        return Err((Refusal::WRONG_SCHEME, form(None, head.accepts_json)));
    }
    let sni = client.tls_info.and_then(|tls_info| tls_info.sni.as_deref());
    let certificate = client.tls_info.and_then(|tls_info| tls_info.certificate.as_deref());
    let trusted = view.table.trusts(client.peer.ip());
    let (path, method) = (head.target.path(), head.method_name);
    let facts = RequestFacts { host: head.host, path, method, headers, sni, certificate, trusted };
    let started = worker.now();
    let refused = |refusal| {
        let web = head.grpc_web.map(|asked| Translator::new(&asked, accept_of(headers), false));
        Err((refusal, form(web.as_ref(), head.accepts_json)))
    };
    if let Framing::Length(length) = head.framing
        && config.limits.body_bytes > 0
        && length > config.limits.body_bytes
    {
        return refused(Refusal::BODY_TOO_LARGE);
    }
    if let Some(asked) = sni
        && !is_for(view, asked, head.host)
    {
        return refused(Refusal::MISDIRECTED);
    }
    let rule = view.table.route(&facts).unwrap_or(usize::MAX);
    let web = head.grpc_web.map(|asked| {
        let translated = view
            .routes
            .get(rule)
            .is_some_and(|rule| rule.table.pool.config.translates_grpc_web(head.method_name));
        head.is_grpc |= translated;
        Box::new(Translator::new(&asked, accept_of(headers), translated))
    });
    let mut out = worker.buffers.take();
    if let Some(rule) = view.routes.get(rule) {
        let forwarding = Forwarding {
            client: client.peer.ip(),
            scheme: if client.tls_info.is_some() { "https" } else { "http" },
            certificate,
            trusted,
            via: config.via,
        };
        let pool = &rule.table.pool.config.name;
        request::write_head(&mut out, bytes, &head, headers, forwarding, &rule.table.request_edits, pool);
    }
    let log = worker.log.as_ref().map(|_| Box::new(LogDraft::new(client.peer, &head, headers)));
    let mut request = new_context(view, rule, started, &head, out, log);
    request.origin = client.origin.cloned();
    let hash_key = view.routes.get(rule).and_then(|rule| rule.table.pool.config.hash_key());
    request.key =
        hash_key.and_then(|by| hash_key::of_request(by, head.target.path_and_query, headers, client.peer));
    request.web = web;
    Ok(Some(request))
}

fn accept_of<'b>(headers: &[httparse::Header<'b>]) -> Option<&'b [u8]> {
    headers.iter().find(|h| h.name.eq_ignore_ascii_case("accept")).map(|h| h.value)
}

fn form(web: Option<&Translator>, json: bool) -> Form {
    match web {
        Some(web) => Form::Web(web.response_type.clone()),
        None if json => Form::Json,
        None => Form::Text,
    }
}

/// May a connection that was opened for `asked` carry a request for `host`? Where the certificate that was
/// served is good for both, the client may well think so.
fn is_for(view: &ListenerRoutes, asked: &str, host: &[u8]) -> bool {
    let host = str::from_utf8(host_name(host)).unwrap_or_default();
    host.is_empty()
        || host.eq_ignore_ascii_case(asked)
        || host.parse::<IpAddr>().is_ok()
        || view.table.server_tls.as_ref().is_some_and(|server_tls| server_tls.cert_covers_host(asked, host))
}

fn new_context(
    view: &Rc<ListenerRoutes>,
    route: usize,
    started: Tick,
    head: &RequestHead<'_>,
    encoded: Vec<u8>,
    log: Option<Box<LogDraft>>,
) -> Box<RequestContext> {
    let config = &view.table.config;
    let pool = view.routes.get(route).map(|route| &route.table.pool.config);
    let mut pool_timeouts = pool.map_or(NO_POOL, |pool| pool.timeouts);
    let mut client_timeouts = config.timeouts;
    let mut total_deadline = pool_timeouts.total.map_or(Tick::NEVER, |total| started + total);
    if head.is_grpc {
        // Both sides of a call may be silent for as long as they like: only that nobody says anything counts.
        pool_timeouts.response = pool_timeouts.response.max(pool_timeouts.idle);
        client_timeouts.body = client_timeouts.body.max(client_timeouts.idle);
        total_deadline = total_deadline.min(head.grpc_timeout.map_or(Tick::NEVER, |wait| started + wait));
    }
    let is_chunked = head.framing == Framing::Chunked;
    let protocol = pool.map_or(PoolProtocol::Http1, |pool| pool.protocol);
    Box::new(RequestContext {
        view: view.clone(),
        route,
        key: None,
        method: head.method,
        http10: head.is_http10,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        upgrade: head.upgrade.is_some(),
        upgraded: false,
        accepts_json: head.accepts_json,
        head_len: encoded.len(),
        encoded,
        body: BodyReader::new(head.framing),
        chunked: is_chunked && protocol == PoolProtocol::Http1,
        framing_undecided: is_chunked && protocol == PoolProtocol::Auto,
        raw_body: Vec::new(),
        streamed: false,
        keeps_body: pool.is_some_and(|pool| keeps_body(pool, head)),
        attempts: Attempts::default(),
        hedges: 0,
        untried_left: false,
        is_hedged: false,
        body_bytes: 0,
        is_grpc: head.is_grpc,
        client_timeouts,
        pool_timeouts,
        total_deadline,
        started,
        request_bytes: head.len as u64,
        response_bytes: 0,
        status: 0,
        web: None,
        log,
        origin: None,
    })
}

/// May another try need a body that was read already? Destinations of HTTP/2 refuse streams that have not run,
/// whatever was sent on them. One that is told to be too long is not begun with.
fn keeps_body(pool: &Pool, head: &RequestHead<'_>) -> bool {
    let fits = !matches!(head.framing, Framing::Length(length) if length > KEPT_BODY as u64);
    let repeats_calls = head.is_grpc && !pool.retry.when.grpc_statuses.is_empty();
    fits && (repeats_calls || (pool.protocol != PoolProtocol::Http1 && pool.retry.error_recovery))
}

/// Stands where no pool was found; the request ends before any of it is used.
const NO_POOL: DestinationTimeouts = DestinationTimeouts {
    connect: Duration::ZERO,
    response: Duration::ZERO,
    idle: Duration::ZERO,
    total: None,
};
