//! PROXY protocol headers, versions 1 and 2: parsed from trusted peers, written for destinations.
//!
//! Specification: <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. The crate `proxy-header` parses and
//! encodes; headers that it accepts and the specification does not allow are rejected here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, ProxiedAddress, ProxyHeader, Tlv};

use crate::Detection;

/// First bytes of a header of version 1.
const V1: &[u8] = b"PROXY ";
/// First bytes of a header of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1 (section 2.1 of the specification).
const MAX_V1_LEN: usize = 107;
/// Maximum number of extensions of a header. The specification defines 14 kinds, and clouds add a few.
const MAX_TLVS: usize = 64;
/// Bytes after which [`detect`] always decides.
pub const SIGNATURE_LEN: usize = V2.len();

/// Versions of the header.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// A binary header, with extensions (TLVs).
    V2,
}

/// A PROXY protocol header.
#[derive(Clone, Debug, Default)]
pub struct Header {
    /// Source and destination of the proxied connection; `None`: the connection is the peer's own (`LOCAL`,
    /// `UNKNOWN`).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Extensions of version 2.
    tlvs: Vec<Tlv<'static>>,
}

/// The bytes are not a PROXY protocol header, or break its rules.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MalformedHeader;

impl fmt::Display for MalformedHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a PROXY protocol header, found other or malformed bytes")
    }
}

impl std::error::Error for MalformedHeader {}

impl Header {
    /// Parses the header at the front of `bytes` and returns it with its length. `Ok(None)`: more bytes are needed.
    ///
    /// # Errors
    /// [`MalformedHeader`] as soon as no further bytes can make it one.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, MalformedHeader> {
        let signature = if bytes.first() == Some(&b'P') { V1 } else { V2 };
        let n = bytes.len().min(signature.len());
        if bytes[..n] != signature[..n] {
            return Err(MalformedHeader);
        }
        match ProxyHeader::parse(bytes, ParseConfig::default()) {
            Err(Error::BufferTooShort) => Ok(None),
            Err(_) => Err(MalformedHeader),
            // Longer lines are rejected while they are incomplete, so they are rejected in one piece too.
            Ok((_, len)) if bytes.starts_with(V1) && len > MAX_V1_LEN => Err(MalformedHeader),
            Ok((header, len)) => {
                let header = Self::validated(&header, &bytes[..len]).ok_or(MalformedHeader)?;
                Ok(Some((header, len)))
            }
        }
    }

    fn validated(header: &ProxyHeader<'_>, bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(V1) && header.proxied_address().is_some() && !has_decimal_ports(bytes) {
            return None;
        }
        let (mut tlvs, mut has_checksum) = (Vec::new(), false);
        for (number, tlv) in header.tlvs().enumerate() {
            if number == MAX_TLVS {
                return None;
            }
            match tlv.ok()? {
                // The checksum covers the received header and not the one that is written. A second one would cover the
                // first, and each costs a pass over the header.
                Tlv::Crc32c(sum) => {
                    if std::mem::replace(&mut has_checksum, true) || sum != checksum(bytes)? {
                        return None;
                    }
                }
                Tlv::Noop(_) => {}
                tlv => tlvs.push(tlv.into_owned()),
            }
        }
        let addresses = header.proxied_address().map(|address| (address.source, address.destination));
        Some(Self { addresses, tlvs })
    }

    /// Returns the source of the proxied connection.
    pub fn source(&self) -> Option<SocketAddr> {
        self.addresses.map(|(source, _)| source)
    }

    /// Encodes the header; version 1 has no extensions.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let addresses = self.addresses.map(|(source, destination)| {
            let (source, destination) = one_family(source, destination);
            ProxiedAddress::stream(source, destination)
        });
        let mut bytes = Vec::with_capacity(128);
        let encoded = match version {
            Version::V1 => ProxyHeader::with_tlvs(addresses, []).encode_v1(&mut bytes),
            Version::V2 => ProxyHeader::with_tlvs(addresses, self.tlvs.iter().cloned()).encode_v2(&mut bytes),
        };
        // Both addresses are of one family, and the extensions came in one header: encoding cannot fail.
        encoded.map_or(Vec::new(), |()| bytes)
    }
}

/// Reports whether the ports of a version 1 line are plain decimal numbers: Rust also parses `+80` and `0080`.
fn has_decimal_ports(line: &[u8]) -> bool {
    let mut words = line.trim_ascii_end().split(|&c| c == b' ').skip(4);
    words.all(|port| port == b"0" || (port.iter().all(u8::is_ascii_digit) && !port.starts_with(b"0")))
}

