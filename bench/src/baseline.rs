//! Baseline relay: the least a proxy can cost. It copies bytes both ways without parsing them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::datagrams;
use crate::epoll::{Epoll, Ready};
use crate::host;
use crate::socket::{self, Moved};

/// Relay bytes without parsing them: the baseline of every comparison
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address clients connect to
    #[arg(long)]
    listen: SocketAddr,
    /// Addresses to relay to; accepted connections take turns
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<SocketAddr>,
    /// Maximum bytes of one receive: 64 KiB suits messages, 256 KiB suits bulk
    #[arg(long, default_value_t = 64 * 1024)]
    buffer: usize,
    /// Relay datagrams instead of connections
    #[arg(long)]
    datagrams: bool,
}

const LISTENER: u64 = u64::MAX;

pub(crate) fn serve(args: &Args) -> io::Result<()> {
    host::end_with_parent()?;
    host::raise_open_files();
    if args.datagrams {
        return datagrams::relay(args.listen, &args.to);
    }
    let listener = socket::listen(args.listen)?;
    let epoll = Epoll::new()?;
    epoll.watch_listener(&listener, LISTENER)?;
    let mut relay = Relay { epoll, pairs: Vec::new(), free: Vec::new(), buffer: vec![0; args.buffer.max(1)] };
    let mut turn = 0;
    let mut closed = Vec::new();
    loop {
        for index in 0..relay.epoll.wait(None)? {
            let ready = relay.epoll.ready(index);
            if ready.token == LISTENER {
                while let Some(client) = socket::accept(&listener)? {
                    relay.open(client, args.to[turn % args.to.len()])?;
                    turn += 1;
                }
            } else if !relay.serve(ready) {
                closed.push(ready.token as usize / 2);
            }
        }
        // Freed here and not earlier: the batch may have held more events of the closed pair.
        relay.free.append(&mut closed);
    }
}

struct Relay {
    epoll: Epoll,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

/// Client at 0, destination at 1; the token of an end is twice the slot plus its index here.
struct Pair {
    ends: [End; 2],
}

struct End {
    socket: OwnedFd,
    /// Bytes that the socket of this end did not accept yet. While any wait, the other end is not read.
    pending: Vec<u8>,
    /// The end has announced that it sends no more.
    ending: bool,
    /// Everything the end sent has been read.
    ended: bool,
}

impl Relay {
    /// Pairs an accepted client with a new connection. If the destination refuses, only this client's
    /// connection is closed.
    fn open(&mut self, client: OwnedFd, to: SocketAddr) -> io::Result<()> {
        let Ok(destination) = socket::connect(to, None) else { return Ok(()) };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            self.pairs.len() - 1
        });
        self.epoll.watch(&client, slot as u64 * 2)?;
        self.epoll.watch(&destination, slot as u64 * 2 + 1)?;
        self.pairs[slot] = Some(Pair { ends: [End::new(client), End::new(destination)] });
        Ok(())
    }

    /// Handles one event. Returns false once the pair is closed.
    fn serve(&mut self, ready: Ready) -> bool {
        let (slot, side) = (ready.token as usize / 2, ready.token as usize % 2);
        let Some(pair) = &mut self.pairs[slot] else { return true };
        pair.ends[side].ending |= ready.ended;
        let moved = pair.on_ready(side, ready, &mut self.buffer);
        if moved.is_err() || pair.ends.iter().all(|end| end.ended && end.pending.is_empty()) {
            self.pairs[slot] = None;
            return false;
        }
        true
    }
}

impl Pair {
    fn on_ready(&mut self, side: usize, ready: Ready, buffer: &mut [u8]) -> io::Result<()> {
        if ready.writable && !self.ends[side].pending.is_empty() {
            self.ends[side].flush()?;
            self.pump(1 - side, buffer)?;
        }
        if ready.readable {
            self.pump(side, buffer)?;
        }
        Ok(())
    }

    /// Receives from `from` and sends to the other end until the one is drained or the other is full.
    fn pump(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        let [client, destination] = &mut self.ends;
        let (from, to) = if from == 0 { (client, destination) } else { (destination, client) };
        while to.pending.is_empty() && !from.ended {
            match socket::receive(&from.socket, buffer)? {
                Moved::Bytes(count) => {
                    to.send(&buffer[..count])?;
                    if count < buffer.len() && !from.ending {
                        break;
                    }
                }
                Moved::Blocked => break,
                Moved::Ended => {
                    from.ended = true;
                    socket::end(&to.socket);
                }
            }
        }
        Ok(())
    }
}

impl End {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, pending: Vec::new(), ending: false, ended: false }
    }

    /// Sends once and keeps the rest. A short send means a full socket, so there is no second attempt.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match socket::send(&self.socket, bytes)? {
            Moved::Bytes(count) => count,
            Moved::Blocked | Moved::Ended => 0,
        };
        self.pending.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.pending);
        self.send(&waiting)
    }
}
