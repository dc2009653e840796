//! CONNECT, the first packet of a client (section 3.1), parsed strictly and within a limit.

use std::fmt;

use super::fields::Rest;
use super::properties::{self, is_topic_name};
use super::{Malformed, Version, variable_length};
use crate::Detection;

/// First byte of the packet.
const CONNECT: u8 = 0x10;
/// Bit of the protocol level by which a bridge identifies itself (mosquitto's convention, which most brokers know).
const BRIDGE: u8 = 0x80;

/// A CONNECT packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'b> {
    /// Protocol version of the client.
    pub version: Version,
    /// Client identifier; empty if the server is to assign one.
    pub client_id: &'b [u8],
    /// Keep-alive in seconds; 0 turns it off.
    pub keep_alive: u16,
    /// Length of the packet in bytes.
    pub len: usize,
}

/// Reason why a CONNECT is rejected, with the version of the client where it is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectError {
    /// The bytes are not a valid CONNECT.
    Malformed(Option<Version>),
    /// The packet is longer than the limit.
    TooLarge(Option<Version>),
    /// The protocol version is unknown.
    UnsupportedVersion,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(_) => "expected an MQTT CONNECT, found a malformed packet",
            Self::TooLarge(_) => "expected an MQTT CONNECT within the limit, found a longer one",
            Self::UnsupportedVersion => "expected MQTT 3.1, 3.1.1 or 5.0, found another version",
        })
    }
}

impl std::error::Error for ConnectError {}

/// Parses the CONNECT at the front of `bytes`, which may be at most `max_len` bytes long. `Ok(None)`: more bytes
/// are needed.
///
/// # Errors
/// [`ConnectError`] as soon as no further bytes can make it acceptable.
pub fn parse(bytes: &[u8], max_len: usize) -> Result<Option<Connect<'_>>, ConnectError> {
    match bytes.first() {
        None => return Ok(None),
        Some(&CONNECT) => {}
        Some(_) => return Err(ConnectError::Malformed(None)),
    }
    let (length, head) = match variable_length(&bytes[1..]) {
        Ok(Some((length, taken))) => (length, 1 + taken),
        Ok(None) => return Ok(None),
        Err(Malformed) => return Err(ConnectError::Malformed(None)),
    };
    let end = head + length;
    let mut rest = Rest(&bytes[head..end.min(bytes.len())]);
    let version = match version(&mut rest) {
        Ok(Some(version)) => Some(version),
        Ok(None) => return Err(ConnectError::UnsupportedVersion),
        Err(Malformed) if bytes.len() < end => None,
        Err(Malformed) => return Err(ConnectError::Malformed(None)),
    };
    if end > max_len {
        return Err(ConnectError::TooLarge(version));
    }
    let (Some(version), true) = (version, bytes.len() >= end) else { return Ok(None) };
    match payload(&mut rest, version) {
        Ok((client_id, keep_alive)) => Ok(Some(Connect { version, client_id, keep_alive, len: end })),
        Err(Malformed) => Err(ConnectError::Malformed(Some(version))),
    }
}

/// Detects MQTT by the first bytes of a connection.
pub fn detect(first: &[u8]) -> Detection {
    if first.first().is_some_and(|&kind| kind != CONNECT) {
        return Detection::No;
    }
    match variable_length(first.get(1..).unwrap_or_default()) {
        Ok(None) => Detection::Perhaps,
        Err(Malformed) => Detection::No,
        Ok(Some((_, taken))) => {
            let name = &first[1 + taken..];
            match (Detection::by_prefix(name, b"\0\x04MQTT"), Detection::by_prefix(name, b"\0\x06MQIsdp")) {
                (Detection::No, other) | (other, _) => other,
            }
        }
    }
}

/// Parses protocol name and level; `None` for an unknown level.
fn version(rest: &mut Rest<'_>) -> Result<Option<Version>, Malformed> {
    let name = rest.binary()?;
    let level = rest.byte()? & !BRIDGE;
    match (name, level) {
        // MQTT 3.1 differs from 3.1.1 in the name of the protocol alone.
        (b"MQIsdp", 3) | (b"MQTT", 4) => Ok(Some(Version::V3)),
        (b"MQTT", 5) => Ok(Some(Version::V5)),
        (b"MQIsdp" | b"MQTT", _) => Ok(None),
        _ => Err(Malformed),
    }
}

