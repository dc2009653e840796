//! Which connection carries the next message of a load client, and what came back on it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Expect, Fault, Fed, Reply};
use super::histogram::Histogram;
use super::pace::{Pace, Schedule};
use super::secure::{Secure, Terms};
use crate::clock;
use crate::epoll::{Epoll, Ready, Timer};
use crate::socket::{self, Moved};

/// What a client saw since its tally was last taken.
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) latencies: Histogram,
    pub(crate) faults: BTreeMap<Fault, u64>,
}

/// A load client on one thread.
pub(crate) struct Client {
    target: SocketAddr,
    exchange: Exchange,
    /// With them, it speaks TLS.
    terms: Option<Terms>,
    epoll: Epoll,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    schedule: Schedule,
    /// Ends a wait when the next planned message is due; made by the first drive at a rate.
    timer: Option<Timer>,
    tally: Tally,
    buffer: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    secure: Option<Box<Secure>>,
    /// Differs from the client's exchange by the connection's number, when echoes are checked.
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
    /// Answered; the server was asked to close and has not yet.
    Closing,
}

const TIMER: u64 = u64::MAX;
/// A run in which nothing is answered for this long has failed.
const STALLED: Duration = Duration::from_secs(5);
/// So has one with this many faults.
const FAULTS: u64 = 1000;
/// One source address has 28,000 ports by default; connections beyond this number take another address.
const PER_SOURCE: usize = 20_000;

impl Client {
    pub(crate) fn new(target: SocketAddr, exchange: Exchange, terms: Option<Terms>) -> io::Result<Self> {
        Ok(Self {
            target,
            exchange,
            terms,
            epoll: Epoll::new()?,
            connections: Vec::new(),
            idle: VecDeque::new(),
            schedule: Schedule::count(0),
            timer: None,
            tally: Tally::new(),
            buffer: vec![0; 256 * 1024],
        })
    }

    /// Opens more connections; they idle until a drive uses them, before those that were there.
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

    /// Sends at `pace` for `period`. Messages under way at the end stay so, for the next drive to go on with.
    pub(crate) fn drive(&mut self, pace: Pace, period: Duration) -> io::Result<()> {
        let now = clock::now();
        self.schedule = Schedule::new(pace, now);
        if matches!(pace, Pace::Rate(_)) && self.timer.is_none() {
            let timer = Timer::new()?;
            self.epoll.watch(&timer, TIMER)?;
            self.timer = Some(timer);
        }
        self.turn_until(now + period, u64::MAX)
    }

    /// Sends `count` messages in all, as fast as the connections answer, and waits for every answer.
    pub(crate) fn exchange(&mut self, count: u64) -> io::Result<()> {
        self.schedule = Schedule::count(count);
        let goal = self.tally.answered() + count;
        self.turn_until(clock::now() + Duration::from_secs(600), goal)
    }

    /// What was seen since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::replace(&mut self.tally, Tally::new())
    }

    fn turn_until(&mut self, deadline: Instant, goal: u64) -> io::Result<()> {
        let (mut answered, mut progress) = (self.tally.answered(), clock::now());
        loop {
            let now = clock::now();
            if self.tally.answered() != answered {
                (answered, progress) = (self.tally.answered(), now);
            }
            if now >= deadline || answered >= goal {
                return Ok(());
            }
            if now - progress > STALLED {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer for 5 s"));
            }
            let faults: u64 = self.tally.faults.values().sum();
            if faults > FAULTS {
                return Err(io::Error::other(format!("{faults} failures: {:?}", self.tally.faults)));
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

    /// Starts what the schedule allows on the connections that idle.
    fn dispatch(&mut self, now: Instant) -> io::Result<()> {
        // Each at most once: one that fails at once is idle again, for the next turn.
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
        match connection.ask(&self.exchange) {
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
                Err(_) => return self.fail(number, Fault::Socket),
            }
        }
        Ok(())
    }

    fn answered(&mut self, number: usize) -> io::Result<()> {
        let now = clock::now();
        let connection = &mut self.connections[number];
        self.tally.done += 1;
        self.tally.latencies.record(now.saturating_duration_since(connection.started));
        if matches!(self.exchange.expect, Expect::Http { close: true, .. }) {
            connection.state = State::Closing;
            return Ok(());
        }
        self.next(number, now)
    }

    /// The connection is free: the next message starts at once, if one is due.
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
            return self.fail(number, Fault::Ended);
        }
        let socket = self.connect(number)?;
        let connection = &mut self.connections[number];
        connection.socket = socket;
        if let Some(secure) = &mut connection.secure {
            secure.renew()?;
        }
        self.next(number, clock::now())
    }

    /// Counts a fault and replaces the connection; an idle one stays idle.
    fn fail(&mut self, number: usize, fault: Fault) -> io::Result<()> {
        *self.tally.faults.entry(fault).or_default() += 1;
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

    fn secure(&self) -> io::Result<Option<Box<Secure>>> {
        self.terms.as_ref().map(|terms| Secure::new(terms).map(Box::new)).transpose()
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
    /// Begins the exchange.
    fn ask(&mut self, shared: &Exchange) -> Result<(), Fault> {
        if let Some(secure) = &mut self.secure {
            secure.ask(&self.exchange.as_deref().unwrap_or(shared).request)?;
        }
        self.send(shared)
    }

    /// Sends what the socket takes.
    fn send(&mut self, shared: &Exchange) -> Result<(), Fault> {
        let request = &self.exchange.as_deref().unwrap_or(shared).request;
        let bytes = self.secure.as_ref().map_or_else(|| &request[self.sent..], |secure| secure.outgoing());
        if bytes.is_empty() {
            return Ok(());
        }
        if let Moved::Bytes(count) = socket::send(&self.socket, bytes).map_err(|_| Fault::Socket)? {
            match &mut self.secure {
                Some(secure) => secure.has_sent(count),
                None => self.sent += count,
            }
        }
        Ok(())
    }

    fn take(&mut self, shared: &Exchange, bytes: &mut [u8]) -> Result<Fed, Fault> {
        let Self { state, reply, exchange, secure, .. } = self;
        let exchange = exchange.as_deref().unwrap_or(shared);
        let mut feed = |plain: &[u8]| match state {
            State::Busy => reply.feed(exchange, plain),
            State::Idle | State::Closing => Err(Fault::Length),
        };
        let Some(secure) = secure else { return feed(bytes) };
        let fed = secure.take(bytes, &exchange.request, feed)?;
        // The client's part of the handshake, and the request with it.
        self.send(shared)?;
        Ok(fed)
    }
}

impl Tally {
    fn new() -> Self {
        Self::of(0)
    }

    /// This many answered well; how fast is not known.
    pub(super) fn of(done: u64) -> Self {
        Self { done, latencies: Histogram::new(), faults: BTreeMap::new() }
    }

    /// Messages that were answered or failed.
    fn answered(&self) -> u64 {
        self.done + self.faults.values().sum::<u64>()
    }
}

/// An echo exchange whose message begins with the number of its connection, so that bytes of another
/// connection are noticed.
fn stamped(exchange: &Exchange, number: usize) -> Option<Box<Exchange>> {
    if exchange.expect != Expect::Echo {
        return None;
    }
    let mut own = exchange.clone();
    // In digits and at the end, so that a packet with an id stays one.
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
    fn what_was_opened_last_is_used_first() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let target = server.local_addr().expect("bound");
        // Answers one request on each of four connections, and would answer no second one.
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
        assert!(client.take_tally().faults.is_empty());
        serving.join().expect("four connections");
    }
}
