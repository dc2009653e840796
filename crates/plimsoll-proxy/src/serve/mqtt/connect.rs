//! What a client says first: CONNECT, read strictly and within limits.
//!
//! MQTT 3.1.1 (OASIS, 2014) section 3.1 and MQTT 5.0 (OASIS, 2019) section 3.1; MQTT 3.1 differs in the name of
//! the protocol alone.

use plimsoll_core::hash::hash;

use crate::listener::adapter::Recognised;

/// The first byte of the packet.
const CONNECT: u8 = 0x10;
/// A length has so many bytes at most.
const MAX_LENGTH: usize = 4;
/// A bridge says so with this bit of the protocol's version (mosquitto's custom, understood by most brokers).
const BRIDGE: u8 = 0x80;

/// The version of the protocol, as far as answers differ.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1 and 3.1.1.
    V3,
    V5,
}

/// A client's CONNECT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// What its id makes of it; without an id the destination is to give it one.
    pub(crate) key: Option<u64>,
    /// Seconds within which the client says something; 0: it need not.
    pub(crate) keep_alive: u16,
    /// Bytes of the packet.
    pub(crate) len: usize,
}

/// What the bytes so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The packet has not ended yet.
    Incomplete,
    Whole(Connect),
    /// It is none, or breaks the rules.
    Malformed(Option<Version>),
    /// It would be longer than this listener takes.
    TooLarge(Option<Version>),
    /// A version of the protocol that nobody knows.
    UnknownVersion,
}

/// Reads the packet at the front of `bytes`, which may have so many.
pub(crate) fn read(bytes: &[u8], most: usize) -> Read {
    match bytes.first() {
        None => return Read::Incomplete,
        Some(&CONNECT) => {}
        Some(_) => return Read::Malformed(None),
    }
    let (length, head) = match length(&bytes[1..]) {
        Ok(Some((length, taken))) => (length, 1 + taken),
        Ok(None) => return Read::Incomplete,
        Err(Malformed) => return Read::Malformed(None),
    };
    let end = head + length;
    let mut rest = Rest(&bytes[head..end.min(bytes.len())]);
    let version = match version(&mut rest) {
        Ok(Some(version)) => Some(version),
        Ok(None) => return Read::UnknownVersion,
        Err(Malformed) if bytes.len() < end => None,
        Err(Malformed) => return Read::Malformed(None),
    };
    if end > most {
        return Read::TooLarge(version);
    }
    let (Some(version), true) = (version, bytes.len() >= end) else { return Read::Incomplete };
    match body(&mut rest, version) {
        Ok((id, keep_alive)) => {
            let key = (!id.is_empty()).then(|| hash(id));
            Read::Whole(Connect { version, key, keep_alive, len: end })
        }
        Err(Malformed) => Read::Malformed(Some(version)),
    }
}

/// Whether a connection that begins so is of MQTT.
pub(crate) fn recognise(first: &[u8]) -> Recognised {
    if first.first().is_some_and(|&kind| kind != CONNECT) {
        return Recognised::No;
    }
    match length(first.get(1..).unwrap_or_default()) {
        Ok(None) => Recognised::Perhaps,
        Err(Malformed) => Recognised::No,
        Ok(Some((_, taken))) => {
            let name = &first[1 + taken..];
            match (Recognised::by_prefix(name, b"\0\x04MQTT"), Recognised::by_prefix(name, b"\0\x06MQIsdp")) {
                (Recognised::No, other) | (other, _) => other,
            }
        }
    }
}

struct Malformed;

/// A length in sevens of bits, least first, and the bytes it takes; `None`: it has not ended.
pub(crate) fn variable_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, ()> {
    length(bytes).map_err(|Malformed| ())
}

fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0;
    for (at, &byte) in bytes.iter().take(MAX_LENGTH).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((length, at + 1)));
        }
    }
    if bytes.len() < MAX_LENGTH { Ok(None) } else { Err(Malformed) }
}

fn version(rest: &mut Rest<'_>) -> Result<Option<Version>, Malformed> {
    let name = rest.field()?;
    let level = rest.byte()? & !BRIDGE;
    match (name, level) {
        (b"MQIsdp", 3) | (b"MQTT", 4) => Ok(Some(Version::V3)),
        (b"MQTT", 5) => Ok(Some(Version::V5)),
        (b"MQIsdp" | b"MQTT", _) => Ok(None),
        _ => Err(Malformed),
    }
}

