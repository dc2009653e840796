//! A destination on raw sockets: runs a script for each connection and records every byte it receives.

use std::collections::HashMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::Socket;

use super::TIMEOUT;
use super::endpoint::{Endpoint, TempPath};
use super::http::{self, Request, clip};
use super::tls::MaybeTlsSocket;

type Script = Arc<dyn Fn(&mut Connection) + Send + Sync>;

/// A server that can be killed and restarted on the same address.
pub(crate) struct Destination {
    pub(crate) endpoint: Endpoint,
    shared: Arc<Shared>,
    listening: Mutex<Option<(Socket, JoinHandle<()>)>>,
    /// Reserves the port while the destination does not listen.
    _reserved: Option<Socket>,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    script: Script,
    records: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    open: Mutex<HashMap<usize, Socket>>,
    running: AtomicUsize,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requests recorded on one connection, parsed strictly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub(crate) requests: Vec<Request>,
    /// The beginning of a request that was not completed.
    pub(crate) incomplete: Vec<u8>,
}

impl Destination {
    /// Listens on a free port; runs `script` for each connection on a thread of its own.
    pub(crate) fn start(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let reserved = Endpoint::Tcp(([127, 0, 0, 1], 0).into()).reserve().expect("a free port");
        let address = reserved.local_addr().expect("bound").as_socket().expect("TCP");
        Self::new(Endpoint::Tcp(address), Some(reserved), None, script)
    }

    /// Starts a destination with TLS.
    pub(crate) fn start_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let reserved = Endpoint::Tcp(([127, 0, 0, 1], 0).into()).reserve().expect("a free port");
        let address = reserved.local_addr().expect("bound").as_socket().expect("TCP");
        Self::new(Endpoint::Tcp(address), Some(reserved), Some(config), script)
    }

    pub(crate) fn start_unix(
        path: &TempPath,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        Self::new(path.endpoint(), None, None, script)
    }

    /// Returns a destination that does not listen until [`restart`](Self::restart).
    pub(crate) fn absent(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let destination = Self::start(script);
        destination.kill();
        destination
    }

    fn new(
        endpoint: Endpoint,
        reserved: Option<Socket>,
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Arc::new(script),
            tls,
            records: Mutex::default(),
            open: Mutex::default(),
            running: AtomicUsize::new(0),
        });
        let destination = Self { endpoint, shared, listening: Mutex::new(None), _reserved: reserved };
        destination.restart();
        destination
    }

    /// Starts listening, the first time or again.
    pub(crate) fn restart(&self) {
        if let Endpoint::Unix(path) = &self.endpoint {
            let _was_not_there = std::fs::remove_file(path);
        }
        let socket = self.endpoint.listen().expect("the address is free");
        let (accepting, shared) = (socket.try_clone().expect("a descriptor"), self.shared.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((socket, _)) = accepting.accept() {
                Shared::serve(&shared, socket);
            }
        });
        *lock(&self.listening) = Some((socket, thread));
    }

    /// Stops listening and resets all connections. Returns when all scripts have ended.
    pub(crate) fn kill(&self) {
        self.stop_listening();
        for socket in lock(&self.shared.open).values() {
            let _gone_already = socket.set_linger(Some(Duration::ZERO));
            let _gone_already = socket.shutdown(Shutdown::Both);
        }
        super::wait_until("the scripts of a killed destination have ended", || {
            self.shared.running.load(SeqCst) == 0
        });
    }

    /// Stops listening; open connections continue.
    pub(crate) fn stop_listening(&self) {
        if let Some((socket, thread)) = lock(&self.listening).take() {
            // Ends the accept; connections in the backlog are reset.
            let _gone_already = socket.shutdown(Shutdown::Both);
            drop(socket);
            thread.join().expect("accepting does not panic");
        }
    }

    /// Number of connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared.records).len()
    }

    /// Number of open connections.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// Returns the bytes received so far on each connection.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.records).iter().map(|record| lock(record).clone()).collect()
    }

    /// Number of bytes received so far on the first connection.
    pub(crate) fn received_bytes(&self) -> usize {
        lock(&self.shared.records).first().map_or(0, |record| lock(record).len())
    }

    /// Returns the requests of each connection, parsed strictly; ambiguous ones fail the test.
    #[track_caller]
    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.records().iter().map(|record| read_strictly(record)).collect()
    }

    /// Returns all complete requests of all connections.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.recorded().into_iter().flat_map(|seen| seen.requests).collect()
    }

    /// Returns the only request; fails if there was none or more than one.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

