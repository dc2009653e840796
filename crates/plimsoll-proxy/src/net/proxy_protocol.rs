//! The PROXY protocol: what a trusted peer says about whose connection it passes on, and how we say it.
//!
//! Specification: <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. The crate `proxy-header` reads
//! and writes headers; what it lets pass and the specification does not is refused here.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use plimsoll_config::model::ProxyProtocol;
use plimsoll_core::{Address, DestinationId};
use proxy_header::{Error, ParseConfig, ProxiedAddress, ProxyHeader, Tlv};

use crate::listener::adapter::Recognised;
use crate::net::stream::{Peer, Stream};
use crate::net::tunnel::Mouth;

/// How a header of version 1 begins.
const V1: &[u8] = b"PROXY ";
/// How a header of version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Idle connections kept for one client: as many as it uses at once, within reason.
const KEPT: usize = 16;

/// What a header tells.
#[derive(Debug)]
pub(crate) struct Told {
    /// The two ends of the connection that is passed on; `None`: it is the peer's own.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// What else there is in a header of version 2.
    extras: Vec<Tlv<'static>>,
}

/// What the bytes so far come to.
#[derive(Debug)]
pub(crate) enum Header {
    /// It has not ended yet.
    Incomplete,
    /// It has so many bytes.
    Whole(Told, usize),
    /// It is none, or says nonsense.
    Malformed,
}

/// Reads the header at the front of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Header {
    let signature = if bytes.first() == Some(&b'P') { V1 } else { V2 };
    let n = bytes.len().min(signature.len());
    if bytes[..n] != signature[..n] {
        return Header::Malformed;
    }
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Err(Error::BufferTooShort) => Header::Incomplete,
        Err(_) => Header::Malformed,
        Ok((header, len)) => match told(&header, &bytes[..len]) {
            Some(told) => Header::Whole(told, len),
            None => Header::Malformed,
        },
    }
}

fn told(header: &ProxyHeader<'_>, bytes: &[u8]) -> Option<Told> {
    if bytes.starts_with(V1) && header.proxied_address().is_some() && !ports_are_plain(bytes) {
        return None;
    }
    let mut extras = Vec::new();
    for tlv in header.tlvs() {
        match tlv.ok()? {
            // Of this header, and not of the one we write.
            Tlv::Crc32c(sum) if sum != checksum(bytes)? => return None,
            Tlv::Crc32c(_) | Tlv::Noop(_) => {}
            tlv => extras.push(tlv.into_owned()),
        }
    }
    let ends = header.proxied_address().map(|address| (address.source, address.destination));
    Some(Told { ends, extras })
}

/// Rust reads `+80` and `0080` as numbers; the specification knows neither.
fn ports_are_plain(line: &[u8]) -> bool {
    let mut words = line.trim_ascii_end().split(|&c| c == b' ').skip(4);
    words.all(|port| port == b"0" || (port.iter().all(u8::is_ascii_digit) && !port.starts_with(b"0")))
}

/// CRC-32C (RFC 4960 appendix B) of a header of version 2, its own field counted as zeros.
fn checksum(header: &[u8]) -> Option<u32> {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let addresses = match header.get(13)? >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let mut at = 16 + addresses;
    while *header.get(at)? != 3 {
        at += 3 + usize::from(u16::from_be_bytes([*header.get(at + 1)?, *header.get(at + 2)?]));
    }
    let field = at + 3..at + 7;
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    };
    let bytes = header.iter().enumerate().map(|(at, &byte)| if field.contains(&at) { 0 } else { byte });
    Some(!bytes.fold(u32::MAX, step))
}

/// Whether bytes that begin so are a header: what somebody sends who has no right to.
pub(crate) fn recognise(first: &[u8]) -> Recognised {
    match (Recognised::by_prefix(first, V1), Recognised::by_prefix(first, V2)) {
        (Recognised::No, other) | (other, _) => other,
    }
}

/// A client that may not send a header, before a destination that may believe one: it breaks off when one
/// comes. By then a part of the signature may have passed, which is nothing yet.
pub(crate) struct Wary<'s> {
    stream: &'s mut Stream,
    /// What it began with, while that may be a signature.
    begun: Option<Vec<u8>>,
    pub(crate) refused: bool,
}

impl<'s> Wary<'s> {
    /// `early` was read of it already.
    pub(crate) fn new(stream: &'s mut Stream, is_wary: bool, early: &[u8]) -> Self {
        let mut wary = Self { stream, begun: is_wary.then(Vec::new), refused: false };
        wary.see(early);
        wary
    }

    fn see(&mut self, bytes: &[u8]) {
        let Some(begun) = &mut self.begun else { return };
        begun.extend_from_slice(&bytes[..bytes.len().min(V2.len())]);
        match recognise(begun) {
            Recognised::Perhaps => {}
            recognised => {
                self.refused = recognised == Recognised::Yes;
                self.begun = None;
            }
        }
    }
}

impl Mouth for Wary<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(self.stream.poll_read(cx, buffer))?;
        self.see(&buffer[..read]);
        match self.refused {
            true => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            false => Poll::Ready(Ok(read)),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bytes)
    }

    fn shut_write(&mut self) {
        self.stream.shut_write();
    }

    fn break_off(&mut self) {
        self.stream.reset_on_close();
    }

    fn is_broken_off(&mut self, _cx: &mut Context<'_>) -> bool {
        self.refused
    }
}

/// Whose connection it is, for destinations that want to be told; and the connections to them that are for
/// nobody else.
#[derive(Debug)]
pub(crate) struct Origin {
    ends: Option<(SocketAddr, SocketAddr)>,
    extras: Vec<Tlv<'static>>,
    kept: RefCell<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    pool: u64,
    id: DestinationId,
    address: Address,
    stream: Stream,
}

