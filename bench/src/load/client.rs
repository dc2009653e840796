//! Load client: sends messages over its connections and checks the responses.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, ExchangeError, Expect, Fed, Reply};
use super::histogram::Histogram;
use super::load_mode::{LoadMode, Schedule};
use super::tls::{TlsSettings, TlsStream};
use crate::clock;
use crate::epoll::{Epoll, Ready, Timer};
use crate::socket::{self, Moved};

/// Results since the last call of `take_stats`.
pub(crate) struct LoadStats {
    pub(crate) done: u64,
    pub(crate) latencies: Histogram,
    pub(crate) errors: BTreeMap<ExchangeError, u64>,
}

/// Load client on one thread.
pub(crate) struct Client {
    target: SocketAddr,
    exchange: Exchange,
    /// TLS settings, if it uses TLS.
    tls: Option<TlsSettings>,
    epoll: Epoll,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    schedule: Schedule,
    /// Timer for the next planned message; created by the first run at a rate.
    timer: Option<Timer>,
    stats: LoadStats,
    buffer: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    secure: Option<Box<TlsStream>>,
    /// Differs from the client's exchange by the number of the connection when echoes are checked.
    exchange: Option<Box<Exchange>>,
    started: Instant,
    sent: usize,
    state: State,
    reply: Reply,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Busy,
    /// Response received; waiting for the server to close as requested.
    Closing,
}

const TIMER: u64 = u64::MAX;
/// Time without a response after which a run has failed.
const STALLED: Duration = Duration::from_secs(5);
/// Number of errors after which a run has failed.
const FAULTS: u64 = 1000;
/// One source address has 28,000 ports by default; further connections use another address.
const PER_SOURCE: usize = 20_000;

impl Client {
    pub(crate) fn new(target: SocketAddr, exchange: Exchange, tls: Option<TlsSettings>) -> io::Result<Self> {
        Ok(Self {
            target,
            exchange,
            tls,
            epoll: Epoll::new()?,
            connections: Vec::new(),
            idle: VecDeque::new(),
            schedule: Schedule::count(0),
            timer: None,
            stats: LoadStats::new(),
            buffer: vec![0; 256 * 1024],
        })
    }