#[track_caller]
fn read_strictly(record: &[u8]) -> Recorded {
    let mut seen = Recorded::default();
    let mut at = 0;
    loop {
        match http::request(&record[at..]) {
            Ok(Some((request, used))) => {
                seen.requests.push(request);
                at += used;
            }
            Ok(None) => break,
            Err(why) => {
                panic!("the destination received an ambiguous request: {why} in {:?}", clip(&record[at..]))
            }
        }
    }
    seen.incomplete = record[at..].to_vec();
    seen
}

impl Drop for Destination {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.kill();
    }
}

impl Shared {
    fn serve(shared: &Arc<Self>, socket: Socket) {
        let record = Arc::new(Mutex::new(Vec::new()));
        let number = {
            let mut records = lock(&shared.records);
            records.push(record.clone());
            records.len() - 1
        };
        let _unix_has_none = socket.set_tcp_nodelay(true);
        socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        lock(&shared.open).insert(number, socket.try_clone().expect("a descriptor"));
        shared.running.fetch_add(1, SeqCst);
        let shared = shared.clone();
        std::thread::spawn(move || {
            let mut socket = match &shared.tls {
                None => MaybeTlsSocket::Plain(socket),
                Some(config) => MaybeTlsSocket::server(socket, config.clone()),
            };
            let shaken = socket.handshake();
            let mut conn = Connection { number, socket, record, buffer: Vec::new() };
            if shaken.is_ok() {
                (shared.script)(&mut conn);
                conn.socket.send_close_notify();
            }
            // The registered descriptor is dropped first, so that dropping `conn` closes the connection.
            lock(&shared.open).remove(&number);
            drop(conn);
            shared.running.fetch_sub(1, SeqCst);
        });
    }
}

/// One accepted connection, as its script uses it.
pub(crate) struct Connection {
    /// Position among the connections of this destination; the first is 0.
    pub(crate) number: usize,
    socket: MaybeTlsSocket,
    record: Arc<Mutex<Vec<u8>>>,
    /// Bytes read and not consumed yet.
    pub(crate) buffer: Vec<u8>,
}

impl Connection {
    /// Returns a second handle on the connection, to read while the first one sends.
    pub(crate) fn duplicate(&self) -> Self {
        let socket = MaybeTlsSocket::Plain(self.socket.try_clone().expect("a descriptor"));
        Self { socket, record: self.record.clone(), buffer: Vec::new(), ..*self }
    }

    /// Reads what is available, or waits for data; returns `false` at the end.
    pub(crate) fn read(&mut self) -> bool {
        let mut bytes = [0; 64 * 1024];
        let Ok(n @ 1..) = self.socket.read(&mut bytes) else { return false };
        lock(&self.record).extend_from_slice(&bytes[..n]);
        self.buffer.extend_from_slice(&bytes[..n]);
        true
    }

    /// Reads the next complete request; `None` at the end, or if the bytes are not a strict request.
    pub(crate) fn request(&mut self) -> Option<Request> {
        self.next(http::request)
    }

    /// Reads the next request head and leaves the body unread.
    pub(crate) fn head(&mut self) -> Option<Request> {
        self.next(http::request_head)
    }

    fn next(&mut self, parse: fn(&[u8]) -> http::Strict<Request>) -> Option<Request> {
        loop {
            match parse(&self.buffer) {
                Ok(Some((request, used))) => {
                    self.buffer.drain(..used);
                    return Some(request);
                }
                Ok(None) if self.read() => {}
                Ok(None) => return None,
                Err(_) => {
                    // Sends no response: all bytes are recorded, and the test finds the malformed request.
                    self.read_to_end();
                    return None;
                }
            }
        }
    }