/// What follows the version: all of it, so that a destination is sent nothing that we did not understand.
fn body<'b>(rest: &mut Rest<'b>, version: Version) -> Result<(&'b [u8], u16), Malformed> {
    let flags = rest.byte()?;
    let keep_alive = rest.number()?;
    let (has_will, will_level) = (flags & 0x04 != 0, flags >> 3 & 3);
    let (has_password, has_name) = (flags & 0x40 != 0, flags & 0x80 != 0);
    let will_is_right = if has_will { will_level < 3 } else { flags & 0x38 == 0 };
    if flags & 1 != 0 || !will_is_right || (version == Version::V3 && has_password && !has_name) {
        return Err(Malformed);
    }
    let skip_properties = |rest: &mut Rest<'b>| match version {
        Version::V3 => Ok(()),
        Version::V5 => rest.properties().map(drop),
    };
    skip_properties(rest)?;
    let client_id = rest.text()?;
    if has_will {
        skip_properties(rest)?;
        rest.text()?;
        rest.field()?;
    }
    if has_name {
        rest.text()?;
    }
    if has_password {
        rest.field()?;
    }
    if rest.0.is_empty() { Ok((client_id, keep_alive)) } else { Err(Malformed) }
}

/// Bytes that were not looked at yet.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|byte| byte[0])
    }

    fn number(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes after their length.
    fn field(&mut self) -> Result<&'b [u8], Malformed> {
        let len = self.number()?;
        self.take(usize::from(len))
    }

    /// The same, of UTF-8 without NUL (section 1.5.4).
    fn text(&mut self) -> Result<&'b [u8], Malformed> {
        let bytes = self.field()?;
        match str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    fn properties(&mut self) -> Result<&'b [u8], Malformed> {
        let (len, taken) = length(self.0)?.ok_or(Malformed)?;
        self.take(taken)?;
        self.take(len)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A CONNECT with a clean session and this id.
    pub(in crate::serve::mqtt) fn packet(version: Version, id: &[u8]) -> Vec<u8> {
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
    fn the_id_is_read_once_the_packet_is_whole() {
        for version in [Version::V3, Version::V5] {
            let packet = packet(version, b"device-1");
            for end in 0..packet.len() {
                assert_eq!(read(&packet[..end], 1000), Read::Incomplete, "{end}");
                let perhaps = [Recognised::Perhaps, Recognised::Yes];
                assert!(perhaps.contains(&recognise(&packet[..end])), "{end}");
            }
            let len = packet.len();
            let more = [&packet[..], b"\x30\x00"].concat();
            let whole = Connect { version, key: Some(hash(b"device-1")), keep_alive: 60, len };
            assert_eq!(read(&more, 1000), Read::Whole(whole));
            assert_eq!(recognise(&more), Recognised::Yes);
        }
    }

    #[test]
    fn a_will_a_name_and_a_password_belong_to_it() {
        let with = |flags: u8, tail: &[u8]| {
            framed(&[b"\0\x04MQTT\x04", &[flags, 0, 0, 0, 1, b'd'][..], tail].concat())
        };
        let whole = |packet: &[u8]| matches!(read(packet, 1000), Read::Whole(_));
        assert!(whole(&with(0xc6, b"\0\x01t\0\x02\xff\xff\0\x01u\0\x01p")));
        for (flags, tail) in [
            (0xc6, &b"\0\x01t\0\x02\xff\xff\0\x01u\0\x02p"[..]),
            (0x02, b"more"),
            (0x03, b""),
            (0x1e, b"\0\x01t\0\0"),
            (0x22, b""),
            (0x42, b"\0\x01p"),
        ] {
            assert_eq!(read(&with(flags, tail), 1000), Read::Malformed(Some(Version::V3)), "{flags:x}");
        }
    }

    #[test]
    fn what_is_none_is_told_by_kind() {
        assert_eq!(read(b"GET / HTTP", 1000), Read::Malformed(None));
        assert_eq!(read(b"\x10\xff\xff\xff\xff", 1000), Read::Malformed(None));
        assert_eq!(read(b"\x10\x07\0\x05MQTTT", 1000), Read::Malformed(None));
        assert_eq!(read(&framed(b"\0\x04MQTT\x06\x02\0\0"), 1000), Read::UnknownVersion);
        let long = packet(Version::V5, &[b'x'; 2000]);
        assert_eq!(read(&long[..20], 1000), Read::TooLarge(Some(Version::V5)));
        assert_eq!(read(&packet(Version::V3, b"\xff"), 1000), Read::Malformed(Some(Version::V3)));
        let bridge = framed(b"\0\x04MQTT\x84\x02\0\0\0\0");
        assert!(matches!(read(&bridge, 1000), Read::Whole(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_too_far(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let begun = [&b"\x10"[..], &bytes].concat();
            if let Read::Whole(connect) = read(&begun, 64) {
                prop_assert!(connect.len <= begun.len() && connect.len <= 64);
            }
            let _any_verdict_will_do = recognise(&begun);
        }
    }
}