/// Parses everything behind the version, so that no destination receives a packet that was not understood.
fn payload<'b>(rest: &mut Rest<'b>, version: Version) -> Result<(&'b [u8], u16), Malformed> {
    let flags = rest.byte()?;
    let keep_alive = rest.u16()?;
    let (has_will, will_qos) = (flags & 0x04 != 0, flags >> 3 & 3);
    let (has_password, has_user_name) = (flags & 0x40 != 0, flags & 0x80 != 0);
    let will_is_valid = if has_will { will_qos < 3 } else { flags & 0x38 == 0 };
    // A password without a user name is allowed since version 5 (section 3.1.2.9).
    if flags & 1 != 0 || !will_is_valid || (version == Version::V3 && has_password && !has_user_name) {
        return Err(Malformed);
    }
    let check_properties = |rest: &mut Rest<'b>, of_will| match version {
        Version::V3 => Ok(()),
        Version::V5 => properties::check(rest, of_will),
    };
    check_properties(rest, false)?;
    let client_id = rest.text()?;
    if has_will {
        check_properties(rest, true)?;
        if !is_topic_name(rest.text()?) {
            return Err(Malformed);
        }
        rest.binary()?;
    }
    if has_user_name {
        rest.text()?;
    }
    if has_password {
        rest.binary()?;
    }
    if rest.0.is_empty() { Ok((client_id, keep_alive)) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes a CONNECT with a clean session and this client identifier.
    fn packet(version: Version, id: &[u8]) -> Vec<u8> {
        let mut body = b"\0\x04MQTT".to_vec();
        body.extend(if version == Version::V5 { &[5, 2, 0, 60, 0][..] } else { &[4, 2, 0, 60] });
        body.extend((id.len() as u16).to_be_bytes());
        body.extend(id);
        framed(&body)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut packet = vec![CONNECT];
        let mut left = body.len();
        loop {
            let more = left >> 7 != 0;
            packet.push((left & 0x7f) as u8 | u8::from(more) << 7);
            left >>= 7;
            if !more {
                break;
            }
        }
        [packet, body.to_vec()].concat()
    }

    #[test]
    fn the_client_id_is_parsed_once_the_packet_is_complete() {
        for version in [Version::V3, Version::V5] {
            let packet = packet(version, b"device-1");
            for end in 0..packet.len() {
                assert_eq!(parse(&packet[..end], 1000), Ok(None), "{end}");
                let perhaps = [Detection::Perhaps, Detection::Yes];
                assert!(perhaps.contains(&detect(&packet[..end])), "{end}");
            }
            let len = packet.len();
            let more = [&packet[..], b"\x30\x00"].concat();
            let complete = Connect { version, client_id: b"device-1", keep_alive: 60, len };
            assert_eq!(parse(&more, 1000), Ok(Some(complete)));
            assert_eq!(detect(&more), Detection::Yes);
        }
    }

    #[test]
    fn will_user_name_and_password_belong_to_the_packet() {
        let with = |flags: u8, tail: &[u8]| {
            framed(&[b"\0\x04MQTT\x04", &[flags, 0, 0, 0, 1, b'd'][..], tail].concat())
        };
        let complete = |packet: &[u8]| matches!(parse(packet, 1000), Ok(Some(_)));
        assert!(complete(&with(0xc6, b"\0\x01t\0\x02\xff\xff\0\x01u\0\x01p")));
        for (flags, tail) in [
            (0xc6, &b"\0\x01t\0\x02\xff\xff\0\x01u\0\x02p"[..]),
            (0x02, b"more"),
            (0x03, b""),
            (0x1e, b"\0\x01t\0\0"),
            (0x22, b""),
            (0x42, b"\0\x01p"),
            (0x06, b"\0\x03a/+\0\0"),
            (0x06, b"\0\x01#\0\0"),
            (0x06, b"\0\0\0\0"),
            (0x82, b"\0\x02u\x07"),
        ] {
            let malformed = Err(ConnectError::Malformed(Some(Version::V3)));
            assert_eq!(parse(&with(flags, tail), 1000), malformed, "{flags:x}");
        }
    }

    #[test]
    fn rejected_packets_are_told_apart() {
        assert_eq!(parse(b"GET / HTTP", 1000), Err(ConnectError::Malformed(None)));
        assert_eq!(parse(b"\x10\xff\xff\xff\xff", 1000), Err(ConnectError::Malformed(None)));
        assert_eq!(parse(b"\x10\x07\0\x05MQTTT", 1000), Err(ConnectError::Malformed(None)));
        assert_eq!(parse(&framed(b"\0\x04MQTT\x06\x02\0\0"), 1000), Err(ConnectError::UnsupportedVersion));
        let long = packet(Version::V5, &[b'x'; 2000]);
        assert_eq!(parse(&long[..20], 1000), Err(ConnectError::TooLarge(Some(Version::V5))));
        let not_utf8 = packet(Version::V3, b"\xff");
        assert_eq!(parse(&not_utf8, 1000), Err(ConnectError::Malformed(Some(Version::V3))));
        for id in ["\u{1}", "a\tb", "\u{7f}", "\u{85}", "\u{fdd0}", "\u{ffff}"] {
            for version in [Version::V3, Version::V5] {
                let malformed = Err(ConnectError::Malformed(Some(version)));
                assert_eq!(parse(&packet(version, id.as_bytes()), 1000), malformed, "{id:?}");
            }
        }
        let mut zero = packet(Version::V5, b"d");
        zero.splice(12..13, *b"\x03\x21\0\0");
        zero[1] += 3;
        assert_eq!(parse(&zero, 1000), Err(ConnectError::Malformed(Some(Version::V5))), "receive maximum 0");
        let bridge = framed(b"\0\x04MQTT\x84\x02\0\0\0\0");
        assert!(matches!(parse(&bridge, 1000), Ok(Some(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic_or_a_read_past_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let begun = [&b"\x10"[..], &bytes].concat();
            if let Ok(Some(connect)) = parse(&begun, 64) {
                prop_assert!(connect.len <= begun.len() && connect.len <= 64);
            }
            let _any_result = detect(&begun);
        }
    }
}
