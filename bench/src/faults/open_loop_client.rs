//! Open-loop client: sends messages at planned times and measures latency from those.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::clock;
use crate::epoll::{Epoll, Timer};
use crate::socket::{self, Moved};
use crate::stats::Rng;

/// Load that a client sends.
pub(super) struct LoadSpec {
    pub(super) target: SocketAddr,
    pub(super) seed: u64,
    /// Messages per second, at random times (Poisson).
    pub(super) rate: f64,
    /// Warm-up: messages planned in it are sent but not measured.
    pub(super) warmup: Duration,
    pub(super) measured: Duration,
}

/// Results of a client.
#[derive(Default)]
pub(super) struct ClientStats {
    /// Time from the planned arrival to the last byte, of all measured successful responses and of those that
    /// never came.
    pub(super) latencies: Vec<Duration>,
    /// Responses other than 200, lost connections, wrong bodies and missing responses, warm-up included.
    pub(super) errors: Errors,
    /// Successful responses by destination.
    pub(super) responses_by: Vec<u64>,
    /// Maximum delay of the client itself, which shows how busy the host was.
    pub(super) latest_send: Duration,
    pub(super) connections: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Errors {
    pub(super) status: u64,
    pub(super) broken: u64,
    pub(super) missing: u64,
}

/// Maximum connections: more than any policy needs, and a limit where a stalled destination holds them all.
const MOST_CONNECTIONS: usize = 4096;
/// Time to wait for responses after the last message is sent.
const START_TIMEOUT: Duration = Duration::from_secs(5);
const TIMER: u64 = u64::MAX;

pub(super) fn drive(load: &LoadSpec) -> io::Result<ClientStats> {
    let mut epoll = Epoll::new()?;
    let timer = Timer::new()?;
    epoll.watch(&timer, TIMER)?;
    let mut client = Client::new(load);
    while let Some(next) = client.send_due(&epoll, clock::now())? {
        timer.ring_in(next.saturating_duration_since(clock::now()))?;
        for index in 0..epoll.wait(None)? {
            let token = epoll.ready(index).token;
            if token != TIMER {
                client.hear(token as usize);
            }
        }
    }
    Ok(client.stats())
}

struct Client<'a> {
    load: &'a LoadSpec,
    start: Instant,
    /// Random numbers of the arrival times only.
    arrivals: Rng,
    /// Random numbers that choose connections: the most recently used would keep all traffic of a quiet
    /// period at one worker.
    picks: Rng,
    next: Option<Instant>,
    number: u64,
    /// Planned messages that wait for a free connection.
    waiting: VecDeque<Message>,
    connections: Vec<Option<Connection>>,
    /// Connections without a message.
    idle: Vec<usize>,
    busy: usize,
    stats: ClientStats,
}

#[derive(Clone, Copy)]
struct Message {
    number: u64,
    planned: Instant,
}

struct Connection {
    socket: OwnedFd,
    partial: Vec<u8>,
    message: Option<Message>,
}

enum ParsedResponse {
    Incomplete,
    /// Status 200 from this destination.
    Good(usize),
    Status,
    Broken,
}

impl<'a> Client<'a> {
    fn new(load: &'a LoadSpec) -> Self {
        let start = clock::now();
        let mut client = Self {
            load,
            start,
            arrivals: Rng::at(load.seed, 1, 1),
            picks: Rng::at(load.seed, 1, 2),
            next: Some(start),
            number: 0,
            waiting: VecDeque::new(),
            connections: Vec::new(),
            idle: Vec::new(),
            busy: 0,
            stats: ClientStats { responses_by: vec![0; super::DESTINATIONS], ..ClientStats::default() },
        };
        client.plan(start);
        client
    }

    /// Sends all messages that are due and returns the next time to act; `None` when all have a response or
    /// were given up.
    fn send_due(&mut self, epoll: &Epoll, now: Instant) -> io::Result<Option<Instant>> {
        while let Some(planned) = self.next.filter(|next| *next <= now) {
            self.waiting.push_back(Message { number: self.number, planned });
            self.number += 1;
            self.stats.latest_send = self.stats.latest_send.max(now - planned);
            self.plan(planned);
        }
        while let Some(&message) = self.waiting.front() {
            let Some(index) = self.free_connection(epoll)? else { break };
            self.waiting.pop_front();
            self.send(index, message);
        }
        let deadline = self.start + self.load.warmup + self.load.measured + START_TIMEOUT;
        let done = self.next.is_none() && self.busy == 0 && self.waiting.is_empty();
        Ok((!done && now < deadline).then(|| self.next.unwrap_or(deadline)))
    }

    fn plan(&mut self, after: Instant) {
        let gap = -(1.0 - self.arrivals.unit()).ln() / self.load.rate;
        let next = after + Duration::from_secs_f64(gap);
        self.next = Some(next).filter(|next| *next < self.start + self.load.warmup + self.load.measured);
    }

    fn free_connection(&mut self, epoll: &Epoll) -> io::Result<Option<usize>> {
        if !self.idle.is_empty() {
            let at = self.picks.below(self.idle.len());
            return Ok(Some(self.idle.swap_remove(at)));
        }
        if self.connections.len() == MOST_CONNECTIONS {
            return Ok(None);
        }
        let socket = socket::connect(self.load.target, None)?;
        let index = self.connections.len();
        epoll.watch(&socket, index as u64)?;
        self.connections.push(Some(Connection { socket, partial: Vec::new(), message: None }));
        Ok(Some(index))
    }

