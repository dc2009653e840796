//! A destination on raw sockets: behaves by a script, remembers every byte of every connection.

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

use super::PATIENCE;
use super::endpoint::{Place, Temporary};
use super::http::{self, Request, clip};
use super::tls::Wire;

type Script = Arc<dyn Fn(&mut Visit) + Send + Sync>;

/// A server that can be killed and started again on the same address.
pub(crate) struct Destination {
    pub(crate) place: Place,
    shared: Arc<Shared>,
    listening: Mutex<Option<(Socket, JoinHandle<()>)>>,
    /// Keeps the port ours while nothing listens on it.
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
        f.debug_struct("Destination").field("place", &self.place).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one connection brought, strictly read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: Vec<Request>,
    /// The beginning of a request that never became whole.
    pub(crate) rest: Vec<u8>,
}

impl Destination {
    /// Listens on a port of its own; every connection is served by `script` on a thread of its own.
    pub(crate) fn start(script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Self {
        let reserved = Place::Tcp(([127, 0, 0, 1], 0).into()).reserve().expect("a free port");
        let address = reserved.local_addr().expect("bound").as_socket().expect("TCP");
        Self::new(Place::Tcp(address), Some(reserved), None, script)
    }

    /// The same with TLS.
    pub(crate) fn start_tls(
        config: Arc<ServerConfig>,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        let reserved = Place::Tcp(([127, 0, 0, 1], 0).into()).reserve().expect("a free port");
        let address = reserved.local_addr().expect("bound").as_socket().expect("TCP");
        Self::new(Place::Tcp(address), Some(reserved), Some(config), script)
    }

    pub(crate) fn start_unix(path: &Temporary, script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Self {
        Self::new(path.place(), None, None, script)
    }

    /// A place where nothing listens, until [`restart`](Self::restart).
    pub(crate) fn absent(script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Self {
        let destination = Self::start(script);
        destination.kill();
        destination
    }

    fn new(
        place: Place,
        reserved: Option<Socket>,
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Arc::new(script),
            tls,
            records: Mutex::default(),
            open: Mutex::default(),
            running: AtomicUsize::new(0),
        });
        let destination = Self { place, shared, listening: Mutex::new(None), _reserved: reserved };
        destination.restart();
        destination
    }

    /// Listens (again).
    pub(crate) fn restart(&self) {
        if let Place::Unix(path) = &self.place {
            let _was_not_there = std::fs::remove_file(path);
        }
        let socket = self.place.listen().expect("the address is ours");
        let (accepting, shared) = (socket.try_clone().expect("a descriptor"), self.shared.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((socket, _)) = accepting.accept() {
                Shared::serve(&shared, socket);
            }
        });
        *lock(&self.listening) = Some((socket, thread));
    }

    /// Dies: stops listening and tears every connection down. Returns when nothing is left of it.
    pub(crate) fn kill(&self) {
        self.stop_listening();
        for socket in lock(&self.shared.open).values() {
            let _gone_already = socket.set_linger(Some(Duration::ZERO));
            let _gone_already = socket.shutdown(Shutdown::Both);
        }
        super::until("a killed destination is gone", || self.shared.running.load(SeqCst) == 0);
    }

    /// Takes no more connections; open ones go on.
    pub(crate) fn stop_listening(&self) {
        if let Some((socket, thread)) = lock(&self.listening).take() {
            // Ends the accept; what is in the backlog is reset.
            let _gone_already = socket.shutdown(Shutdown::Both);
            drop(socket);
            thread.join().expect("accepting does not panic");
        }
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared.records).len()
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.open).len()
    }

    /// The bytes of every connection so far.
    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        lock(&self.shared.records).iter().map(|record| lock(record).clone()).collect()
    }

    /// How many bytes the first connection brought so far.
    pub(crate) fn received(&self) -> usize {
        lock(&self.shared.records).first().map_or(0, |record| lock(record).len())
    }

    /// The requests of every connection, strictly read; ambiguous ones fail the test.
    #[track_caller]
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.records().iter().map(|record| read_strictly(record)).collect()
    }

    /// All whole requests of all connections.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen().into_iter().flat_map(|seen| seen.requests).collect()
    }

    /// The one request that ever came.
    #[track_caller]
    pub(crate) fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.remove(0)
    }
}

