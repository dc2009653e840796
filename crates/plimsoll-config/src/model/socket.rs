//! Sockets: addresses to listen on, files of Unix sockets, and TCP options.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Address of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// TCP address and port.
    Socket(SocketAddr),
    /// Path of a Unix stream socket.
    Unix(PathBuf),
    /// UDP address and port. It does not conflict with the TCP port of the same number.
    Udp(SocketAddr),
}

impl ListenAddress {
    /// Reports whether a message may arrive for both addresses: they are equal, or one of them stands for all addresses
    /// of this machine. The more specific one gets the message.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Socket(a), Self::Socket(b)) | (Self::Udp(a), Self::Udp(b)) => overlaps(*a, *b),
            (Self::Unix(a), Self::Unix(b)) => a == b,
            _ => false,
        }
    }

    /// Returns the number of addresses it stands for, as an order: all of both families, all of IPv4, one.
    pub fn specificity(&self) -> u8 {
        match self {
            Self::Socket(address) | Self::Udp(address) if address.ip().is_unspecified() => {
                u8::from(address.is_ipv4())
            }
            _ => 2,
        }
    }
}

fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    let includes = |wide: IpAddr, ip: IpAddr| match wide {
        // A socket of `[::]` accepts IPv4, too.
        IpAddr::V6(wide) => wide.is_unspecified(),
        IpAddr::V4(wide) => wide.is_unspecified() && ip.is_ipv4(),
    };
    let (ip, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && a.port() != 0 && (ip == other || includes(ip, other) || includes(other, ip))
}

/// Mode and owner of the file of a Unix socket; `None` = as the process creates it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnixFile {
    /// Permission bits. A client needs write permission to connect.
    pub mode: Option<u32>,
    /// Id of the owner.
    pub user: Option<u32>,
    /// Id of the group.
    pub group: Option<u32>,
}

/// TCP options of connections, which end those of vanished peers.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Idle time after which the kernel probes the peer, in whole seconds; `None` = never.
    pub keepalive: Option<Duration>,
    /// Time for which sent data and probes may stay unacknowledged (RFC 5482); `None` = as the kernel decides.
    pub user_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_if_one_includes_the_other() {
        let tcp = |text: &str| ListenAddress::Socket(text.parse().unwrap());
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "0.0.0.0:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            assert_eq!(tcp(a).overlaps(&tcp(b)), expected, "{a} {b}");
            assert_eq!(tcp(b).overlaps(&tcp(a)), expected, "{b} {a}");
        }
        assert!(!tcp("127.0.0.1:1").overlaps(&ListenAddress::Udp("127.0.0.1:1".parse().unwrap())));
        let order = ["[::]:1", "0.0.0.0:1", "127.0.0.1:1"].map(|text| tcp(text).specificity());
        assert!(order.is_sorted());
    }
}
