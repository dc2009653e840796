//! Properties of MQTT 5 in a CONNECT (sections 3.1.2.11 and 3.1.3.2 of version 5.0): each known, valid, and at most once.

use super::fields::Rest;
use super::{Malformed, variable_length};

/// Identifier of the property that may occur more than once.
const USER_PROPERTY: u8 = 0x26;
/// Identifiers of the authentication method and its data.
const AUTH: (u8, u8) = (0x15, 0x16);

/// Content of a property.
#[derive(Copy, Clone)]
enum Kind {
    /// A byte that is 0 or 1.
    Flag,
    /// Two bytes, not zero if set.
    Short {
        not_zero: bool,
    },
    /// Four bytes, not zero if set.
    Long {
        not_zero: bool,
    },
    Text,
    /// A topic name without wildcards.
    Topic,
    Binary,
    TextPair,
}

/// Returns the content of a property of a CONNECT, or of the will in it.
fn kind(id: u8, of_will: bool) -> Option<Kind> {
    Some(match (of_will, id) {
        // Session expiry.
        (false, 0x11) => Kind::Long { not_zero: false },
        // Receive maximum, and maximum packet size.
        (false, 0x21) => Kind::Short { not_zero: true },
        (false, 0x27) => Kind::Long { not_zero: true },
        // Topic alias maximum.
        (false, 0x22) => Kind::Short { not_zero: false },
        // Request response information, and request problem information.
        (false, 0x19 | 0x17) => Kind::Flag,
        (false, 0x15) => Kind::Text,
        (false, 0x16) => Kind::Binary,
        // Will delay, and message expiry.
        (true, 0x18 | 0x02) => Kind::Long { not_zero: false },
        // Payload format.
        (true, 0x01) => Kind::Flag,
        // Content type, response topic, and correlation data.
        (true, 0x03) => Kind::Text,
        (true, 0x08) => Kind::Topic,
        (true, 0x09) => Kind::Binary,
        (_, USER_PROPERTY) => Kind::TextPair,
        _ => return None,
    })
}

/// Parses the properties of a CONNECT, or of its will, and checks them.
pub(super) fn check(rest: &mut Rest<'_>, of_will: bool) -> Result<(), Malformed> {
    let (len, taken) = variable_length(rest.0)?.ok_or(Malformed)?;
    rest.take(taken)?;
    let mut properties = Rest(rest.take(len)?);
    let mut seen = 0_u64;
    while let Ok(id) = properties.byte() {
        let kind = kind(id, of_will).ok_or(Malformed)?;
        if id != USER_PROPERTY && seen & 1 << id != 0 {
            return Err(Malformed);
        }
        seen |= 1 << id;
        content(&mut properties, kind)?;
    }
    // Data need a method (section 3.1.2.11.10).
    if seen & 1 << AUTH.1 != 0 && seen & 1 << AUTH.0 == 0 { Err(Malformed) } else { Ok(()) }
}

fn content(rest: &mut Rest<'_>, kind: Kind) -> Result<(), Malformed> {
    let valid = match kind {
        Kind::Flag => rest.byte()? <= 1,
        Kind::Short { not_zero } => rest.u16()? != 0 || !not_zero,
        Kind::Long { not_zero } => rest.take(4)? != [0; 4] || !not_zero,
        Kind::Text => rest.text().map(|_| true)?,
        Kind::Topic => is_topic_name(rest.text()?),
        Kind::Binary => rest.binary().map(|_| true)?,
        Kind::TextPair => rest.text().and_then(|_| rest.text()).map(|_| true)?,
    };
    if valid { Ok(()) } else { Err(Malformed) }
}

/// Returns whether messages can be published to a topic: at least one character, and no wildcard (section 4.7).
pub(super) fn is_topic_name(topic: &[u8]) -> bool {
    !topic.is_empty() && !topic.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_valid(of_will: bool, properties: &[u8]) -> bool {
        let mut bytes = vec![properties.len() as u8];
        bytes.extend(properties);
        let mut rest = Rest(&bytes);
        check(&mut rest, of_will).is_ok() && rest.0.is_empty()
    }

    #[test]
    fn known_properties_are_valid_once_and_in_their_place() {
        for property in [
            &b"\x11\0\0\0\0"[..],
            b"\x21\0\x01",
            b"\x27\0\0\0\x01",
            b"\x22\0\0",
            b"\x19\x01",
            b"\x17\0",
            b"\x15\0\x01m",
        ] {
            assert!(is_valid(false, property), "{property:x?}");
            assert!(!is_valid(false, &[property, property].concat()), "{property:x?} twice");
            assert!(!is_valid(true, property), "{property:x?} of a will");
            assert!(!is_valid(false, &property[..property.len() - 1]), "{property:x?} cut off");
        }
        for property in
            [&b"\x18\0\0\0\0"[..], b"\x01\x01", b"\x02\0\0\0\0", b"\x03\0\x01t", b"\x08\0\x01t", b"\x09\0\0"]
        {
            assert!(is_valid(true, property), "{property:x?}");
            assert!(!is_valid(true, &[property, property].concat()), "{property:x?} twice");
            assert!(!is_valid(false, property), "{property:x?} of the client");
        }
        let user = b"\x26\0\x01a\0\x01b";
        assert!(is_valid(false, &user.repeat(3)) && is_valid(true, &user.repeat(2)));
        assert!(is_valid(false, b"\x16\0\0\x15\0\x01m") && is_valid(false, b""));
    }

    #[test]
    fn invalid_values_and_unknown_properties_are_rejected() {
        for property in [
            &b"\x21\0\0"[..],
            b"\x27\0\0\0\0",
            b"\x19\x02",
            b"\x17\xff",
            b"\x16\0\0",
            b"\x7e\0",
            b"\x80\x01",
            b"\x00",
            b"\x26\0\x01a",
            b"\x15\0\x01\xff",
        ] {
            assert!(!is_valid(false, property), "{property:x?}");
        }
        for property in [&b"\x01\x02"[..], b"\x08\0\x03a/#", b"\x08\0\0", b"\x03\0\x01\x01"] {
            assert!(!is_valid(true, property), "{property:x?}");
        }
    }
}