    /// Reads to the end; reports whether it was an orderly close and not a reset.
    pub(crate) fn ends_cleanly(&mut self) -> bool {
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return true,
                Ok(n) => lock(&self.record).extend_from_slice(&bytes[..n]),
                Err(_) => return false,
            }
        }
    }

    pub(crate) fn read_to_end(&mut self) {
        while self.read() {}
    }

    /// Sends all bytes; returns `false` if the peer is gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends the bytes in pieces of `step` bytes.
    pub(crate) fn send_in_steps(&mut self, bytes: impl AsRef<[u8]>, step: usize, pause: Duration) -> bool {
        bytes.as_ref().chunks(step).all(|piece| {
            std::thread::sleep(pause);
            self.send(piece)
        })
    }

    /// Sends `piece` repeatedly until no byte is accepted for `timeout`; see [`Client::send_until_blocked`].
    ///
    /// [`Client::send_until_blocked`]: super::Client::send_until_blocked
    pub(crate) fn send_until_blocked(&mut self, piece: &[u8], most: usize, timeout: Duration) -> usize {
        super::client::send_until_blocked(&mut self.socket, piece, most, timeout)
    }

    /// Closes the sending side.
    pub(crate) fn shutdown_write(&mut self) {
        self.socket.send_close_notify();
        let _gone_already = self.socket.shutdown(Shutdown::Write);
    }

    /// Closes the TCP connection without a TLS close_notify.
    pub(crate) fn truncate(&mut self) {
        let _gone_already = self.socket.shutdown(Shutdown::Both);
    }

    /// Makes the connection end with a reset when the script ends.
    pub(crate) fn reset(&self) {
        let _gone_already = self.socket.set_linger(Some(Duration::ZERO));
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
}

/// A listening socket with a full accept queue: connecting neither succeeds nor fails.
pub(crate) struct BlackHole {
    pub(crate) destination: Destination,
    _sockets: Vec<Socket>,
}

impl BlackHole {
    pub(crate) fn open() -> Self {
        let socket = || Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let hole = socket();
        hole.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        hole.listen(0).expect("listening");
        let address = hole.local_addr().expect("bound");
        let mut sockets = vec![hole];
        loop {
            let filler = socket();
            let full = filler.connect_timeout(&address, super::ms(100)).is_err();
            sockets.push(filler);
            if full {
                break;
            }
        }
        let mut destination = Destination::absent(|_| {});
        destination.endpoint = address.as_socket().expect("TCP").into();
        Self { destination, _sockets: sockets }
    }
}

/// Blocks scripts until a test opens it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open.
    pub(crate) fn wait(&self) {
        let waited = self.0.1.wait_timeout_while(lock(&self.0.0), TIMEOUT, |open| !*open);
        assert!(waited.is_ok_and(|(open, _)| *open), "the gate was not opened in time");
    }

    pub(crate) fn is_open(&self) -> bool {
        *lock(&self.0.0)
    }
}

/// Returns a 200 response with this body and its length.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Returns a script that sends the same bytes for every request and keeps the connection.
pub(crate) fn respond_with(
    bytes: impl AsRef<[u8]> + Send + Sync + 'static,
) -> impl Fn(&mut Connection) + Send + Sync {
    move |conn| {
        while conn.request().is_some() {
            if !conn.send(&bytes) {
                break;
            }
        }
    }
}

/// Returns a script that responds 200 with `body`; without the body to HEAD.
pub(crate) fn respond_ok(body: &'static str) -> impl Fn(&mut Connection) + Send + Sync {
    move |conn| {
        while let Some(request) = conn.request() {
            let response = ok(body);
            let len = if request.method == "HEAD" { response.len() - body.len() } else { response.len() };
            if !conn.send(&response[..len]) {
                break;
            }
        }
    }
}
