//! TLS over a socket, without buffers while the connection is idle.
//!
//! rustls is used without its own buffers (`rustls::unbuffered`): ciphertext is read into a buffer of the thread and
//! decrypted there; plaintext is encrypted into another one and sent in one system call. A connection keeps only
//! unsent bytes and an incomplete record.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, ServerConfig};

use crate::base::buffers::SCRATCH;
use crate::net::socket_stream::SocketStream;
use crate::net::tls::records::{Outgoing, PlaintextBuffer, RECORD, RECORD_OVERHEAD, decrypt, encrypt};

/// Bounds of a ciphertext read, in bytes: at least a whole record.
const READ: std::ops::RangeInclusive<usize> = RECORD + RECORD_OVERHEAD..=256 * 1024;
/// Maximum plaintext encrypted at once: as much as is read at once plus a head, because a partial write would look like
/// a full socket.
const WRITE: usize = SCRATCH + RECORD;
/// Maximum size of an incomplete handshake message (the limit of rustls) with the next record.
const MAX_PARTIAL: usize = 64 * 1024 + RECORD + RECORD_OVERHEAD;

/// Buffers of a thread. Borrpending_plaintext only within one call.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Outgoing,
    gathered: Vec<u8>,
}

thread_local! {
    // Per thread and not per worker, because health checks of the control plane use them, too.
    static BUFFERS: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; MAX_PARTIAL + READ.end()].into_boxed_slice(),
        outgoing: Outgoing::default(),
        gathered: Vec::new(),
    });
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// TLS over a socket.
pub(crate) struct TlsStream {
    inner: SocketStream,
    side: Side,
    /// Incomplete record or handshake message.
    partial: Vec<u8>,
    /// Whether `partial` was not processed yet.
    unprocessed: bool,
    /// Decrypted bytes that did not fit the reader's buffer.
    plain: Vec<u8>,
    plain_at: usize,
    /// Encrypted bytes that the socket did not take.
    unsent: Vec<u8>,
    unsent_at: usize,
    /// Plaintext bytes of the current write that are in `unsent`; they count as written when it is sent.
    pending_plaintext: usize,
    /// Whether the peer sent close_notify.
    ended: bool,
    /// Whether rustls failed and must not be used again.
    failed: bool,
    /// Whether the connection ends with a reset.
    resets: bool,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("inner", &self.inner)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl TlsStream {
    /// Creates the server side of a connection, before its handshake; `early` was read already.
    ///
    /// # Errors
    /// rustls rejects `config`.
    pub(crate) fn server(inner: SocketStream, early: Vec<u8>, config: Arc<ServerConfig>) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = Self::new(inner, Side::Server(side));
        stream.unprocessed = !early.is_empty();
        stream.partial = early;
        Ok(stream)
    }

