//! What is answered to a CONNECT: by a destination, and by us when none serves.
//!
//! CONNACK: MQTT 3.1.1 section 3.2, MQTT 5.0 section 3.2.

use crate::serve::mqtt::connect::{Version, variable_length};

const CONNACK: u8 = 0x20;
/// The property by which a server sets the keep-alive itself (section 3.2.2.3.14).
const SERVER_KEEP_ALIVE: u8 = 0x13;
/// An answer may be so long; what is longer is passed on without being understood.
const MOST: usize = 16 * 1024;

/// Why a client is refused, in codes of both versions; 3.1.1 has no word for some.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unavailable,
    Malformed,
    TooLarge,
    UnknownVersion,
}

/// Our own answer; empty where the version has none and the end of the connection must do.
pub(crate) fn refuse(version: Option<Version>, why: Refusal) -> &'static [u8] {
    match (version, why) {
        (_, Refusal::UnknownVersion) => &[CONNACK, 2, 0, 0x01],
        (Some(Version::V3), Refusal::Unavailable) => &[CONNACK, 2, 0, 0x03],
        (Some(Version::V5), Refusal::Unavailable) => &[CONNACK, 3, 0, 0x88, 0],
        (Some(Version::V5), Refusal::Malformed) => &[CONNACK, 3, 0, 0x81, 0],
        (Some(Version::V5), Refusal::TooLarge) => &[CONNACK, 3, 0, 0x95, 0],
        _ => &[],
    }
}

/// What a destination answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not all of it is there.
    Incomplete,
    /// It serves, or refuses this client for what it is: either way it is the client's answer. With the
    /// keep-alive the destination wants, if it says so.
    Given(Option<u16>),
    /// It cannot serve anybody now.
    Unavailable,
}

/// Reads the answer at the front of `bytes`. What is no CONNACK is the client's to understand: an exchange of
/// AUTH comes first where both want that.
pub(crate) fn read(bytes: &[u8], version: Version) -> Answer {
    match bytes.first() {
        None => return Answer::Incomplete,
        Some(&CONNACK) => {}
        Some(_) => return Answer::Given(None),
    }
    let (length, head) = match variable_length(&bytes[1..]) {
        Ok(Some((length, taken))) if length <= MOST => (length, 1 + taken),
        Ok(None) => return Answer::Incomplete,
        _ => return Answer::Given(None),
    };
    let Some(body) = bytes.get(head..head + length) else { return Answer::Incomplete };
    match (version, body.get(1)) {
        (Version::V3, Some(3)) => Answer::Unavailable,
        // Server unavailable, server busy, connection rate exceeded.
        (Version::V5, Some(0x88 | 0x89 | 0x9f)) => Answer::Unavailable,
        (Version::V5, Some(0)) => Answer::Given(keep_alive(body.get(2..).unwrap_or_default())),
        _ => Answer::Given(None),
    }
}

/// The keep-alive among the properties, if it is there and all before it make sense (section 2.2.2.2).
fn keep_alive(bytes: &[u8]) -> Option<u16> {
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

    #[test]
    fn answers_are_told_apart() {
        for (bytes, version, answer) in [
            (&[0x20, 2, 0][..], Version::V3, Answer::Incomplete),
            (&[0x20, 2, 0, 0], Version::V3, Answer::Given(None)),
            (&[0x20, 2, 0, 5], Version::V3, Answer::Given(None)),
            (&[0x20, 2, 0, 3], Version::V3, Answer::Unavailable),
            (&[0x20, 3, 0, 0x88, 0], Version::V5, Answer::Unavailable),
            (&[0x20, 3, 0, 0x87, 0], Version::V5, Answer::Given(None)),
            (&[0xf0, 2, 0x18, 0], Version::V5, Answer::Given(None)),
            (&[0x20, 11, 0, 0, 8, 0x21, 0, 20, 0x24, 1, 0x13, 0, 30], Version::V5, Answer::Given(Some(30))),
            (&[0x20, 9, 0, 0, 6, 0x12, 0, 3, b'a', b'b', b'c'], Version::V5, Answer::Given(None)),
            (&[0x20, 6, 0, 0, 3, 0x13, 0], Version::V5, Answer::Incomplete),
            (&[0x20, 5, 0, 0, 2, 0x13, 0], Version::V5, Answer::Given(None)),
            (&[0x20, 0], Version::V5, Answer::Given(None)),
        ] {
            assert_eq!(read(bytes, version), answer, "{bytes:x?}");
        }
    }

    #[test]
    fn a_pair_of_texts_is_stepped_over() {
        let pair = [0x26, 0, 1, b'k', 0, 2, b'v', b'w', 0x13, 1, 0];
        let bytes = [&[0x20, 14, 0, 0, 11][..], &pair].concat();
        assert_eq!(read(&bytes, Version::V5), Answer::Given(Some(256)));
    }
}
