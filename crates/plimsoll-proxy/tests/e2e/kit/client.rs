//! A client on a raw socket: sends exactly the given bytes and parses responses strictly.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};

use super::endpoint::Endpoint;
use super::http::{Body, Response, clip, response_head};
use super::tls::MaybeTlsSocket;
use super::{Stopwatch, TIMEOUT, get, ms};

/// A client's connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    socket: MaybeTlsSocket,
    /// Bytes received and not consumed yet.
    pub(crate) unread: Vec<u8>,
}

/// How reading ended without a complete response.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ReadEnd {
    pub(crate) kind: EndKind,
    /// Bytes received and not consumed before the end.
    pub(crate) received: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// The peer closed its sending side in order.
    Closed,
    Reset,
    /// No data arrived for [`TIMEOUT`].
    TimedOut,
    /// The bytes are not a strict HTTP message.
    Malformed(String),
}

impl fmt::Debug for ReadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {:?}", self.kind, clip(&self.received))
    }
}

impl Client {
    pub(crate) fn connect(endpoint: impl Into<Endpoint>) -> Self {
        Self::try_connect(endpoint).expect("the proxy accepts connections")
    }

    pub(crate) fn try_connect(endpoint: impl Into<Endpoint>) -> io::Result<Self> {
        let socket = endpoint.into().connect()?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { socket: MaybeTlsSocket::Plain(socket), unread: Vec::new() })
    }

    /// Opens a TLS connection to the server of that name.
    pub(crate) fn try_connect_tls(
        endpoint: impl Into<Endpoint>,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let mut client = Self::try_connect(endpoint)?;
        let MaybeTlsSocket::Plain(socket) = client.socket else { unreachable!("just made") };
        client.socket = MaybeTlsSocket::client(socket, config, name);
        client.socket.handshake()?;
        Ok(client)
    }

    /// Makes the TLS handshake on a plain connection; `first` and the ClientHello leave in one write.
    pub(crate) fn start_tls(self, first: &[u8], config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        self.start_tls_in_pieces(first, usize::MAX, config, name)
    }

    /// Makes the TLS handshake; `first` and the ClientHello leave in two segments, of which the first has `cut` bytes.
    pub(crate) fn start_tls_in_pieces(
        self,
        first: &[u8],
        cut: usize,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let MaybeTlsSocket::Plain(mut socket) = self.socket else { unreachable!("in the clear") };
        let mut wire = MaybeTlsSocket::client(socket.try_clone()?, config, name);
        let MaybeTlsSocket::Client(tls) = &mut wire else { unreachable!("just made") };
        let mut hello = first.to_vec();
        tls.conn.write_tls(&mut hello)?;
        let (begin, rest) = hello.split_at(cut.min(hello.len()));
        socket.write_all(begin)?;
        if !rest.is_empty() {
            std::thread::sleep(ms(20));
            socket.write_all(rest)?;
        }
        wire.handshake()?;
        Ok(Self { socket: wire, unread: self.unread })
    }

    /// Returns the TLS state of this connection.
    pub(crate) fn tls(&self) -> &ClientConnection {
        match &self.socket {
            MaybeTlsSocket::Client(tls) => &tls.conn,
            _ => panic!("a connection without TLS"),
        }
    }

    /// Returns a second handle on the connection, to send while the first one reads.
    pub(crate) fn duplicate(&self) -> Self {
        Self {
            socket: MaybeTlsSocket::Plain(self.socket.try_clone().expect("a descriptor")),
            unread: Vec::new(),
        }
    }

    /// Sends all bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy accepts bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Sends the bytes in pieces of `step` bytes, each a segment of its own.
    pub(crate) fn send_in_steps(&mut self, bytes: impl AsRef<[u8]>, step: usize, pause: Duration) {
        for piece in bytes.as_ref().chunks(step) {
            self.send(piece);
            std::thread::sleep(pause);
        }
    }

    /// Sends `piece` repeatedly, up to `most` bytes, until no byte is accepted for `timeout`. Returns the number
    /// of bytes accepted.
    pub(crate) fn send_until_blocked(&mut self, piece: &[u8], most: usize, timeout: Duration) -> usize {
        send_until_blocked(&mut self.socket, piece, most, timeout)
    }

    /// Closes the sending side and keeps reading.
    pub(crate) fn shutdown_write(&mut self) {
        self.socket.send_close_notify();
        self.socket.shutdown(Shutdown::Write).expect("open");
    }

    /// Closes the sending side of the TCP connection without a TLS close_notify.
    pub(crate) fn truncate(&self) {
        self.socket.shutdown(Shutdown::Write).expect("open");
    }

    /// Resets the connection.
    pub(crate) fn abort(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Keeps the receive buffer small, so that a slow reader blocks its sender soon. Less than twice the segment
    /// of the loopback device (64 KiB) would make the transfer crawl.
    pub(crate) fn shrink_receive_buffer(&self) {
        self.socket.set_recv_buffer_size(128 * 1024).expect("a buffer size");
    }

    /// Enlarges the receive buffer: with a window of a few KiB, loopback segments of 64 KiB move by timers only.
    pub(crate) fn grow_receive_buffer(&self) {
        self.socket.set_recv_buffer_size(4 << 20).expect("a buffer size");
    }

    /// Waits for data. Returns the number of bytes, 0 at the end, or how the connection failed.
    pub(crate) fn read_some(&mut self) -> Result<usize, EndKind> {
        let mut buffer = [0; 64 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(EndKind::TimedOut),
            Err(_) => Err(EndKind::Reset),
        }
    }

    /// Reports whether data or an end is ready to be read.
    pub(crate) fn has_bytes(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        let peeked = self.socket.peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
        self.socket.set_nonblocking(false).expect("a socket");
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Reads until exactly these bytes have arrived.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        while self.unread.len() < bytes.len() {
            let read = self.read_some();
            assert!(matches!(read, Ok(1..)), "{read:?} after {:?}", clip(&self.unread));
        }
        let rest = self.unread.split_off(bytes.len());
        assert_eq!(clip(&self.unread), clip(bytes));
        self.unread = rest;
    }

    /// Reads the response to a request that is not HEAD.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> Response {
        self.read_response_to("GET")
    }

    #[track_caller]
    pub(crate) fn read_response_to(&mut self, method: &str) -> Response {
        self.try_read_response(method).unwrap_or_else(|end| panic!("no response to {method}: {end:?}"))
    }

    /// Reads the next final response strictly; notes the statuses of informational ones.
    pub(crate) fn try_read_response(&mut self, method: &str) -> Result<Response, ReadEnd> {
        let mut informational = Vec::new();
        loop {
            let response = self.try_read_one(method)?;
            if response.status >= 200 || response.status == 101 {
                return Ok(Response { informational, ..response });
            }
            informational.push(response.status);
        }
    }

    fn try_read_one(&mut self, method: &str) -> Result<Response, ReadEnd> {
        let (mut response, mut used) = loop {
            match response_head(&self.unread, method) {
                Ok(Some(found)) => break found,
                Ok(None) => self.more()?,
                Err(why) => return Err(self.read_end(EndKind::Malformed(why))),
            }
        };
        let mut body = Body::new(response.framing);
        loop {
            match body.read(&self.unread[used..]) {
                Ok(n) => used += n,
                Err(why) => return Err(self.read_end(EndKind::Malformed(why))),
            }
            if body.done {
                break;
            }
            if let Err(end) = self.more() {
                if end.kind == EndKind::Closed && body.end_of_data() {
                    break;
                }
                return Err(end);
            }
        }
        self.unread.drain(..used);
        (response.body, response.trailers) = (body.data, body.trailers);
        Ok(response)
    }

    fn more(&mut self) -> Result<(), ReadEnd> {
        match self.read_some() {
            Ok(0) => Err(self.read_end(EndKind::Closed)),
            Ok(_) => Ok(()),
            Err(kind) => Err(self.read_end(kind)),
        }
    }

    fn read_end(&self, kind: EndKind) -> ReadEnd {
        ReadEnd { kind, received: self.unread.clone() }
    }

    /// Reads to the end of the connection. Returns how it ended and all bytes received.
    pub(crate) fn read_to_end(&mut self) -> ReadEnd {
        loop {
            if let Err(end) = self.more() {
                return end;
            }
        }
    }

    /// Reads until there are unread bytes.
    #[track_caller]
    pub(crate) fn wait_for_bytes(&mut self) {
        while self.unread.is_empty() {
            self.more().expect("bytes");
        }
    }

    /// Expects the end of the connection without further data.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        let end = self.read_to_end();
        assert!(matches!(end.kind, EndKind::Closed | EndKind::Reset), "still open: {end:?}");
        assert!(end.received.is_empty(), "unexpected bytes: {end:?}");
    }

    /// Expects the connection to be open and to serve another request.
    #[track_caller]
    pub(crate) fn expect_open(&mut self) {
        self.send(get("/still-open"));
        let _answered = self.read_response();
    }

    /// Expects no data for `span`.
    #[track_caller]
    pub(crate) fn expect_no_data(&mut self, span: Duration) {
        self.socket.set_read_timeout(Some(span)).expect("a timeout");
        let (stopwatch, read) = (Stopwatch::start(), self.read_some());
        assert_eq!(read, Err(EndKind::TimedOut), "after {:?}: {:?}", stopwatch.elapsed(), clip(&self.unread));
        self.socket.set_read_timeout(Some(TIMEOUT.max(ms(1)))).expect("a timeout");
    }
}

/// Implements `send_until_blocked` of both sides.
pub(crate) fn send_until_blocked(
    socket: &mut MaybeTlsSocket,
    piece: &[u8],
    most: usize,
    timeout: Duration,
) -> usize {
    socket.set_write_timeout(Some(timeout)).expect("a timeout");
    let mut sent = 0;
    while sent < most {
        match socket.write(&piece[sent % piece.len()..]) {
            Ok(n @ 1..) => sent += n,
            _ => break,
        }
    }
    socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
    sent
}
