//! HTTP/2 connections of a worker: few per destination, each shared by many concurrent requests.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use plimsoll_core::{Address, DestinationId};
use tokio::sync::Notify;

use crate::net::flood_detector::FloodDetector;
use crate::net::h2_io::H2Io;
use crate::net::stream::Stream;

/// Maximum number of concurrent requests on one connection, whatever its destination permits: more would delay each
/// other.
const STREAMS: usize = 100;
/// Receive window of a stream, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a connection, in bytes.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Send buffer of each stream, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// Maximum size of a response head, the same as over HTTP/1.
const HEADER_LIST: u32 = 64 * 1024;

/// HTTP/2 connection to a destination.
#[derive(Debug)]
pub(crate) struct H2Connection {
    requests: RefCell<SendRequest<Bytes>>,
    address: Address,
    secure: bool,
    active: Cell<usize>,
    closed: Rc<Cell<bool>>,
    settings: Rc<Settings>,
}

/// State of the destination's SETTINGS frame, which must be received before a tunnel is requested (RFC 8441 section 3).
///
/// It is the first frame a destination sends, so it comes before the response to a PING.
#[derive(Debug)]
struct Settings {
    received: Cell<bool>,
    ping: RefCell<Option<PingPong>>,
    waiting: RefCell<Vec<Waker>>,
}

impl H2Connection {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Becomes ready when the destination's settings are known or the connection has ended.
    pub(crate) fn poll_settings(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.settings.received.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.settings.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        if let Some(mut ping) = self.settings.ping.take() {
            let settings = self.settings.clone();
            tokio::task::spawn_local(async move {
                let _received_or_closed = ping.ping(Ping::opaque()).await;
                settings.received.set(true);
                settings.waiting.take().into_iter().for_each(Waker::wake);
            });
        }
        Poll::Pending
    }

    /// Reports whether the connection uses TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    fn has_capacity(&self) -> bool {
        let theirs = self.requests.borrow().current_max_send_streams();
        !self.closed.get() && self.active.get() < theirs.min(STREAMS)
    }
}

/// A stream slot on a connection, released when dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    connection: Rc<H2Connection>,
    requests: SendRequest<Bytes>,
}

impl StreamPermit {
    pub(crate) fn take(connection: &Rc<H2Connection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        let requests = connection.requests.borrow().clone();
        Self { connection: connection.clone(), requests }
    }

    pub(crate) fn connection(&self) -> &Rc<H2Connection> {
        &self.connection
    }

    pub(crate) fn requests(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.requests
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.connection.active.set(self.connection.active.get() - 1);
    }
}

/// HTTP/2 connections of one pool on one worker.
#[derive(Debug, Default)]
pub(crate) struct H2ConnectionPool {
    by_destination: RefCell<HashMap<DestinationId, Rc<DestinationConnections>>>,
}

#[derive(Debug, Default)]
struct DestinationConnections {
    connections: RefCell<Vec<Rc<H2Connection>>>,
    /// Whether the destination selected HTTP/1 at the latest negotiation.
    chose_http1: Cell<bool>,
    /// Whether a connection is being opened; further requests wait for it.
    opening: Cell<bool>,
    opened: Notify,
}

/// A newly opened upstream connection.
#[derive(Debug)]
pub(crate) enum NewUpstream {
    /// Connection for many concurrent requests.
    Http2(Rc<H2Connection>),
    /// HTTP/1 connection, for one request at a time.
    Http1(Stream),
}

/// Wakes waiting requests when a connection attempt ends, whatever its result.
struct Opening<'g>(&'g DestinationConnections);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

impl H2ConnectionPool {
    /// Returns a connection with a free stream slot.
    pub(crate) fn take(&self, id: DestinationId, address: &Address) -> Option<Rc<H2Connection>> {
        let group = self.group(id);
        let mut connections = group.connections.borrow_mut();
        connections.retain(|connection| !connection.closed.get() && connection.address == *address);
        connections.iter().find(|connection| connection.has_capacity()).cloned()
    }

