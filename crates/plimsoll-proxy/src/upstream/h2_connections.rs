//! A worker's connections to destinations that speak HTTP/2: few, shared by many requests at once.

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

/// Requests at once on one connection, however many its destination would take: more would wait for each other.
const STREAMS: usize = 100;
/// Bytes a destination may send on one stream before anybody has taken them.
const STREAM_WINDOW: u32 = 256 * 1024;
/// And on all streams of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of a request that wait to be framed, for each stream.
const SEND_BUFFER: usize = 128 * 1024;
/// A head of an answer may be so long, as with HTTP/1.
const HEADER_LIST: u32 = 64 * 1024;

/// One connection.
#[derive(Debug)]
pub(crate) struct H2Connection {
    requests: RefCell<SendRequest<Bytes>>,
    address: Address,
    secure: bool,
    active: Cell<usize>,
    closed: Rc<Cell<bool>>,
    settings: Rc<Settings>,
}

/// Whether the destination's settings have come: nobody may ask for a tunnel before (RFC 8441 section 3). They are
/// the first it sends, so they stand before the answer to a ping.
#[derive(Debug)]
struct Settings {
    came: Cell<bool>,
    ping: RefCell<Option<PingPong>>,
    waiting: RefCell<Vec<Waker>>,
}

impl H2Connection {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Ready when the destination's settings are known, or never will be.
    pub(crate) fn poll_settings(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.settings.came.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.settings.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        if let Some(mut ping) = self.settings.ping.take() {
            let settings = self.settings.clone();
            tokio::task::spawn_local(async move {
                let _came_or_closed = ping.ping(Ping::opaque()).await;
                settings.came.set(true);
                settings.waiting.take().into_iter().for_each(Waker::wake);
            });
        }
        Poll::Pending
    }

    /// Within TLS?
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    fn has_room(&self) -> bool {
        let theirs = self.requests.borrow().current_max_send_streams();
        !self.closed.get() && self.active.get() < theirs.min(STREAMS)
    }
}

/// A request's place on a link.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    link: Rc<H2Connection>,
    requests: SendRequest<Bytes>,
}

impl StreamPermit {
    pub(crate) fn take(link: &Rc<H2Connection>) -> Self {
        link.active.set(link.active.get() + 1);
        let requests = link.requests.borrow().clone();
        Self { link: link.clone(), requests }
    }

    pub(crate) fn link(&self) -> &Rc<H2Connection> {
        &self.link
    }

    pub(crate) fn requests(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.requests
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.link.active.set(self.link.active.get() - 1);
    }
}

/// The links of one pool at one worker.
#[derive(Debug, Default)]
pub(crate) struct H2ConnectionPool {
    by_destination: RefCell<HashMap<DestinationId, Rc<DestinationConnections>>>,
}

#[derive(Debug, Default)]
struct DestinationConnections {
    links: RefCell<Vec<Rc<H2Connection>>>,
    /// The destination has chosen HTTP/1, the last time it was asked.
    chose_http1: Cell<bool>,
    /// Somebody opens a link; who comes meanwhile waits for it.
    opening: Cell<bool>,
    opened: Notify,
}

/// What came of opening a connection.
#[derive(Debug)]
pub(crate) enum NewUpstream {
    /// It is for many.
    Http2(Rc<H2Connection>),
    /// The destination has chosen HTTP/1: it is for one.
    Http1(Stream),
}

/// Ends the waiting whatever becomes of the opening.
struct Opening<'g>(&'g DestinationConnections);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

impl H2ConnectionPool {
    /// A link with room, if there is one.
    pub(crate) fn take(&self, id: DestinationId, address: &Address) -> Option<Rc<H2Connection>> {
        let group = self.group(id);
        let mut links = group.links.borrow_mut();
        links.retain(|link| !link.closed.get() && link.address == *address);
        links.iter().find(|link| link.has_room()).cloned()
    }

    /// A link with room, opened with `connect` if there is none. Of many who come at once, one opens it. With
    /// `either` the destination may choose HTTP/1 instead; as long as it does, nobody waits for anybody.
    ///
    /// # Errors
    /// `connect`'s, or the destination does not speak HTTP/2 and must.
    pub(crate) async fn open(
        &self,
        id: DestinationId,
        address: &Address,
        connect: impl Future<Output = io::Result<Stream>>,
        either: bool,
    ) -> io::Result<NewUpstream> {
        let group = self.group(id);
        let mut turn = None;
        while turn.is_none() && !(either && group.chose_http1.get()) {
            if !group.opening.replace(true) {
                turn = Some(Opening(&group));
                continue;
            }
            group.opened.notified().await;
            if let Some(link) = self.take(id, address) {
                return Ok(NewUpstream::Http2(link));
            }
        }
        let stream = connect.await?;
        let chose_http2 = stream.alpn() == Some(b"h2");
        group.chose_http1.set(!chose_http2);
        match (chose_http2, matches!(stream, Stream::Tls(_))) {
            (false, _) if either => Ok(NewUpstream::Http1(stream)),
            (false, true) => Err(io::ErrorKind::Unsupported.into()),
            (_, secure) => Self::link(&group, stream, address, secure).await.map(NewUpstream::Http2),
        }
    }

    /// Begins HTTP/2 on a new connection, for everybody.
    async fn link(
        group: &DestinationConnections,
        stream: Stream,
        address: &Address,
        secure: bool,
    ) -> io::Result<Rc<H2Connection>> {
        let wire = H2Io::new(stream, Vec::new(), Rc::new(FloodDetector::unlimited()));
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER);
        let (requests, mut connection) = builder.handshake(wire).await.map_err(io::Error::other)?;
        let settings = Rc::new(Settings {
            came: Cell::new(false),
            ping: RefCell::new(connection.ping_pong()),
            waiting: RefCell::default(),
        });
        let closed = Rc::new(Cell::new(false));
        let gone = closed.clone();
        tokio::task::spawn_local(async move {
            let _told_to_each_request = connection.await;
            gone.set(true);
        });
        let (requests, active) = (RefCell::new(requests), Cell::new(0));
        let link =
            Rc::new(H2Connection { requests, address: address.clone(), secure, active, closed, settings });
        group.links.borrow_mut().push(link.clone());
        Ok(link)
    }

    fn group(&self, id: DestinationId) -> Rc<DestinationConnections> {
        self.by_destination.borrow_mut().entry(id).or_default().clone()
    }

    /// Forgets links nobody uses, as `keep` says of their destinations. A link that is dropped says goodbye.
    pub(crate) fn sweep(&self, keep: impl Fn(DestinationId) -> bool) {
        self.by_destination.borrow_mut().retain(|&id, group| {
            let kept = keep(id);
            group.links.borrow_mut().retain(|link| !link.closed.get() && (kept || link.active.get() > 0));
            kept || !group.links.borrow().is_empty() || group.opening.get()
        });
    }

    /// Says goodbye on one link that carries nothing.
    pub(crate) fn close_idle(&self, of: Option<DestinationId>) {
        for (id, group) in &*self.by_destination.borrow() {
            let mut links = group.links.borrow_mut();
            let rests = |link: &Rc<H2Connection>| link.active.get() == 0 && Rc::strong_count(link) == 1;
            if of.is_none_or(|of| of == *id)
                && let Some(at) = links.iter().position(rests)
            {
                links.swap_remove(at);
                return;
            }
        }
    }

    /// Takes no link again.
    pub(crate) fn clear(&self) {
        self.by_destination.borrow_mut().clear();
    }
}