#[track_caller]
fn read_strictly(record: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut at = 0;
    loop {
        match http::request(&record[at..]) {
            Ok(Some((request, used))) => {
                seen.requests.push(request);
                at += used;
            }
            Ok(None) => break,
            Err(why) => panic!("the destination saw something ambiguous: {why} in {:?}", clip(&record[at..])),
        }
    }
    seen.rest = record[at..].to_vec();
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
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        lock(&shared.open).insert(number, socket.try_clone().expect("a descriptor"));
        shared.running.fetch_add(1, SeqCst);
        let shared = shared.clone();
        std::thread::spawn(move || {
            let mut socket = match &shared.tls {
                None => Wire::Plain(socket),
                Some(config) => Wire::server(socket, config.clone()),
            };
            let shaken = socket.shake_hands();
            let mut visit = Visit { number, socket, record, buffer: Vec::new() };
            if shaken.is_ok() {
                (shared.script)(&mut visit);
                visit.socket.announce_end();
            }
            // The registered copy goes first, so that dropping the visit is what closes the connection.
            lock(&shared.open).remove(&number);
            drop(visit);
            shared.running.fetch_sub(1, SeqCst);
        });
    }
}

/// One connection, as its script sees it.
pub(crate) struct Visit {
    /// 0 is the first connection of this destination.
    pub(crate) number: usize,
    socket: Wire,
    record: Arc<Mutex<Vec<u8>>>,
    /// Bytes read and not taken yet.
    pub(crate) buffer: Vec<u8>,
}

impl Visit {
    /// The same connection once more, to read while the other one sends.
    pub(crate) fn twin(&self) -> Self {
        let socket = Wire::Plain(self.socket.try_clone().expect("a descriptor"));
        Self { socket, record: self.record.clone(), buffer: Vec::new(), ..*self }
    }

    /// Reads what is there, or waits for it; `false` at the end.
    pub(crate) fn read(&mut self) -> bool {
        let mut bytes = [0; 64 * 1024];
        let Ok(n @ 1..) = self.socket.read(&mut bytes) else { return false };
        lock(&self.record).extend_from_slice(&bytes[..n]);
        self.buffer.extend_from_slice(&bytes[..n]);
        true
    }

    /// The next whole request; `None` at the end, or if what came is not strictly one.
    pub(crate) fn request(&mut self) -> Option<Request> {
        self.next(http::request)
    }

    /// The next head; its body is still to be read.
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
                    // Nothing is answered; all of it is recorded, and the test will find it.
                    self.read_to_end();
                    return None;
                }
            }
        }
    }

    /// Reads on. Was the end a clean one, and no reset?
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

    /// Sends all of it; `false` when the other side is gone.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends it in pieces of `step` bytes.
    pub(crate) fn send_in_steps(&mut self, bytes: impl AsRef<[u8]>, step: usize, pause: Duration) -> bool {
        bytes.as_ref().chunks(step).all(|piece| {
            std::thread::sleep(pause);
            self.send(piece)
        })
    }

    /// Sends `piece` again and again until there is no room for `patience`; see [`Client::send_until_full`].
    ///
    /// [`Client::send_until_full`]: super::Client::send_until_full
    pub(crate) fn send_until_full(&mut self, piece: &[u8], most: usize, patience: Duration) -> usize {
        super::client::send_until_full(&mut self.socket, piece, most, patience)
    }

    /// "No more from me."
    pub(crate) fn end(&mut self) {
        self.socket.announce_end();
        let _gone_already = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection beneath TLS without a word of it.
    pub(crate) fn cut(&mut self) {
        let _gone_already = self.socket.shutdown(Shutdown::Both);
    }

    /// The connection ends with a reset when the script ends.
    pub(crate) fn reset(&self) {
        let _gone_already = self.socket.set_linger(Some(Duration::ZERO));
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
}

/// A listening socket whose queue is full: connecting to it neither works nor fails.
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
        destination.place = address.as_socket().expect("TCP").into();
        Self { destination, _sockets: sockets }
    }
}

/// A door in a script that a test opens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open.
    pub(crate) fn pass(&self) {
        let waited = self.0.1.wait_timeout_while(lock(&self.0.0), PATIENCE, |open| !*open);
        assert!(waited.is_ok_and(|(open, _)| *open), "nobody opened the gate");
    }

    pub(crate) fn is_open(&self) -> bool {
        *lock(&self.0.0)
    }
}

/// A 200 with this body and its length.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A script that answers every request with the same bytes and keeps the connection.
pub(crate) fn answers(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> impl Fn(&mut Visit) + Send + Sync {
    move |visit| {
        while visit.request().is_some() {
            if !visit.send(&bytes) {
                break;
            }
        }
    }
}

/// A script that answers every request with 200 and `body`; HEAD gets the head alone.
pub(crate) fn hello(body: &'static str) -> impl Fn(&mut Visit) + Send + Sync {
    move |visit| {
        while let Some(request) = visit.request() {
            let answer = ok(body);
            let len = if request.method == "HEAD" { answer.len() - body.len() } else { answer.len() };
            if !visit.send(&answer[..len]) {
                break;
            }
        }
    }
}
