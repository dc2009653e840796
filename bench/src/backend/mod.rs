//! Backend that serves connections as cheaply as an epoll loop can, since it shares its CPU with the client.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::datagrams;
use crate::epoll::{Epoll, Ready};
use crate::host;
use crate::socket::{self, Moved};

mod replies;

use replies::{Replies, Reply};

/// Serve all backends of a run in one process: one loop batches better than two
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Addresses to serve; each is a destination
    #[arg(long, required = true, value_delimiter = ',')]
    listen: Vec<SocketAddr>,
    /// http: fixed replies by path (/0 /128 /1k /100k /1m, /headers/128); echo: every byte back; bulk: a
    /// large reply to every message; datagrams: every datagram back
    #[arg(long, value_enum, default_value = "http")]
    mode: Mode,
    /// Bytes of a message in bulk mode
    #[arg(long, default_value_t = 64)]
    message: usize,
    /// Bytes of a reply in bulk mode
    #[arg(long, default_value_t = 1 << 20)]
    reply: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    Http,
    Echo,
    Bulk,
    Datagrams,
}

impl Mode {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Echo => "echo",
            Self::Bulk => "bulk",
            Self::Datagrams => "datagrams",
        }
    }
}

/// Size of the receive buffer: a whole batch of small messages that a proxy may send at once.
const BUFFER: usize = 64 * 1024;

pub(crate) fn serve(args: &Args) -> io::Result<()> {
    host::end_with_parent()?;
    host::raise_open_files();
    let replies = match args.mode {
        Mode::Http => Replies::http(),
        Mode::Echo => Replies::Echo,
        Mode::Bulk => Replies::bulk(args.message, args.reply),
        Mode::Datagrams => return datagrams::echo(&args.listen),
    };
    let mut epoll = Epoll::new()?;
    let mut listeners = Vec::new();
    for &address in &args.listen {
        let listener = socket::listen(address)?;
        epoll.watch_listener(&listener, listeners.len() as u64)?;
        listeners.push(listener);
    }
    let mut connections = Connections { first: listeners.len(), slots: Vec::new(), free: Vec::new() };
    let mut buffer = vec![0; BUFFER];
    let mut closed = Vec::new();
    loop {
        for index in 0..epoll.wait(None)? {
            let ready = epoll.ready(index);
            if let Some(listener) = listeners.get(ready.token as usize) {
                while let Some(client) = socket::accept(listener)? {
                    connections.open(client, &epoll)?;
                }
            } else if !connections.serve(ready, &replies, &mut buffer) {
                closed.push(ready.token as usize - connections.first);
            }
        }
        connections.free.append(&mut closed);
    }
}

/// Open connections by slot; the token is the slot plus `first`, after the listeners.
struct Connections {
    first: usize,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    /// Received bytes of an incomplete message.
    partial: Vec<u8>,
    /// Reply being sent, and the bytes of it sent so far.
    reply: Option<(Reply, usize)>,
    readable: bool,
    ending: bool,
    close_after: bool,
}

impl Connections {
    fn open(&mut self, socket: OwnedFd, epoll: &Epoll) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        epoll.watch(&socket, (slot + self.first) as u64)?;
        let (readable, ending, close_after) = (false, false, false);
        let connection =
            Connection { socket, partial: Vec::new(), reply: None, readable, ending, close_after };
        self.slots[slot] = Some(connection);
        Ok(())
    }

    /// Handles one event. Returns false once the connection is closed.
    fn serve(&mut self, ready: Ready, replies: &Replies, buffer: &mut [u8]) -> bool {
        let slot = ready.token as usize - self.first;
        let Some(connection) = &mut self.slots[slot] else { return true };
        connection.readable |= ready.readable;
        connection.ending |= ready.ended;
        let open = connection.advance(replies, buffer).unwrap_or(false);
        if !open {
            self.slots[slot] = None;
        }
        open
    }
}

impl Connection {
    /// Sends and receives until a direction blocks. Returns false when the connection is finished.
    fn advance(&mut self, replies: &Replies, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            if !self.flush(replies)? {
                return Ok(true);
            }
            if self.close_after {
                return Ok(false);
            }
            if self.reply_to_partial(replies)? {
                continue;
            }
            if !self.readable {
                return Ok(true);
            }
            match socket::receive(&self.socket, buffer)? {
                Moved::Bytes(count) => {
                    self.readable = count == buffer.len() || self.ending;
                    self.take(replies, &buffer[..count])?;
                }
                Moved::Blocked => self.readable = false,
                Moved::Ended => return Ok(false),
            }
        }
    }

    /// Responds straight from the receive buffer; only incomplete messages are kept.
    fn take(&mut self, replies: &Replies, mut bytes: &[u8]) -> io::Result<()> {
        while self.partial.is_empty() && self.reply.is_none() && !self.close_after {
            let Some(read) = replies.read(bytes)? else { break };
            bytes = &bytes[read.used..];
            self.reply = Some((read.reply, 0));
            self.close_after = read.close;
            self.flush(replies)?;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    fn reply_to_partial(&mut self, replies: &Replies) -> io::Result<bool> {
        let Some(read) = replies.read(&self.partial)? else { return Ok(false) };
        self.partial.drain(..read.used);
        self.reply = Some((read.reply, 0));
        self.close_after = read.close;
        Ok(true)
    }

    /// Returns whether everything is sent.
    fn flush(&mut self, replies: &Replies) -> io::Result<bool> {
        let Some((reply, sent)) = &mut self.reply else { return Ok(true) };
        let bytes = replies.bytes(reply);
        if let Moved::Bytes(count) = socket::send(&self.socket, &bytes[*sent..])? {
            *sent += count;
        }
        let done = *sent == bytes.len();
        if done {
            self.reply = None;
        }
        Ok(done)
    }
}