/// CRC-32C of each byte, without the inversions at both ends.
const CRC_OF_BYTE: [u32; 256] = {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let (mut table, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Computes the CRC-32C (RFC 4960 appendix B) of a version 2 header with its checksum field set to zero.
fn checksum(header: &[u8]) -> Option<u32> {
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
    let step = |crc: u32, byte: u8| (crc >> 8) ^ CRC_OF_BYTE[usize::from(crc as u8 ^ byte)];
    let bytes = header.iter().enumerate().map(|(at, &byte)| if field.contains(&at) { 0 } else { byte });
    Some(!bytes.fold(u32::MAX, step))
}

/// Converts both addresses to one family: IPv4 if both are IPv4, else IPv6.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}

/// Detects a header of either version by the first bytes of a connection.
pub fn detect(first: &[u8]) -> Detection {
    match (Detection::by_prefix(first, V1), Detection::by_prefix(first, V2)) {
        (Detection::No, other) | (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> (Header, usize) {
        match Header::parse(bytes) {
            Ok(Some(header)) => header,
            other => panic!("{other:?} of {bytes:?}"),
        }
    }

    fn is_malformed(bytes: &[u8]) -> bool {
        matches!(Header::parse(bytes), Err(MalformedHeader))
    }

    #[test]
    fn version_1_has_the_addresses_and_ends_with_its_line() {
        let (header, len) = complete(b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET /");
        assert_eq!(len, 45);
        let addresses = ("192.0.2.7:56324".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
        assert_eq!(header.addresses, Some(addresses));
        assert!(complete(b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n").0.addresses.is_none());
    }

    #[test]
    fn headers_outside_the_specification_are_rejected() {
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
            assert!(is_malformed(line.as_bytes()), "{line:?}");
        }
        let endless = [b"PROXY TCP4 ", &[b'1'; 200][..]].concat();
        assert!(is_malformed(&endless));
    }

    #[test]
    fn a_line_over_107_bytes_is_rejected_however_it_arrives() {
        let line = |padding: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(padding));
        assert_eq!(complete(line(91).as_bytes()).1, 107);
        let long = line(92);
        assert!(is_malformed(long.as_bytes()) && is_malformed(&long.as_bytes()[..107]));
    }

    #[test]
    fn every_prefix_of_a_header_is_incomplete_and_no_byte_causes_a_panic() {
        let mut v2 = Vec::new();
        let ends = ProxiedAddress::stream("[2001:db8::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        let extras = [Tlv::UniqueId(b"abc"[..].into()), Tlv::Custom(0xe0, b"own"[..].into())];
        ProxyHeader::with_tlvs(Some(ends), extras).encode_v2(&mut v2).unwrap();
        for header in [&b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"[..], &v2] {
            for end in 0..header.len() {
                assert!(matches!(Header::parse(&header[..end]), Ok(None)), "{end} of {header:?}");
                for byte in 0..=255 {
                    let mut changed = header.to_vec();
                    changed[end] = byte;
                    let _any_result = Header::parse(&changed);
                }
            }
            assert_eq!(complete(header).1, header.len());
        }
    }

    #[test]
    fn a_wrong_checksum_is_rejected_and_a_right_one_is_not_forwarded() {
        // From the documentation of the crate: TCP4 with CRC, unique id and more.
        let good = b"\r\n\r\n\0\r\nQUIT\n \0\0\x0f\x03\0\x04\x88\x9d\xa1\xdf \0\x05\0\0\0\0\0";
        let (header, _) = complete(good);
        assert_eq!(header.tlvs.len(), 1, "{:?}", header.tlvs);
        let mut bad = good.to_vec();
        bad[19] ^= 1;
        assert!(is_malformed(&bad));
    }

    #[test]
    fn the_number_of_extensions_and_checksums_is_bounded() {
        let header = |tlvs: &[u8]| {
            let len = (tlvs.len() as u16).to_be_bytes();
            [V2, &[0x20, 0], &len, tlvs].concat()
        };
        let own = |n: usize| header(&[0xe0, 0, 1, b'x'].repeat(n));
        assert_eq!(complete(&own(MAX_TLVS)).0.tlvs.len(), MAX_TLVS);
        assert!(is_malformed(&own(MAX_TLVS + 1)));
        assert!(is_malformed(&header(&[4, 0, 0].repeat(MAX_TLVS + 1))), "padding counts");
        let summed = |n: usize| {
            let bytes = header(&[3, 0, 4, 0, 0, 0, 0].repeat(n));
            let sum = checksum(&bytes).unwrap().to_be_bytes();
            header(&[&[3, 0, 4][..], &sum].concat().repeat(n))
        };
        assert!(complete(&summed(1)).0.tlvs.is_empty());
        assert!(is_malformed(&summed(2)) && is_malformed(&summed(9000)));
    }

    #[test]
    fn addresses_of_two_families_are_written_as_ipv6() {
        let (source, destination) =
            one_family("192.0.2.1:5".parse().unwrap(), "[2001:db8::1]:6".parse().unwrap());
        assert_eq!(source, "[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(destination, "[2001:db8::1]:6".parse().unwrap());
    }

    #[test]
    fn a_header_is_detected_by_its_complete_signature() {
        assert_eq!(detect(b"PRO"), Detection::Perhaps);
        assert_eq!(detect(b"PROXY "), Detection::Yes);
        assert_eq!(detect(b"PROBE"), Detection::No);
        assert_eq!(detect(b"\r\n\r\n\0\r\nQUIT\n\x21"), Detection::Yes);
        assert_eq!(detect(b"\r\nHello"), Detection::No);
    }
}
