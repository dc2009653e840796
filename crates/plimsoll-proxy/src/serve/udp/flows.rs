//! Which flow a datagram belongs to, and which flow has been idle longest.
//!
//! A slab with an index over it and a list through it: every operation takes the same time however many
//! flows there are, and a slot that is free again is used before the slab grows.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use plimsoll_core::DestinationId;

/// What the datagrams of one flow have in common.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) client: SocketAddr,
    /// The address of ours they came to, where a listener has more than one: replies leave from there.
    pub(crate) local: Option<IpAddr>,
    /// Where they go, where one is chosen for each datagram.
    pub(crate) destination: Option<DestinationId>,
}

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    older: u32,
    newer: u32,
    flow: Option<(Key, T)>,
}

/// The flows of one listener.
#[derive(Debug)]
pub(crate) struct Flows<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    index: HashMap<Key, u32>,
    oldest: u32,
    newest: u32,
}

impl<T> Flows<T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashMap::new(), oldest: NONE, newest: NONE }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<(&Key, &mut T)> {
        let (key, flow) = self.slots.get_mut(place as usize)?.flow.as_mut()?;
        Some((key, flow))
    }

    /// The flow that has been idle longest.
    pub(crate) fn oldest(&self) -> Option<(u32, &T)> {
        let (_, flow) = self.slots.get(self.oldest as usize)?.flow.as_ref()?;
        Some((self.oldest, flow))
    }

    /// Takes in a flow whose key is not there yet; it is the newest.
    pub(crate) fn insert(&mut self, key: Key, flow: T) -> u32 {
        let slot = Slot { older: NONE, newer: NONE, flow: Some((key, flow)) };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(key, place);
        self.append(place);
        place
    }

    /// Marks a flow as the newest.
    pub(crate) fn touch(&mut self, place: u32) {
        if self.newest != place {
            self.unlink(place);
            self.append(place);
        }
    }

    pub(crate) fn remove(&mut self, place: u32) -> Option<(Key, T)> {
        let (key, flow) = self.slots.get_mut(place as usize)?.flow.take()?;
        self.index.remove(&key);
        self.unlink(place);
        self.free.push(place);
        Some((key, flow))
    }

    fn append(&mut self, place: u32) {
        (self.slots[place as usize].older, self.slots[place as usize].newer) = (self.newest, NONE);
        match self.slots.get_mut(self.newest as usize) {
            Some(before) => before.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Slot { older, newer, .. } = self.slots[place as usize];
        match self.slots.get_mut(older as usize) {
            Some(before) => before.newer = newer,
            None => self.oldest = newer,
        }
        match self.slots.get_mut(newer as usize) {
            Some(after) => after.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use plimsoll_core::Rng;

    use super::*;

    fn key(port: u16) -> Key {
        Key { client: ([127, 0, 0, 1], port).into(), local: None, destination: None }
    }

    #[test]
    fn the_order_of_idleness_is_kept_through_anything() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (mut flows, mut expected) = (Flows::new(), VecDeque::new());
            for _ in 0..2_000 {
                let port = (rng.next_u64() % 64) as u16;
                match (flows.find(&key(port)), rng.next_u64() % 3) {
                    (None, _) => {
                        flows.insert(key(port), port);
                        expected.push_back(port);
                    }
                    (Some(place), 0) => {
                        assert_eq!(flows.remove(place), Some((key(port), port)), "seed {seed}");
                        expected.retain(|&p| p != port);
                    }
                    (Some(place), _) => {
                        flows.touch(place);
                        expected.retain(|&p| p != port);
                        expected.push_back(port);
                    }
                }
                let oldest = flows.oldest().map(|(_, &port)| port);
                assert_eq!(oldest, expected.front().copied(), "seed {seed}");
            }
            while let Some((place, _)) = flows.oldest() {
                let port = flows.remove(place).map(|(_, port)| port);
                assert_eq!(port, expected.pop_front(), "seed {seed}");
            }
            assert!(expected.is_empty() && flows.slots.len() <= 64, "slots are used again, seed {seed}");
        }
    }

    #[test]
    fn a_client_has_a_flow_for_each_address_of_ours_and_each_destination() {
        let mut flows = Flows::new();
        let here = Key { local: Some([10, 0, 0, 1].into()), ..key(1) };
        let there = Key { local: Some([10, 0, 0, 2].into()), ..key(1) };
        let first = Key { destination: Some(DestinationId(1)), ..key(1) };
        let places = [key(1), here, there, first].map(|key| flows.insert(key, ()));
        assert_eq!([key(1), here, there, first].map(|key| flows.find(&key)), places.map(Some));
    }
}
