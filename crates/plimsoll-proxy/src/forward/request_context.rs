//! A request with its routing and everything that an attempt needs.

use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use plimsoll_config::defaults;
use plimsoll_config::model::{ClientTimeouts, DestinationTimeouts, Pool, PoolProtocol};
use plimsoll_core::retry::FailedAttempt;
use plimsoll_core::route::host_name;
use plimsoll_core::{Failure, Tick};
use plimsoll_wire::grpc_web::Translator;

use crate::base::context::WorkerContext;
use crate::base::min_rate::MinRate;
use crate::forward::attempts::Attempts;
use crate::forward::hash_key;
use crate::http::local_reply::{LocalReply, ReplyFormat};
use crate::http::request_facts::RequestFacts;
use crate::http::request_limits;
use crate::listener::worker_listener::ListenerRoutes;
use crate::log::access_log::LogDraft;
use crate::net::proxy_protocol::Origin;
use crate::net::stream::Peer;
use crate::net::tls::server_config::ClientTlsInfo;
use crate::upstream::pool::ConnectionNeeds;
use plimsoll_wire::http1::HeaderEdits;
use plimsoll_wire::http1::body::{BodyReader, Framing, write_chunk_head, write_last_chunk};
use plimsoll_wire::http1::request::{self, Forwarding, RequestHead};
use plimsoll_wire::http1::target::Method;

/// Bytes of a request body that are retained for another attempt. gRPC messages and forms are seldom longer.
const MAX_RETAINED_BODY: usize = 64 * 1024;

/// A request with its routing, encoded for its destinations.
#[derive(Debug)]
pub(crate) struct RequestContext {
    pub(crate) routes: Rc<ListenerRoutes>,
    /// Index of the route in `routes`.
    pub(crate) route: usize,
    /// Hash key, if the pool's algorithm needs one.
    pub(crate) hash_key: Option<u64>,
    pub(crate) method: Method,
    pub(crate) http10: bool,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The client offers to switch protocols.
    pub(crate) upgrade: bool,
    pub(crate) upgraded: bool,
    /// The request authenticates its connection to the destination, which belongs to the client alone from then on.
    pub(crate) dedicated: bool,
    pub(crate) accepts_json: bool,
    /// Head and first body bytes as every attempt sends them.
    pub(crate) encoded: Vec<u8>,
    /// Length of the encoded head.
    pub(crate) head_len: usize,
    /// Decoder of the body bytes that the client has yet to send.
    pub(crate) body: BodyReader,
    /// The body is sent to the destination in chunks.
    pub(crate) chunked: bool,
    /// The framing depends on the protocol that the destination selects by ALPN.
    framing_undecided: bool,
    /// Body bytes in `encoded` without chunk framing, while the framing may still change.
    raw_body: Vec<u8>,
    /// Body bytes beyond `encoded` were read: they cannot be sent again.
    pub(crate) streamed: bool,
    /// Body bytes are retained for another attempt, up to [`MAX_RETAINED_BODY`].
    retains_body: bool,
    pub(crate) attempts: Attempts,
    /// Number of hedged attempts so far.
    pub(crate) hedges: u8,
    /// A destination may serve that was not tried yet.
    pub(crate) untried_left: bool,
    /// Another attempt is running and may still respond.
    pub(crate) is_hedged: bool,
    /// The request is a gRPC call.
    pub(crate) is_grpc: bool,
    /// Translator of a gRPC-Web call.
    pub(crate) grpc_web: Option<Box<Translator>>,
    /// Decoded body bytes so far.
    body_bytes: u64,
    /// Minimum rate of the body.
    pub(crate) min_rate: MinRate,
    pub(crate) client_timeouts: ClientTimeouts,
    pub(crate) pool_timeouts: DestinationTimeouts,
    pub(crate) total_deadline: Tick,
    /// The client asked for this deadline, which says nothing about the destination.
    pub(crate) is_client_deadline: bool,
    pub(crate) started: Tick,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    /// Bytes of an informational response that the client has not taken yet.
    pub(crate) unsent: Vec<u8>,
    /// Status of the response; 0 before there is one.
    pub(crate) status: u16,
    pub(crate) log: Option<Box<LogDraft>>,
    /// Origin of the client's connection, for destinations that receive a PROXY header.
    pub(crate) origin: Option<Rc<Origin>>,
}

