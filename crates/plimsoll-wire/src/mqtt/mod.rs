//! MQTT 3.1, 3.1.1 and 5.0: CONNECT, CONNACK, the boundaries of packets, and outstanding responses.
//!
//! Specifications: MQTT 3.1.1 (OASIS, 2014) and MQTT 5.0 (OASIS, 2019).

pub mod connack;
pub mod connect;
mod fields;
mod outstanding;
mod packets;
mod properties;

pub use self::connack::{Connack, Rejection};
pub use self::connect::{Connect, ConnectError, detect};
pub use self::outstanding::Outstanding;
pub use self::packets::{Packet, PacketReader};

/// Most bytes of a variable byte integer (section 1.5.5 of version 5.0).
const MAX_LENGTH_BYTES: usize = 4;

/// Protocol versions, as far as responses differ.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1 and 3.1.1.
    V3,
    /// MQTT version 5.0.
    V5,
}

/// The packet breaks the rules of MQTT.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Malformed;

/// Parses a variable byte integer: seven bits per byte, lowest first. Returns it with the number of its bytes, or
/// `None` if more bytes are needed.
fn variable_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0;
    for (at, &byte) in bytes.iter().take(MAX_LENGTH_BYTES).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((length, at + 1)));
        }
    }
    if bytes.len() < MAX_LENGTH_BYTES { Ok(None) } else { Err(Malformed) }
}
