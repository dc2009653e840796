//! The PROXY protocol towards destinations, and the rejection of headers from untrusted clients.

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

/// Maximum number of idle connections kept for one client.
const MAX_KEPT: usize = 16;

/// A client stream that fails if it starts with a PROXY header, for untrusted clients of destinations that may trust
/// headers. A part of the signature may have passed by then, which is not a header.
pub(crate) struct HeaderGuard<'s> {
    stream: &'s mut Stream,
    /// First bytes, while they may be a signature.
    start: Option<Vec<u8>>,
    pub(crate) refused: bool,
}

impl<'s> HeaderGuard<'s> {
    /// Wraps `stream`, of which `early` was read already.
    pub(crate) fn new(stream: &'s mut Stream, is_active: bool, early: &[u8]) -> Self {
        let mut guard = Self { stream, start: is_active.then(Vec::new), refused: false };
        guard.inspect(early);
        guard
    }

    fn inspect(&mut self, bytes: &[u8]) {
        let Some(start) = &mut self.start else { return };
        start.extend_from_slice(&bytes[..bytes.len().min(SIGNATURE_LEN)]);
        match detect(start) {
            Detection::Perhaps => {}
            detection => {
                self.refused = detection == Detection::Yes;
                self.start = None;
            }
        }
    }
}

impl TunnelEnd for HeaderGuard<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.stream.poll_read(cx, buffer))?;
        self.inspect(&buffer[..read]);
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

/// Client of a connection for PROXY headers, and the idle upstream connections that began with its header.
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
    /// Creates the origin of a client connection, by its PROXY header or its addresses.
    pub(crate) fn new(header: Option<Header>, peer: Peer, stream: &Stream) -> Rc<Self> {
        let addresses = match peer {
            Peer::Socket(peer) => stream.local_address().map(|local| (peer, local)),
            Peer::Unix => None,
        };
        let mut header = header.unwrap_or_default();
        header.addresses = header.addresses.or(addresses);
        Rc::new(Self { header, kept: RefCell::default() })
    }

    /// Returns an idle connection of this client to a destination.
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

    /// Keeps a connection for this client's next request.
    pub(crate) fn keep(&self, pool: u64, id: DestinationId, address: Address, stream: Stream) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == MAX_KEPT {
            kept.remove(0);
        }
        kept.push(Kept { pool, id, address, stream });
    }
}

/// Encodes the header for a destination; empty if the pool sends none. Without an origin the connection is the proxy's
/// own, such as a health check.
pub(crate) fn header(version: ProxyProtocol, origin: Option<&Origin>) -> Vec<u8> {
    let version = match version {
        ProxyProtocol::None => return Vec::new(),
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    origin.map_or_else(|| Header::default().encode(version), |origin| origin.header.encode(version))
}