impl RequestContext {
    /// Describes an attempt that failed before anything was sent.
    pub(crate) fn unsent_attempt(&self, failure: Failure) -> FailedAttempt {
        self.attempts.unsent(failure, self.method.is_idempotent(), !self.streamed)
    }

    /// Returns what the request needs of a connection.
    pub(crate) fn connection_needs(&self) -> ConnectionNeeds<'_> {
        ConnectionNeeds { upgrade: self.upgrade, dedicated: self.dedicated, origin: self.origin.as_ref() }
    }

    /// Decodes body bytes in place and returns their range. Bytes behind the body are appended to `inbox`.
    pub(crate) fn decode_body(
        &mut self,
        inbox: &mut Vec<u8>,
        bytes: &mut [u8],
    ) -> Result<Range<usize>, LocalReply> {
        let decoded = self.body.decode(bytes).map_err(|_| LocalReply::BAD_BODY)?;
        inbox.extend_from_slice(&bytes[decoded.consumed..]);
        self.request_bytes += decoded.consumed as u64;
        self.body_bytes += decoded.data.len() as u64;
        let limit = self.routes.table.config.limits.body_bytes;
        if limit > 0 && self.body_bytes > limit {
            return Err(LocalReply::BODY_TOO_LARGE);
        }
        let Some(translator) = &mut self.grpc_web else { return Ok(decoded.data) };
        let Range { start, end } = decoded.data;
        let len = translator.decode_request(&mut bytes[start..end]).ok_or(LocalReply::BAD_BASE64)?;
        self.check_body_end()?;
        Ok(start..start + len)
    }

    /// Checks that a body that has ended is complete.
    pub(crate) fn check_body_end(&self) -> Result<(), LocalReply> {
        match &self.grpc_web {
            Some(translator) if self.body.is_done() && !translator.is_request_complete() => {
                Err(LocalReply::BAD_BASE64)
            }
            _ => Ok(()),
        }
    }

    /// Returns the translator of a gRPC-Web call, if the response is translated.
    pub(crate) fn grpc_web_translator(&mut self) -> Option<&mut Translator> {
        self.grpc_web.as_deref_mut().filter(|translator| translator.translated)
    }

    /// Retains body bytes in `encoded`, where another attempt may need them and the limit allows it. Returns
    /// whether it did.
    pub(crate) fn retain_body(&mut self, data: &[u8]) -> bool {
        let kept = self.encoded.len() - self.head_len;
        if self.streamed || !self.retains_body || kept + data.len() > MAX_RETAINED_BODY {
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

    /// Writes body bytes as one chunk, and the last chunk if the body ends here.
    pub(crate) fn write_chunk(&self, out: &mut Vec<u8>, data: &[u8]) {
        if !data.is_empty() {
            write_chunk_head(out, data.len());
            out.extend_from_slice(data);
            out.extend_from_slice(b"\r\n");
        }
        if self.body.is_done() {
            write_last_chunk(out, self.body.trailers(), self.request_edits());
        }
    }

    /// Sets the body framing for the protocol that the next destination selected.
    pub(crate) fn set_framing(&mut self, chunked: bool) {
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

    /// Reads the body as plain bytes up to its end: the client's protocol has its own framing.
    pub(crate) fn clear_chunked_framing(&mut self) {
        if self.body.is_chunked() {
            self.body = BodyReader::new(Framing::UntilClose);
        }
    }

    /// Reports whether the request is complete in `encoded`, framed alike for every destination.
    pub(crate) fn is_buffered(&self) -> bool {
        !self.streamed && !self.framing_undecided && self.body.is_done()
    }

    /// Returns the format of local replies to this request.
    pub(crate) fn reply_format(&self) -> ReplyFormat {
        reply_format(self.grpc_web.as_deref(), self.accepts_json)
    }

    /// Returns the header edits of the request.
    pub(crate) fn request_edits(&self) -> &HeaderEdits {
        &self.routes.routes[self.route].table.request_edits
    }

    /// Returns the header edits of the response.
    pub(crate) fn response_edits(&self) -> &HeaderEdits {
        &self.routes.routes[self.route].table.response_edits
    }
}

/// Client of a request: its address, TLS handshake and origin.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ClientInfo<'c> {
    pub(crate) peer: Peer,
    pub(crate) tls_info: Option<&'c ClientTlsInfo>,
    pub(crate) origin: Option<&'c Rc<Origin>>,
    /// The connection uses HTTP/2.
    pub(crate) is_http2: bool,
}

/// Parses the request head at the front of `bytes`, routes it, and encodes it for the destination. Returns
/// `None` if the head is incomplete. Bytes behind the head are left to the caller.
///
/// # Errors
/// The local reply to an invalid request, and its format.
pub(crate) fn parse_and_route(
    client: ClientInfo<'_>,
    worker: &Rc<WorkerContext>,
    routes: &Rc<ListenerRoutes>,
    bytes: &[u8],
) -> Result<Option<Box<RequestContext>>, (LocalReply, ReplyFormat)> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; plimsoll_wire::http1::MAX_HEADERS];
    let config = &routes.table.config;
    let parsed = request::parse(bytes, &mut slots, &request_limits(&config.limits))
        .map_err(|error| (error.into(), ReplyFormat::Text))?;
    let Some((mut head, headers)) = parsed else { return Ok(None) };
    if head.target.secure.is_some_and(|secure| secure != client.tls_info.is_some()) {
        return Err((LocalReply::WRONG_SCHEME, reply_format(None, head.accepts_json)));
    }
    let sni = client.tls_info.and_then(|tls_info| tls_info.sni.as_deref());
    let forwarding = Forwarding {
        client: client.peer.ip(),
        scheme: if client.tls_info.is_some() { "https" } else { "http" },
        certificate: client.tls_info.and_then(|tls_info| tls_info.certificate.as_deref()),
        trusted: routes.table.trusts(client.peer.ip()),
        via: config.via,
    };
    let started = worker.now();
    let reject = |reply| {
        let translator =
            head.grpc_web.map(|content_type| Translator::new(&content_type, accept_header(headers), false));
        Err((reply, reply_format(translator.as_ref(), head.accepts_json)))
    };
    if let Framing::Length(length) = head.framing
        && config.limits.body_bytes > 0
        && length > config.limits.body_bytes
    {
        return reject(LocalReply::BODY_TOO_LARGE);
    }
    if let Some(server_name) = sni
        && !is_authoritative(routes, server_name, head.host)
    {
        return reject(LocalReply::MISDIRECTED);
    }
    let facts = RequestFacts { head: &head, headers, sni, forwarding };
    let index = routes.table.route(&facts).unwrap_or(usize::MAX);
    let route = routes.routes.get(index).map(|route| &route.table);
    let key = route.and_then(|route| route.pool.config.hash_key());
    let key = key.and_then(|key| hash_key::request_key(key, &facts, client.peer));
    let grpc_web = head.grpc_web.map(|content_type| {
        let translated = route.is_some_and(|route| route.pool.config.translates_grpc_web(head.method_name));
        head.is_grpc |= translated;
        Box::new(Translator::new(&content_type, accept_header(headers), translated))
    });
    let mut out = worker.buffers.take();
    if let Some(route) = route {
        let pool = &route.pool.config.name;
        request::write_head(&mut out, bytes, &head, headers, forwarding, &route.request_edits, pool);
    }
    let log =
        worker.log.as_ref().map(|_| Box::new(LogDraft::new((client.peer, client.is_http2), &head, headers)));
    let mut request = new_context(routes, index, started, &head, out, log);
    request.origin = client.origin.cloned();
    request.hash_key = key;
    request.grpc_web = grpc_web;
    Ok(Some(request))
}

