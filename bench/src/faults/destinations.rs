//! Destinations of a fault case: each serves a few messages at once and the others in order, with simulated
//! work.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::fault_schedule::{Case, FaultSchedule};
use crate::epoll::{Epoll, Timer};
use crate::socket::{self, Moved};
use crate::stats::Rng;
use crate::{clock, host};

/// Serve the ten destinations of `faults`; work is waiting and uses no CPU
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Addresses to serve; each is a destination
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    #[arg(long, value_enum)]
    case: Case,
    #[arg(long)]
    seed: u64,
    /// Seconds of warm-up after GET /start
    #[arg(long, value_parser = clock::seconds)]
    warmup: Duration,
    /// Messages that a destination works on at once
    #[arg(long, default_value_t = super::SLOTS)]
    slots: usize,
}

/// Mean work of a message without faults; exponentially distributed.
const MEAN_WORK: Duration = super::MEAN_WORK;
/// Time of a failure or of a response to a health check.
const AT_ONCE: Duration = Duration::from_millis(1);
const BUFFER: usize = 16 * 1024;
/// Maximum size of a request head; a longer one means that a proxy corrupted it.
const LONGEST_HEAD: usize = 8 * 1024;

pub(crate) fn serve(args: &Args) -> io::Result<()> {
    host::end_with_parent()?;
    host::raise_open_files();
    let mut epoll = Epoll::new()?;
    let timer = Timer::new()?;
    let listeners =
        args.listen.iter().map(|&address| socket::listen(address)).collect::<io::Result<Vec<_>>>()?;
    for (token, listener) in listeners.iter().enumerate() {
        epoll.watch_listener(listener, token as u64)?;
    }
    let at_timer = listeners.len() as u64;
    epoll.watch(&timer, at_timer)?;
    let mut server = DestinationServer::new(args);
    loop {
        for index in 0..epoll.wait(None)? {
            let token = epoll.ready(index).token;
            if let Some(listener) = listeners.get(token as usize) {
                while let Some(client) = socket::accept(listener)? {
                    let index = server.vacant();
                    epoll.watch(&client, at_timer + 1 + index as u64)?;
                    server.open(index, client, token as usize);
                }
            } else if token != at_timer {
                server.on_readable((token - at_timer - 1) as usize, clock::now());
            }
        }
        if let Some(next) = server.send_due(clock::now()) {
            timer.ring_in(next.saturating_duration_since(clock::now()))?;
        }
    }
}

/// All destinations of a run with their connections.
struct DestinationServer {
    faults: FaultSchedule,
    seed: u64,
    start: Instant,
    slots: usize,
    destinations: Vec<Destination>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Messages in progress: end, connection and stamp. If the stamp is not its connection's any more, the
    /// message was given up.
    running: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    stamp: u64,
    /// Arrivals of each message by its number.
    copies: HashMap<u64, u64>,
    /// Messages that arrived, and those given up by their client before the response.
    arrived: u64,
    given_up: u64,
}

#[derive(Default)]
struct Destination {
    busy: usize,
    /// Waiting messages: connection, stamp, work.
    queue: VecDeque<(usize, u64, Duration)>,
}

struct Connection {
    socket: OwnedFd,
    destination: usize,
    partial: Vec<u8>,
    pending: Option<PendingResponse>,
}

struct PendingResponse {
    stamp: u64,
    response: String,
    /// Whether it has or waits for one of the destination's slots; otherwise it needs none.
    index: SlotState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Slot,
    Queue,
    None,
}

impl DestinationServer {
    fn new(args: &Args) -> Self {
        Self {
            faults: FaultSchedule::new(args.case, args.seed, args.warmup, args.listen.len()),
            seed: args.seed,
            start: clock::now(),
            slots: args.slots,
            destinations: args.listen.iter().map(|_| Destination::default()).collect(),
            connections: Vec::new(),
            free: Vec::new(),
            running: BinaryHeap::new(),
            stamp: 0,
            copies: HashMap::new(),
            arrived: 0,
            given_up: 0,
        }
    }

