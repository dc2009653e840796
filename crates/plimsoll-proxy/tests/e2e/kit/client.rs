//! A client on a raw socket: sends exactly these bytes, takes answers strictly or not at all.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};

use super::endpoint::Place;
use super::http::{Answer, Body, answer_head, clip};
use super::tls::Wire;
use super::{PATIENCE, Watch, get, ms};

/// A connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Wire,
    /// Bytes received and not taken yet.
    pub(crate) unread: Vec<u8>,
}

/// How a wait for an answer ended without one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// What came of the message that did not become one.
    pub(crate) received: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A clean end of data.
    Closed,
    Reset,
    /// Nothing more for [`PATIENCE`].
    Silent,
    /// Not a strict message.
    Malformed(String),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} after {:?}", self.kind, clip(&self.received))
    }
}

impl Client {
    pub(crate) fn connect(place: impl Into<Place>) -> Self {
        Self::try_connect(place).expect("the proxy takes connections")
    }

    pub(crate) fn try_connect(place: impl Into<Place>) -> io::Result<Self> {
        let socket = place.into().connect()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket: Wire::Plain(socket), unread: Vec::new() })
    }

    /// A connection with TLS, to the server of that name.
    pub(crate) fn try_connect_tls(
        place: impl Into<Place>,
        config: Arc<ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let mut client = Self::try_connect(place)?;
        let Wire::Plain(socket) = client.socket else { unreachable!("just made") };
        client.socket = Wire::client(socket, config, name);
        client.socket.shake_hands()?;
        Ok(client)
    }

    /// The handshake of TLS on a connection in the clear; `first` goes before its hello, in one write with it.
    pub(crate) fn secure(self, first: &[u8], config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        let Wire::Plain(mut socket) = self.socket else { unreachable!("in the clear") };
        let mut wire = Wire::client(socket.try_clone()?, config, name);
        let Wire::Client(tls) = &mut wire else { unreachable!("just made") };
        let mut hello = first.to_vec();
        tls.conn.write_tls(&mut hello)?;
        socket.write_all(&hello)?;
        wire.shake_hands()?;
        Ok(Self { socket: wire, unread: self.unread })
    }

    /// What TLS came to on this connection.
    pub(crate) fn tls(&self) -> &ClientConnection {
        match &self.socket {
            Wire::Client(tls) => &tls.conn,
            _ => panic!("a connection without TLS"),
        }
    }

    /// The same connection once more, to send while the other one reads.
    pub(crate) fn twin(&self) -> Self {
        Self { socket: Wire::Plain(self.socket.try_clone().expect("a descriptor")), unread: Vec::new() }
    }

    /// Sends all of it.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the proxy takes bytes");
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Sends it in pieces of `step` bytes, each a segment of its own.
    pub(crate) fn send_in_steps(&mut self, bytes: impl AsRef<[u8]>, step: usize, pause: Duration) {
        for piece in bytes.as_ref().chunks(step) {
            self.send(piece);
            std::thread::sleep(pause);
        }
    }

    /// Sends `piece` again and again, up to `most` bytes, until there is no room for `patience`. Answers how
    /// much was taken.
    pub(crate) fn send_until_full(&mut self, piece: &[u8], most: usize, patience: Duration) -> usize {
        send_until_full(&mut self.socket, piece, most, patience)
    }

    /// "No more from me", and reads on.
    pub(crate) fn end(&mut self) {
        self.socket.announce_end();
        self.socket.shutdown(Shutdown::Write).expect("open");
    }

    /// Ends the connection beneath TLS without a word of it.
    pub(crate) fn cut(&self) {
        self.socket.shutdown(Shutdown::Write).expect("open");
    }

    /// Tears the connection down.
    pub(crate) fn abort(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Keeps little unread in the kernel, so that a slow reader is felt soon. Less than twice the segment of
    /// the loopback device (64 KiB) would make the transfer crawl.
    pub(crate) fn receive_little(&self) {
        self.socket.set_recv_buffer_size(128 * 1024).expect("a buffer size");
    }

    /// Takes much again: a window of a few KiB on a loopback with segments of 64 KiB moves by timers only.
    pub(crate) fn receive_much(&self) {
        self.socket.set_recv_buffer_size(4 << 20).expect("a buffer size");
    }

    /// Bytes, the end (`Ok(0)`) or what broke; waits for them.
    pub(crate) fn read_some(&mut self) -> Result<usize, Kind> {
        let mut buffer = [0; 64 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Kind::Silent),
            Err(_) => Err(Kind::Reset),
        }
    }

    /// Are there bytes, or an end, to be read?
    pub(crate) fn has_bytes(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a socket");
        let peeked = self.socket.peek(&mut [std::mem::MaybeUninit::uninit(); 1]);
        self.socket.set_nonblocking(false).expect("a socket");
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until exactly these bytes have come.
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

    /// The answer to a request that is not HEAD.
    #[track_caller]
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|fault| panic!("no answer to {method}: {fault:?}"))
    }

    /// The next final answer, strictly read; informational ones are noted in it.
    pub(crate) fn try_answer(&mut self, method: &str) -> Result<Answer, Fault> {
        let mut informational = Vec::new();
        loop {
            let answer = self.try_one(method)?;
            if answer.status >= 200 || answer.status == 101 {
                return Ok(Answer { informational, ..answer });
            }
            informational.push(answer.status);
        }
    }

    fn try_one(&mut self, method: &str) -> Result<Answer, Fault> {
        let (mut answer, mut used) = loop {
            match answer_head(&self.unread, method) {
                Ok(Some(found)) => break found,
                Ok(None) => self.more()?,
                Err(why) => return Err(self.fault(Kind::Malformed(why))),
            }
        };
        let mut body = Body::new(answer.framing);
        loop {
            match body.read(&self.unread[used..]) {
                Ok(n) => used += n,
                Err(why) => return Err(self.fault(Kind::Malformed(why))),
            }
            if body.done {
                break;
            }
            if let Err(fault) = self.more() {
                if fault.kind == Kind::Closed && body.end() {
                    break;
                }
                return Err(fault);
            }
        }
        self.unread.drain(..used);
        (answer.body, answer.trailers) = (body.data, body.trailers);
        Ok(answer)
    }

    fn more(&mut self) -> Result<(), Fault> {
        match self.read_some() {
            Ok(0) => Err(self.fault(Kind::Closed)),
            Ok(_) => Ok(()),
            Err(kind) => Err(self.fault(kind)),
        }
    }

    fn fault(&self, kind: Kind) -> Fault {
        Fault { kind, received: self.unread.clone() }
    }

    /// Reads to the end of the connection and tells how it ended, with everything that came.
    pub(crate) fn rest(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.more() {
                return fault;
            }
        }
    }

    /// The connection is over and nothing more came.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let fault = self.rest();
        assert!(matches!(fault.kind, Kind::Closed | Kind::Reset), "still open: {fault:?}");
        assert!(fault.received.is_empty(), "bytes nobody asked for: {fault:?}");
    }

    /// The connection is open and silent: shown by another request that is answered on it.
    #[track_caller]
    pub(crate) fn expect_open(&mut self) {
        self.send(get("/still-open"));
        let _answered = self.answer();
    }

    /// Nothing comes for `span`.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, span: Duration) {
        self.socket.set_read_timeout(Some(span)).expect("a timeout");
        let (watch, read) = (Watch::start(), self.read_some());
        assert_eq!(read, Err(Kind::Silent), "after {:?}: {:?}", watch.elapsed(), clip(&self.unread));
        self.socket.set_read_timeout(Some(PATIENCE.max(ms(1)))).expect("a timeout");
    }
}

/// See [`Client::send_until_full`].
pub(crate) fn send_until_full(socket: &mut Wire, piece: &[u8], most: usize, patience: Duration) -> usize {
    socket.set_write_timeout(Some(patience)).expect("a timeout");
    let mut sent = 0;
    while sent < most {
        match socket.write(&piece[sent % piece.len()..]) {
            Ok(n @ 1..) => sent += n,
            _ => break,
        }
    }
    socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    sent
}