impl Origin {
    /// Of a client's connection, as a header told or as it is.
    pub(crate) fn new(told: Option<Told>, peer: Peer, stream: &Stream) -> Rc<Self> {
        let own = match peer {
            Peer::Socket(peer) => stream.local_address().map(|local| (peer, local)),
            Peer::Unix => None,
        };
        let (ends, extras) = told.map_or((None, Vec::new()), |told| (told.ends, told.extras));
        Rc::new(Self { ends: ends.or(own), extras, kept: RefCell::default() })
    }

    /// An idle connection to that destination that was this client's before.
    pub(crate) fn take(&self, pool: u64, id: DestinationId, address: &Address) -> Option<Stream> {
        let mut kept = self.kept.borrow_mut();
        while let Some(at) = kept.iter().position(|k| (k.pool, k.id) == (pool, id)) {
            let mut candidate = kept.swap_remove(at);
            if candidate.address == *address && candidate.stream.is_quiet() {
                return Some(candidate.stream);
            }
        }
        None
    }

    /// Keeps a connection for this client's next message.
    pub(crate) fn keep(&self, pool: u64, id: DestinationId, address: Address, stream: Stream) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(Kept { pool, id, address, stream });
    }
}

/// The header for a destination; empty where the pool sends none. Without an origin the connection is our own,
/// as that of a check is.
pub(crate) fn header(version: ProxyProtocol, origin: Option<&Origin>) -> Vec<u8> {
    let ends = origin.and_then(|origin| origin.ends).map(|(source, destination)| {
        let (source, destination) = alike(source, destination);
        ProxiedAddress::stream(source, destination)
    });
    let mut bytes = Vec::with_capacity(128);
    let written = match version {
        ProxyProtocol::None => Ok(()),
        ProxyProtocol::V1 => ProxyHeader::with_tlvs(ends, []).encode_v1(&mut bytes),
        ProxyProtocol::V2 => {
            let extras = origin.map_or(&[][..], |origin| &origin.extras);
            ProxyHeader::with_tlvs(ends, extras.iter().cloned()).encode_v2(&mut bytes)
        }
    };
    // The ends are of one family and what else there is came in one header: nothing to go wrong.
    written.map_or(Vec::new(), |()| bytes)
}

/// Both ends as one family of addresses: IPv4 if both are, else IPv6.
fn alike(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (plain(source), plain(destination));
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}

impl Told {
    /// Who the client is, if that was told.
    pub(crate) fn source(&self) -> Option<SocketAddr> {
        self.ends.map(|(source, _)| source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> (Told, usize) {
        match read(bytes) {
            Header::Whole(told, len) => (told, len),
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    #[test]
    fn version_1_tells_the_ends_and_ends_with_its_line() {
        let (told, len) = whole(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET /");
        assert_eq!(len, 45);
        let ends = ("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
        assert_eq!(told.ends, Some(ends));
        assert!(whole(b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n").0.ends.is_none());
    }

    #[test]
    fn what_the_specification_does_not_know_is_refused() {
        for line in [
            "PROXYXTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nX",
        ] {
            assert!(matches!(read(line.as_bytes()), Header::Malformed), "{line:?}");
        }
        let endless = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        assert!(matches!(read(&endless), Header::Malformed));
    }

    #[test]
    fn every_piece_of_a_header_is_incomplete_and_no_byte_makes_it_panic() {
        let mut v2 = Vec::new();
        let ends = ProxiedAddress::stream("[2001:db8::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        let extras = [Tlv::UniqueId(b"abc"[..].into()), Tlv::Custom(0xe0, b"own"[..].into())];
        ProxyHeader::with_tlvs(Some(ends), extras).encode_v2(&mut v2).unwrap();
        for header in [&b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"[..], &v2] {
            for end in 0..header.len() {
                assert!(matches!(read(&header[..end]), Header::Incomplete), "{end} of {header:?}");
                for byte in 0..=255 {
                    let mut changed = header.to_vec();
                    changed[end] = byte;
                    let _any_verdict_will_do = read(&changed);
                }
            }
            assert_eq!(whole(header).1, header.len());
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused_and_a_right_one_goes_no_further() {
        // From HAProxy's documentation of the crate: TCP4 with CRC, unique id and more.
        let good = b"\r\n\r\n\0\r\nQUIT\n \0\0\x0f\x03\0\x04\x88\x9d\xa1\xdf \0\x05\0\0\0\0\0";
        let (told, _) = whole(good);
        assert_eq!(told.extras.len(), 1, "{:?}", told.extras);
        let mut bad = good.to_vec();
        bad[19] ^= 1;
        assert!(matches!(read(&bad), Header::Malformed));
    }

    #[test]
    fn ends_of_two_families_are_told_as_one() {
        let (source, destination) = alike("192.0.2.1:5".parse().unwrap(), "[2001:db8::1]:6".parse().unwrap());
        assert_eq!(source, "[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(destination, "[2001:db8::1]:6".parse().unwrap());
    }

    #[test]
    fn a_header_is_known_by_its_whole_signature() {
        assert_eq!(recognise(b"PRO"), Recognised::Perhaps);
        assert_eq!(recognise(b"PROXY "), Recognised::Yes);
        assert_eq!(recognise(b"PROBE"), Recognised::No);
        assert_eq!(recognise(b"\r\n\r\n\0\r\nQUIT\n\x21"), Recognised::Yes);
        assert_eq!(recognise(b"\r\nHello"), Recognised::No);
    }
}
