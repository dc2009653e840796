//! The PROXY protocol: which client a connection belongs to, for destinations that want to be told.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use plimsoll_config::model::ProxyProtocol;
use plimsoll_core::{Address, DestinationId};
use plimsoll_wire::Detection;
use plimsoll_wire::proxy_protocol::{Header, SIGNATURE_LEN, Version, detect};

use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::TunnelEnd;

/// Idle connections kept for one client: as many as it uses at once, within reason.
const KEPT: usize = 16;

/// A client that may not send a header, before a destination that may believe one: it breaks off when one
/// comes. By then a part of the signature may have passed, which is nothing yet.
pub(crate) struct HeaderGuard<'s> {
    stream: &'s mut Stream,
    /// What it began with, while that may be a signature.
    begun: Option<Vec<u8>>,
    pub(crate) refused: bool,
}

impl<'s> HeaderGuard<'s> {
    /// `early` was read of it already.
    pub(crate) fn new(stream: &'s mut Stream, is_wary: bool, early: &[u8]) -> Self {
        let mut rejects_proxy_header = Self { stream, begun: is_wary.then(Vec::new), refused: false };
        rejects_proxy_header.see(early);
        rejects_proxy_header
    }

    fn see(&mut self, bytes: &[u8]) {
        let Some(begun) = &mut self.begun else { return };
        begun.extend_from_slice(&bytes[..bytes.len().min(SIGNATURE_LEN)]);
        match detect(begun) {
            Detection::Perhaps => {}
            detection => {
                self.refused = detection == Detection::Yes;
                self.begun = None;
            }
        }
    }
}

impl TunnelEnd for HeaderGuard<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.stream.poll_read(cx, buffer))?;
        self.see(&buffer[..read]);
        match self.refused {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => Poll::Ready(Ok(read)),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bytes)
    }

    fn shutdown_write(&mut self) {
        self.stream.shutdown_write();
    }

    fn reset(&mut self) {
        self.stream.reset_on_close();
    }

    fn is_reset(&mut self, _cx: &mut Context<'_>) -> bool {
        self.refused
    }
}

/// Whose connection it is, for destinations that want to be told; and the connections to them that are for
/// nobody else.
#[derive(Debug)]
pub(crate) struct Origin {
    header: Header,
    kept: RefCell<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    pool: u64,
    id: DestinationId,
    address: Address,
    stream: Stream,
}

impl Origin {
    /// Of a client's connection, as a header told or as it is.
    pub(crate) fn new(header: Option<Header>, peer: Peer, stream: &Stream) -> Rc<Self> {
        let own = match peer {
            Peer::Socket(peer) => stream.local_address().map(|local| (peer, local)),
            Peer::Unix => None,
        };
        let mut header = header.unwrap_or_default();
        header.addresses = header.addresses.or(own);
        Rc::new(Self { header, kept: RefCell::default() })
    }

    /// An idle connection to that destination that was this client's before.
    pub(crate) fn take(&self, pool: u64, id: DestinationId, address: &Address) -> Option<Stream> {
        let mut kept = self.kept.borrow_mut();
        while let Some(at) = kept.iter().position(|k| (k.pool, k.id) == (pool, id)) {
            let mut candidate = kept.swap_remove(at);
            if candidate.address == *address && candidate.stream.is_idle() {
                return Some(candidate.stream);
            }
        }
        None
    }

    /// Keeps a connection for this client's next message.
    pub(crate) fn keep(&self, pool: u64, id: DestinationId, address: Address, stream: Stream) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(Kept { pool, id, address, stream });
    }
}

/// Encodes the header for a destination; empty where the pool sends none. Without an origin the connection is the
/// proxy's own, as that of a health check.
pub(crate) fn header(version: ProxyProtocol, origin: Option<&Origin>) -> Vec<u8> {
    let version = match version {
        ProxyProtocol::None => return Vec::new(),
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    origin.map_or_else(|| Header::default().encode(version), |origin| origin.header.encode(version))
}
