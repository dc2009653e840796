//! How one TLS connection runs over a byte stream: records in, records out, nothing kept while it rests.
//!
//! rustls is used without its own buffers (`rustls::unbuffered`): ciphertext is read into a buffer of the
//! thread, decrypted there, and what is written is encrypted into another one and leaves in one system call.
//! A connection keeps only what a socket would not take and the piece of a record that has not ended yet.

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
use crate::net::tls::records::{Outgoing, RECORD, RECORD_OVERHEAD, Room, put_out, take_in};

/// Ciphertext read at once at most, and at least: a whole record.
const READ: std::ops::RangeInclusive<usize> = RECORD + RECORD_OVERHEAD..=256 * 1024;
/// Plaintext encrypted at once: as much as is read at once, and its head, because less would
/// look like a full socket.
const WRITE: usize = SCRATCH + RECORD;
/// A message of a handshake may be so long (rustls' own limit), beside a record behind it.
const KEPT: usize = 64 * 1024 + RECORD + RECORD_OVERHEAD;

/// Buffers of a thread. Borrowed only within one call.
struct Scratch {
    incoming: Box<[u8]>,
    outgoing: Outgoing,
    gathered: Vec<u8>,
}

thread_local! {
    // Of the thread and not of a worker, because health checks of the control plane run here too.
    static BUFFERS: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; KEPT + READ.end()].into_boxed_slice(),
        outgoing: Outgoing::default(),
        gathered: Vec::new(),
    });
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// A byte stream with TLS on it.
pub(crate) struct TlsStream {
    inner: SocketStream,
    side: Side,
    /// A piece of a record, or of a message of the handshake, that has not ended yet.
    partial: Vec<u8>,
    /// Nobody has looked at `partial` yet.
    unseen: bool,
    /// Decrypted, and nobody had room for it.
    plain: Vec<u8>,
    plain_at: usize,
    /// Encrypted, and the socket would not take it.
    unsent: Vec<u8>,
    unsent_at: usize,
    /// So much plaintext of the write at hand is in `unsent`: it counts as written when that has left.
    owed: usize,
    /// The peer said that it will send no more.
    ended: bool,
    /// rustls gave up on it, and must not be asked again.
    failed: bool,
    /// It is to end in a reset.
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
    /// The server's side of a connection, before its handshake; `early` was read of it already.
    ///
    /// # Errors
    /// rustls', when `config` cannot serve anybody.
    pub(crate) fn server(inner: SocketStream, early: Vec<u8>, config: Arc<ServerConfig>) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = Self::new(inner, Side::Server(side));
        stream.unseen = !early.is_empty();
        stream.partial = early;
        Ok(stream)
    }

    /// The client's side of a connection, before its handshake.
    ///
    /// # Errors
    /// rustls', when `config` fits no server.
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
            unseen: false,
            plain: Vec::new(),
            plain_at: 0,
            unsent: Vec::new(),
            unsent_at: 0,
            owed: 0,
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

    /// The stream beneath.
    pub(crate) fn inner(&self) -> &SocketStream {
        &self.inner
    }

    /// The protocol both sides agreed on, if they did.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// The version both sides agreed on, as metrics label it.
    pub(crate) fn version(&self) -> &'static str {
        match self.state().protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
            _ => "none",
        }
    }

    /// The handshake took up an earlier session.
    pub(crate) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The certificate the peer proved to have, verified.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.state().peer_certificates()?.first()
    }

    /// Runs the handshake as far as bytes allow. Ready when application data may flow; what is still to be
    /// sent then leaves with it.
    ///
    /// # Errors
    /// The socket's, or what was wrong with the peer's messages; the peer is told as TLS wants it.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.side, Side::Client(_)) && self.partial.is_empty() {
            self.decrypt(&mut [], &mut [])?;
        }
        if std::mem::take(&mut self.unseen) {
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
            // All that waits is a ticket, or the end of our side, which leaves with what is written first.
            Some(rustls::ProtocolVersion::TLSv1_3) => Poll::Ready(Ok(())),
            // The peer waits for the end of our side.
            _ => self.poll_flush(cx),
        }
    }

    /// Reads at least one byte into `buffer`, or tells of the end with 0. An end that TLS did not announce is
    /// an error: somebody may have cut the connection.
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

    /// One read of ciphertext. Answers the bytes decrypted into `buffer`; `None` at the end of the stream.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<Option<usize>>> {
        BUFFERS.with_borrow_mut(|scratch| {
            let have = self.partial.len();
            let room = have + buffer.len().clamp(*READ.start(), *READ.end());
            let incoming = scratch.incoming.get_mut(..room).ok_or(io::ErrorKind::InvalidData)?;
            let Poll::Ready(read) = self.inner.poll_read(cx, &mut incoming[have..]) else {
                // Nobody is about to write, so what waits to be sent leaves now.
                if !self.unsent.is_empty() && self.owed == 0 {
                    let _seen_by_the_next_write = self.poll_flush(cx);
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

    /// Takes in ciphertext. Answers how much of it was used up, and how much plaintext is in `buffer`.
    fn decrypt(&mut self, incoming: &mut [u8], buffer: &mut [u8]) -> io::Result<(usize, usize)> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut room = Room { buffer, filled: 0, spill: &mut self.plain };
        let mut said = Outgoing::default();
        let taken = match &mut self.side {
            Side::Server(side) => take_in(side, incoming, &mut room, &mut said),
            Side::Client(side) => take_in(side, incoming, &mut room, &mut said),
        };
        let filled = room.filled;
        self.unsent.extend_from_slice(said.filled());
        match taken {
            Ok(taken) => {
                self.ended |= taken.ended;
                Ok((taken.used, filled))
            }
            Err(error) => {
                self.failed = true;
                // The alert that tells the peer why; whether it arrives changes nothing.
                let mut nobody = Context::from_waker(Waker::noop());
                let _best_effort = self.poll_flush(&mut nobody);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Writes the parts as one message; the answer counts bytes over all of them.
    ///
    /// After `Pending` the same bytes must be offered again, as they are in records already: they count as
    /// written once those have left.
    pub(crate) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: [&[u8]; 3],
    ) -> Poll<io::Result<usize>> {
        if self.owed > 0 {
            ready!(self.poll_flush(cx))?;
            return Poll::Ready(Ok(std::mem::take(&mut self.owed)));
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
                        self.owed = taken;
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// Puts plaintext into records. Few bytes in several parts become one record, many become full ones.
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
            self.encrypt_one(gathered, outgoing)?;
            return Ok(total);
        }
        let mut taken = 0;
        for part in parts {
            let part = &part[..part.len().min(WRITE - taken)];
            self.encrypt_one(part, outgoing)?;
            taken += part.len();
        }
        Ok(taken)
    }

    fn encrypt_one(&mut self, plain: &[u8], outgoing: &mut Outgoing) -> io::Result<()> {
        match plain {
            [] => Ok(()),
            _ => self.put_out(Some(plain), outgoing),
        }
    }

    fn put_out(&mut self, plain: Option<&[u8]>, outgoing: &mut Outgoing) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let Self { side, partial, ended, .. } = self;
        let used = match side {
            Side::Server(side) => put_out(side, plain, partial, outgoing, ended),
            Side::Client(side) => put_out(side, plain, partial, outgoing, ended),
        };
        self.failed = used.is_err();
        self.partial.drain(..used?);
        Ok(())
    }

    /// Sends what is encrypted and has not left.
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

    /// Ready when there may be something to read.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ended || self.unseen || self.plain_at < self.plain.len() {
            true => Poll::Ready(Ok(())),
            false => self.inner.poll_read_ready(cx),
        }
    }

    /// Still silent and open? Tickets and other messages of TLS itself are no breach of silence.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        let mut byte = [0_u8; 1];
        self.unsent.is_empty() && self.poll_read(&mut nobody, &mut byte).is_pending()
    }

    /// Says "no more from me", so that nobody can cut the connection and pass that off as the end.
    pub(crate) fn shutdown_write(&mut self) {
        let mut notice = Outgoing::default();
        if self.put_out(None, &mut notice).is_ok() {
            self.unsent.extend_from_slice(notice.filled());
            let mut nobody = Context::from_waker(Waker::noop());
            let _best_effort = self.poll_flush(&mut nobody);
        }
        self.inner.shutdown_write();
    }

    /// Makes the coming close a reset of the connection beneath, without an end that TLS announces.
    pub(crate) fn reset_on_close(&mut self) {
        self.resets = true;
        self.inner.reset_on_close();
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // A peer that was not told the end would have to take it for a cut.
        if !self.state().is_handshaking() && !self.resets {
            self.shutdown_write();
        }
    }
}
