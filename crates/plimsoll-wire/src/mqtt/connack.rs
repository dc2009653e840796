//! CONNACK, the response to a CONNECT (section 3.2): parsed from destinations, written for clients.

use super::{Version, variable_length};

const CONNACK: u8 = 0x20;
/// Property by which a server sets the keep-alive (section 3.2.2.3.14).
const SERVER_KEEP_ALIVE: u8 = 0x13;
/// Longest response that is parsed; a longer one is forwarded without being understood.
const MAX_LENGTH: usize = 16 * 1024;

/// Reason why a client is rejected, independent of the protocol version.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The server is unavailable.
    Unavailable,
    /// The CONNECT is malformed.
    Malformed,
    /// The CONNECT is too large.
    TooLarge,
    /// The protocol version is unknown.
    UnsupportedVersion,
}

/// Returns the CONNACK for a rejected client; empty where the version has no code for the reason and closing the
/// connection has to do.
pub fn reject(version: Option<Version>, reason: Rejection) -> &'static [u8] {
    match (version, reason) {
        (_, Rejection::UnsupportedVersion) => &[CONNACK, 2, 0, 0x01],
        (Some(Version::V3), Rejection::Unavailable) => &[CONNACK, 2, 0, 0x03],
        (Some(Version::V5), Rejection::Unavailable) => &[CONNACK, 3, 0, 0x88, 0],
        (Some(Version::V5), Rejection::Malformed) => &[CONNACK, 3, 0, 0x81, 0],
        (Some(Version::V5), Rejection::TooLarge) => &[CONNACK, 3, 0, 0x95, 0],
        _ => &[],
    }
}

/// Meaning of a destination's response to a CONNECT.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connack {
    /// The destination accepts the client, or rejects it for reasons of the client: the response is the client's.
    Final {
        /// Keep-alive in seconds that the destination asks for, if it does.
        keep_alive: Option<u16>,
    },
    /// The destination cannot serve any client now.
    Unavailable,
}

/// Parses the response at the front of `bytes`; `None` if more bytes are needed. Packets other than CONNACK are
/// final too: an exchange of AUTH may come first (section 4.12 of version 5.0).
pub fn parse(bytes: &[u8], version: Version) -> Option<Connack> {
    const FINAL: Option<Connack> = Some(Connack::Final { keep_alive: None });
    match bytes.first() {
        None => return None,
        Some(&CONNACK) => {}
        Some(_) => return FINAL,
    }
    let (length, head) = match variable_length(&bytes[1..]) {
        Ok(Some((length, taken))) if length <= MAX_LENGTH => (length, 1 + taken),
        Ok(None) => return None,
        _ => return FINAL,
    };
    let body = bytes.get(head..head + length)?;
    match (version, body.get(1)) {
        (Version::V3, Some(3)) => Some(Connack::Unavailable),
        // Server unavailable, server busy, connection rate exceeded.
        (Version::V5, Some(0x88 | 0x89 | 0x9f)) => Some(Connack::Unavailable),
        (Version::V5, Some(0)) => {
            Some(Connack::Final { keep_alive: server_keep_alive(body.get(2..).unwrap_or_default()) })
        }
        _ => FINAL,
    }
}

/// Finds the keep-alive among the properties, if all properties before it are valid (section 2.2.2.2).
fn server_keep_alive(bytes: &[u8]) -> Option<u16> {
    let (len, taken) = variable_length(bytes).ok()??;
    let mut rest = bytes.get(taken..taken + len)?;
    while let [id, value @ ..] = rest {
        let field =
            |at: usize| Some(2 + usize::from(u16::from_be_bytes([*value.get(at)?, *value.get(at + 1)?])));
        let size = match *id {
            SERVER_KEEP_ALIVE => return Some(u16::from_be_bytes([*value.first()?, *value.get(1)?])),
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => field(0)?,
            0x26 => field(0)? + field(field(0)?)?,
            _ => return None,
        };
        rest = value.get(size..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn last(keep_alive: Option<u16>) -> Option<Connack> {
        Some(Connack::Final { keep_alive })
    }

    #[test]
    fn responses_are_told_apart() {
        for (bytes, version, expected) in [
            (&[0x20, 2, 0][..], Version::V3, None),
            (&[0x20, 2, 0, 0], Version::V3, last(None)),
            (&[0x20, 2, 0, 5], Version::V3, last(None)),
            (&[0x20, 2, 0, 3], Version::V3, Some(Connack::Unavailable)),
            (&[0x20, 3, 0, 0x88, 0], Version::V5, Some(Connack::Unavailable)),
            (&[0x20, 3, 0, 0x87, 0], Version::V5, last(None)),
            (&[0xf0, 2, 0x18, 0], Version::V5, last(None)),
            (&[0x20, 11, 0, 0, 8, 0x21, 0, 20, 0x24, 1, 0x13, 0, 30], Version::V5, last(Some(30))),
            (&[0x20, 9, 0, 0, 6, 0x12, 0, 3, b'a', b'b', b'c'], Version::V5, last(None)),
            (&[0x20, 6, 0, 0, 3, 0x13, 0], Version::V5, None),
            (&[0x20, 5, 0, 0, 2, 0x13, 0], Version::V5, last(None)),
            (&[0x20, 0], Version::V5, last(None)),
        ] {
            assert_eq!(parse(bytes, version), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn a_user_property_before_the_keep_alive_is_skipped() {
        let pair = [0x26, 0, 1, b'k', 0, 2, b'v', b'w', 0x13, 1, 0];
        let bytes = [&[0x20, 14, 0, 0, 11][..], &pair].concat();
        assert_eq!(parse(&bytes, Version::V5), last(Some(256)));
    }
}