    /// Opens more connections; they are used first in the next run.
    pub(crate) fn open(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let number = self.connections.len();
            let connection = Connection {
                socket: self.connect(number)?,
                secure: self.secure()?,
                exchange: stamped(&self.exchange, number),
                started: clock::now(),
                sent: 0,
                state: State::Idle,
                reply: Reply::default(),
            };
            self.connections.push(connection);
            self.idle.push_front(number);
        }
        Ok(())
    }

    /// Sends in a load mode for `period`. Messages in progress at the end stay so for the next run.
    pub(crate) fn drive(&mut self, mode: LoadMode, period: Duration) -> io::Result<()> {
        let now = clock::now();
        self.schedule = Schedule::new(mode, now);
        if matches!(mode, LoadMode::Rate(_)) && self.timer.is_none() {
            let timer = Timer::new()?;
            self.epoll.watch(&timer, TIMER)?;
            self.timer = Some(timer);
        }
        self.turn_until(now + period, u64::MAX)
    }

    /// Sends `count` messages as fast as the connections respond, and waits for every response.
    pub(crate) fn exchange(&mut self, count: u64) -> io::Result<()> {
        self.schedule = Schedule::count(count);
        let goal = self.stats.answered() + count;
        self.turn_until(clock::now() + Duration::from_secs(600), goal)
    }

    /// Returns the results since the last call.
    pub(crate) fn take_stats(&mut self) -> LoadStats {
        std::mem::replace(&mut self.stats, LoadStats::new())
    }

    fn turn_until(&mut self, deadline: Instant, goal: u64) -> io::Result<()> {
        let (mut answered, mut progress) = (self.stats.answered(), clock::now());
        loop {
            let now = clock::now();
            if self.stats.answered() != answered {
                (answered, progress) = (self.stats.answered(), now);
            }
            if now >= deadline || answered >= goal {
                return Ok(());
            }
            if now - progress > STALLED {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no response for 5 s"));
            }
            let faults: u64 = self.stats.errors.values().sum();
            if faults > FAULTS {
                return Err(io::Error::other(format!("{faults} errors: {:?}", self.stats.errors)));
            }
            self.dispatch(now)?;
            if let (Some(next), Some(timer)) = (self.schedule.next(), &self.timer) {
                timer.ring_in(next.saturating_duration_since(now))?;
            }
            let limit = deadline.saturating_duration_since(now).min(STALLED);
            for index in 0..self.epoll.wait(Some(limit))? {
                let ready = self.epoll.ready(index);
                if ready.token != TIMER {
                    self.serve(ready)?;
                }
            }
        }
    }

    /// Starts the messages that the schedule allows on idle connections.
    fn dispatch(&mut self, now: Instant) -> io::Result<()> {
        // Each connection at most once: one that fails at once is idle again.
        for _ in 0..self.idle.len() {
            let Some(planned) = self.schedule.permit(now) else { break };
            if let Some(number) = self.idle.pop_front() {
                self.start(number, planned)?;
            }
        }
        self.schedule.queue(now);
        Ok(())
    }

    fn start(&mut self, number: usize, planned: Instant) -> io::Result<()> {
        let connection = &mut self.connections[number];
        connection.started = planned;
        connection.sent = 0;
        connection.state = State::Busy;
        match connection.send_request(&self.exchange) {
            Ok(()) => Ok(()),
            Err(fault) => self.fail(number, fault),
        }
    }

    fn serve(&mut self, ready: Ready) -> io::Result<()> {
        let number = ready.token as usize;
        let connection = &mut self.connections[number];
        if ready.writable
            && connection.state == State::Busy
            && let Err(fault) = connection.send(&self.exchange)
        {
            return self.fail(number, fault);
        }
        let mut readable = ready.readable;
        while readable {
            let connection = &mut self.connections[number];
            let kept = connection.secure.as_ref().map_or(0, |secure| secure.restore(&mut self.buffer));
            match socket::receive(&connection.socket, &mut self.buffer[kept..]) {
                Ok(Moved::Bytes(count)) => {
                    readable = kept + count == self.buffer.len() || ready.ended;
                    match connection.take(&self.exchange, &mut self.buffer[..kept + count]) {
                        Ok(Fed::More) => {}
                        Ok(Fed::Whole) => self.answered(number)?,
                        Err(fault) => return self.fail(number, fault),
                    }
                }
                Ok(Moved::Blocked) => readable = false,
                Ok(Moved::Ended) => return self.ended(number),
                Err(_) => return self.fail(number, ExchangeError::Socket),
            }
        }
        Ok(())
    }

    fn answered(&mut self, number: usize) -> io::Result<()> {
        let now = clock::now();
        let connection = &mut self.connections[number];
        self.stats.done += 1;
        self.stats.latencies.record(now.saturating_duration_since(connection.started));
        if matches!(self.exchange.expect, Expect::Http { close: true, .. }) {
            connection.state = State::Closing;
            return Ok(());
        }
        self.next(number, now)
    }

    /// Starts the next message on a free connection if one is due.
    fn next(&mut self, number: usize, now: Instant) -> io::Result<()> {
        self.connections[number].state = State::Idle;
        match self.schedule.permit(now) {
            Some(planned) => self.start(number, planned),
            None => {
                self.idle.push_back(number);
                Ok(())
            }
        }
    }

    fn ended(&mut self, number: usize) -> io::Result<()> {
        if self.connections[number].state != State::Closing {
            return self.fail(number, ExchangeError::Ended);
        }
        let socket = self.connect(number)?;
        let connection = &mut self.connections[number];
        connection.socket = socket;
        if let Some(secure) = &mut connection.secure {
            secure.renew()?;
        }
        self.next(number, clock::now())
    }

    /// Counts an error and replaces the connection; an idle one stays idle.
    fn fail(&mut self, number: usize, fault: ExchangeError) -> io::Result<()> {
        *self.stats.errors.entry(fault).or_default() += 1;
        let (socket, secure) = (self.connect(number)?, self.secure()?);
        let connection = &mut self.connections[number];
        connection.socket = socket;
        connection.secure = secure;
        connection.reply = Reply::default();
        if connection.state != State::Idle {
            connection.state = State::Idle;
            self.idle.push_back(number);
        }
        Ok(())
    }

    fn secure(&self) -> io::Result<Option<Box<TlsStream>>> {
        self.tls.as_ref().map(|tls| TlsStream::new(tls).map(Box::new)).transpose()
    }

    fn connect(&self, number: usize) -> io::Result<OwnedFd> {
        if self.exchange.datagrams {
            let socket = socket::connect_datagrams(self.target)?;
            self.epoll.watch(&socket, number as u64)?;
            return Ok(socket);
        }
        let source = match number / PER_SOURCE {
            0 => None,
            further => Some(Ipv4Addr::new(127, 0, 0, 1 + further as u8)),
        };
        let socket = socket::connect(self.target, source)?;
        self.epoll.watch(&socket, number as u64)?;
        Ok(socket)
    }
}

