//! Boundaries of packets in one direction of a connection.

/// Follows the packets of one direction (section 2.1) and knows whether a packet has begun and not ended.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketBoundary(State);

#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// The next byte begins a packet.
    #[default]
    Start,
    /// The length is incomplete: its value so far, and the position of the next seven bits.
    Length { value: u32, shift: u32 },
    /// The packet has this number of bytes left.
    Body { left: u32 },
}

impl PacketBoundary {
    /// Advances by `bytes`.
    #[inline]
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            match self.0 {
                State::Start => (self.0, bytes) = (State::Length { value: 0, shift: 0 }, rest),
                State::Length { value, shift } => {
                    // Destinations reject lengths over four bytes; here they only must not overflow.
                    let value = value | u32::from(first & 0x7f) << shift.min(21);
                    bytes = rest;
                    self.0 = match (first & 0x80 != 0, value) {
                        (true, _) => State::Length { value, shift: shift.saturating_add(7) },
                        (false, 0) => State::Start,
                        (false, left) => State::Body { left },
                    };
                }
                State::Body { left } => {
                    let n = bytes.len().min(left as usize);
                    bytes = &bytes[n..];
                    self.0 = match left - n as u32 {
                        0 => State::Start,
                        left => State::Body { left },
                    };
                }
            }
        }
    }

    /// Reports whether no packet is incomplete.
    #[inline]
    pub fn is_at_boundary(self) -> bool {
        self.0 == State::Start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_followed_wherever_they_are_cut() {
        let long = [&[0x30, 0xc8, 0x01][..], &[7; 200]].concat();
        let bytes = [&[0xc0, 0][..], &long, &[0x40, 2, 0, 1]].concat();
        let ends = [2, 2 + long.len(), bytes.len()];
        for cut in 1..=bytes.len() {
            let mut boundary = PacketBoundary::default();
            boundary.advance(&bytes[..cut]);
            assert_eq!(boundary.is_at_boundary(), ends.contains(&cut), "{cut}");
            boundary.advance(&bytes[cut..]);
            assert!(boundary.is_at_boundary(), "{cut}");
        }
    }
}