    fn vacant(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        })
    }

    fn open(&mut self, index: usize, socket: OwnedFd, destination: usize) {
        let connection = Connection { socket, destination, partial: Vec::new(), pending: None };
        self.connections[index] = Some(connection);
    }

    /// Handles the bytes or the end of a connection.
    fn on_readable(&mut self, index: usize, now: Instant) {
        let mut buffer = [0; BUFFER];
        loop {
            // An event of this batch may concern a connection that an earlier one closed.
            let Some(connection) = &mut self.connections[index] else { return };
            match socket::receive(&connection.socket, &mut buffer) {
                Ok(Moved::Bytes(count)) => connection.partial.extend_from_slice(&buffer[..count]),
                Ok(Moved::Blocked) => return,
                Ok(Moved::Ended) | Err(_) => return self.close(index, now),
            }
            if connection.partial.len() > LONGEST_HEAD {
                return self.close(index, now);
            }
            self.begin(index, now);
        }
    }

    /// Starts the next complete request of an idle connection.
    fn begin(&mut self, index: usize, now: Instant) {
        let Some(connection) = &mut self.connections[index] else { return };
        let idle = connection.pending.is_none();
        let Some(head) = head_length(&connection.partial).filter(|_| idle) else { return };
        let path = String::from_utf8_lossy(&connection.partial[..head]).into_owned();
        connection.partial.drain(..head);
        let destination = connection.destination;
        let path = path.split_ascii_whitespace().nth(1).unwrap_or_default();
        match path.trim_start_matches('/') {
            "start" => {
                (self.start, self.arrived, self.given_up) = (now, 0, 0);
                self.copies.clear();
                self.respond_at(index, now, ok("started"));
            }
            "counts" => self.respond_at(index, now, ok(&format!("{} {}", self.arrived, self.given_up))),
            word => match word.parse() {
                Ok(number) => self.message(index, destination, number, now),
                Err(_) => self.check(index, destination, now),
            },
        }
    }

    fn message(&mut self, index: usize, destination: usize, number: u64, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        self.arrived += 1;
        let copy = self.copies.entry(number).or_default();
        *copy += 1;
        let work = MEAN_WORK.mul_f64(-(1.0 - Rng::at(self.seed, *copy << 8, number).unit()).ln());
        if self.faults.fails(destination, at) {
            return self.respond_at(index, now + AT_ONCE, FAILURE.to_owned());
        }
        let free = self.destinations[destination].busy < self.slots;
        let stamp = self.next_stamp();
        let pending = PendingResponse {
            stamp,
            response: ok(&format!("{number} {destination}")),
            index: if free { SlotState::Slot } else { SlotState::Queue },
        };
        if let Some(connection) = &mut self.connections[index] {
            connection.pending = Some(pending);
        }
        match free {
            true => self.run(index, stamp, destination, work, now),
            false => self.destinations[destination].queue.push_back((index, stamp, work)),
        }
    }

    /// A health check takes no slot, but the same process responds: late while it stalls, with 503 while it
    /// fails.
    fn check(&mut self, index: usize, destination: usize, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        let response = if self.faults.fails(destination, at) { FAILURE.to_owned() } else { ok("well") };
        let end = self.start + self.faults.done(destination, at, AT_ONCE);
        self.respond_at(index, end, response);
    }

    fn respond_at(&mut self, index: usize, end: Instant, response: String) {
        let stamp = self.next_stamp();
        if let Some(connection) = &mut self.connections[index] {
            connection.pending = Some(PendingResponse { stamp, response, index: SlotState::None });
        }
        self.running.push(Reverse((end, index, stamp)));
    }

    fn run(&mut self, index: usize, stamp: u64, destination: usize, work: Duration, now: Instant) {
        self.destinations[destination].busy += 1;
        let at = now.saturating_duration_since(self.start);
        let end = self.start + self.faults.done(destination, at, work);
        self.running.push(Reverse((end, index, stamp)));
    }

    /// Gives a free slot to the first message that still waits for one.
    fn next_in_queue(&mut self, destination: usize, now: Instant) {
        self.destinations[destination].busy -= 1;
        while let Some((index, stamp, work)) = self.destinations[destination].queue.pop_front() {
            let Some(pending) = self.pending(index, stamp) else { continue };
            pending.index = SlotState::Slot;
            return self.run(index, stamp, destination, work, now);
        }
    }

    /// Sends the responses that are due and returns the time of the next.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&Reverse((end, index, stamp))) = self.running.peek() {
            if end > now {
                return Some(end);
            }
            self.running.pop();
            let Some(pending) = self.pending(index, stamp) else { continue };
            let (response, had) = (std::mem::take(&mut pending.response), pending.index);
            let Some(connection) = &mut self.connections[index] else { continue };
            connection.pending = None;
            let destination = connection.destination;
            // The socket buffer holds so short a response, or the connection is unusable.
            let sent = matches!(socket::send(&connection.socket, response.as_bytes()), Ok(Moved::Bytes(n)) if n == response.len());
            if had == SlotState::Slot {
                self.next_in_queue(destination, now);
            }
            match sent {
                true => self.begin(index, now),
                false => self.close(index, now),
            }
        }
        None
    }

    /// Closes a connection and gives up its message: the slot is free at once.
    fn close(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections[index].take() else { return };
        self.free.push(index);
        if let Some(pending) = connection.pending {
            self.given_up += u64::from(pending.index != SlotState::None);
            if pending.index == SlotState::Slot {
                self.next_in_queue(connection.destination, now);
            }
        }
    }

    fn pending(&mut self, index: usize, stamp: u64) -> Option<&mut PendingResponse> {
        let pending = self.connections[index].as_mut()?.pending.as_mut()?;
        (pending.stamp == stamp).then_some(pending)
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}