    fn send(&mut self, index: usize, message: Message) {
        let Some(connection) = &mut self.connections[index] else { return };
        let request = format!("GET /{} HTTP/1.1\r\nHost: app.example\r\n\r\n", message.number);
        let sent = socket::send(&connection.socket, request.as_bytes());
        if matches!(sent, Ok(Moved::Bytes(count)) if count == request.len()) {
            connection.message = Some(message);
            self.busy += 1;
        } else {
            self.connections[index] = None;
            self.stats.errors.broken += 1;
        }
    }

    /// Handles the bytes received on a connection.
    fn hear(&mut self, index: usize) {
        let mut buffer = [0; 4096];
        loop {
            let Some(connection) = &mut self.connections[index] else { return };
            match socket::receive(&connection.socket, &mut buffer) {
                Ok(Moved::Bytes(count)) => connection.partial.extend_from_slice(&buffer[..count]),
                Ok(Moved::Blocked) => return,
                Ok(Moved::Ended) | Err(_) => return self.close(index),
            }
            let response = connection
                .message
                .map_or(ParsedResponse::Broken, |it| parse_response(&connection.partial, it.number));
            match response {
                ParsedResponse::Incomplete => continue,
                ParsedResponse::Good(destination) => self.on_response(index, Some(destination)),
                ParsedResponse::Status => self.on_response(index, None),
                ParsedResponse::Broken => return self.close(index),
            }
        }
    }

    fn on_response(&mut self, index: usize, by: Option<usize>) {
        let now = clock::now();
        let Some(connection) = &mut self.connections[index] else { return };
        let message = connection.message.take();
        connection.partial.clear();
        self.idle.push(index);
        self.busy -= 1;
        let (Some(destination), Some(message)) = (by, message) else {
            self.stats.errors.status += 1;
            return;
        };
        if let Some(count) = self.stats.responses_by.get_mut(destination) {
            *count += 1;
        }
        self.measure(message, now);
    }

    fn measure(&mut self, message: Message, now: Instant) {
        if message.planned >= self.start + self.load.warmup {
            self.stats.latencies.push(now.saturating_duration_since(message.planned));
        }
    }

    /// Closes a connection; a message on it has failed.
    fn close(&mut self, index: usize) {
        let connection = self.connections[index].take();
        self.idle.retain(|idle| *idle != index);
        if connection.is_some_and(|connection| connection.message.is_some()) {
            self.busy -= 1;
            self.stats.errors.broken += 1;
        }
    }

    fn stats(mut self) -> ClientStats {
        let now = clock::now();
        let unsent = std::mem::take(&mut self.waiting);
        let open: Vec<Message> = self.connections.iter().flatten().filter_map(|it| it.message).collect();
        for message in open.into_iter().chain(unsent) {
            self.stats.errors.missing += 1;
            self.measure(message, now);
        }
        self.stats.connections = self.connections.len();
        self.stats
    }
}

/// Parses bytes as the response to message `number`.
fn parse_response(bytes: &[u8], number: u64) -> ParsedResponse {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return ParsedResponse::Incomplete,
        Err(_) => return ParsedResponse::Broken,
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let Some(length) = length else { return ParsedResponse::Broken };
    let body = &bytes[head..];
    match (body.len().cmp(&length), response.code) {
        (std::cmp::Ordering::Less, _) => ParsedResponse::Incomplete,
        (std::cmp::Ordering::Greater, _) => ParsedResponse::Broken,
        (_, Some(200)) => {
            let text = std::str::from_utf8(body).unwrap_or_default();
            let parsed =
                text.split_once(' ').and_then(|(of, by)| Some((of.parse::<u64>().ok()?, by.parse().ok()?)));
            match parsed {
                Some((of, by)) if of == number => ParsedResponse::Good(by),
                _ => ParsedResponse::Broken,
            }
        }
        _ => ParsedResponse::Status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_counts_only_complete_successful_and_for_its_message() {
        let good = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n17 3";
        assert!(matches!(parse_response(good, 17), ParsedResponse::Good(3)));
        assert!(matches!(parse_response(good, 18), ParsedResponse::Broken));
        assert!(matches!(parse_response(&good[..good.len() - 1], 17), ParsedResponse::Incomplete));
        assert!(matches!(
            parse_response(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 17),
            ParsedResponse::Status
        ));
        assert!(matches!(parse_response(b"HTTP/1.1 200 OK\r\n\r\n17 3", 17), ParsedResponse::Broken));
    }

    #[test]
    fn the_same_seed_plans_the_same_moments() {
        let load = LoadSpec {
            target: SocketAddr::from(([127, 0, 0, 1], 1)),
            seed: 3,
            rate: 1000.0,
            warmup: Duration::ZERO,
            measured: Duration::from_secs(10),
        };
        let planned = || {
            let mut client = Client::new(&load);
            let mut moments = Vec::new();
            while let Some(next) = client.next {
                moments.push(next - client.start);
                client.plan(next);
            }
            moments
        };
        let moments = planned();
        assert_eq!(moments, planned());
        assert!((9_500..10_500).contains(&moments.len()), "{}", moments.len());
    }
}