fn accept_header<'b>(headers: &[httparse::Header<'b>]) -> Option<&'b [u8]> {
    headers.iter().find(|h| h.name.eq_ignore_ascii_case("accept")).map(|h| h.value)
}

fn reply_format(grpc_web: Option<&Translator>, json: bool) -> ReplyFormat {
    match grpc_web {
        Some(translator) => ReplyFormat::GrpcWeb(translator.response_type.clone()),
        None if json => ReplyFormat::Json,
        None => ReplyFormat::Text,
    }
}

/// Reports whether a TLS connection for `server_name` may carry a request for `host`. By default each may: all hosts of
/// a listener have the same TLS settings, so the connection gives no access that another one would refuse. With
/// `strict_host`, the served certificate must cover both names (RFC 9113 section 9.1.1).
fn is_authoritative(routes: &ListenerRoutes, server_name: &str, host: &[u8]) -> bool {
    let host = str::from_utf8(host_name(host)).unwrap_or_default();
    let is_strict = routes.table.config.tls.as_ref().is_some_and(|tls| tls.strict_host);
    !is_strict
        || host.is_empty()
        || host.eq_ignore_ascii_case(server_name)
        || host.parse::<IpAddr>().is_ok()
        || routes
            .table
            .server_tls
            .as_ref()
            .is_some_and(|server_tls| server_tls.cert_covers_host(server_name, host))
}