const FAILURE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Returns the length of the first head if it is complete.
fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn new_server(case: Case) -> DestinationServer {
        DestinationServer::new(&Args {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); 10],
            case,
            seed: 5,
            warmup: Duration::from_secs(2),
            slots: 4,
        })
    }

    /// Connects to a destination and requests a path.
    fn request(
        server: &mut DestinationServer,
        destination: usize,
        path: &str,
        now: Instant,
    ) -> (usize, UnixStream) {
        let (mut client, served) = UnixStream::pair().expect("a pair");
        for socket in [&client, &served] {
            socket.set_nonblocking(true).expect("non-blocking");
        }
        let index = server.vacant();
        server.open(index, served.into(), destination);
        write!(client, "GET {path} HTTP/1.1\r\n\r\n").expect("room");
        server.on_readable(index, now);
        (index, client)
    }

    fn stats(client: &mut UnixStream) -> String {
        let mut buffer = [0; 200];
        let count = client.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn four_messages_are_served_at_once_and_the_others_in_order() {
        let mut server = new_server(Case::Steady);
        let start = server.start;
        let mut clients: Vec<_> =
            (0..8).map(|number| request(&mut server, 0, &format!("/{number}"), start)).collect();
        assert_eq!((server.destinations[0].busy, server.destinations[0].queue.len()), (4, 4));
        let mut order = Vec::new();
        let mut next = server.send_due(start);
        while let Some(now) = next {
            next = server.send_due(now);
            let answered = |(number, (_, client)): (usize, &mut (usize, UnixStream))| {
                stats(client).ends_with(&format!("{number} 0")).then_some(number)
            };
            order.extend(clients.iter_mut().enumerate().filter_map(answered));
            assert!(server.destinations[0].busy <= 4);
        }
        let first = |number| order.iter().position(|it| *it == number).expect("all were answered");
        assert_eq!(order.len(), 8);
        // In order: the fifth starts when one of the four ends.
        assert!(first(7) >= 4, "{order:?}");
        assert_eq!(server.destinations[0].busy, 0);
    }

    #[test]
    fn a_closed_connection_frees_its_slot_and_leaves_the_queue() {
        let mut server = new_server(Case::Steady);
        let start = server.start;
        let mut clients: Vec<_> =
            (0..6).map(|number| request(&mut server, 0, &format!("/{number}"), start)).collect();
        for gone in [4, 0] {
            let (index, client) = clients.remove(gone);
            drop(client);
            server.on_readable(index, start);
        }
        // The fifth waited and was given up; the sixth has the slot of the first.
        assert_eq!((server.destinations[0].busy, server.given_up), (4, 2));
        while let Some(now) = server.send_due(clock::now() + Duration::from_secs(1)) {
            assert!(now > start);
        }
        assert!(clients.iter_mut().all(|(_, client)| stats(client).starts_with("HTTP/1.1 200")));
        assert_eq!(server.destinations[0].busy, 0);
    }

    #[test]
    fn a_failing_destination_fails_messages_and_checks_without_a_slot() {
        let mut server = new_server(Case::Failing);
        let failing = (0..10).find(|&it| server.faults.fails(it, Duration::from_secs(9))).expect("one");
        let now = server.start + Duration::from_secs(9);
        for path in ["/7", "/healthz"] {
            let (_, mut client) = request(&mut server, failing, path, now);
            server.send_due(now);
            assert_eq!(stats(&mut client), "", "{path}: not before its time");
            server.send_due(now + AT_ONCE);
            assert!(stats(&mut client).starts_with("HTTP/1.1 503"), "{path}");
        }
        assert_eq!(server.destinations[failing].busy, 0);
    }
}