impl Connection {
    /// Starts the exchange.
    fn send_request(&mut self, shared: &Exchange) -> Result<(), ExchangeError> {
        if let Some(secure) = &mut self.secure {
            secure.send_request(&self.exchange.as_deref().unwrap_or(shared).request)?;
        }
        self.send(shared)
    }

    /// Sends what the socket accepts.
    fn send(&mut self, shared: &Exchange) -> Result<(), ExchangeError> {
        let request = &self.exchange.as_deref().unwrap_or(shared).request;
        let bytes = self.secure.as_ref().map_or_else(|| &request[self.sent..], |secure| secure.outgoing());
        if bytes.is_empty() {
            return Ok(());
        }
        if let Moved::Bytes(count) = socket::send(&self.socket, bytes).map_err(|_| ExchangeError::Socket)? {
            match &mut self.secure {
                Some(secure) => secure.has_sent(count),
                None => self.sent += count,
            }
        }
        Ok(())
    }

    fn take(&mut self, shared: &Exchange, bytes: &mut [u8]) -> Result<Fed, ExchangeError> {
        let Self { state, reply, exchange, secure, .. } = self;
        let exchange = exchange.as_deref().unwrap_or(shared);
        let mut feed = |plain: &[u8]| match state {
            State::Busy => reply.feed(exchange, plain),
            State::Idle | State::Closing => Err(ExchangeError::Length),
        };
        let Some(secure) = secure else { return feed(bytes) };
        let fed = secure.take(bytes, &exchange.request, feed)?;
        // The end of the client's handshake, and the request with it.
        self.send(shared)?;
        Ok(fed)
    }
}

impl LoadStats {
    fn new() -> Self {
        Self::of(0)
    }

    /// Creates results of successful responses without latencies.
    pub(super) fn of(done: u64) -> Self {
        Self { done, latencies: Histogram::new(), errors: BTreeMap::new() }
    }

    /// Returns the messages with a response or an error.
    fn answered(&self) -> u64 {
        self.done + self.errors.values().sum::<u64>()
    }
}

/// Returns an echo exchange with the number of its connection, so that bytes of another
/// connection are detected.
fn stamped(exchange: &Exchange, number: usize) -> Option<Box<Exchange>> {
    if exchange.expect != Expect::Echo {
        return None;
    }
    let mut own = exchange.clone();
    // Digits at the end, so that a packet with an id stays valid.
    let stamp = format!("{number:08}");
    own.request.iter_mut().rev().zip(stamp.bytes().rev()).for_each(|(byte, stamp)| *byte = stamp);
    Some(Box::new(own))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;
    use crate::load::exchange;

    #[test]
    fn the_connection_opened_last_is_used_first() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let target = server.local_addr().expect("bound");
        // Responds to one request on each of four connections, and to no second one.
        let serving = thread::spawn(move || {
            for _ in 0..4 {
                let (mut socket, _) = server.accept().expect("a connection");
                thread::spawn(move || {
                    io::Read::read(&mut socket, &mut [0; 1000]).expect("a request");
                    io::Write::write_all(&mut socket, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                        .expect("room");
                    thread::sleep(Duration::from_secs(60));
                });
            }
        });
        let exchange = Exchange {
            request: exchange::get("a", "/", false, false),
            expect: Expect::Http { body: 0, close: false },
            datagrams: false,
        };
        let mut client = Client::new(target, exchange, None).expect("a client");
        for _ in 0..2 {
            client.open(2).expect("connections");
            client.exchange(2).expect("an answer on each of them");
        }
        assert!(client.take_stats().errors.is_empty());
        serving.join().expect("four connections");
    }
}