fn new_context(
    routes: &Rc<ListenerRoutes>,
    route: usize,
    started: Tick,
    head: &RequestHead<'_>,
    encoded: Vec<u8>,
    log: Option<Box<LogDraft>>,
) -> Box<RequestContext> {
    let config = &routes.table.config;
    let pool = routes.routes.get(route).map(|route| &route.table.pool.config);
    let mut pool_timeouts = pool.map_or(NO_POOL, |pool| pool.timeouts);
    let mut client_timeouts = config.timeouts;
    let mut total_deadline = pool_timeouts.total.map_or(Tick::NEVER, |total| started + total);
    let mut is_client_deadline = false;
    if head.is_grpc {
        // Either side of a gRPC call may be idle for long; only an idle call as a whole counts.
        pool_timeouts.response = pool_timeouts.response.max(pool_timeouts.idle);
        client_timeouts.body = client_timeouts.body.max(client_timeouts.idle);
        let own = head.grpc_timeout.map_or(Tick::NEVER, |wait| started + wait);
        is_client_deadline = own < total_deadline;
        total_deadline = total_deadline.min(own);
    }
    let is_chunked = head.framing == Framing::Chunked;
    let protocol = pool.map_or(PoolProtocol::Http1, |pool| pool.protocol);
    Box::new(RequestContext {
        routes: routes.clone(),
        route,
        hash_key: None,
        method: head.method,
        http10: head.is_http10,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        upgrade: head.upgrade,
        dedicated: head.authenticates_connection,
        upgraded: false,
        accepts_json: head.accepts_json,
        head_len: encoded.len(),
        encoded,
        body: BodyReader::new(head.framing),
        chunked: is_chunked && protocol == PoolProtocol::Http1,
        framing_undecided: is_chunked && protocol == PoolProtocol::Auto,
        raw_body: Vec::new(),
        streamed: false,
        retains_body: pool.is_some_and(|pool| retains_body(pool, head)),
        attempts: Attempts::default(),
        hedges: 0,
        untried_left: false,
        is_hedged: false,
        body_bytes: 0,
        is_grpc: head.is_grpc,
        // Either side of a gRPC call may send nothing for long.
        min_rate: MinRate::new(if head.is_grpc { 0 } else { config.timeouts.min_rate }, head.len as u64),
        client_timeouts,
        pool_timeouts,
        total_deadline,
        is_client_deadline,
        started,
        request_bytes: head.len as u64,
        response_bytes: 0,
        unsent: Vec::new(),
        status: 0,
        grpc_web: None,
        log,
        origin: None,
    })
}

/// Reports whether another attempt may need body bytes that were already read. HTTP/2 destinations may reject
/// a stream unprocessed after any part of it was sent. A body with a longer content length is not retained at
/// all.
fn retains_body(pool: &Pool, head: &RequestHead<'_>) -> bool {
    let fits = !matches!(head.framing, Framing::Length(length) if length > MAX_RETAINED_BODY as u64);
    let retries_grpc = head.is_grpc && !pool.retry.when.grpc_statuses.is_empty();
    fits && (retries_grpc || (pool.protocol != PoolProtocol::Http1 && pool.retry.error_recovery))
}

/// Timeouts without a pool; the request ends before they are used.
const NO_POOL: DestinationTimeouts = defaults::DESTINATION_TIMEOUTS;
