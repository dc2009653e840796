//! When a destination answers what: a few messages at once, the others in order, each after its time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::trouble::{Case, Trouble};
use crate::epoll::{Epoll, Timer};
use crate::socket::{self, Moved};
use crate::stats::Rng;
use crate::{clock, machine};

/// Serve the ten destinations of `troubles`: work is waiting, no CPU is used up
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Addresses to serve; each is a destination of its own
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    #[arg(long, value_enum)]
    case: Case,
    #[arg(long)]
    seed: u64,
    /// When measuring begins, after GET /start
    #[arg(long, value_parser = clock::seconds)]
    warmup: Duration,
    /// Messages that a destination works on at once
    #[arg(long, default_value_t = super::SLOTS)]
    slots: usize,
}

/// What a message takes where nothing ails, on average; exponentially distributed.
const MEAN_WORK: Duration = super::MEAN_WORK;
/// What it takes to fail, or to answer a health check.
const AT_ONCE: Duration = Duration::from_millis(1);
const BUFFER: usize = 16 * 1024;
/// No head of a run is longer; what is, a balancer has spoilt.
const LONGEST_HEAD: usize = 8 * 1024;

pub(crate) fn serve(args: &Args) -> io::Result<()> {
    machine::end_with_parent()?;
    machine::raise_open_files();
    let mut epoll = Epoll::new()?;
    let timer = Timer::new()?;
    let listeners =
        args.listen.iter().map(|&address| socket::listen(address)).collect::<io::Result<Vec<_>>>()?;
    for (token, listener) in listeners.iter().enumerate() {
        epoll.watch_listener(listener, token as u64)?;
    }
    let at_timer = listeners.len() as u64;
    epoll.watch(&timer, at_timer)?;
    let mut house = House::new(args);
    loop {
        for index in 0..epoll.wait(None)? {
            let token = epoll.ready(index).token;
            if let Some(listener) = listeners.get(token as usize) {
                while let Some(client) = socket::accept(listener)? {
                    let place = house.vacant();
                    epoll.watch(&client, at_timer + 1 + place as u64)?;
                    house.open(place, client, token as usize);
                }
            } else if token != at_timer {
                house.hear((token - at_timer - 1) as usize, clock::now());
            }
        }
        if let Some(next) = house.finish(clock::now()) {
            timer.ring_in(next.saturating_duration_since(clock::now()))?;
        }
    }
}

/// All destinations of a run with their connections.
struct House {
    trouble: Trouble,
    seed: u64,
    start: Instant,
    slots: usize,
    destinations: Vec<Destination>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// What is under way: its end, connection and stamp. One whose stamp is no longer its connection's was
    /// given up.
    running: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    stamp: u64,
    /// How often each message has come, by its number.
    copies: HashMap<u64, u64>,
    /// Messages that came, and those of them whose client went away before the answer.
    came: u64,
    given_up: u64,
}

#[derive(Default)]
struct Destination {
    busy: usize,
    /// Waiting: connection, stamp, work.
    queue: VecDeque<(usize, u64, Duration)>,
}

struct Connection {
    socket: OwnedFd,
    destination: usize,
    partial: Vec<u8>,
    job: Option<Job>,
}

struct Job {
    stamp: u64,
    answer: String,
    /// It has one of the destination's slots, or waits for one; else it takes none.
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Slot,
    Queue,
    None,
}

impl House {
    fn new(args: &Args) -> Self {
        Self {
            trouble: Trouble::new(args.case, args.seed, args.warmup, args.listen.len()),
            seed: args.seed,
            start: clock::now(),
            slots: args.slots,
            destinations: args.listen.iter().map(|_| Destination::default()).collect(),
            connections: Vec::new(),
            free: Vec::new(),
            running: BinaryHeap::new(),
            stamp: 0,
            copies: HashMap::new(),
            came: 0,
            given_up: 0,
        }
    }

