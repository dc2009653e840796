//! Packets in one direction of a connection: their boundaries, and what is needed to match requests and responses.

/// Type of PUBLISH (section 2.1.2).
const PUBLISH: u8 = 3;
/// Bits of the quality of service in the first byte of a PUBLISH (section 3.3.1.2).
const QOS: u8 = 0x06;

/// Start of a packet.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// First byte: type and flags.
    pub first: u8,
    /// Packet identifier; 0 for a type without one.
    pub id: u16,
    /// Reason code behind the identifier (version 5.0); 0 if there is none.
    pub reason: u8,
}

impl Packet {
    /// Returns the type of the packet (section 2.1.2).
    pub fn kind(self) -> u8 {
        self.first >> 4
    }

    /// Reports whether it is a PUBLISH that expects a response.
    pub fn is_acknowledged_publish(self) -> bool {
        self.kind() == PUBLISH && self.first & QOS != 0
    }
}

/// Follows the packets of one direction (section 2.1), wherever their bytes are cut.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketReader {
    state: State,
    packet: Packet,
    /// Length of the topic of a PUBLISH, which stands before the identifier.
    topic: u16,
}

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// The next byte begins a packet.
    #[default]
    Start,
    /// The length is incomplete: its value so far, and the position of the next seven bits.
    Length { value: u32, shift: u32 },
    /// Bytes of the packet that have passed behind its length, and those that are left.
    Body { at: u32, left: u32 },
}

impl PacketReader {
    /// Advances by `bytes`, and passes each packet that ends within them to `ended`.
    #[inline]
    pub fn advance(&mut self, mut bytes: &[u8], mut ended: impl FnMut(Packet)) {
        while let [first, rest @ ..] = bytes {
            match self.state {
                State::Start => {
                    self.packet = Packet { first: *first, ..Packet::default() };
                    self.topic = 0;
                    (self.state, bytes) = (State::Length { value: 0, shift: 0 }, rest);
                }
                State::Length { value, shift } => {
                    // Destinations reject lengths over four bytes; here they only must not overflow.
                    let value = value | u32::from(first & 0x7f) << shift.min(21);
                    bytes = rest;
                    self.state = match (first & 0x80 != 0, value) {
                        (true, _) => State::Length { value, shift: shift.saturating_add(7) },
                        (false, 0) => State::Start,
                        (false, left) => State::Body { at: 0, left },
                    };
                    if self.state == State::Start {
                        ended(self.packet);
                    }
                }
                State::Body { at, left } => {
                    let n = bytes.len().min(left as usize);
                    let (part, rest) = bytes.split_at(n);
                    self.read_fields(at, part);
                    bytes = rest;
                    self.state = match left - n as u32 {
                        0 => State::Start,
                        left => State::Body { at: at + n as u32, left },
                    };
                    if self.state == State::Start {
                        ended(self.packet);
                    }
                }
            }
        }
    }

    /// Reads what `part` holds of the identifier and the reason; it begins `at` bytes behind the length.
    #[inline]
    fn read_fields(&mut self, at: u32, part: &[u8]) {
        let byte = |offset: u32| part.get(offset.checked_sub(at)? as usize).copied();
        let add = |number: u16, byte: Option<u8>| byte.map_or(number, |byte| number << 8 | u16::from(byte));
        if self.packet.kind() != PUBLISH {
            if at < 3 {
                self.packet.id = add(add(self.packet.id, byte(0)), byte(1));
                self.packet.reason = byte(2).unwrap_or(self.packet.reason);
            }
        } else if self.packet.is_acknowledged_publish() {
            if at < 2 {
                self.topic = add(add(self.topic, byte(0)), byte(1));
            }
            // The length of the topic is complete when its second byte has passed.
            if at as usize + part.len() >= 2 {
                let id = 2 + u32::from(self.topic);
                self.packet.id = add(add(self.packet.id, byte(id)), byte(id + 1));
            }
        }
    }

    /// Reports whether no packet is incomplete.
    #[inline]
    pub fn is_at_boundary(self) -> bool {
        self.state == State::Start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_followed_wherever_they_are_cut() {
        let long = [&[0x34, 0xc8, 0x01, 0, 3, b'a', b'/', b'b', 7, 9][..], &[7; 193]].concat();
        let bytes = [&[0xc0, 0][..], &long, &[0x40, 2, 1, 2], &[0x50, 3, 0, 9, 0x97]].concat();
        let ends = [2, 2 + long.len(), bytes.len() - 5, bytes.len()];
        let expected = [(0xc0, 0, 0), (0x34, 0x0709, 0), (0x40, 0x0102, 0), (0x50, 9, 0x97)]
            .map(|(first, id, reason)| Packet { first, id, reason });
        for cut in 1..=bytes.len() {
            let (mut reader, mut packets) = (PacketReader::default(), Vec::new());
            reader.advance(&bytes[..cut], |packet| packets.push(packet));
            assert_eq!(reader.is_at_boundary(), ends.contains(&cut), "{cut}");
            reader.advance(&bytes[cut..], |packet| packets.push(packet));
            assert!(reader.is_at_boundary(), "{cut}");
            assert_eq!(packets, expected, "{cut}");
        }
        let (mut reader, mut packets) = (PacketReader::default(), Vec::new());
        bytes.iter().for_each(|byte| reader.advance(&[*byte], |packet| packets.push(packet)));
        assert_eq!(packets, expected);
    }
}