    /// Returns a connection with a free stream slot, opened with `connect` if there is none.
    ///
    /// Of concurrent requests one opens the connection and the others wait. With `either` the destination may select
    /// HTTP/1 instead; while it does, requests open connections concurrently.
    ///
    /// # Errors
    /// `connect` failed, or the destination does not support HTTP/2 although it is required.
    pub(crate) async fn open(
        &self,
        id: DestinationId,
        address: &Address,
        connect: impl Future<Output = io::Result<Stream>>,
        either: bool,
    ) -> io::Result<NewUpstream> {
        let group = self.group(id);
        let mut opening = None;
        while opening.is_none() && !(either && group.chose_http1.get()) {
            if !group.opening.replace(true) {
                opening = Some(Opening(&group));
                continue;
            }
            group.opened.notified().await;
            if let Some(connection) = self.take(id, address) {
                return Ok(NewUpstream::Http2(connection));
            }
        }
        let stream = connect.await?;
        let chose_http2 = stream.alpn() == Some(b"h2");
        group.chose_http1.set(!chose_http2);
        match (chose_http2, matches!(stream, Stream::Tls(_))) {
            (false, _) if either => Ok(NewUpstream::Http1(stream)),
            (false, true) => Err(io::ErrorKind::Unsupported.into()),
            (_, secure) => {
                let connection = Self::start(stream, address, secure).await?;
                group.connections.borrow_mut().push(connection.clone());
                Ok(NewUpstream::Http2(connection))
            }
        }
    }

    /// Opens a connection that is not shared: it ends with its only request.
    ///
    /// # Errors
    /// `connect` failed, or the destination does not support HTTP/2.
    pub(crate) async fn open_alone(
        address: &Address,
        connect: impl Future<Output = io::Result<Stream>>,
    ) -> io::Result<NewUpstream> {
        let stream = connect.await?;
        let secure = matches!(stream, Stream::Tls(_));
        if secure && stream.alpn() != Some(b"h2") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Self::start(stream, address, secure).await.map(NewUpstream::Http2)
    }

    /// Starts HTTP/2 on a new connection.
    async fn start(stream: Stream, address: &Address, secure: bool) -> io::Result<Rc<H2Connection>> {
        let io = H2Io::new(stream, Vec::new(), Rc::new(FloodDetector::unlimited()));
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, mut driver) = builder.handshake(io).await.map_err(io::Error::other)?;
        let settings = Rc::new(Settings {
            received: Cell::new(false),
            ping: RefCell::new(driver.ping_pong()),
            waiting: RefCell::default(),
        });
        let closed = Rc::new(Cell::new(false));
        let gone = closed.clone();
        tokio::task::spawn_local(async move {
            let _seen_by_each_stream = driver.await;
            gone.set(true);
        });
        let (requests, active) = (RefCell::new(requests), Cell::new(0));
        Ok(Rc::new(H2Connection { requests, address: address.clone(), secure, active, closed, settings }))
    }

    fn group(&self, id: DestinationId) -> Rc<DestinationConnections> {
        self.by_destination.borrow_mut().entry(id).or_default().clone()
    }

    /// Drops unused connections of destinations that `keep` rejects. A dropped connection sends GOAWAY.
    pub(crate) fn sweep(&self, keep: impl Fn(DestinationId) -> bool) {
        self.by_destination.borrow_mut().retain(|&id, group| {
            let kept = keep(id);
            group
                .connections
                .borrow_mut()
                .retain(|connection| !connection.closed.get() && (kept || connection.active.get() > 0));
            kept || !group.connections.borrow().is_empty() || group.opening.get()
        });
    }

    /// Closes one idle connection with GOAWAY.
    pub(crate) fn close_idle(&self, of: Option<DestinationId>) {
        for (id, group) in &*self.by_destination.borrow() {
            let mut connections = group.connections.borrow_mut();
            let is_idle = |connection: &Rc<H2Connection>| {
                connection.active.get() == 0 && Rc::strong_count(connection) == 1
            };
            if of.is_none_or(|of| of == *id)
                && let Some(at) = connections.iter().position(is_idle)
            {
                connections.swap_remove(at);
                return;
            }
        }
    }

    /// Drops all connections from the pool.
    pub(crate) fn clear(&self) {
        self.by_destination.borrow_mut().clear();
    }
}