    /// Creates the client side of a connection, before its handshake.
    ///
    /// # Errors
    /// rustls rejects `config`.
    pub(crate) fn client(
        inner: SocketStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let side = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self::new(inner, Side::Client(side)))
    }

    fn new(inner: SocketStream, side: Side) -> Self {
        Self {
            inner,
            side,
            partial: Vec::new(),
            unprocessed: false,
            plain: Vec::new(),
            plain_at: 0,
            unsent: Vec::new(),
            unsent_at: 0,
            pending_plaintext: 0,
            ended: false,
            failed: false,
            resets: false,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    /// Returns the socket.
    pub(crate) fn inner(&self) -> &SocketStream {
        &self.inner
    }

    /// Returns the protocol negotiated by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// Returns the negotiated TLS version as metrics label it.
    pub(crate) fn version(&self) -> &'static str {
        match self.state().protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            _ => "none",
        }
    }

    /// Reports whether the handshake resumed a session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Returns the certificates of the peer, its own first; they were verified at the full handshake.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.state().peer_certificates().unwrap_or_default()
    }

    /// Runs the handshake. Becomes ready when application data may be sent; unsent handshake bytes are sent with it.
    ///
    /// # Errors
    /// The socket failed, or a message of the peer is invalid, for which an alert was sent.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.side, Side::Client(_)) && self.partial.is_empty() {
            self.decrypt(&mut [], &mut [])?;
        }
        if std::mem::take(&mut self.unprocessed) {
            let mut early = std::mem::take(&mut self.partial);
            let (used, _no_room) = self.decrypt(&mut early, &mut [])?;
            self.partial = early.split_off(used);
        }
        while self.state().is_handshaking() {
            if self.ended || ready!(self.poll_receive(cx, &mut []))?.is_none() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        match self.state().protocol_version() {
            // Only a ticket or our Finished message is unsent, which the first write includes.
            Some(rustls::ProtocolVersion::TLSv1_3) => Poll::Ready(Ok(())),
            // The peer waits for our Finished message.
            _ => self.poll_flush(cx),
        }
    }

    /// Becomes ready when [`Self::poll_handshake`] may make progress. Unsent handshake bytes are sent meanwhile.
    ///
    /// # Errors
    /// The socket failed.
    pub(crate) fn poll_handshake_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.poll_flush(cx)?;
        match self.state().is_handshaking() {
            true => self.poll_read_ready(cx),
            // Only the flush is left.
            false => sent.map(Ok),
        }
    }

    /// Reads at least one byte into `buffer`; 0 is the end. An end without close_notify is an error, because the
    /// connection may have been truncated.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if self.plain_at < self.plain.len() {
                let rest = &self.plain[self.plain_at..];
                let n = rest.len().min(buffer.len());
                buffer[..n].copy_from_slice(&rest[..n]);
                self.plain_at += n;
                if self.plain_at == self.plain.len() {
                    (self.plain, self.plain_at) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(n));
            }
            if self.ended {
                return Poll::Ready(Ok(0));
            }
            match ready!(self.poll_receive(cx, buffer))? {
                Some(0) => {}
                Some(n) => return Poll::Ready(Ok(n)),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Reads ciphertext once. Returns the number of bytes decrypted into `buffer`; `None` at the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        BUFFERS.with_borrow_mut(|scratch| {
            let have = self.partial.len();
            let room = have + buffer.len().clamp(*READ.start(), *READ.end());
            let incoming = scratch.incoming.get_mut(..room).ok_or(io::ErrorKind::InvalidData)?;
            let Poll::Ready(read) = self.inner.poll_read(cx, &mut incoming[have..]) else {
                // No write follows at once, so unsent bytes are sent now.
                if !self.unsent.is_empty() && self.pending_plaintext == 0 {
                    let _reported_by_the_next_write = self.poll_flush(cx);
                }
                return Poll::Pending;
            };
            let end = have + read?;
            if end == have {
                return Poll::Ready(Ok(None));
            }
            incoming[..have].copy_from_slice(&self.partial);
            let (used, filled) = self.decrypt(&mut incoming[..end], buffer)?;
            match used == end {
                true => self.partial = Vec::new(),
                false => {
                    self.partial.clear();
                    self.partial.extend_from_slice(&incoming[used..end]);
                }
            }
            Poll::Ready(Ok(Some(filled)))
        })
    }

    /// Decrypts ciphertext. Returns how much of it was used, and how much plaintext is in `buffer`.
    fn decrypt(&mut self, incoming: &mut [u8], buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut plaintext = PlaintextBuffer { buffer, filled: 0, spill: &mut self.plain };
        let mut outgoing = Outgoing::default();
        let decrypted = match &mut self.side {
            Side::Server(side) => decrypt(side, incoming, &mut plaintext, &mut outgoing),
            Side::Client(side) => decrypt(side, incoming, &mut plaintext, &mut outgoing),
        };
        let filled = plaintext.filled;
        self.unsent.extend_from_slice(outgoing.filled());
        match decrypted {
            Ok(decrypted) => {
                self.ended |= decrypted.ended;
                Ok((decrypted.used, filled))
            }
            Err(error) => {
                self.failed = true;
                // Sends the alert for the peer, if the socket takes it.
                let mut no_waker = Context::from_waker(Waker::noop());
                let _best_effort = self.poll_flush(&mut no_waker);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Writes the parts as one message, and returns the number of written bytes over all of them.
    ///
    /// After `Pending` the same bytes must be passed again: they are encrypted already, and count as written once they
    /// are sent.
    pub(crate) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
    ) -> Poll<io::Result<usize>> {
        if self.pending_plaintext > 0 {
            ready!(self.poll_flush(cx))?;
            return Poll::Ready(Ok(std::mem::take(&mut self.pending_plaintext)));
        }
        BUFFERS.with_borrow_mut(|scratch| {
            let Scratch { outgoing, gathered, .. } = scratch;
            outgoing.clear();
            outgoing.extend_from_slice(&self.unsent[self.unsent_at..]);
            (self.unsent, self.unsent_at) = (Vec::new(), 0);
            let taken = self.encrypt(parts, gathered, outgoing)?;
            let mut at = 0;
            let outgoing = outgoing.filled();
            while at < outgoing.len() {
                match self.inner.poll_write(cx, &outgoing[at..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => at += written?,
                    Poll::Pending => {
                        self.unsent.extend_from_slice(&outgoing[at..]);
                        self.pending_plaintext = taken;
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Encrypts plaintext. Small parts are combined into one record, large ones fill several.
    fn encrypt(
        &mut self,
        parts: [&[u8]; 3],
        gathered: &mut Vec<u8>,
        outgoing: &mut Outgoing,
    ) -> io::Result<usize> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if total <= RECORD && parts[1..].iter().any(|part| !part.is_empty()) {
            gathered.clear();
            parts.iter().for_each(|part| gathered.extend_from_slice(part));
            self.encrypt_part(gathered, outgoing)?;
            return Ok(total);
        }
        let mut taken = 0;
        for part in parts {
            let part = &part[..part.len().min(WRITE - taken)];
            self.encrypt_part(part, outgoing)?;
            taken += part.len();
        }
        Ok(taken)
    }

    fn encrypt_part(&mut self, plain: &[u8], outgoing: &mut Outgoing) -> io::Result<()> {
        match plain {
            [] => Ok(()),
            _ => self.encrypt_record(Some(plain), outgoing),
        }
    }

    fn encrypt_record(&mut self, plain: Option<&[u8]>, outgoing: &mut Outgoing) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let Self { side, partial, ended, .. } = self;
        let used = match side {
            Side::Server(side) => encrypt(side, plain, partial, outgoing, ended),
            Side::Client(side) => encrypt(side, plain, partial, outgoing, ended),
        };
        self.failed = used.is_err();
        self.partial.drain(..used?);
        Ok(())
    }

    /// Sends the unsent ciphertext.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unsent_at < self.unsent.len() {
            match ready!(self.inner.poll_write(cx, &self.unsent[self.unsent_at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.unsent_at += n,
            }
        }
        (self.unsent, self.unsent_at) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// Becomes ready when there may be bytes to read.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ended || self.unprocessed || self.plain_at < self.plain.len() {
            true => Poll::Ready(Ok(())),
            false => self.inner.poll_read_ready(cx),
        }
    }

    /// Reports whether the connection is open and has no application data. Tickets and other TLS messages are ignored.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut no_waker = Context::from_waker(Waker::noop());
        let mut byte = [0_u8; 1];
        self.unsent.is_empty() && self.poll_read(&mut no_waker, &mut byte).is_pending()
    }

    /// Sends close_notify, which proves to the peer that the data is complete, and shuts the write side down.
    pub(crate) fn shutdown_write(&mut self) {
        let mut notice = Outgoing::default();
        if self.encrypt_record(None, &mut notice).is_ok() {
            self.unsent.extend_from_slice(notice.filled());
            let mut no_waker = Context::from_waker(Waker::noop());
            let _best_effort = self.poll_flush(&mut no_waker);
        }
        self.inner.shutdown_write();
    }

    /// Makes the coming close a reset of the socket, without close_notify.
    pub(crate) fn reset_on_close(&mut self) {
        self.resets = true;
        self.inner.reset_on_close();
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // Without close_notify the peer would treat the end as a truncation.
        if !self.state().is_handshaking() && !self.resets {
            self.shutdown_write();
        }
    }
}
