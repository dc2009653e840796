//! Requests of either end of a connection that the other end has not answered yet.

use std::collections::HashSet;

use super::Packet;

// Packet types (section 2.1.2).
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;

/// Reason codes from here on are failures; a PUBREC with one ends the exchange (section 4.3.3 of version 5.0).
const FAILURE: u8 = 0x80;
/// Maximum number of identifiers that are kept per kind, so that memory is bounded.
const MAX_KEPT: usize = 4096;

/// Packets of a connection that wait for their PUBACK, PUBCOMP, SUBACK, UNSUBACK or PINGRESP.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    published_by_client: Identifiers,
    published_by_server: Identifiers,
    subscriptions: Identifiers,
    ping: bool,
}

impl Outstanding {
    /// Takes a packet of the client into account.
    pub fn on_client_packet(&mut self, packet: Packet) {
        match packet.kind() {
            _ if packet.is_acknowledged_publish() => self.published_by_client.insert(packet.id),
            // The rest of an exchange that began on an earlier connection of the session.
            PUBREL => self.published_by_client.insert(packet.id),
            SUBSCRIBE | UNSUBSCRIBE => self.subscriptions.insert(packet.id),
            PINGREQ => self.ping = true,
            _ if ends_publish(packet) => self.published_by_server.remove(packet.id),
            _ => {}
        }
    }

    /// Takes a packet of the server into account.
    pub fn on_server_packet(&mut self, packet: Packet) {
        match packet.kind() {
            _ if packet.is_acknowledged_publish() => self.published_by_server.insert(packet.id),
            PUBREL => self.published_by_server.insert(packet.id),
            SUBACK | UNSUBACK => self.subscriptions.remove(packet.id),
            PINGRESP => self.ping = false,
            _ if ends_publish(packet) => self.published_by_client.remove(packet.id),
            _ => {}
        }
    }

    /// Reports whether nothing waits for a response, in either direction.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.published_by_client, &self.published_by_server, &self.subscriptions];
        !self.ping && lists.iter().all(|list| list.is_empty())
    }
}

fn ends_publish(packet: Packet) -> bool {
    matches!(packet.kind(), PUBACK | PUBCOMP) || (packet.kind() == PUBREC && packet.reason >= FAILURE)
}

/// Set of packet identifiers, bounded in size.
#[derive(Clone, Debug, Default)]
struct Identifiers {
    kept: HashSet<u16>,
    /// More identifiers were outstanding than are kept, so that it is not known when none is left.
    overflowed: bool,
}

impl Identifiers {
    fn insert(&mut self, id: u16) {
        match self.kept.len() < MAX_KEPT {
            true => drop(self.kept.insert(id)),
            false => self.overflowed |= !self.kept.contains(&id),
        }
    }

    fn remove(&mut self, id: u16) {
        self.kept.remove(&id);
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty() && !self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs packets, those of the client as `true`, and returns after which of them nothing is outstanding.
    fn quiet_after(packets: &[(bool, u8, u16, u8)]) -> Vec<bool> {
        let mut outstanding = Outstanding::default();
        let mut quiet = Vec::new();
        for &(from_client, first, id, reason) in packets {
            let packet = Packet { first, id, reason };
            match from_client {
                true => outstanding.on_client_packet(packet),
                false => outstanding.on_server_packet(packet),
            }
            quiet.push(outstanding.is_empty());
        }
        quiet
    }

    #[test]
    fn exchanges_end_with_their_last_packet() {
        for client in [true, false] {
            let server = !client;
            // Quality of service 0, 1 and 2, and a failure within 2.
            assert_eq!(quiet_after(&[(client, 0x30, 0, 0)]), [true]);
            assert_eq!(quiet_after(&[(client, 0x32, 1, 0), (server, 0x40, 1, 0)]), [false, true]);
            let exchange =
                [(client, 0x34, 1, 0), (server, 0x50, 1, 0), (client, 0x62, 1, 0), (server, 0x70, 1, 0)];
            assert_eq!(quiet_after(&exchange), [false, false, false, true]);
            assert_eq!(quiet_after(&exchange[2..]), [false, true], "resumed");
            assert_eq!(quiet_after(&[exchange[0], (server, 0x50, 1, 0x97)]), [false, true]);
        }
        assert_eq!(quiet_after(&[(true, 0x82, 1, 0), (false, 0x90, 1, 0)]), [false, true]);
        assert_eq!(quiet_after(&[(true, 0xa2, 1, 0), (false, 0xb0, 1, 0)]), [false, true]);
        assert_eq!(quiet_after(&[(true, 0xc0, 0, 0), (false, 0xd0, 0, 0)]), [false, true]);
    }

    #[test]
    fn identifiers_of_both_directions_are_apart_and_repetitions_count_once() {
        let packets = [
            (true, 0x32, 1, 0),
            (false, 0x32, 1, 0),
            (true, 0x3a, 1, 0),
            (false, 0x40, 1, 0),
            (false, 0x40, 2, 0),
            (true, 0x40, 1, 0),
        ];
        assert_eq!(quiet_after(&packets), [false, false, false, false, false, true]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut outstanding = Outstanding::default();
        let publish = |id| Packet { first: 0x32, id, reason: 0 };
        (1..=u16::MAX).for_each(|id| outstanding.on_client_packet(publish(id)));
        assert_eq!(outstanding.published_by_client.kept.len(), MAX_KEPT);
        (1..=u16::MAX).for_each(|id| outstanding.on_server_packet(Packet { first: 0x40, id, reason: 0 }));
        assert!(!outstanding.is_empty(), "not known");
    }
}