    fn vacant(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        })
    }

    fn open(&mut self, place: usize, socket: OwnedFd, destination: usize) {
        let connection = Connection { socket, destination, partial: Vec::new(), job: None };
        self.connections[place] = Some(connection);
    }

    /// Takes in what a connection brought, or its end.
    fn hear(&mut self, place: usize, now: Instant) {
        let mut buffer = [0; BUFFER];
        loop {
            // An event of this round may be about a connection that an earlier one has ended.
            let Some(connection) = &mut self.connections[place] else { return };
            match socket::receive(&connection.socket, &mut buffer) {
                Ok(Moved::Bytes(count)) => connection.partial.extend_from_slice(&buffer[..count]),
                Ok(Moved::Blocked) => return,
                Ok(Moved::Ended) | Err(_) => return self.close(place, now),
            }
            if connection.partial.len() > LONGEST_HEAD {
                return self.close(place, now);
            }
            self.begin(place, now);
        }
    }

    /// Begins the next whole request of a connection that is not at work.
    fn begin(&mut self, place: usize, now: Instant) {
        let Some(connection) = &mut self.connections[place] else { return };
        let idle = connection.job.is_none();
        let Some(head) = head(&connection.partial).filter(|_| idle) else { return };
        let path = String::from_utf8_lossy(&connection.partial[..head]).into_owned();
        connection.partial.drain(..head);
        let destination = connection.destination;
        let path = path.split_ascii_whitespace().nth(1).unwrap_or_default();
        match path.trim_start_matches('/') {
            "start" => {
                (self.start, self.came, self.given_up) = (now, 0, 0);
                self.copies.clear();
                self.answer_at(place, now, ok("started"));
            }
            "counts" => self.answer_at(place, now, ok(&format!("{} {}", self.came, self.given_up))),
            word => match word.parse() {
                Ok(number) => self.message(place, destination, number, now),
                Err(_) => self.check(place, destination, now),
            },
        }
    }

    fn message(&mut self, place: usize, destination: usize, number: u64, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        self.came += 1;
        let copy = self.copies.entry(number).or_default();
        *copy += 1;
        let work = MEAN_WORK.mul_f64(-(1.0 - Rng::at(self.seed, *copy << 8, number).unit()).ln());
        if self.trouble.fails(destination, at) {
            return self.answer_at(place, now + AT_ONCE, FAILURE.to_owned());
        }
        let free = self.destinations[destination].busy < self.slots;
        let stamp = self.next_stamp();
        let job = Job {
            stamp,
            answer: ok(&format!("{number} {destination}")),
            place: if free { Place::Slot } else { Place::Queue },
        };
        if let Some(connection) = &mut self.connections[place] {
            connection.job = Some(job);
        }
        match free {
            true => self.run(place, stamp, destination, work, now),
            false => self.destinations[destination].queue.push_back((place, stamp, work)),
        }
    }

    /// A health check takes no slot, but is answered by the same process: late when that stands still, badly
    /// when it fails.
    fn check(&mut self, place: usize, destination: usize, now: Instant) {
        let at = now.saturating_duration_since(self.start);
        let answer = if self.trouble.fails(destination, at) { FAILURE.to_owned() } else { ok("well") };
        let end = self.start + self.trouble.done(destination, at, AT_ONCE);
        self.answer_at(place, end, answer);
    }

    fn answer_at(&mut self, place: usize, end: Instant, answer: String) {
        let stamp = self.next_stamp();
        if let Some(connection) = &mut self.connections[place] {
            connection.job = Some(Job { stamp, answer, place: Place::None });
        }
        self.running.push(Reverse((end, place, stamp)));
    }

    fn run(&mut self, place: usize, stamp: u64, destination: usize, work: Duration, now: Instant) {
        self.destinations[destination].busy += 1;
        let at = now.saturating_duration_since(self.start);
        let end = self.start + self.trouble.done(destination, at, work);
        self.running.push(Reverse((end, place, stamp)));
    }

    /// Gives a free slot to the first who waits for it still.
    fn next_in_queue(&mut self, destination: usize, now: Instant) {
        self.destinations[destination].busy -= 1;
        while let Some((place, stamp, work)) = self.destinations[destination].queue.pop_front() {
            let Some(job) = self.job(place, stamp) else { continue };
            job.place = Place::Slot;
            return self.run(place, stamp, destination, work, now);
        }
    }

    /// Answers what is done, and says when the next will be.
    fn finish(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&Reverse((end, place, stamp))) = self.running.peek() {
            if end > now {
                return Some(end);
            }
            self.running.pop();
            let Some(job) = self.job(place, stamp) else { continue };
            let (answer, had) = (std::mem::take(&mut job.answer), job.place);
            let Some(connection) = &mut self.connections[place] else { continue };
            connection.job = None;
            let destination = connection.destination;
            // So short an answer finds room, or the connection is of no more use.
            let sent = matches!(socket::send(&connection.socket, answer.as_bytes()), Ok(Moved::Bytes(n)) if n == answer.len());
            if had == Place::Slot {
                self.next_in_queue(destination, now);
            }
            match sent {
                true => self.begin(place, now),
                false => self.close(place, now),
            }
        }
        None
    }

    /// Drops a connection and whatever it was for: its client gave up, so its slot is free at once.
    fn close(&mut self, place: usize, now: Instant) {
        let Some(connection) = self.connections[place].take() else { return };
        self.free.push(place);
        if let Some(job) = connection.job {
            self.given_up += u64::from(job.place != Place::None);
            if job.place == Place::Slot {
                self.next_in_queue(connection.destination, now);
            }
        }
    }

    fn job(&mut self, place: usize, stamp: u64) -> Option<&mut Job> {
        let job = self.connections[place].as_mut()?.job.as_mut()?;
        (job.stamp == stamp).then_some(job)
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

/// How long the first head is, if it is whole.
fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn house(case: Case) -> House {
        House::new(&Args {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)); 10],
            case,
            seed: 5,
            warmup: Duration::from_secs(2),
            slots: 4,
        })
    }

    /// A client of a destination that has asked for this path.
    fn ask(house: &mut House, destination: usize, path: &str, now: Instant) -> (usize, UnixStream) {
        let (mut client, served) = UnixStream::pair().expect("a pair");
        for socket in [&client, &served] {
            socket.set_nonblocking(true).expect("non-blocking");
        }
        let place = house.vacant();
        house.open(place, served.into(), destination);
        write!(client, "GET {path} HTTP/1.1\r\n\r\n").expect("room");
        house.hear(place, now);
        (place, client)
    }

    fn heard(client: &mut UnixStream) -> String {
        let mut buffer = [0; 200];
        let count = client.read(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn four_are_worked_on_at_once_and_the_others_in_order() {
        let mut house = house(Case::Steady);
        let start = house.start;
        let mut clients: Vec<_> =
            (0..8).map(|number| ask(&mut house, 0, &format!("/{number}"), start)).collect();
        assert_eq!((house.destinations[0].busy, house.destinations[0].queue.len()), (4, 4));
        let mut order = Vec::new();
        let mut next = house.finish(start);
        while let Some(now) = next {
            next = house.finish(now);
            let answered = |(number, (_, client)): (usize, &mut (usize, UnixStream))| {
                heard(client).ends_with(&format!("{number} 0")).then_some(number)
            };
            order.extend(clients.iter_mut().enumerate().filter_map(answered));
            assert!(house.destinations[0].busy <= 4);
        }
        let first = |number| order.iter().position(|it| *it == number).expect("all were answered");
        assert_eq!(order.len(), 8);
        // In order, the last begins when four are done, and so ends after them.
        assert!(first(7) >= 4, "{order:?}");
        assert_eq!(house.destinations[0].busy, 0);
    }

    #[test]
    fn who_goes_away_leaves_a_free_slot_and_no_place_in_the_queue() {
        let mut house = house(Case::Steady);
        let start = house.start;
        let mut clients: Vec<_> =
            (0..6).map(|number| ask(&mut house, 0, &format!("/{number}"), start)).collect();
        for gone in [4, 0] {
            let (place, client) = clients.remove(gone);
            drop(client);
            house.hear(place, start);
        }
        // The fifth had waited and was given up; the sixth has the slot of the first.
        assert_eq!((house.destinations[0].busy, house.given_up), (4, 2));
        while let Some(now) = house.finish(clock::now() + Duration::from_secs(1)) {
            assert!(now > start);
        }
        assert!(clients.iter_mut().all(|(_, client)| heard(client).starts_with("HTTP/1.1 200")));
        assert_eq!(house.destinations[0].busy, 0);
    }

    #[test]
    fn one_that_fails_says_so_to_messages_and_checks_and_takes_no_slot() {
        let mut house = house(Case::Failing);
        let failing = (0..10).find(|&it| house.trouble.fails(it, Duration::from_secs(9))).expect("one");
        let now = house.start + Duration::from_secs(9);
        for path in ["/7", "/healthz"] {
            let (_, mut client) = ask(&mut house, failing, path, now);
            house.finish(now);
            assert_eq!(heard(&mut client), "", "{path}: not before its time");
            house.finish(now + AT_ONCE);
            assert!(heard(&mut client).starts_with("HTTP/1.1 503"), "{path}");
        }
        assert_eq!(house.destinations[failing].busy, 0);
    }
}
