//! Datagram echo and relay: backends and baseline of the UDP scenarios.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::epoll::Epoll;
use crate::socket::{self, Moved};

/// Buffer size above the maximum size of a datagram.
const BUFFER: usize = 64 * 1024;

/// Sends every datagram back to its source.
pub(crate) fn echo(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut sockets = Vec::new();
    for &address in addresses {
        let socket = socket::bind_datagrams(address)?;
        epoll.watch_listener(&socket, sockets.len() as u64)?;
        sockets.push(socket);
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        for index in 0..epoll.wait(None)? {
            let socket = &sockets[epoll.ready(index).token as usize];
            while let Some((length, from)) = socket::receive_from(socket, &mut buffer)? {
                socket::send_to(socket, &buffer[..length], from)?;
            }
        }
    }
}

/// Relays datagrams without parsing them, with a connected socket for each client.
pub(crate) fn relay(listen: SocketAddr, to: &[SocketAddr]) -> io::Result<()> {
    let listener = socket::bind_datagrams(listen)?;
    let mut epoll = Epoll::new()?;
    epoll.watch_listener(&listener, u64::MAX)?;
    let mut flows: Vec<(OwnedFd, SocketAddr)> = Vec::new();
    let mut places: HashMap<SocketAddr, usize> = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        for index in 0..epoll.wait(None)? {
            let token = epoll.ready(index).token;
            if let Some((flow, client)) = flows.get(token as usize) {
                if let Ok(Moved::Bytes(length)) = socket::receive(flow, &mut buffer) {
                    socket::send_to(&listener, &buffer[..length], *client)?;
                }
                continue;
            }
            while let Some((length, client)) = socket::receive_from(&listener, &mut buffer)? {
                let place = match places.get(&client) {
                    Some(&place) => place,
                    None => {
                        let flow = socket::connect_datagrams(to[flows.len() % to.len()])?;
                        epoll.watch_listener(&flow, flows.len() as u64)?;
                        flows.push((flow, client));
                        places.insert(client, flows.len() - 1);
                        flows.len() - 1
                    }
                };
                // A datagram that cannot be sent is lost, as UDP allows.
                let _ = socket::send(&flows[place].0, &buffer[..length]);
            }
        }
    }
}
